//! From (directory, name) to an inode, from an inode to its attributes, and
//! the references that callers hold. Must never write to the storage, but for
//! removing what the last reference kept alive.

use super::inode_table::{Linkage, LowerDir, LowerNode, Node, Size56};
use super::seen::Moment;
use super::{Overlay, corrupt, fresh_root, merge};
use crate::error::FsError;
use crate::lower::{LowerAttr, LowerLayer};
use crate::storage::{InodeRow, LowerId, ReadTxn, Storage};
use crate::types::{Attr, FileKind, Ino, LowerPath, Name};

/// What a name in a directory leads to.
pub(super) enum Child {
    /// An inode with a row in the storage. The name may still be the lower
    /// layer's alone: another name of a copied-up inode.
    Upper { ino: Ino, row: InodeRow },
    /// An inode of the lower layer alone.
    Lower {
        ino: Ino,
        path: LowerPath,
        attr: LowerAttr,
    },
}

impl Child {
    pub(super) fn ino(&self) -> Ino {
        match self {
            Self::Upper { ino, .. } | Self::Lower { ino, .. } => *ino,
        }
    }

    pub(super) fn kind(&self) -> FileKind {
        match self {
            Self::Upper { row, .. } => row.kind,
            Self::Lower { attr, .. } => attr.kind,
        }
    }

    pub(super) fn attr(&self) -> Attr {
        match self {
            Self::Upper { ino, row } => upper_attr(*ino, row),
            Self::Lower { ino, attr, .. } => lower_attr(*ino, attr),
        }
    }
}

/// What an inode number stands for.
pub(super) enum Inode {
    Upper(InodeRow),
    Lower { path: LowerPath, attr: LowerAttr },
}

