//! Operations on names: look up, create, link, remove, rename.
//!
//! The order of checks is that of Linux `fs/namei.c` followed by ext4, because
//! it decides which errno a program sees when several apply.

use std::collections::BTreeMap;

use agentfs_core::overlay::{NewNode, RenameMode};
use agentfs_core::types::{FileKind, LINK_MAX, Name, Owner};

use super::{Body, Errno, Given, Model, NodeId, Outcome, ROOT, SparseBytes};

impl Model {
    /// Finds an entry.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT.
    pub fn lookup(&self, dir: NodeId, name: &Name) -> Result<NodeId, Errno> {
        self.directory(dir)?.get(name).copied().ok_or(libc::ENOENT)
    }

    /// `st_nlink`: names, for a directory that was made its subdirectories too.
    #[must_use]
    pub fn links(&self, id: NodeId) -> u32 {
        let node = self.node(id);
        match &node.body {
            Body::Directory { entries, .. } if node.nlink > 1 => {
                let subdirs = entries.values().filter(|&&id| self.node(id).kind.is_dir());
                node.nlink + u32::try_from(subdirs.count()).expect("a small model")
            }
            _ => node.nlink,
        }
    }

    /// What every creation asks first.
    fn may_create(&self, dir: NodeId, name: &Name) -> Result<(), Errno> {
        if self.directory(dir)?.contains_key(name) {
            return Err(libc::EEXIST);
        }
        if self.node(dir).nlink == 0 {
            return Err(libc::ENOENT);
        }
        if self.is_hidden(dir, name) {
            return Err(libc::EPERM);
        }
        Ok(())
    }

    fn touch(&mut self, dir: NodeId) {
        let now = self.now;
        let node = self.node_mut(dir);
        node.mtime = now;
        node.ctime = now;
    }

    fn touch_inode(&mut self, id: NodeId) {
        let now = self.now;
        self.node_mut(id).ctime = now;
    }

    /// Makes a file, fifo, socket or device.
    ///
    /// # Errors
    /// ENOTDIR, EEXIST, ENOENT (removed directory), EPERM (hidden).
    pub fn mknod(&mut self, dir: NodeId, name: &Name, new: NewNode, owner: Owner) -> Outcome {
        self.may_create(dir, name)?;
        let body = match new.kind {
            FileKind::Regular => Body::File(SparseBytes::default()),
            FileKind::Directory | FileKind::Symlink => return Err(libc::EINVAL),
            _ => Body::Special,
        };
        let mut node = self.new_node(new.kind, new.perm, owner, dir, body);
        if matches!(new.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            node.rdev = new.rdev;
        }
        let id = self.insert(node);
        Ok(self.enter(dir, name, id))
    }

    fn enter(&mut self, dir: NodeId, name: &Name, id: NodeId) -> Given {
        self.entries_mut(dir).insert(name.clone(), id);
        self.touch(dir);
        Given::Node(id)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Self::mknod`].
    pub fn mkdir(&mut self, dir: NodeId, name: &Name, perm: u16, owner: Owner) -> Outcome {
        self.may_create(dir, name)?;
        let body = Body::Directory {
            entries: BTreeMap::new(),
            parent: dir,
        };
        let node = self.new_node(FileKind::Directory, perm, owner, dir, body);
        let id = self.insert(node);
        Ok(self.enter(dir, name, id))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Self::mknod`].
    pub fn symlink(&mut self, dir: NodeId, name: &Name, target: &[u8], owner: Owner) -> Outcome {
        self.may_create(dir, name)?;
        let body = Body::Symlink(target.to_vec());
        let node = self.new_node(FileKind::Symlink, 0o777, owner, dir, body);
        let id = self.insert(node);
        Ok(self.enter(dir, name, id))
    }

    /// Makes a file without a name, held once.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT (removed directory).
    pub fn tmpfile(&mut self, dir: NodeId, perm: u16, owner: Owner) -> Outcome {
        self.directory(dir)?;
        if self.node(dir).nlink == 0 {
            return Err(libc::ENOENT);
        }
        let body = Body::File(SparseBytes::default());
        let mut node = self.new_node(FileKind::Regular, perm, owner, dir, body);
        node.nlink = 0;
        node.holds = 1;
        node.is_tmpfile = true;
        Ok(Given::Node(self.insert(node)))
    }

