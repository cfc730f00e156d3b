//! The boundary to the lower layer: a tree that is only ever read.
//!
//! No mutating method exists here, so that no bug above can change the base.
//! Objects are addressed by their path from the lower root ([`LowerPath`]);
//! nothing is followed, symbolic links are objects like any other.

mod memory;

pub use memory::MemoryLower;

use crate::error::LowerError;
use crate::storage::{Fingerprint, LowerId};
use crate::types::{FileKind, FsStats, LowerPath, Name, Timestamp};

/// Attributes of a lower object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerAttr {
    /// Host identity.
    pub id: LowerId,
    /// Type.
    pub kind: FileKind,
    /// `st_mode & 07777`.
    pub perm: u16,
    /// Link count on the host.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node (kernel `new_encode_dev` form), else 0.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated 512-byte units.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

impl LowerAttr {
    /// What is recorded at copy-up.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            id: self.id,
            nlink: self.nlink,
            size: self.size,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}

/// One entry of a lower directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerDirEntry {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub kind: FileKind,
    /// Its inode number, on the directory's own device unless it is a mount
    /// point.
    pub ino: u64,
}

/// Name and value of an extended attribute.
pub type LowerXattr = (Vec<u8>, Vec<u8>);

/// An open regular file of the lower layer.
pub trait LowerFile: Send + Sync {
    /// Current attributes of the open file (not of whatever its name leads to now).
    ///
    /// # Errors
    /// The host's errno.
    fn attr(&self) -> Result<LowerAttr, LowerError>;
    /// Reads into `buf` from `offset`; returns the bytes read, short only at
    /// the end of the file.
    ///
    /// # Errors
    /// The host's errno.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, LowerError>;
    /// `SEEK_DATA` (`hole` false) or `SEEK_HOLE` (`hole` true) from `offset`;
    /// `None` past the last data or the end. A layer that cannot tell answers as
    /// if all of the file were data.
    ///
    /// # Errors
    /// The host's errno.
    fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>, LowerError>;
}

/// A directory tree that is only read.
pub trait LowerLayer: Send + Sync + 'static {
    /// Attributes of an object; `None` when there is none at that path (a
    /// missing or non-directory component included).
    ///
    /// # Errors
    /// The host's errno.
    fn stat(&self, path: &LowerPath) -> Result<Option<LowerAttr>, LowerError>;
    /// All entries of a directory, without `.` and `..`; empty when it is gone.
    ///
    /// # Errors
    /// The host's errno.
    fn read_dir(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, LowerError>;
    /// The target of a symbolic link.
    ///
    /// # Errors
    /// The host's errno; EINVAL when it is no symbolic link.
    fn read_link(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError>;
    /// Opens a regular file for reading; never anything else (a fifo would block).
    ///
    /// # Errors
    /// The host's errno; EINVAL when it is no regular file.
    fn open(&self, path: &LowerPath) -> Result<Box<dyn LowerFile>, LowerError>;
    /// All extended attributes a program may see; empty where there are none
    /// or the host has no support.
    ///
    /// # Errors
    /// The host's errno.
    fn xattrs(&self, path: &LowerPath) -> Result<Vec<LowerXattr>, LowerError>;
    /// One extended attribute.
    ///
    /// # Errors
    /// The host's errno.
    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError>;
    /// Capacity of the file system the layer lies on.
    ///
    /// # Errors
    /// The host's errno.
    fn statfs(&self) -> Result<FsStats, LowerError>;
}

impl<L: LowerLayer + ?Sized> LowerLayer for std::sync::Arc<L> {
    fn stat(&self, path: &LowerPath) -> Result<Option<LowerAttr>, LowerError> {
        (**self).stat(path)
    }
    fn read_dir(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, LowerError> {
        (**self).read_dir(path)
    }
    fn read_link(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError> {
        (**self).read_link(path)
    }
    fn open(&self, path: &LowerPath) -> Result<Box<dyn LowerFile>, LowerError> {
        (**self).open(path)
    }
    fn xattrs(&self, path: &LowerPath) -> Result<Vec<LowerXattr>, LowerError> {
        (**self).xattrs(path)
    }
    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        (**self).xattr(path, name)
    }
    fn statfs(&self) -> Result<FsStats, LowerError> {
        (**self).statfs()
    }
}
