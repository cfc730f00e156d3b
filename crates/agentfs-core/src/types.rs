//! The vocabulary of the file system: inode numbers, names, kinds, times, attributes.
//!
//! Plain values with no behaviour beyond validation. Nothing here may read a
//! clock, touch the host or know how a value is stored.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::FsError;

/// An inode number, as programs see it in `st_ino`.
///
/// A base (lower) file keeps the number the host gave it, before and after
/// copy-up; the root of the view is always [`Ino::ROOT`]; inodes born in the
/// upper layer are numbered from [`Ino::FIRST_UPPER`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of the view (the format fixes it at 1).
    pub const ROOT: Ino = Ino(1);
    /// The first number given to inodes born in the upper layer. Local file
    /// systems number their inodes far below it, and it leaves the numbers
    /// exact in an IEEE double, which is all a JavaScript SDK has.
    pub const FIRST_UPPER: Ino = Ino(1 << 48);
    /// The first number of the range for lower inodes whose own number cannot
    /// be shown (another device, number 1, a number already taken).
    pub const FIRST_MAPPED: Ino = Ino(1 << 62);
    /// The largest valid number: the format stores them as signed 64-bit.
    pub const MAX: Ino = Ino(i64::MAX as u64);

    /// Whether it is the number of an inode born in the upper layer, not of one
    /// that the base has or had.
    #[must_use]
    pub fn is_born(self) -> bool {
        (Self::FIRST_UPPER..Self::FIRST_MAPPED).contains(&self)
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The longest name of a directory entry, in bytes (Linux `NAME_MAX`).
pub const NAME_MAX_BYTES: usize = 255;
/// The longest symbolic link target, in bytes (Linux `PATH_MAX` less the NUL).
pub const SYMLINK_MAX_BYTES: usize = 4095;
/// The largest file, in bytes: `loff_t` is signed.
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;
/// The link count of a directory that counts its subdirectories and has none:
/// its name and its `.`.
pub const EMPTY_DIR_NLINK: u32 = 2;
/// The largest link count; ext4 allows 65,000, we follow it for EMLINK.
pub const LINK_MAX: u32 = 65_000;

/// The deepest nesting of directories that is followed. Programs cannot name
/// deeper ones than `PATH_MAX` / 2, a hostile database can hold cycles.
pub const DEPTH_MAX: usize = 4096;

/// The name of one directory entry: 1 to 255 bytes, no `/`, no NUL, neither
/// `.` nor `..`. Any other byte is allowed; names are not text.
///
/// Cloning is cheap (a reference count).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Validates `bytes` as a name.
    ///
    /// # Errors
    /// [`FsError::NameTooLong`] over 255 bytes; [`FsError::InvalidName`] when
    /// empty, `.`, `..`, or holding `/` or NUL.
    pub fn new(bytes: &[u8]) -> Result<Self, FsError> {
        if bytes.len() > NAME_MAX_BYTES {
            return Err(FsError::NameTooLong);
        }
        let reserved = matches!(bytes, b"" | b"." | b"..");
        if reserved || bytes.iter().any(|&b| b == b'/' || b == 0) {
            return Err(FsError::InvalidName);
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// Where an object lies in the *lower* layer, relative to its root: names
/// joined by `/`, no leading slash; the root is empty.
///
/// The lower layer is never changed by us, so a path in it is a stable
/// identity, unlike a path in the view. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LowerPath(Arc<[u8]>);

impl LowerPath {
    /// The root of the lower layer.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from(&b""[..]))
    }

    /// Validates bytes read from outside (a database) as a path of valid names.
    ///
    /// # Errors
    /// As [`Name::new`], for any component.
    pub fn parse(bytes: &[u8]) -> Result<Self, FsError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        for component in bytes.split(|&b| b == b'/') {
            Name::new(component)?;
        }
        Ok(Self(bytes.into()))
    }

    /// The path of `name` inside this directory.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        if self.is_root() {
            return Self(name.0.clone());
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.0.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(&name.0);
        Self(bytes.into())
    }

    /// The directory and the name in it, or `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (Self(self.0[..at].into()), Name(self.0[at + 1..].into())),
            None => (Self::root(), Name(self.0.clone())),
        })
    }

    /// Whether this is the root of the lower layer.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, relative to the root, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The names from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }
}

impl fmt::Debug for LowerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lower:/{}", self.0.escape_ascii())
    }
}

impl fmt::Display for LowerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

/// The type of an inode (the `S_IFMT` bits of `st_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `S_IFREG`
    Regular,
    /// `S_IFDIR`
    Directory,
    /// `S_IFLNK`
    Symlink,
    /// `S_IFIFO`
    Fifo,
    /// `S_IFSOCK`
    Socket,
    /// `S_IFCHR`
    CharDevice,
    /// `S_IFBLK`
    BlockDevice,
}

const S_IFMT: u32 = 0o170_000;

impl FileKind {
    /// The `S_IFMT` bits.
    #[must_use]
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The kind that `st_mode` names, or `None` for bits no kind has.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::Regular,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// Whether this is [`FileKind::Directory`].
    #[must_use]
    pub const fn is_dir(self) -> bool {
        matches!(self, Self::Directory)
    }
}

/// A point in time, nanoseconds since the Unix epoch; before it `secs` is
/// negative and `nanos` still counts forward (as `struct timespec`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// A time from its parts; `nanos` over a second is clamped.
    #[must_use]
    pub const fn new(secs: i64, nanos: u32) -> Self {
        let nanos = if nanos > 999_999_999 {
            999_999_999
        } else {
            nanos
        };
        Self { secs, nanos }
    }
}

/// Tells the time. Core never reads a clock of its own.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// A clock that shows what it was set to: for tests and reproducible runs.
#[derive(Debug, Default)]
pub struct ManualClock(parking_lot::Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `time`.
    #[must_use]
    pub fn new(time: Timestamp) -> Self {
        Self(parking_lot::Mutex::new(time))
    }

    /// Sets the time.
    pub fn set(&self, time: Timestamp) {
        *self.0.lock() = time;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

/// Attributes of an inode, as `struct stat` gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Type.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (`st_mode & 07777`).
    pub perm: u16,
    /// Link count. Directories follow the convention of btrfs and overlayfs: 1.
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

/// Who asks for a new inode: it will own it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group, unless the parent directory is set-group-ID.
    pub gid: u32,
}

/// The capacity of a layer, as `statvfs` gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Unit of the three block counts, in bytes.
    pub block_size_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Blocks free to an ordinary user.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}
