//! What the database files look like at a moment, to notice that others wrote.
//!
//! Never decides what a change means; never opens or locks anything.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Identity, size and times of the files of a database. Two equal stamps, the
/// second taken while nobody else may write, mean that nobody has written:
/// every engine appends to the `-wal` or starts it anew, and either shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    database: Option<FileStamp>,
    wal: Option<FileStamp>,
    /// The content of the `-shm` changes all the time; its identity counts, and
    /// its size: a shorter one has been started anew, and what is mapped of it
    /// beyond its end must not be touched.
    shm: Option<(Identity, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    dev: u64,
    ino: u64,
    /// 0 once the file has been deleted or replaced.
    nlink: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    identity: Identity,
    size: u64,
    /// Not the ctime: SQLite, run by root, sets the owner of a `-wal` whenever it
    /// opens it.
    mtime: (i64, i64),
}

impl Identity {
    fn of(m: &Metadata) -> Self {
        Self {
            dev: m.dev(),
            ino: m.ino(),
            nlink: m.nlink().min(1),
        }
    }
}

impl FileStamp {
    fn of(m: &Metadata) -> Self {
        Self {
            identity: Identity::of(m),
            size: m.size(),
            mtime: (m.mtime(), m.mtime_nsec()),
        }
    }
}

/// Whether an open file has been removed, or replaced by another: not when it has only
/// been moved, or has another name.
pub(crate) fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Whether both are there and one file.
pub(crate) fn is_same(one: io::Result<Metadata>, other: io::Result<Metadata>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl Stamp {
    /// Equal to no state of real files.
    pub(crate) fn none() -> Self {
        Self {
            database: None,
            wal: None,
            shm: None,
        }
    }

    /// Whether one of the files has been deleted or replaced.
    pub(crate) fn tells_of_deletion(&self) -> bool {
        let files = [
            self.database.map(|f| f.identity),
            self.wal.map(|f| f.identity),
            self.shm.map(|(identity, _)| identity),
        ];
        files
            .into_iter()
            .flatten()
            .any(|identity| identity.nlink == 0)
    }

    /// Of open files.
    pub(crate) fn of(database: &File, wal: &File, shm: &File) -> io::Result<Self> {
        let shm = shm.metadata()?;
        Ok(Self {
            database: Some(FileStamp::of(&database.metadata()?)),
            wal: Some(FileStamp::of(&wal.metadata()?)),
            shm: Some((Identity::of(&shm), shm.len())),
        })
    }

    /// Of the open database and whatever `-wal` lies beside it now.
    pub(crate) fn at_paths(database: &File, wal: &Path) -> io::Result<Self> {
        let wal = match std::fs::metadata(wal) {
            Ok(metadata) => Some(FileStamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            database: Some(FileStamp::of(&database.metadata()?)),
            wal,
            shm: None,
        })
    }
}
