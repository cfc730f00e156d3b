//! All that a storage holds, in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};

use agentfs_core::error::StorageError;
use agentfs_core::storage::{InodeRow, KvRow, ReadTxn, Storage, ToolCallRow};
use agentfs_core::types::{Ino, LowerPath, Name};

/// The content of a storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "one field per table")]
pub struct Dump {
    pub inodes: BTreeMap<u64, InodeRow>,
    pub orphans: BTreeSet<u64>,
    pub dentries: BTreeMap<(u64, Name), u64>,
    pub whiteouts: BTreeSet<(LowerPath, Name)>,
    pub chunks: BTreeMap<(u64, u64), Vec<u8>>,
    pub symlinks: BTreeMap<u64, Vec<u8>>,
    pub xattrs: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    pub kvs: Vec<KvRow>,
    pub tool_calls: Vec<ToolCallRow>,
}

impl Dump {
    /// Reads everything in one transaction, and that single look-ups agree with
    /// listings.
    pub fn of<S: Storage>(storage: &S) -> Self {
        storage
            .read(|txn| Self::within(txn))
            .expect("a sound storage can be read")
    }

    /// Everything that a transaction sees.
    ///
    /// # Errors
    /// The storage's own.
    pub fn within(txn: &dyn ReadTxn) -> Result<Self, StorageError> {
        let mut dump = Self::default();
        let mut inos = Vec::new();
        txn.inodes(Ino(0), &mut |ino| inos.push(ino))?;
        assert!(
            inos.is_sorted() && inos.windows(2).all(|w| w[0] != w[1]),
            "inodes ascend: {inos:?}"
        );
        txn.orphans(&mut |ino| assert!(dump.orphans.insert(ino.0), "an orphan twice"))?;
        for ino in inos {
            dump.inode(txn, ino)?;
        }
        let mut dirs = Vec::new();
        txn.whiteout_dirs(&mut |dir| dirs.push(dir))?;
        for dir in dirs {
            let mut names = Vec::new();
            txn.whiteouts(&dir, &mut |name| names.push(name))?;
            assert!(!names.is_empty(), "{dir:?} has no whiteouts");
            for name in names {
                assert!(
                    txn.whiteout(&dir, &name)?,
                    "listed, but not found: {dir:?} {name:?}"
                );
                let new = dump.whiteouts.insert((dir.clone(), name));
                assert!(new, "a whiteout twice in {dir:?}");
            }
        }
        txn.kvs(&mut |row| dump.kvs.push(row))?;
        assert!(
            dump.kvs.windows(2).all(|w| w[0].key < w[1].key),
            "keys ascend: {:?}",
            dump.kvs
        );
        for row in &dump.kvs {
            assert_eq!(txn.kv(&row.key)?.as_ref(), Some(row));
        }
        txn.tool_calls(&mut |row| {
            dump.tool_calls.push(row);
            true
        })?;
        assert!(
            dump.tool_calls.windows(2).all(|w| w[0].id > w[1].id),
            "tool calls descend"
        );
        Ok(dump)
    }

    fn inode(&mut self, txn: &dyn ReadTxn, ino: Ino) -> Result<(), StorageError> {
        let row = txn.inode(ino)?.expect("a listed inode is there");
        self.inodes.insert(ino.0, row);
        let mut entries = Vec::new();
        txn.dentries(ino, &mut |name, child| entries.push((name, child)))?;
        for (name, child) in entries {
            assert_eq!(txn.dentry(ino, &name)?, Some(child));
            let old = self.dentries.insert((ino.0, name), child.0);
            assert_eq!(old, None, "an entry twice");
        }
        let mut next = txn.next_chunk(ino, 0)?;
        while let Some(index) = next {
            let chunk = txn.chunk(ino, index)?.expect("a listed chunk is there");
            self.chunks.insert((ino.0, index), chunk.to_vec());
            next = txn.next_chunk(ino, index + 1)?;
            assert!(next.is_none_or(|next| next > index));
        }
        if let Some(target) = txn.symlink(ino)? {
            self.symlinks.insert(ino.0, target);
        }
        let mut xattrs = Vec::new();
        txn.xattrs(ino, &mut |name, value| {
            xattrs.push((name.to_vec(), value.to_vec()));
        })?;
        assert!(
            xattrs.windows(2).all(|w| w[0].0 < w[1].0),
            "extended attributes ascend"
        );
        for (name, value) in xattrs {
            assert_eq!(txn.xattr(ino, &name)?.as_ref(), Some(&value));
            self.xattrs.insert((ino.0, name), value);
        }
        Ok(())
    }
}
