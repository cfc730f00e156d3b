//! The merged view: copy-on-write of a [`Storage`] (upper) over a
//! [`LowerLayer`] (lower), addressed by inode number.
//!
//! Each operation is defined once, in the file named after its concern; a
//! mutation is one storage transaction, and what is cached in memory changes
//! only after that transaction was applied. Never a path of the view as
//! identity, never SQL, never a change to the lower layer.
//!
//! Lock order: `namespace`, then the storage's own, then `table`, then `lists`,
//! `files` or what was `seen`. The last four are held for a few map operations only, never
//! across a call to the storage or the lower layer.

mod copy;
mod copy_up;
mod create;
mod data;
mod file;
mod inode_table;
mod lookup;
pub(crate) mod merge;
mod readdir;
mod remove;
mod rename;
mod request;
mod seen;
mod setattr;
mod xattr;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use request::{
    DirEntry, Fallocate, NewNode, RenameMode, SeekWhence, SetAttr, SetTime, Times, XattrMode,
};

use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{InodeRow, Storage, SyncDone};
use crate::types::{Clock, FileKind, FsStats, Ino, LowerPath, Name, Owner};

use file::OpenFiles;
use inode_table::{InodeTable, LowerDir, Size56};
use readdir::Lists;
use seen::Seen;

/// How an overlay is set up.
pub struct OverlayConfig {
    /// Tells the time of changes.
    pub clock: Arc<dyn Clock>,
    /// Names in the root of the view that do not exist and cannot be created
    /// (the directory of the session databases).
    pub hidden: Vec<Name>,
    /// Owner of the root when there is no lower root to take it from.
    pub root_owner: Owner,
}

