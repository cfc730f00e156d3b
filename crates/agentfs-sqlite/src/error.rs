//! Why a database is refused, and what SQLite's result codes mean to us.
//!
//! An error that reaches a user is one sentence that says what is wrong and
//! what to do. Nothing here may carry a row's content.

use std::io;
use std::path::PathBuf;

use agentfs_core::StorageError;
use rusqlite::{Connection, ErrorCode};
use thiserror::Error;

use crate::sys;
/// What is repeated of what SQLite says, in characters.
const WORDS_MAX_CHARS: usize = 160;

/// Why a database was not opened. A refused database has not been changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file and none was to be created.
    #[error("there is no session database {}", .0.display())]
    NotFound(PathBuf),
    /// The path leads to a directory, a device or the like.
    #[error("{} is not a regular file, so it cannot be a session database", .0.display())]
    NotAFile(PathBuf),
    /// The file is not in SQLite's format.
    #[error("{} is not a session database (it is not an SQLite file)", .0.display())]
    NotADatabase(PathBuf),
    /// An SQLite database that is not ours.
    #[error("{} belongs to another application: {reason}", .path.display())]
    OtherApplication {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// Written by a version of the format that this one does not know.
    #[error(
        "{} was written by a newer version (format {version}); update agentfs to open it",
        .path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        version: String,
    },
    /// Written by an older version, and opened read-only.
    #[error("{} was written by an older version; open it for writing once to bring it up to date", .0.display())]
    NeedsUpgrade(PathBuf),
    /// Truncated, or with content that the format forbids.
    #[error("{} is damaged ({reason}); restore it from a copy, or remove it to start anew", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The `-wal` beside it is another database's.
    #[error(
        "the -wal beside {} was left by another database; remove it, or put its own database back",
        .0.display()
    )]
    ForeignWal(PathBuf),
    /// The user may not read or write it, or not create it there.
    #[error("no permission to open {} ({reason})", .path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// The host's words.
        reason: String,
    },
    /// The file system it lies on is mounted read-only.
    #[error("{} lies on a read-only file system, so a session cannot be kept there", .0.display())]
    ReadOnlyFileSystem(PathBuf),
    /// No room to create it.
    #[error("no space left to create {}", .0.display())]
    Full(PathBuf),
    /// Held by another program for longer than we wait.
    #[error(
        "{} is held by another program{}; end it (an AgentFS SDK holds the database for as long as it is open) and try again",
        .path.display(),
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// The holder, where it is known.
        pid: Option<i32>,
    },
    /// The host failed otherwise.
    #[error("{} cannot be opened ({reason})", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The host's words.
        reason: String,
    },
}

impl OpenError {
    /// The refusal for a host error on `path`.
    pub(crate) fn from_io(path: &std::path::Path, error: &io::Error) -> Self {
        let path = path.to_path_buf();
        match error.raw_os_error() {
            Some(libc::ENOENT) => Self::NotFound(path),
            Some(libc::EISDIR) => Self::NotAFile(path),
            Some(libc::EACCES | libc::EPERM) => Self::Permission {
                path,
                reason: error.to_string(),
            },
            Some(libc::EROFS) => Self::ReadOnlyFileSystem(path),
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full(path),
            _ => Self::Io {
                path,
                reason: error.to_string(),
            },
        }
    }

    /// The refusal for an SQLite error on `path`.
    pub(crate) fn from_sqlite(path: &std::path::Path, error: &rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase(path),
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt {
                path,
                reason: words(error),
            },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::Busy { path, pid: None }
            }
            Some(ErrorCode::PermissionDenied) => Self::Permission {
                path,
                reason: words(error),
            },
            Some(ErrorCode::ReadOnly) => Self::ReadOnlyFileSystem(path),
            Some(ErrorCode::DiskFull) => Self::Full(path),
            _ => Self::Io {
                path,
                reason: words(error),
            },
        }
    }

    /// The refusal for a row that broke a rule, or a storage failure, on `path`.
    pub(crate) fn from_storage(path: &std::path::Path, error: StorageError) -> Self {
        let path = path.to_path_buf();
        match error {
            StorageError::Corrupt(reason) => Self::Corrupt { path, reason },
            StorageError::Busy => Self::Busy { path, pid: None },
            StorageError::ReadOnly => Self::ReadOnlyFileSystem(path),
            StorageError::Full => Self::Full(path),
            other => Self::Io {
                path,
                reason: other.to_string(),
            },
        }
    }
}

/// The storage error for an SQLite error.
pub(crate) fn storage_error(error: &rusqlite::Error) -> StorageError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StorageError::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StorageError::Busy,
        Some(ErrorCode::ReadOnly) => StorageError::ReadOnly,
        // A value longer than the limit set on the connection is as absurd as a
        // malformed page.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig) => {
            StorageError::Corrupt(words(error))
        }
        _ => StorageError::Io(words(error)),
    }
}

/// A failure of a connection, by the host's errno behind it where that says more than
/// SQLite does: of what fails to write it only tells a full disk apart.
pub(crate) fn refined(error: StorageError, conn: &Connection) -> StorageError {
    if !matches!(error, StorageError::Io(_)) {
        return error;
    }
    match io_error(&io::Error::from_raw_os_error(sys::system_errno(conn))) {
        StorageError::Io(_) => error,
        says_more => says_more,
    }
}

/// What SQLite says, fit for a sentence: of a schema that it does not understand it
/// quotes the rest, whatever that holds.
fn words(error: &rusqlite::Error) -> String {
    let said = error.to_string();
    let fit: String = said.chars().take(WORDS_MAX_CHARS).collect();
    fit.replace(char::is_control, " ")
}

/// The storage error for a host error. A quota and a limit of file sizes leave no
/// room, as a full disk does.
pub(crate) fn io_error(error: &io::Error) -> StorageError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => StorageError::Full,
        Some(libc::EROFS) => StorageError::ReadOnly,
        _ => StorageError::Io(error.to_string()),
    }
}
