//! What the database files look like at a moment, to notice that others wrote.
//!
//! Never decides what a change means; never opens or locks anything.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags};

use crate::wal::Mark;

/// The files as the last of our uses left them. An equal one, taken while nobody else
/// may write, means that nobody has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    database: FileStamp,
    wal: Look,
    /// Its identity, and its size: a shorter one has been started anew, and what is
    /// mapped of it beyond its end must not be touched.
    shm: Look,
    mark: Mark,
}

/// Identity, size and times of the database and the `-wal` beside it, for whoever reads
/// them without a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    database: Option<FileStamp>,
    wal: Option<FileStamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    look: Look,
    /// Not the ctime: SQLite, run by root, sets the owner of a `-wal` whenever it
    /// opens it.
    mtime: (i64, i64),
}

/// What can be asked of a file without asking for its times.
///
/// From Linux 6.13 on, the first write after such a question gives the file a new time,
/// down to the nanosecond, and a sync may have to write the inode for that: 100 us more
/// for each, on ext4 without a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    dev: (u32, u32),
    ino: u64,
    is_removed: bool,
    size_bytes: u64,
}

impl Look {
    fn at(file: &File) -> io::Result<Self> {
        let asked = StatxFlags::INO | StatxFlags::NLINK | StatxFlags::SIZE;
        let answer = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, asked)?;
        Ok(Self {
            dev: (answer.stx_dev_major, answer.stx_dev_minor),
            ino: answer.stx_ino,
            is_removed: answer.stx_nlink == 0,
            size_bytes: answer.stx_size,
        })
    }
}

impl FileStamp {
    fn of(m: &Metadata) -> Self {
        let dev = m.dev();
        Self {
            look: Look {
                dev: (rustix::fs::major(dev), rustix::fs::minor(dev)),
                ino: m.ino(),
                is_removed: m.nlink() == 0,
                size_bytes: m.size(),
            },
            mtime: (m.mtime(), m.mtime_nsec()),
        }
    }
}

/// The size of an open file.
///
/// # Errors
/// The host's.
pub(crate) fn size_bytes(file: &File) -> io::Result<u64> {
    Ok(Look::at(file)?.size_bytes)
}

/// Whether an open file has been removed, or replaced by another: not when it has only
/// been moved, or has another name.
pub(crate) fn is_removed(file: &File) -> bool {
    Look::at(file).is_ok_and(|look| look.is_removed)
}

/// Whether both are there and one file.
pub(crate) fn is_same(one: io::Result<Metadata>, other: io::Result<Metadata>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl Left {
    /// Of open files.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn of(database: &File, wal: &File, shm: &File) -> io::Result<Self> {
        let look = Look::at(wal)?;
        Ok(Self {
            database: FileStamp::of(&database.metadata()?),
            wal: look,
            shm: Look::at(shm)?,
            mark: Mark::of(wal, look.size_bytes, shm)?,
        })
    }

    /// Whether database and `-wal` hold the same, whoever has begun the `-shm` anew.
    pub(crate) fn is_same_content(&self, other: &Self) -> bool {
        self.database == other.database
            && self.wal == other.wal
            && self.mark.is_of_same_frames(&other.mark)
    }

    /// Whether the `-shm` is what it was.
    pub(crate) fn has_index_of(&self, shm: &File) -> bool {
        Look::at(shm).is_ok_and(|look| look == self.shm) && self.mark.has_index_of(shm)
    }

    /// Whether one of the files has been deleted or replaced.
    pub(crate) fn tells_of_deletion(&self) -> bool {
        self.database.look.is_removed || self.wal.is_removed || self.shm.is_removed
    }
}

impl Stamp {
    /// Equal to no state of real files.
    pub(crate) fn none() -> Self {
        Self {
            database: None,
            wal: None,
        }
    }

    /// Of the open database and whatever `-wal` lies beside it now.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn at_paths(database: &File, wal: &Path) -> io::Result<Self> {
        let wal = match std::fs::metadata(wal) {
            Ok(metadata) => Some(FileStamp::of(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            database: Some(FileStamp::of(&database.metadata()?)),
            wal,
        })
    }
}
