//! Room at the end of a `-wal`, so that a sync need not grow the file.
//!
//! A sync of a file that has grown waits for the journal of the file system, one
//! of a file whose blocks were there only for the disk: measured on ext4, 33 KiB,
//! 240 against 100 us. So zeros are written beyond the end before they are needed,
//! while syncs follow one another, and when nothing is to be done after much was
//! written; and the file is begun anew early. They mean nothing to SQLite, which
//! itself leaves old frames there when it starts a `-wal` anew: a frame counts
//! only with the salt and the checksum that follow from those before it.
//!
//! Must only be called by who may write to the `-wal`, and never write before
//! the end of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Fill;
use crate::stamp;
use crate::sys;

/// Zeros are written when less room than this is left.
const LOW_BYTES: u64 = 256 << 10;
/// How many are written then.
const STEP_BYTES: u64 = 1 << 20;
/// They come from memory that is there: of memory just asked for, every page is a fault.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// SQLite's "WAL-mode File Format": the header of the `-wal`, and of a frame, and where
/// in each the salt and, right behind it, the checksum lie.
pub(super) const HEADER_BYTES: usize = 32;
pub(super) const HEADER_SALT_AT: usize = 16;
pub(super) const HEADER_SUM_AT: usize = 24;
pub(super) const FRAME_HEADER_BYTES: usize = 24;
pub(super) const FRAME_SALT_AT: usize = 8;
pub(super) const FRAME_SUM_AT: usize = 16;
/// The version that the header of a `-shm` begins with, and where in it the page
/// size, the number of frames, the checksum of the last, and how many of them have
/// been folded into the database lie.
const INDEX_VERSION: u32 = 3_007_000;
const INDEX_PAGE_SIZE_AT: usize = 14;
const INDEX_FRAMES_AT: usize = 16;
const INDEX_CHECKSUM_AT: usize = 24;
const INDEX_FOLDED_AT: usize = 96;
const INDEX_HEADER_BYTES: usize = 100;

