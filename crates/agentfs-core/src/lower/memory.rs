//! A lower layer in memory: for embedding without a host directory, and for
//! tests, which play "the base changed from outside" through the same handle.
//!
//! The overlay only ever gets the read-only [`LowerLayer`] side of it; nothing
//! here may reach back into an overlay. Times come from a counter, never a clock.

mod extents;
mod node;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::error::{FsError, LowerError};
use crate::storage::LowerId;
use crate::types::{FileKind, LowerPath, Name, Timestamp};
use extents::Extents;
use node::{Body, Inode, Node};

/// A directory tree in memory. Clones are handles on the same tree.
///
/// Paths are bytes relative to the root, without a leading slash; `""` is the
/// root. Methods that add or change take them as `impl AsRef<[u8]>`, refuse with
/// [`FsError`] and return the handle, so that calls chain:
///
/// ```
/// use agentfs_core::lower::{LowerLayer, MemoryLower};
/// use agentfs_core::LowerPath;
///
/// # fn main() -> Result<(), agentfs_core::FsError> {
/// let base = MemoryLower::new();
/// base.dir("src", 0o755)?.file("src/main.rs", 0o644, "fn main() {}")?;
/// let attr = base.stat(&LowerPath::parse(b"src/main.rs")?)?;
/// assert_eq!(attr.map(|a| a.size), Some(12));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryLower {
    shared: Arc<Shared>,
}

/// The lock of a parent directory is taken before those of its entries.
struct Shared {
    root: Arc<Node>,
    next_ino: AtomicU64,
    ticks_ns: AtomicU64,
}

/// The device number of every object, until [`MemoryLower::set_id`] says otherwise.
const DEV: u64 = 1;
/// The second at which the counter of times starts.
const EPOCH_SECS: i64 = 1_700_000_000;
const NANOS_PER_SEC: u64 = 1_000_000_000;

