//! Typed refusals: one variant per reason, each with the errno a program sees.
//!
//! An error here never carries a host path or SQL; the layer that has them logs
//! them. Nothing in this crate may panic on bad input: it returns one of these.

use thiserror::Error;

use crate::types::LowerPath;

/// Why an operation on the overlay was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FsError {
    /// No entry of that name.
    #[error("no such file or directory")]
    NotFound,
    /// The inode number is not (or no longer) known.
    #[error("stale inode number")]
    StaleInode,
    /// An entry of that name exists.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// The operation is not for directories.
    #[error("is a directory")]
    IsADirectory,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// A name over 255 bytes, or a link target over 4095.
    #[error("file name too long")]
    NameTooLong,
    /// A name that is empty, `.`, `..`, or holds `/` or NUL.
    #[error("invalid name")]
    InvalidName,
    /// Arguments that make no sense together.
    #[error("invalid argument")]
    InvalidArgument,
    /// Over the largest size of a file.
    #[error("file too large")]
    FileTooLarge,
    /// Over the largest link count.
    #[error("too many links")]
    TooManyLinks,
    /// The operation is never permitted on this object (hard link to a
    /// directory, the hidden database directory).
    #[error("operation not permitted")]
    NotPermitted,
    /// No extended attribute of that name.
    #[error("no such extended attribute")]
    NoAttribute,
    /// An extended attribute of that name exists.
    #[error("extended attribute exists")]
    AttributeExists,
    /// An extended attribute (or the set of them) is over its limit.
    #[error("extended attribute too large")]
    AttributeTooLarge,
    /// Not supported by this file system (POSIX ACLs, unknown modes).
    #[error("operation not supported")]
    NotSupported,
    /// `SEEK_DATA` or `SEEK_HOLE` past the end.
    #[error("no data or hole past this offset")]
    NoSuchRange,
    /// The base file changed under a partly copied-up file, whose missing
    /// blocks can no longer be had.
    #[error("{0} changed in the base directory after this session started to modify it")]
    LowerChanged(LowerPath),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The lower layer failed.
    #[error(transparent)]
    Lower(#[from] LowerError),
}

impl FsError {
    /// The Linux errno a program gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::StaleInode | Self::LowerChanged(_) => libc::ESTALE,
            Self::Exists | Self::AttributeExists => libc::EEXIST,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::InvalidName | Self::InvalidArgument => libc::EINVAL,
            Self::FileTooLarge => libc::EFBIG,
            Self::TooManyLinks => libc::EMLINK,
            Self::NotPermitted => libc::EPERM,
            Self::NoAttribute => libc::ENODATA,
            Self::AttributeTooLarge => libc::E2BIG,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::NoSuchRange => libc::ENXIO,
            Self::Storage(e) => e.errno(),
            Self::Lower(e) => e.errno(),
        }
    }
}

/// Why the storage of the upper layer failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No room left for the database.
    #[error("no space left for the session database")]
    Full,
    /// The database holds something the format forbids. Says what and where.
    #[error("the session database is corrupt: {0}")]
    Corrupt(String),
    /// The database could not be read or written.
    #[error("the session database cannot be read or written: {0}")]
    Io(String),
    /// The database is, or has become, read-only.
    #[error("the session database is read-only")]
    ReadOnly,
    /// Someone else held the database for longer than we wait.
    #[error("the session database is locked by another process")]
    Busy,
}

impl StorageError {
    /// The Linux errno a program gets.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Full => libc::ENOSPC,
            Self::Corrupt(_) | Self::Io(_) => libc::EIO,
            Self::ReadOnly => libc::EROFS,
            Self::Busy => libc::EBUSY,
        }
    }
}

/// Why the lower layer failed. A missing object is not an error but `None`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the base directory answered errno {errno} for {path}")]
pub struct LowerError {
    /// What was asked for.
    pub path: LowerPath,
    /// The host's errno.
    pub errno: i32,
}

impl LowerError {
    /// The Linux errno a program gets: the host's own.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }
}