/// Writes zeros beyond the end of `wal` when little room is left behind its last
/// frame.
///
/// # Errors
/// The host's; there may then be fewer zeros.
pub(super) fn keep(wal: &File, shm: &File) -> io::Result<()> {
    let size = stamp::size_bytes(wal)?;
    match used_bytes(shm)? {
        Some(end) if end <= size && size - end < LOW_BYTES => {
            let mut at = size;
            while at < size + STEP_BYTES {
                wal.write_all_at(&ZEROS, at)?;
                at += ZEROS.len() as u64;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Whether a `-wal` has too little room for a sync, and is so large that [`keep`] adds
/// no great part to it. One that is folded is begun anew: all of it is room.
pub(super) fn is_low(fill: &Fill) -> bool {
    let room = fill.size_bytes.saturating_sub(fill.used_bytes);
    fill.unfolded_bytes > 0 && fill.used_bytes >= STEP_BYTES && room < LOW_BYTES
}

/// Has the kernel read the page that the next batch begins in: frames begin on no boundary
/// of its pages, and a part of one is not written before the rest is there. That which it ends
/// in is written whole ([`crate::vfs`]).
pub(super) fn expect(wal: &File, shm: &File) {
    if let Ok(Some(end)) = used_bytes(shm)
        && let Ok(end) = i64::try_from(end)
    {
        sys::start_reading(wal, end, 1);
    }
}

/// Cuts `wal` behind its last frame.
///
/// # Errors
/// The host's.
pub(super) fn give_back(wal: &File, shm: &File) -> io::Result<()> {
    match used_bytes(shm)? {
        Some(end) if end < stamp::size_bytes(wal)? => wal.set_len(end),
        _ => Ok(()),
    }
}

/// Where the last frame of a `-wal` ends; none where there is no frame or no
/// `-shm` that tells.
///
/// # Errors
/// The host's.
pub(super) fn used_bytes(shm: &File) -> io::Result<Option<u64>> {
    Ok(used(shm)?.map(|used| used.end()))
}

/// The frames of a `-wal`, as the `-shm` tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) frames: u32,
    /// Size of each, with its header.
    pub(super) frame_bytes: usize,
    /// The checksum of the last.
    pub(super) checksum: (u32, u32),
}

impl Used {
    /// Where the last frame ends.
    pub(super) fn end(&self) -> u64 {
        self.start_of(self.frames)
    }

    /// Where a frame, counted from 0, begins.
    pub(super) fn start_of(&self, frame: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(frame) * self.frame_bytes as u64
    }
}

/// None where there is no frame or no `-shm` that tells.
///
/// # Errors
/// The host's.
pub(super) fn used(shm: &File) -> io::Result<Option<Used>> {
    Ok(parse(&index(shm)?))
}

/// Has the next fold begin at the first frame. Only for who may write to the `-wal`.
///
/// # Errors
/// The host's.
pub(super) fn forget_folding(shm: &File) -> io::Result<()> {
    shm.write_all_at(&[0; 4], INDEX_FOLDED_AT as u64)
}

/// How full a `-wal` is.
///
/// # Errors
/// The host's.
pub(super) fn fill(wal: &File, shm: &File) -> io::Result<Fill> {
    let header = index(shm)?;
    let size_bytes = stamp::size_bytes(wal)?;
    let Some(used) = parse(&header) else {
        return Ok(Fill {
            size_bytes,
            ..Fill::default()
        });
    };
    let folded = word(&header, INDEX_FOLDED_AT).unwrap_or(0);
    Ok(Fill {
        size_bytes,
        used_bytes: used.end(),
        unfolded_bytes: used.end().saturating_sub(used.start_of(folded)),
    })
}

/// Whether all frames have been folded into the database: the next transaction
/// begins the `-wal` anew, unless somebody still reads in it.
///
/// # Errors
/// The host's.
pub(super) fn is_folded(shm: &File) -> io::Result<bool> {
    let header = index(shm)?;
    Ok(word(&header, INDEX_FOLDED_AT) == word(&header, INDEX_FRAMES_AT))
}

/// The header of a `-shm`, which is in the machine's byte order.
///
/// # Errors
/// The host's.
pub(super) fn index(shm: &File) -> io::Result<[u8; INDEX_HEADER_BYTES]> {
    let mut header = [0; INDEX_HEADER_BYTES];
    shm.read_exact_at(&mut header, 0)?;
    Ok(header)
}

fn word(header: &[u8; INDEX_HEADER_BYTES], at: usize) -> Option<u32> {
    let bytes = header.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// What it says of the frames; none where there is none or it is of another kind.
pub(super) fn parse(header: &[u8; INDEX_HEADER_BYTES]) -> Option<Used> {
    let page_size = header.get(INDEX_PAGE_SIZE_AT..INDEX_FRAMES_AT)?;
    let page_size = match u16::from_ne_bytes(page_size.try_into().ok()?) {
        // 64 KiB do not fit.
        1 => 65_536,
        size => usize::from(size),
    };
    let frames = word(header, INDEX_FRAMES_AT)?;
    let checksum = (
        word(header, INDEX_CHECKSUM_AT)?,
        word(header, INDEX_CHECKSUM_AT + 4)?,
    );
    (word(header, 0)? == INDEX_VERSION && frames > 0).then_some(Used {
        frames,
        frame_bytes: FRAME_HEADER_BYTES + page_size,
        checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_behind_the_last_frame_and_sqlite_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch(
            "PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t (x)",
        )
        .unwrap();
        let open = |suffix: &str| {
            let path = dir.path().join(format!("db{suffix}"));
            File::options().read(true).write(true).open(path).unwrap()
        };
        let (wal, shm) = (open("-wal"), open("-shm"));
        let before = wal.metadata().unwrap().len();
        keep(&wal, &shm).unwrap();
        assert_eq!(wal.metadata().unwrap().len(), before + (1 << 20));
        // Enough is left.
        keep(&wal, &shm).unwrap();
        assert_eq!(wal.metadata().unwrap().len(), before + (1 << 20));

        for n in 0..100 {
            conn.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
            keep(&wal, &shm).unwrap();
        }
        // A copy, as after a crash: all of it is found in the -wal again.
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(dir.path().join("db-wal"), dir.path().join("copy-wal")).unwrap();
        let copy = rusqlite::Connection::open(&copy).unwrap();
        let count = |conn: &rusqlite::Connection| -> i64 {
            conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
                .unwrap()
        };
        assert_eq!((count(&conn), count(&copy)), (100, 100));

        give_back(&wal, &shm).unwrap();
        assert_eq!(
            Some(wal.metadata().unwrap().len()),
            used_bytes(&shm).unwrap()
        );
        let before = fill(&wal, &shm).unwrap();
        assert_eq!(
            before.unfolded_bytes,
            before.used_bytes - HEADER_BYTES as u64
        );
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
            .unwrap();
        let expected = Fill {
            unfolded_bytes: 0,
            ..before
        };
        assert_eq!(fill(&wal, &shm).unwrap(), expected);
        conn.execute("INSERT INTO t VALUES (100)", []).unwrap();
        assert_eq!(count(&conn), 101);
    }

    #[test]
    fn a_header_that_is_none_says_nothing() {
        assert_eq!(parse(&[0; INDEX_HEADER_BYTES]), None);
        assert_eq!(parse(&[0xff; INDEX_HEADER_BYTES]), None);
    }
}