impl Default for MemoryLower {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLower {
    /// An empty tree: a root directory of mode 0755 owned by 0:0, inode 2.
    #[must_use]
    pub fn new() -> Self {
        let start = Timestamp::new(EPOCH_SECS, 0);
        let root = Inode {
            id: LowerId { dev: DEV, ino: 2 },
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            atime: start,
            mtime: start,
            ctime: start,
            xattrs: BTreeMap::new(),
            body: Body::Directory(BTreeMap::new()),
        };
        Self {
            shared: Arc::new(Shared {
                root: Arc::new(Node(RwLock::new(root))),
                next_ino: AtomicU64::new(11),
                ticks_ns: AtomicU64::new(0),
            }),
        }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// As `mkdir(2)`; this holds for all methods that add, with their own call.
    pub fn dir(&self, path: impl AsRef<[u8]>, perm: u16) -> Result<&Self, FsError> {
        self.add(path.as_ref(), perm, Body::Directory(BTreeMap::new()))
    }

    /// Adds a regular file that holds `data`.
    ///
    /// # Errors
    /// As `open(2)` with `O_CREAT | O_EXCL`.
    pub fn file(
        &self,
        path: impl AsRef<[u8]>,
        perm: u16,
        data: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        let mut extents = Extents::default();
        extents.write(0, data.as_ref())?;
        self.add(path.as_ref(), perm, Body::Regular(extents))
    }

    /// Adds a regular file of `size` bytes, all of them a hole; data comes with
    /// [`Self::write_at`].
    ///
    /// # Errors
    /// As `open(2)` with `O_CREAT | O_EXCL`.
    pub fn sparse_file(
        &self,
        path: impl AsRef<[u8]>,
        perm: u16,
        size: u64,
    ) -> Result<&Self, FsError> {
        self.add(
            path.as_ref(),
            perm,
            Body::Regular(Extents {
                size,
                runs: BTreeMap::new(),
            }),
        )
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub fn symlink(
        &self,
        path: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        self.add(
            path.as_ref(),
            0o777,
            Body::Symlink(target.as_ref().to_vec()),
        )
    }

    /// Adds a fifo, a socket or a device node (`rdev` in `new_encode_dev` form).
    ///
    /// # Errors
    /// As `mknod(2)`; EINVAL for any other kind.
    pub fn special(
        &self,
        path: impl AsRef<[u8]>,
        kind: FileKind,
        perm: u16,
        rdev: u32,
    ) -> Result<&Self, FsError> {
        if matches!(
            kind,
            FileKind::Regular | FileKind::Directory | FileKind::Symlink
        ) {
            return Err(FsError::InvalidArgument);
        }
        self.add(path.as_ref(), perm, Body::Special(kind, rdev))
    }

    /// Adds another name for an object that is no directory.
    ///
    /// # Errors
    /// As `link(2)`.
    pub fn hard_link(
        &self,
        existing: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        let node = self.node(&LowerPath::parse(existing.as_ref())?)?;
        if node.0.read().kind().is_dir() {
            return Err(FsError::NotPermitted);
        }
        self.insert(new.as_ref(), Arc::clone(&node))?;
        let now = self.tick();
        let mut inode = node.0.write();
        inode.nlink += 1;
        inode.ctime = now;
        Ok(self)
    }

    /// Removes a name, a directory with all that is in it. Files that are open
    /// stay readable.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`]; [`FsError::InvalidArgument`] for the root.
    pub fn remove(&self, path: impl AsRef<[u8]>) -> Result<&Self, FsError> {
        let (parent, name) = self.parent(path.as_ref())?;
        let now = self.tick();
        let node = {
            let mut dir = parent.0.write();
            let node = dir.entries_mut()?.remove(&name).ok_or(FsError::NotFound)?;
            dir.touch(now);
            node
        };
        node.0.write().unlinked(now);
        Ok(self)
    }

    /// Moves an object to a new name; what was there is replaced.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`]; [`FsError::InvalidArgument`] when moved into itself or when
    /// either is the root.
    pub fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<&Self, FsError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        if to
            .strip_prefix(from)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
        {
            return Err(FsError::InvalidArgument);
        }
        let (new_parent, new_name) = self.parent(to)?;
        let (old_parent, old_name) = self.parent(from)?;
        let now = self.tick();
        let node = {
            let mut dir = old_parent.0.write();
            let node = dir
                .entries_mut()?
                .remove(&old_name)
                .ok_or(FsError::NotFound)?;
            dir.touch(now);
            node
        };
        node.0.write().ctime = now;
        let replaced = {
            let mut dir = new_parent.0.write();
            dir.touch(now);
            dir.entries_mut()?.insert(new_name, node)
        };
        if let Some(replaced) = replaced {
            replaced.0.write().unlinked(now);
        }
        Ok(self)
    }

    /// Writes into a regular file, which grows when need be. Times advance.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::InvalidArgument`] when it is no regular file.
    pub fn write_at(
        &self,
        path: impl AsRef<[u8]>,
        offset: u64,
        data: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, now| {
            let Body::Regular(extents) = &mut inode.body else {
                return Err(FsError::InvalidArgument);
            };
            extents.write(offset, data.as_ref())?;
            inode.mtime = now;
            Ok(())
        })
    }