/// An inode found in the lower layer that has a name in the view.
struct Named {
    /// What it is there.
    lower: (LowerId, FileKind),
    /// The directory that it has a name in.
    dir: Ino,
}

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Finds an entry and takes one reference on its inode, to be given back
    /// with [`Self::forget`].
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`],
    /// [`FsError::StaleInode`], and those of the layers.
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Attr, FsError> {
        let _namespace = self.namespace.read();
        let moment = self.seen.moment();
        let child = self
            .storage
            .read(|txn| self.child(txn, parent, name))?
            .ok_or(FsError::NotFound)?;
        let attr = child.attr();
        self.remember(parent, name, &child, moment);
        Ok(attr)
    }

    /// The parent of a directory (`..`); the root is its own.
    ///
    /// # Errors
    /// [`FsError::StaleInode`]
    pub fn parent(&self, ino: Ino) -> Result<Ino, FsError> {
        let table = self.table.lock();
        let node = table.get(ino).ok_or(FsError::StaleInode)?;
        Ok(node.place.as_ref().map_or(Ino::ROOT, |place| place.0))
    }

    /// Gives back `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        let gone = self.table.lock().release(ino, count);
        if gone.is_empty() {
            return;
        }
        let (mut gone_for_good, mut orphans) = (Vec::new(), Vec::new());
        for (ino, node) in &gone {
            self.files.lock().remove(*ino);
            if node.lower.is_some() {
                self.seen.forget(*ino);
            }
            if node.linkage == Linkage::Linked {
                continue;
            }
            self.lists.lock().remove(*ino);
            // One that has been removed stays so, and its number is never given again.
            match node.linkage == Linkage::Removed && ino.is_born() {
                true => gone_for_good.push(*ino),
                false => orphans.push(*ino),
            }
        }
        if !gone_for_good.is_empty() {
            // A change of theirs that was under way has ended then.
            let _namespace = self.namespace.read();
            let discarded = self.storage.discard(&gone_for_good);
            left_behind(discarded.map_err(FsError::from));
        }
        if !orphans.is_empty() {
            let _namespace = self.namespace.write();
            self.remove_orphans(&orphans);
        }
    }

    /// Removes the rows of inodes that have neither a name nor a reference.
    /// Precondition: the namespace is held for writing.
    pub(super) fn remove_orphans(&self, orphans: &[Ino]) {
        let removed = self.storage.write(|txn| {
            for &ino in orphans {
                if txn.inode(ino)?.is_some_and(|row| row.nlink == 0) {
                    txn.delete_inode(ino)?;
                }
            }
            Ok::<_, FsError>(())
        });
        left_behind(removed);
    }

    /// Attributes of a referenced inode.
    ///
    /// # Errors
    /// [`FsError::StaleInode`], and those of the layers.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        let _namespace = self.namespace.read();
        self.storage.read(|txn| self.attr_of(txn, ino))
    }

    /// As [`Self::getattr`]; but of an inode of the lower layer alone, where it was last
    /// seen will do, if `is_told` says so of its type and the directory it lies in: for
    /// whoever tells of what changes there ([`Self::lower_changed`]).
    ///
    /// # Errors
    /// As [`Self::getattr`].
    pub fn getattr_as_seen(
        &self,
        ino: Ino,
        is_told: impl FnOnce(FileKind, Ino) -> bool,
    ) -> Result<Attr, FsError> {
        let _namespace = self.namespace.read();
        self.storage.read(|txn| {
            let named = self.named(ino)?;
            if let Some(row) = txn.inode(ino)? {
                return Ok(upper_attr(ino, &row));
            }
            let seen = match named {
                Some(Named { lower, dir }) if is_told(lower.1, dir) => self
                    .seen
                    .get(ino)
                    .filter(|attr| lower == (attr.id, attr.kind)),
                _ => None,
            };
            match seen {
                Some(attr) => Ok(lower_attr(ino, &attr)),
                None => self.attr_of(txn, ino),
            }
        })
    }

    fn named(&self, ino: Ino) -> Result<Option<Named>, FsError> {
        let table = self.table.lock();
        let node = table.get(ino).ok_or(FsError::StaleInode)?;
        Ok(node.named_lower().map(|(lower, dir, _)| Named {
            lower: (lower.id, lower.kind),
            dir,
        }))
    }

    fn attr_of(&self, txn: &dyn ReadTxn, ino: Ino) -> Result<Attr, FsError> {
        let moment = self.seen.moment();
        match self.inode(txn, ino)? {
            Inode::Upper(row) => Ok(upper_attr(ino, &row)),
            Inode::Lower { attr, .. } if self.is_removed(ino) => Ok(Attr {
                nlink: 0,
                ..lower_attr(ino, &attr)
            }),
            Inode::Lower { attr, .. } => {
                self.seen.put(ino, &attr, moment);
                Ok(lower_attr(ino, &attr))
            }
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::InvalidArgument`] when it is no symbolic link;
    /// [`FsError::StaleInode`], and those of the layers.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let _namespace = self.namespace.read();
        self.storage.read(|txn| match self.inode(txn, ino)? {
            Inode::Upper(row) if row.kind == FileKind::Symlink => txn
                .symlink(ino)?
                .ok_or_else(|| corrupt("a symbolic link without a target")),
            Inode::Lower { path, attr } if attr.kind == FileKind::Symlink => {
                Ok(self.lower.read_link(&path)?)
            }
            _ => Err(FsError::InvalidArgument),
        })
    }

    /// A copy of what the table knows of an inode.
    pub(super) fn node(&self, ino: Ino) -> Result<Node, FsError> {
        self.table
            .lock()
            .get(ino)
            .cloned()
            .ok_or(FsError::StaleInode)
    }

    /// Takes one reference on a child just found, for which the lower layer was looked
    /// at after `moment`.
    pub(super) fn remember(&self, parent: Ino, name: &Name, child: &Child, moment: Moment) {
        if let Child::Lower { ino, attr, .. } = child {
            self.seen.put(*ino, attr, moment);
        }
        let mut table = self.table.lock();
        let node = table.reference(child.ino());
        if let Child::Lower { ino, path, attr } = child {
            let told_size = match &node.lower {
                Some(known) if node.refs > 1 => known.told_size,
                _ => Size56::new(attr.size),
            };
            node.lower = Some(Box::new(LowerNode {
                id: attr.id,
                kind: attr.kind,
                told_size,
            }));
            if attr.kind.is_dir() {
                node.lower_dir = LowerDir::At(path.clone());
            }
            table.set_place(*ino, Some((parent, name.clone())));
        } else {
            table.set_place(child.ino(), Some((parent, name.clone())));
        }
    }

    /// What `name` in `parent` leads to. The rule of the overlay: the upper
    /// entry if there is one, else the lower unless it is hidden.
    pub(super) fn child(
        &self,
        txn: &dyn ReadTxn,
        parent: Ino,
        name: &Name,
    ) -> Result<Option<Child>, FsError> {
        self.require_dir(txn, parent)?;
        if self.is_hidden(parent, name) {
            return Ok(None);
        }
        if let Some(ino) = txn.dentry(parent, name)? {
            let row = txn.inode(ino)?.ok_or_else(|| {
                corrupt(&format!(
                    "entry {name} in directory {parent} leads to no inode ({ino})"
                ))
            })?;
            return Ok(Some(Child::Upper { ino, row }));
        }
        let Some(dir) = self.lower_dir_of(txn, parent)? else {
            return Ok(None);
        };
        if txn.whiteout(&dir, name)? {
            return Ok(None);
        }
        let path = dir.join(name);
        let Some(attr) = self.lower.stat(&path)? else {
            return Ok(None);
        };
        let (ino, row) = self.number(txn, &attr)?;
        Ok(Some(match row {
            Some(row) => Child::Upper { ino, row },
            None => Child::Lower { ino, path, attr },
        }))
    }

    /// The inode number of a lower object, with the row when it is another
    /// name of an inode that was copied up.
    pub(super) fn number(
        &self,
        txn: &dyn ReadTxn,
        attr: &LowerAttr,
    ) -> Result<(Ino, Option<InodeRow>), FsError> {
        // The host reuses numbers, so one may be taken by the copy of an object
        // that has gone from the base.
        for ino in merge::candidate_inos(self.base_dev, attr.id).take(64) {
            match txn.inode(ino)? {
                Some(row) if merge::is_hard_link_of(&row, attr) => return Ok((ino, Some(row))),
                Some(_) => {}
                None => {
                    let table = self.table.lock();
                    let free = table.get(ino).is_none_or(|node| {
                        node.linkage == Linkage::Linked
                            && (node.lower.as_ref())
                                .is_none_or(|has| (has.id, has.kind) == (attr.id, attr.kind))
                    });
                    if free {
                        return Ok((ino, None));
                    }
                }
            }
        }
        Err(corrupt("no inode number is left for a base file"))
    }

    /// The layer and attributes of a referenced inode.
    pub(super) fn inode(&self, txn: &dyn ReadTxn, ino: Ino) -> Result<Inode, FsError> {
        let node = self.node(ino)?;
        if let Some(row) = txn.inode(ino)? {
            return Ok(Inode::Upper(row));
        }
        if ino == Ino::ROOT {
            // Opened for reading, before anybody has opened it for writing.
            return Ok(Inode::Upper(fresh_root(&self.lower, &self.config)?));
        }
        let LowerNode { id, kind, .. } = *node.lower.as_deref().ok_or(FsError::StaleInode)?;
        let path = self.lower_path_of(txn, ino, &node)?;
        match self.lower.stat(&path)? {
            Some(mut attr) if attr.id == id && attr.kind == kind => {
                if let Some(detached) = node.detached {
                    attr.ctime = detached.1;
                }
                Ok(Inode::Lower { path, attr })
            }
            // Something else lies there now: the base was changed from outside.
            _ => Err(FsError::StaleInode),
        }
    }

    /// Where an inode that is not copied up lies in the lower layer.
    pub(super) fn lower_path_of(
        &self,
        txn: &dyn ReadTxn,
        ino: Ino,
        node: &Node,
    ) -> Result<LowerPath, FsError> {
        if let Some(detached) = &node.detached {
            return Ok(detached.0.clone());
        }
        if let LowerDir::At(path) = &node.lower_dir {
            return Ok(path.clone());
        }
        let (parent, name) = node.place.as_ref().ok_or(FsError::StaleInode)?;
        debug_assert_ne!(*parent, ino, "only the root is its own parent");
        let dir = self
            .lower_dir_of(txn, *parent)?
            .ok_or(FsError::StaleInode)?;
        Ok(dir.join(name))
    }

    /// The lower directory that shows through a referenced directory.
    pub(super) fn lower_dir_of(
        &self,
        txn: &dyn ReadTxn,
        dir: Ino,
    ) -> Result<Option<LowerPath>, FsError> {
        // Up to the first directory whose answer is known, then down again.
        let mut unknown = Vec::new();
        let mut at = dir;
        let mut found = loop {
            let node = self.node(at)?;
            match node.lower_dir {
                LowerDir::At(path) => break Some(path),
                LowerDir::None => break None,
                LowerDir::Unknown => {}
            }
            let Some((parent, name)) = node.place else {
                break None;
            };
            if unknown.len() > crate::types::DEPTH_MAX {
                return Err(corrupt("a cycle of directories"));
            }
            unknown.push((at, name));
            at = parent;
        };
        for (ino, name) in unknown.into_iter().rev() {
            found = match txn.inode(ino)? {
                Some(row) if row.kind.is_dir() => {
                    merge::lower_dir_beneath(txn, &self.lower, found.as_ref(), &name, &row)?
                }
                _ => None,
            };
            if let Some(node) = self.table.lock().get_mut(ino) {
                node.lower_dir = found.clone().map_or(LowerDir::None, LowerDir::At);
            }
        }
        Ok(found)
    }

    /// Refuses what is not a directory that exists.
    pub(super) fn require_dir(&self, txn: &dyn ReadTxn, ino: Ino) -> Result<(), FsError> {
        if ino == Ino::ROOT {
            return Ok(());
        }
        let (lower_kind, linkage) = {
            let table = self.table.lock();
            let node = table.get(ino).ok_or(FsError::StaleInode)?;
            (node.lower.as_ref().map(|lower| lower.kind), node.linkage)
        };
        // The kind never changes, so the lower's answer saves asking the storage.
        let kind = match lower_kind {
            Some(kind) => kind,
            None => txn.inode(ino)?.ok_or(FsError::StaleInode)?.kind,
        };
        match kind {
            FileKind::Directory if linkage == Linkage::Linked => Ok(()),
            FileKind::Directory => Err(FsError::NotFound),
            _ => Err(FsError::NotADirectory),
        }
    }
}

/// Says that inodes without a name could not be removed: the next open does it.
fn left_behind(removed: Result<(), FsError>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "could not remove unlinked inodes yet");
    }
}

/// Attributes of an inode of the upper layer.
pub(super) fn upper_attr(ino: Ino, row: &InodeRow) -> Attr {
    let blocks = match row.kind {
        FileKind::Regular => row.size.div_ceil(512),
        _ => 0,
    };
    Attr {
        ino,
        kind: row.kind,
        perm: row.perm,
        // Whatever another writer stored: the root is merged.
        nlink: if ino == Ino::ROOT { 1 } else { row.nlink },
        uid: row.uid,
        gid: row.gid,
        rdev: row.rdev,
        size: row.size,
        blocks,
        atime: row.atime,
        mtime: row.mtime,
        ctime: row.ctime,
    }
}

/// Attributes of an inode of the lower layer alone.
pub(super) fn lower_attr(ino: Ino, attr: &LowerAttr) -> Attr {
    Attr {
        ino,
        kind: attr.kind,
        perm: attr.perm,
        // Counting subdirectories of two layers is not worth a walk; 1 tells
        // programs not to rely on it, as on btrfs and in a merged directory of
        // overlayfs.
        nlink: if attr.kind.is_dir() { 1 } else { attr.nlink },
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
    }
}