/// The merged view of one upper and one lower layer.
///
/// An inode number is valid while it is referenced: [`Self::lookup`] and every
/// operation that makes an inode take one reference, [`Self::forget`] gives
/// them back. The root always is. An operation on any other number is refused
/// with [`FsError::StaleInode`].
///
/// Permissions are not checked here; the kernel does it (`default_permissions`),
/// and whoever embeds this crate trusts itself.
pub struct Overlay<S, L> {
    storage: S,
    lower: L,
    config: OverlayConfig,
    /// Device of the lower root: inodes on it keep their numbers.
    base_dev: u64,
    /// Written by mutations, read by everything else.
    namespace: RwLock<()>,
    table: Mutex<InodeTable>,
    lists: Mutex<Lists>,
    files: Mutex<OpenFiles>,
    seen: Seen,
}

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Opens the view: makes the root when the storage has none, and removes
    /// what a crash left unlinked but not yet gone.
    ///
    /// # Errors
    /// Those of the storage and the lower layer.
    pub fn open(storage: S, lower: L, config: OverlayConfig) -> Result<Self, FsError> {
        let root = storage.read(|txn| txn.inode(Ino::ROOT).map_err(FsError::from))?;
        match root {
            Some(row) if row.kind.is_dir() => {}
            Some(_) => return Err(corrupt("the root is not a directory")),
            None => {
                let row = fresh_root(&lower, &config)?;
                storage.write(|txn| txn.put_inode(Ino::ROOT, &row).map_err(FsError::from))?;
            }
        }
        let mut orphans = Vec::new();
        storage.read(|txn| {
            txn.orphans(&mut |ino| orphans.push(ino))
                .map_err(FsError::from)
        })?;
        if !orphans.is_empty() {
            storage.write(|txn| {
                orphans
                    .iter()
                    .try_for_each(|&ino| txn.delete_inode(ino))
                    .map_err(FsError::from)
            })?;
        }
        Self::open_read_only(storage, lower, config)
    }

    /// Opens the view without changing anything: for looking at a storage that
    /// cannot be written, or whose open files are somebody else's. Operations
    /// that write fail as the storage does.
    ///
    /// # Errors
    /// Those of the lower layer.
    pub fn open_read_only(storage: S, lower: L, config: OverlayConfig) -> Result<Self, FsError> {
        let lower_root = lower.stat(&LowerPath::root())?;
        Ok(Self {
            storage,
            lower,
            config,
            base_dev: lower_root.map_or(0, |attr| attr.id.dev),
            namespace: RwLock::new(()),
            table: Mutex::new(InodeTable::new()),
            lists: Mutex::new(Lists::default()),
            files: Mutex::new(OpenFiles::default()),
            seen: Seen::default(),
        })
    }

    /// The storage beneath.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The lower layer beneath.
    pub fn lower(&self) -> &L {
        &self.lower
    }

    /// Inodes that are referenced, directly or by what lies in them.
    pub fn referenced_inodes(&self) -> usize {
        self.table.lock().len()
    }

    /// Capacity: that of the file system the base lies on, where the database
    /// usually lies too.
    ///
    /// # Errors
    /// Those of the lower layer.
    pub fn statfs(&self) -> Result<FsStats, FsError> {
        Ok(self.lower.statfs()?)
    }

    /// Calls `done` when everything done before is on stable storage: for `fsync(2)`
    /// of any inode. Of one of the lower layer, too: a worker that syncs what it only
    /// read may mean the names beside it.
    pub fn sync(&self, done: SyncDone) {
        self.storage.sync_then(done);
    }

    /// Whether an inode has been changed here, or was made here: what others do to
    /// the lower layer no longer shows in it.
    ///
    /// # Errors
    /// Those of the storage.
    pub fn is_upper(&self, ino: Ino) -> Result<bool, FsError> {
        Ok(self.storage.read(|txn| txn.inode(ino))?.is_some())
    }

    /// Whether a file of the lower layer, now of `size_bytes`, is longer than was told with
    /// the first reference taken on it, or by this method since: a kernel that caches writes
    /// holds on to that size. From now on `size_bytes` has been told, if it is longer.
    pub fn tell_growth(&self, ino: Ino, size_bytes: u64) -> bool {
        let mut table = self.table.lock();
        let Some(lower) = table.get_mut(ino).and_then(|node| node.lower.as_mut()) else {
            return false;
        };
        let has_grown = size_bytes > lower.told_size.bytes();
        if has_grown {
            lower.told_size = Size56::new(size_bytes);
        }
        has_grown
    }

    /// Whether an inode is referenced, but has lost its last name for good.
    pub fn is_removed(&self, ino: Ino) -> bool {
        let table = self.table.lock();
        table
            .get(ino)
            .is_some_and(|node| node.linkage == inode_table::Linkage::Removed)
    }

    /// Says that the lower layer may have changed at `name` in the lower
    /// directory that shows through `dir`, or anywhere in it (`None`). Returns
    /// the inodes whose cached attributes and bytes must go.
    pub fn lower_changed(&self, dir: Ino, name: Option<&Name>) -> Vec<Ino> {
        self.lists.lock().remove(dir);
        let mut stale = vec![dir];
        let table = self.table.lock();
        match name {
            Some(name) => stale.extend(table.at(dir, name)),
            None => stale.extend(table.inos().into_iter().filter(|&ino| {
                table
                    .get(ino)
                    .is_some_and(|n| n.place.as_ref().is_some_and(|p| p.0 == dir))
            })),
        }
        let mut files = self.files.lock();
        for ino in &stale {
            files.remove(*ino);
        }
        drop(files);
        self.seen.changed(&stale);
        stale
    }

    /// Says that someone else wrote to the storage. Everything remembered of
    /// it here is dropped; returns every referenced inode: what a kernel has
    /// cached of any of them must go too.
    pub fn storage_changed(&self) -> Vec<Ino> {
        let _namespace = self.namespace.write();
        let mut table = self.table.lock();
        *self.lists.lock() = Lists::default();
        for (ino, node) in table.nodes_mut() {
            if ino != Ino::ROOT && node.lower.is_none() {
                node.lower_dir = LowerDir::Unknown;
            }
        }
        table.inos()
    }

    /// The lower directory that shows through this directory, for whoever
    /// watches the base; `None` when nothing of the base does.
    pub fn lower_dir(&self, ino: Ino) -> Option<LowerPath> {
        let _namespace = self.namespace.read();
        self.storage
            .read(|txn| self.lower_dir_of(txn, ino))
            .ok()
            .flatten()
    }

    /// A current name of a referenced inode, where one is known.
    pub fn known_name(&self, ino: Ino) -> Option<(Ino, Name)> {
        self.table
            .lock()
            .get(ino)
            .and_then(|node| node.place.clone())
    }

    fn is_hidden(&self, parent: Ino, name: &Name) -> bool {
        parent == Ino::ROOT && self.config.hidden.contains(name)
    }
}

fn corrupt(what: &str) -> FsError {
    FsError::Storage(crate::error::StorageError::Corrupt(what.to_owned()))
}

/// The root of a view that has not been changed: the base's, or one of its own.
fn fresh_root<L: LowerLayer>(lower: &L, config: &OverlayConfig) -> Result<InodeRow, FsError> {
    let now = config.clock.now();
    let mut row = InodeRow {
        kind: FileKind::Directory,
        perm: 0o755,
        nlink: 1,
        uid: config.root_owner.uid,
        gid: config.root_owner.gid,
        rdev: 0,
        size: 0,
        atime: now,
        mtime: now,
        ctime: now,
        origin: None,
    };
    if let Some(attr) = lower.stat(&LowerPath::root())? {
        row.perm = attr.perm;
        (row.uid, row.gid) = (attr.uid, attr.gid);
        (row.atime, row.mtime, row.ctime) = (attr.atime, attr.mtime, attr.ctime);
    }
    Ok(row)
}
