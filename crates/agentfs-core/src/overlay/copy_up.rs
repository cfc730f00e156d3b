//! Copy-up: giving a lower inode a row in the upper layer, under its own
//! number, so that it can be changed.
//!
//! Happens only inside the transaction of a change, never on lookup, open or
//! read. Brings attributes, times, extended attributes and the link target;
//! never data: bytes that no chunk holds stay the lower file's
//! ([`Origin::data_len_bytes`]).

use super::Overlay;
use super::inode_table::Linkage;
use super::lookup::Inode;
use crate::error::FsError;
use crate::lower::{LowerAttr, LowerLayer};
use crate::storage::{InodeRow, Origin, ReadTxn, Storage, WriteTxn};
use crate::types::{DEPTH_MAX, EMPTY_DIR_NLINK, FileKind, Ino, LowerPath, Timestamp};

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// The row of a referenced inode, copied up with its name and the
    /// directories above it when it had none.
    pub(super) fn copy_up(&self, txn: &mut dyn WriteTxn, ino: Ino) -> Result<InodeRow, FsError> {
        if let Some(row) = txn.inode(ino)? {
            return Ok(row);
        }
        // The directories that have no row yet, nearest first.
        let mut chain = vec![ino];
        loop {
            let node = self.node(*chain.last().unwrap_or(&ino))?;
            let Some((parent, _)) = node.place else { break };
            if node.linkage != Linkage::Linked || txn.inode(parent)?.is_some() {
                break;
            }
            if chain.len() > DEPTH_MAX {
                return Err(FsError::StaleInode);
            }
            chain.push(parent);
        }
        let mut row = None;
        for ino in chain.into_iter().rev() {
            row = Some(self.copy_up_one(txn, ino)?);
        }
        row.ok_or(FsError::StaleInode)
    }

    /// Precondition: the parent, where there is one, has a row.
    fn copy_up_one(&self, txn: &mut dyn WriteTxn, ino: Ino) -> Result<InodeRow, FsError> {
        let (path, attr) = match self.inode(as_read(txn), ino)? {
            Inode::Upper(row) => return Ok(row),
            Inode::Lower { path, attr } => (path, attr),
        };
        let node = self.node(ino)?;
        let mut row = self.copy_up_inode(txn, ino, path, &attr)?;
        match node.place {
            Some((parent, name)) if node.linkage == Linkage::Linked => {
                txn.put_dentry(parent, &name, ino)?;
            }
            _ => {
                row.nlink = 0;
                txn.put_inode(ino, &row)?;
            }
        }
        Ok(row)
    }

    /// Gives a lower inode a row, and no name.
    pub(super) fn copy_up_inode(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        path: LowerPath,
        attr: &LowerAttr,
    ) -> Result<InodeRow, FsError> {
        let is_file = attr.kind == FileKind::Regular;
        for (name, value) in self.lower.xattrs(&path)? {
            txn.put_xattr(ino, &name, &value)?;
        }
        if attr.kind == FileKind::Symlink {
            txn.put_symlink(ino, &self.lower.read_link(&path)?)?;
        }
        let row = InodeRow {
            kind: attr.kind,
            perm: attr.perm,
            nlink: if attr.kind.is_dir() { 1 } else { attr.nlink },
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            origin: Some(Origin {
                path,
                fingerprint: attr.fingerprint(),
                data_len_bytes: if is_file { attr.size } else { 0 },
            }),
        };
        txn.put_inode(ino, &row)?;
        Ok(row)
    }

    /// Copies a directory up and marks that its entries changed: it has
    /// `subdirs` more directories among them than before.
    pub(super) fn touch_dir(
        &self,
        txn: &mut dyn WriteTxn,
        dir: Ino,
        subdirs: i32,
        now: Timestamp,
    ) -> Result<InodeRow, FsError> {
        let mut row = self.copy_up(txn, dir)?;
        // What was made here counts them; what merges with the base, or what
        // another writer left uncounted, stays at 1.
        if row.nlink >= EMPTY_DIR_NLINK && row.origin.is_none() && dir != Ino::ROOT {
            let nlink = row.nlink.saturating_add_signed(subdirs);
            row.nlink = nlink.max(EMPTY_DIR_NLINK);
        }
        row.mtime = now;
        row.ctime = now;
        txn.put_inode(dir, &row)?;
        Ok(row)
    }
}

/// The reading half of a transaction.
pub(super) fn as_read(txn: &dyn WriteTxn) -> &dyn ReadTxn {
    txn
}