    /// Makes a hard link.
    ///
    /// # Errors
    /// ENOTDIR, EEXIST, ENOENT, EPERM (directory), EMLINK.
    pub fn link(&mut self, id: NodeId, dir: NodeId, name: &Name) -> Outcome {
        self.may_create(dir, name)?;
        let node = self.node(id);
        if node.kind.is_dir() {
            return Err(libc::EPERM);
        }
        if node.nlink == 0 && !node.is_tmpfile {
            return Err(libc::ENOENT);
        }
        if node.nlink >= LINK_MAX {
            return Err(libc::EMLINK);
        }
        self.node_mut(id).nlink += 1;
        self.node_mut(id).is_tmpfile = false;
        self.touch_inode(id);
        Ok(self.enter(dir, name, id))
    }

    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT, EISDIR.
    pub fn unlink(&mut self, dir: NodeId, name: &Name) -> Outcome {
        let id = self.lookup(dir, name)?;
        if self.node(id).kind.is_dir() {
            return Err(libc::EISDIR);
        }
        self.entries_mut(dir).remove(name);
        self.touch(dir);
        self.drop_name(id);
        Ok(Given::Unit)
    }

    fn drop_name(&mut self, id: NodeId) {
        self.touch_inode(id);
        let node = self.node_mut(id);
        node.nlink = if node.kind.is_dir() {
            0
        } else {
            node.nlink - 1
        };
        self.collect(id);
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT, ENOTEMPTY.
    pub fn rmdir(&mut self, dir: NodeId, name: &Name) -> Outcome {
        let id = self.lookup(dir, name)?;
        if !self.directory(id)?.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.entries_mut(dir).remove(name);
        self.touch(dir);
        self.drop_name(id);
        Ok(Given::Unit)
    }

    fn is_ancestor(&self, above: NodeId, below: NodeId) -> bool {
        let mut at = below;
        loop {
            if at == above {
                return true;
            }
            // A removed directory that is held has no way up.
            if at == ROOT || self.node(at).nlink == 0 {
                return false;
            }
            at = self.parent(at);
        }
    }

    /// Renames, in one of three modes.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT, EEXIST, EINVAL, ENOTEMPTY, EISDIR, EPERM (hidden).
    pub fn rename(
        &mut self,
        dir: NodeId,
        name: &Name,
        new_dir: NodeId,
        new_name: &Name,
        mode: RenameMode,
    ) -> Outcome {
        self.directory(dir)?;
        self.directory(new_dir)?;
        let source = self.lookup(dir, name)?;
        let target = self.lookup(new_dir, new_name).ok();
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(libc::EEXIST);
        }
        if mode == RenameMode::Exchange && target.is_none() {
            return Err(libc::ENOENT);
        }
        if self.node(source).kind.is_dir() && self.is_ancestor(source, new_dir) {
            return Err(libc::EINVAL);
        }
        if target.is_some_and(|t| self.node(t).kind.is_dir() && self.is_ancestor(t, dir)) {
            let exchange = mode == RenameMode::Exchange;
            return Err(if exchange {
                libc::EINVAL
            } else {
                libc::ENOTEMPTY
            });
        }
        if target == Some(source) {
            return Ok(Given::Unit);
        }
        let Some(target) = target else {
            if self.node(new_dir).nlink == 0 {
                return Err(libc::ENOENT);
            }
            if self.is_hidden(new_dir, new_name) {
                return Err(libc::EPERM);
            }
            self.move_entry(dir, name, new_dir, new_name, source);
            return Ok(Given::Unit);
        };
        if mode == RenameMode::Exchange {
            self.entries_mut(dir).insert(name.clone(), target);
            self.entries_mut(new_dir).insert(new_name.clone(), source);
            self.set_parent(source, new_dir);
            self.set_parent(target, dir);
            self.touch(dir);
            self.touch(new_dir);
            self.touch_inode(source);
            self.touch_inode(target);
            return Ok(Given::Unit);
        }
        match (
            self.node(source).kind.is_dir(),
            self.node(target).kind.is_dir(),
        ) {
            (true, false) => return Err(libc::ENOTDIR),
            (false, true) => return Err(libc::EISDIR),
            (true, true) if !self.entries(target).is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.move_entry(dir, name, new_dir, new_name, source);
        self.drop_name(target);
        Ok(Given::Unit)
    }

    fn move_entry(
        &mut self,
        dir: NodeId,
        name: &Name,
        new_dir: NodeId,
        new_name: &Name,
        id: NodeId,
    ) {
        self.entries_mut(dir).remove(name);
        self.entries_mut(new_dir).insert(new_name.clone(), id);
        self.set_parent(id, new_dir);
        self.touch(dir);
        self.touch(new_dir);
        self.touch_inode(id);
    }

    fn set_parent(&mut self, id: NodeId, dir: NodeId) {
        if let Body::Directory { parent, .. } = &mut self.node_mut(id).body {
            *parent = dir;
        }
    }
}
