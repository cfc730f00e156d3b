//! What callers ask of the overlay and what they get back: plain values.
//!
//! Nothing here decides anything.

use crate::types::{FileKind, Ino, Name, Timestamp};

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The overlay's clock at the moment of the change.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// `st_mode & 07777`.
    pub perm: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes (regular files).
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of the inode (the kernel sends it under write-back caching).
    pub ctime: Option<Timestamp>,
    /// Drop set-user-ID, and set-group-ID where group execution is allowed; a directory
    /// keeps both.
    pub kill_suid_sgid: bool,
}

/// What kind of node to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Any kind but directory and symbolic link.
    pub kind: FileKind,
    /// `st_mode & 07777`, umask already applied.
    pub perm: u16,
    /// Device number of a device node, else 0.
    pub rdev: u32,
}

/// What `rename` does about the target (`renameat2` flags).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what is there.
    #[default]
    Replace,
    /// `RENAME_NOREPLACE`: refuse if anything is there.
    NoReplace,
    /// `RENAME_EXCHANGE`: swap the two.
    Exchange,
}

/// What `fallocate` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Mode 0: extend the size if need be.
    Allocate,
    /// `FALLOC_FL_KEEP_SIZE`: nothing that can be seen.
    KeepSize,
    /// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`; the flag tells `FALLOC_FL_KEEP_SIZE`.
    ZeroRange {
        /// Whether the size stays as it is.
        keep_size: bool,
    },
}

/// Whose the modification and change times are that a change of content sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The overlay's: both become now.
    Now,
    /// The caller's, who keeps a write-back cache: both stay, and it sends them in
    /// a `setattr`. A time of ours would replace the one that programs have been
    /// shown.
    Kept,
}

/// Where `lseek` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekWhence {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// Whether `setxattr` may create or replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    #[default]
    Set,
    /// `XATTR_CREATE`
    Create,
    /// `XATTR_REPLACE`
    Replace,
}

/// One entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name; `.` and `..` are not listed.
    pub name: Name,
    /// The inode number, as `lookup` would give it.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Resume after this entry by passing this cookie. Stable as long as the
    /// entry exists; never 0, 1 or 2; below 2^63.
    pub cookie: u64,
}
