//! The objects of a tree in memory, and how the overlay reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::MemoryLower;
use super::extents::Extents;
use crate::error::{FsError, LowerError};
use crate::lower::{LowerAttr, LowerDirEntry, LowerFile, LowerLayer};
use crate::storage::LowerId;
use crate::types::{FileKind, FsStats, LowerPath, Name, Timestamp};

const BLOCK_BYTES: u64 = 4096;

pub(super) struct Node(pub(super) RwLock<Inode>);

pub(super) struct Inode {
    pub(super) id: LowerId,
    pub(super) perm: u16,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) body: Body,
}

pub(super) enum Body {
    Regular(Extents),
    Directory(BTreeMap<Name, Arc<Node>>),
    Symlink(Vec<u8>),
    Special(FileKind, u32),
}

impl Inode {
    pub(super) fn kind(&self) -> FileKind {
        match &self.body {
            Body::Regular(_) => FileKind::Regular,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special(kind, _) => *kind,
        }
    }

    pub(super) fn attr(&self) -> LowerAttr {
        let (size, blocks) = match &self.body {
            Body::Regular(extents) => (extents.size, extents.blocks()),
            Body::Directory(_) => (BLOCK_BYTES, BLOCK_BYTES / 512),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special(..) => (0, 0),
        };
        LowerAttr {
            id: self.id,
            kind: self.kind(),
            perm: self.perm,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: if let Body::Special(_, rdev) = self.body {
                rdev
            } else {
                0
            },
            size,
            blocks,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    pub(super) fn entries_mut(&mut self) -> Result<&mut BTreeMap<Name, Arc<Node>>, FsError> {
        match &mut self.body {
            Body::Directory(entries) => Ok(entries),
            Body::Regular(_) | Body::Symlink(_) | Body::Special(..) => Err(FsError::NotADirectory),
        }
    }

    pub(super) fn touch(&mut self, now: Timestamp) {
        (self.mtime, self.ctime) = (now, now);
    }

    pub(super) fn unlinked(&mut self, now: Timestamp) {
        self.nlink = if self.kind().is_dir() {
            0
        } else {
            self.nlink.saturating_sub(1)
        };
        self.ctime = now;
    }
}

impl LowerLayer for MemoryLower {
    fn stat(&self, path: &LowerPath) -> Result<Option<LowerAttr>, LowerError> {
        Ok(self.find(path).map(|node| node.0.read().attr()))
    }

    fn read_dir(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, LowerError> {
        let Some(node) = self.find(path) else {
            return Ok(Vec::new());
        };
        let dir = node.0.read();
        let Body::Directory(entries) = &dir.body else {
            return Ok(Vec::new());
        };
        let list = entries.iter().map(|(name, node)| {
            let inode = node.0.read();
            LowerDirEntry {
                name: name.clone(),
                kind: inode.kind(),
                ino: inode.id.ino,
            }
        });
        Ok(list.collect())
    }

    fn read_link(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError> {
        match &self.need(path)?.0.read().body {
            Body::Symlink(target) => Ok(target.clone()),
            Body::Regular(_) | Body::Directory(_) | Body::Special(..) => Err(LowerError {
                path: path.clone(),
                errno: libc::EINVAL,
            }),
        }
    }

    fn open(&self, path: &LowerPath) -> Result<Box<dyn LowerFile>, LowerError> {
        let node = self.need(path)?;
        if node.0.read().kind() != FileKind::Regular {
            return Err(LowerError {
                path: path.clone(),
                errno: libc::EINVAL,
            });
        }
        Ok(Box::new(MemoryFile(node)))
    }

    fn xattrs(&self, path: &LowerPath) -> Result<Vec<(Vec<u8>, Vec<u8>)>, LowerError> {
        let node = self.need(path)?;
        let inode = node.0.read();
        Ok(inode
            .xattrs
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect())
    }

    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        Ok(self.need(path)?.0.read().xattrs.get(name).cloned())
    }

    fn statfs(&self) -> Result<FsStats, LowerError> {
        Ok(FsStats {
            block_size_bytes: 4096,
            blocks: 1 << 20,
            blocks_free: 1 << 19,
            blocks_available: 1 << 19,
            files: 1 << 20,
            files_free: 1 << 19,
        })
    }
}

struct MemoryFile(Arc<Node>);

impl LowerFile for MemoryFile {
    fn attr(&self) -> Result<LowerAttr, LowerError> {
        Ok(self.0.0.read().attr())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, LowerError> {
        match &self.0.0.read().body {
            Body::Regular(extents) => Ok(extents.read(buf, offset)),
            Body::Directory(_) | Body::Symlink(_) | Body::Special(..) => Ok(0),
        }
    }

    fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>, LowerError> {
        match &self.0.0.read().body {
            Body::Regular(extents) => Ok(extents.seek(offset, hole)),
            Body::Directory(_) | Body::Symlink(_) | Body::Special(..) => Ok(None),
        }
    }
}