    /// Sets the size of a regular file. Times advance.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::InvalidArgument`] when it is no regular file.
    pub fn truncate(&self, path: impl AsRef<[u8]>, size: u64) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, now| {
            let Body::Regular(extents) = &mut inode.body else {
                return Err(FsError::InvalidArgument);
            };
            extents.truncate(size);
            inode.mtime = now;
            Ok(())
        })
    }

    /// Replaces the content of a regular file, keeping the inode.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::InvalidArgument`] when it is no regular file.
    pub fn set_content(
        &self,
        path: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        self.truncate(path.as_ref(), 0)?
            .write_at(path.as_ref(), 0, data)
    }

    /// Sets the mode (`st_mode & 07777`).
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_perm(&self, path: impl AsRef<[u8]>, perm: u16) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, _| {
            inode.perm = perm & 0o7777;
            Ok(())
        })
    }

    /// Sets owner and group.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_owner(&self, path: impl AsRef<[u8]>, uid: u32, gid: u32) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, _| {
            (inode.uid, inode.gid) = (uid, gid);
            Ok(())
        })
    }

    /// Sets access and modification time; the change time advances.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_times(
        &self,
        path: impl AsRef<[u8]>,
        atime: Timestamp,
        mtime: Timestamp,
    ) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, _| {
            (inode.atime, inode.mtime) = (atime, mtime);
            Ok(())
        })
    }

    /// Gives an object another host identity (another device, a clash).
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_id(&self, path: impl AsRef<[u8]>, id: LowerId) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, _| {
            inode.id = id;
            Ok(())
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_xattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, _| {
            inode
                .xattrs
                .insert(name.as_ref().to_vec(), value.as_ref().to_vec());
            Ok(())
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NotFound`]; [`FsError::NoAttribute`].
    pub fn remove_xattr(
        &self,
        path: impl AsRef<[u8]>,
        name: impl AsRef<[u8]>,
    ) -> Result<&Self, FsError> {
        self.change(path.as_ref(), |inode, _| {
            inode
                .xattrs
                .remove(name.as_ref())
                .map(drop)
                .ok_or(FsError::NoAttribute)
        })
    }

    fn add(&self, path: &[u8], perm: u16, body: Body) -> Result<&Self, FsError> {
        let now = self.tick();
        let ino = self.shared.next_ino.fetch_add(1, Ordering::Relaxed);
        let inode = Inode {
            id: LowerId { dev: DEV, ino },
            perm: perm & 0o7777,
            nlink: if matches!(body, Body::Directory(_)) {
                2
            } else {
                1
            },
            uid: 0,
            gid: 0,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
            body,
        };
        self.insert(path, Arc::new(Node(RwLock::new(inode))))
    }

    fn insert(&self, path: &[u8], node: Arc<Node>) -> Result<&Self, FsError> {
        let (parent, name) = self.parent(path)?;
        let now = self.tick();
        let mut dir = parent.0.write();
        let entries = dir.entries_mut()?;
        if entries.contains_key(&name) {
            return Err(FsError::Exists);
        }
        entries.insert(name, node);
        dir.touch(now);
        Ok(self)
    }

    fn change(
        &self,
        path: &[u8],
        f: impl FnOnce(&mut Inode, Timestamp) -> Result<(), FsError>,
    ) -> Result<&Self, FsError> {
        let node = self.node(&LowerPath::parse(path)?)?;
        let now = self.tick();
        let mut inode = node.0.write();
        f(&mut inode, now)?;
        inode.ctime = now;
        Ok(self)
    }

    /// The directory that holds (or is to hold) the last name of `path`.
    fn parent(&self, path: &[u8]) -> Result<(Arc<Node>, Name), FsError> {
        let path = LowerPath::parse(path)?;
        let (dir, name) = path.split().ok_or(FsError::InvalidArgument)?;
        let dir = self.node(&dir)?;
        if dir.0.read().kind().is_dir() {
            Ok((dir, name))
        } else {
            Err(FsError::NotADirectory)
        }
    }

    fn node(&self, path: &LowerPath) -> Result<Arc<Node>, FsError> {
        let mut node = Arc::clone(&self.shared.root);
        for component in path.components() {
            let next = match &node.0.read().body {
                Body::Directory(entries) => {
                    entries.get(component).cloned().ok_or(FsError::NotFound)?
                }
                Body::Regular(_) | Body::Symlink(_) | Body::Special(..) => {
                    return Err(FsError::NotADirectory);
                }
            };
            node = next;
        }
        Ok(node)
    }

    /// As [`Self::node`], for the reading side: a missing object is no error.
    fn find(&self, path: &LowerPath) -> Option<Arc<Node>> {
        self.node(path).ok()
    }

    fn need(&self, path: &LowerPath) -> Result<Arc<Node>, LowerError> {
        self.node(path).map_err(|e| LowerError {
            path: path.clone(),
            errno: e.errno(),
        })
    }

    /// A time later than every one given before: a microsecond apart, so that
    /// changes show on any clock.
    fn tick(&self) -> Timestamp {
        let ns = self.shared.ticks_ns.fetch_add(1000, Ordering::Relaxed) + 1000;
        let secs = i64::try_from(ns / NANOS_PER_SEC).unwrap_or(0);
        let nanos = u32::try_from(ns % NANOS_PER_SEC).unwrap_or(0);
        Timestamp::new(EPOCH_SECS + secs, nanos)
    }
}

#[cfg(test)]
mod tests;
