//! Making inodes and names: mknod, mkdir, symlink, tmpfile, link.

use super::Overlay;
use super::copy_up::as_read;
use super::inode_table::{Linkage, LowerDir};
use super::lookup::{Child, upper_attr};
use super::request::NewNode;
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{InodeRow, Storage, WriteTxn};
use crate::types::{
    Attr, EMPTY_DIR_NLINK, FileKind, Ino, LINK_MAX, Name, Owner, SYMLINK_MAX_BYTES, Timestamp,
};

const S_ISGID: u16 = 0o2000;

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Makes a regular file, fifo, socket or device node, and takes one
    /// reference on it.
    ///
    /// # Errors
    /// [`FsError::Exists`]; [`FsError::InvalidArgument`] for a directory or
    /// symbolic link; [`FsError::NotPermitted`] for a hidden name; and those of
    /// lookup.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &Name,
        node: NewNode,
        owner: Owner,
    ) -> Result<Attr, FsError> {
        if matches!(node.kind, FileKind::Directory | FileKind::Symlink) {
            return Err(FsError::InvalidArgument);
        }
        self.make(parent, name, node, owner, None)
    }

    /// Makes a directory, and takes one reference on it. At a removed or
    /// renamed base name it starts empty.
    ///
    /// # Errors
    /// As [`Self::mknod`].
    pub fn mkdir(
        &self,
        parent: Ino,
        name: &Name,
        perm: u16,
        owner: Owner,
    ) -> Result<Attr, FsError> {
        let node = NewNode {
            kind: FileKind::Directory,
            perm,
            rdev: 0,
        };
        self.make(parent, name, node, owner, None)
    }

    /// Makes a symbolic link, and takes one reference on it.
    ///
    /// # Errors
    /// As [`Self::mknod`]; [`FsError::NameTooLong`] for a target over 4095
    /// bytes, [`FsError::NotFound`] for an empty one (symlink(2)).
    pub fn symlink(
        &self,
        parent: Ino,
        name: &Name,
        target: &[u8],
        owner: Owner,
    ) -> Result<Attr, FsError> {
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        if target.len() > SYMLINK_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let node = NewNode {
            kind: FileKind::Symlink,
            perm: 0o777,
            rdev: 0,
        };
        self.make(parent, name, node, owner, Some(target))
    }

    /// Makes a regular file without a name (`O_TMPFILE`), and takes one
    /// reference on it. Gone when forgotten, unless it was linked.
    ///
    /// # Errors
    /// Those of lookup.
    pub fn tmpfile(&self, parent: Ino, perm: u16, owner: Owner) -> Result<Attr, FsError> {
        let _namespace = self.namespace.write();
        let now = self.config.clock.now();
        let node = NewNode {
            kind: FileKind::Regular,
            perm,
            rdev: 0,
        };
        let (ino, row) = self.storage.write(|txn| {
            self.require_dir(as_read(txn), parent)?;
            // The set-group-ID rule needs the parent's row; a file without a
            // name changes nothing in it, so it is not copied up.
            let parent_attr = self.dir_perm_and_gid(txn, parent)?;
            let mut row = new_row(node, owner, parent_attr, now, 0);
            row.nlink = 0;
            let ino = txn.allocate_ino()?;
            txn.put_inode(ino, &row)?;
            Ok::<_, FsError>((ino, row))
        })?;
        self.table.lock().reference(ino).linkage = Linkage::Tmpfile;
        Ok(upper_attr(ino, &row))
    }

    /// Gives an inode another name, and takes one reference on it.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a directory or a hidden name;
    /// [`FsError::Exists`]; [`FsError::TooManyLinks`];
    /// [`FsError::NotFound`] when its last name is already removed; and those
    /// of lookup.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &Name) -> Result<Attr, FsError> {
        let _namespace = self.namespace.write();
        let now = self.config.clock.now();
        let linkage = self.node(ino)?.linkage;
        let row = self.storage.write(|txn| {
            self.require_absent(txn, new_parent, new_name)?;
            let mut row = self.copy_up(txn, ino)?;
            if row.kind.is_dir() {
                return Err(FsError::NotPermitted);
            }
            if row.nlink == 0 && linkage != Linkage::Tmpfile {
                return Err(FsError::NotFound);
            }
            if row.nlink >= LINK_MAX {
                return Err(FsError::TooManyLinks);
            }
            row.nlink += 1;
            row.ctime = now;
            txn.put_inode(ino, &row)?;
            self.put_name(txn, new_parent, new_name, ino, row.kind)?;
            self.touch_dir(txn, new_parent, 0, now)?;
            Ok(row)
        })?;
        let mut table = self.table.lock();
        table.reference(ino).linkage = Linkage::Linked;
        table.set_place(ino, Some((new_parent, new_name.clone())));
        self.lists
            .lock()
            .insert(new_parent, new_name, ino, row.kind);
        Ok(upper_attr(ino, &row))
    }

    fn make(
        &self,
        parent: Ino,
        name: &Name,
        node: NewNode,
        owner: Owner,
        target: Option<&[u8]>,
    ) -> Result<Attr, FsError> {
        let _namespace = self.namespace.write();
        let now = self.config.clock.now();
        let (ino, row) = self.storage.write(|txn| {
            self.require_absent(txn, parent, name)?;
            let subdirs = i32::from(node.kind.is_dir());
            let parent_row = self.touch_dir(txn, parent, subdirs, now)?;
            let size = target.map_or(0, |target| target.len() as u64);
            let row = new_row(node, owner, (parent_row.perm, parent_row.gid), now, size);
            let ino = txn.allocate_ino()?;
            txn.put_inode(ino, &row)?;
            if let Some(target) = target {
                txn.put_symlink(ino, target)?;
            }
            self.put_name(txn, parent, name, ino, row.kind)?;
            Ok::<_, FsError>((ino, row))
        })?;
        let mut table = self.table.lock();
        let node = table.reference(ino);
        if row.kind.is_dir() {
            node.lower_dir = LowerDir::None;
        }
        table.set_place(ino, Some((parent, name.clone())));
        self.lists.lock().insert(parent, name, ino, row.kind);
        Ok(upper_attr(ino, &row))
    }

    fn require_absent(&self, txn: &dyn WriteTxn, parent: Ino, name: &Name) -> Result<(), FsError> {
        if self.child(as_read(txn), parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        if self.is_hidden(parent, name) {
            return Err(FsError::NotPermitted);
        }
        Ok(())
    }

    /// Puts an upper name where there is none, and settles the whiteout: under
    /// a directory it stays and makes it opaque, under anything else the entry
    /// hides the lower name by itself.
    fn put_name(
        &self,
        txn: &mut dyn WriteTxn,
        parent: Ino,
        name: &Name,
        ino: Ino,
        kind: FileKind,
    ) -> Result<(), FsError> {
        txn.put_dentry(parent, name, ino)?;
        if !kind.is_dir()
            && let Some(dir) = self.lower_dir_of(as_read(txn), parent)?
        {
            txn.delete_whiteout(&dir, name)?;
        }
        Ok(())
    }

    fn dir_perm_and_gid(&self, txn: &dyn WriteTxn, dir: Ino) -> Result<(u16, u32), FsError> {
        use super::lookup::Inode;
        Ok(match self.inode(as_read(txn), dir)? {
            Inode::Upper(row) => (row.perm, row.gid),
            Inode::Lower { attr, .. } => (attr.perm, attr.gid),
        })
    }

    /// The child of that name, or the refusal.
    pub(super) fn require_child(
        &self,
        txn: &dyn WriteTxn,
        parent: Ino,
        name: &Name,
    ) -> Result<Child, FsError> {
        self.child(as_read(txn), parent, name)?
            .ok_or(FsError::NotFound)
    }
}

/// A new inode's row, with the group rule of `inode_init_owner()`: in a
/// set-group-ID directory everything takes the directory's group, and
/// directories the bit.
fn new_row(
    node: NewNode,
    owner: Owner,
    (parent_perm, parent_gid): (u16, u32),
    now: Timestamp,
    size: u64,
) -> InodeRow {
    let inherits = parent_perm & S_ISGID != 0;
    let mut perm = node.perm & 0o7777;
    if inherits && node.kind.is_dir() {
        perm |= S_ISGID;
    }
    InodeRow {
        kind: node.kind,
        perm,
        nlink: if node.kind.is_dir() {
            EMPTY_DIR_NLINK
        } else {
            1
        },
        uid: owner.uid,
        gid: if inherits { parent_gid } else { owner.gid },
        rdev: if matches!(node.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            node.rdev
        } else {
            0
        },
        size,
        atime: now,
        mtime: now,
        ctime: now,
        origin: None,
    }
}
