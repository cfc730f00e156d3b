//! Whether anybody has written to a `-wal` since it was last looked at, by what is in it.
//!
//! A file's times do not tell for sure: before Linux 6.13 two writes within one tick of
//! the clock leave the same. What every engine that writes to a `-wal` does is, as
//! SQLite's "WAL-mode File Format" has it, to put a frame behind the last one, or to
//! begin anew with another salt in the header. SQLite itself writes to the `-shm`, too;
//! others, such as the SDKs, do not.
//!
//! Only looks.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::room;

/// The header of a `-shm` as far as the transactions in the `-wal` change it; what
/// follows changes with whoever reads.
const INDEX_BYTES: usize = 48;
/// What in it follows from the frames: page size, how many they are, the size of the
/// database, the checksum over all of them, the salt. Before it a count of transactions,
/// which begins anew with the `-shm`, behind it the header's own checksum.
const INDEX_OF_FRAMES: std::ops::Range<usize> = 13..40;
/// Where in it the salt lies, byte for byte that of the `-wal`.
const INDEX_SALT: std::ops::Range<usize> = 32..40;

/// What lies where others would write, at a moment. Equal ones, the second taken while
/// nobody else may write, mean that nobody has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    index: [u8; INDEX_BYTES],
    header: [u8; room::HEADER_BYTES],
    /// Behind the last frame: nothing, zeros, or the head of an old frame.
    behind: [u8; room::FRAME_HEADER_BYTES],
    /// Of the `-wal`, where all that might not tell.
    mtime: Option<(i64, i64)>,
}

impl Mark {
    /// Of a `-wal` of that size and the `-shm` that belongs to it.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn of(wal: &File, wal_size_bytes: u64, shm: &File) -> io::Result<Self> {
        let mut mark = Self {
            index: [0; INDEX_BYTES],
            header: [0; room::HEADER_BYTES],
            behind: [0; room::FRAME_HEADER_BYTES],
            mtime: None,
        };
        let index = room::index(shm)?;
        mark.index.copy_from_slice(&index[..INDEX_BYTES]);
        if wal_size_bytes > 0 {
            let end = room::parse(&index).map_or(room::HEADER_BYTES as u64, |used| used.end());
            read_what_is_there(wal, &mut mark.header, 0)?;
            read_what_is_there(wal, &mut mark.behind, end)?;
            if !mark.tells() {
                let metadata = wal.metadata()?;
                mark.mtime = Some((metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        Ok(mark)
    }

    /// Whether the same frames are in the `-wal`.
    pub(crate) fn is_of_same_frames(&self, other: &Self) -> bool {
        self.index[INDEX_OF_FRAMES] == other.index[INDEX_OF_FRAMES]
            && (self.header, self.behind, self.mtime) == (other.header, other.behind, other.mtime)
    }

    /// Whether the `-shm` says what it said.
    pub(crate) fn has_index_of(&self, shm: &File) -> bool {
        room::index(shm).is_ok_and(|index| index.starts_with(&self.index))
    }

    /// Whether the `-shm` speaks of the very frames in the `-wal`, and what lies behind
    /// them was not begun with their salt: after a transaction that failed half-way, the
    /// same may be written again, and be committed.
    fn tells(&self) -> bool {
        let salt = &self.index[INDEX_SALT];
        let of_header = &self.header[room::HEADER_SALT_AT..room::HEADER_SUM_AT];
        let of_behind = &self.behind[room::FRAME_SALT_AT..room::FRAME_SUM_AT];
        salt == of_header && salt != of_behind
    }
}

/// Leaves what lies beyond the end of the file as it is.
fn read_what_is_there(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => break,
            Ok(read) => {
                buffer = &mut buffer[read..];
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
