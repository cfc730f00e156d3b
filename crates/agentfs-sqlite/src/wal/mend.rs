//! Writing the frames of a `-wal` once more, after a sync has failed.
//!
//! Linux reports a failed write once and then takes the pages for written: the next
//! sync has nothing to do and succeeds, while the disk may hold something else, which
//! is also what is read as soon as the pages leave the cache. So each frame is read,
//! held against its checksum and written to its place again. That makes its pages
//! dirty, so that a sync after that says something.
//!
//! Folding such a `-wal` instead would not do: a power failure on the way would leave
//! a database with pages from frames that recovery does not reach.
//!
//! Must only be called in a transaction that writes, so that nobody else does, and
//! never write what the checksums do not vouch for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::room;

/// SQLite's "WAL-mode File Format"; where the parts of the headers lie is in [`room`].
const MAGIC: u32 = 0x377f_0682;

/// Writes what is in use of `wal` to where it is, and has the next fold move all of
/// it: of what an earlier one moved in part, the database may have lost something in
/// the same way.
///
/// # Errors
/// The host's; [`io::ErrorKind::InvalidData`] when a frame has been lost.
pub(super) fn write_anew(wal: &File, shm: &File) -> io::Result<()> {
    let Some(used) = room::used(shm)? else {
        return Ok(());
    };
    let mut header = [0; room::HEADER_BYTES];
    wal.read_exact_at(&mut header, 0)?;
    let mut sum = Checksum::new(&header)?;
    sum.add(&header[..room::HEADER_SUM_AT]);
    sum.expect(&header[room::HEADER_SUM_AT..])?;
    wal.write_all_at(&header, 0)?;
    let mut frame = vec![0; used.frame_bytes];
    for number in 0..used.frames {
        let at = used.start_of(number);
        wal.read_exact_at(&mut frame, at)?;
        let salt = &frame[room::FRAME_SALT_AT..room::FRAME_SUM_AT];
        if salt != &header[room::HEADER_SALT_AT..room::HEADER_SUM_AT] {
            return Err(lost());
        }
        sum.add(&frame[..room::FRAME_SALT_AT]);
        sum.add(&frame[room::FRAME_HEADER_BYTES..]);
        sum.expect(&frame[room::FRAME_SUM_AT..])?;
        wal.write_all_at(&frame, at)?;
    }
    if (sum.0, sum.1) != used.checksum {
        return Err(lost());
    }
    room::forget_folding(shm)
}

fn lost() -> io::Error {
    let words = "what was written before a sync failed cannot be read again";
    io::Error::new(io::ErrorKind::InvalidData, words)
}

/// SQLite's running checksum, over words in the byte order that the header names.
struct Checksum(u32, u32, fn([u8; 4]) -> u32);

impl Checksum {
    fn new(header: &[u8]) -> io::Result<Self> {
        match words(header).next().map(u32::from_be_bytes) {
            Some(magic) if magic == MAGIC => Ok(Self(0, 0, u32::from_le_bytes)),
            Some(magic) if magic == MAGIC | 1 => Ok(Self(0, 0, u32::from_be_bytes)),
            _ => Err(lost()),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut words = words(bytes).map(self.2);
        while let (Some(one), Some(two)) = (words.next(), words.next()) {
            self.0 = self.0.wrapping_add(one).wrapping_add(self.1);
            self.1 = self.1.wrapping_add(two).wrapping_add(self.0);
        }
    }

    /// That the two words at the beginning of `stored` are the sum so far.
    fn expect(&self, stored: &[u8]) -> io::Result<()> {
        let stored = words(stored).map(u32::from_be_bytes).take(2);
        match stored.eq([self.0, self.1]) {
            true => Ok(()),
            false => Err(lost()),
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_frames_are_written_again_and_a_lost_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let conn = rusqlite::Connection::open(dir.path().join("db")).unwrap();
        conn.execute_batch(
            "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t (x); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)",
        )
        .unwrap();
        let open = |suffix: &str| {
            let path = dir.path().join(format!("db{suffix}"));
            File::options().read(true).write(true).open(path).unwrap()
        };
        let (wal, shm) = (open("-wal"), open("-shm"));
        let bytes = std::fs::read(dir.path().join("db-wal")).unwrap();
        assert!(bytes.len() > 3 * 4096);
        write_anew(&wal, &shm).unwrap();
        assert_eq!(std::fs::read(dir.path().join("db-wal")).unwrap(), bytes);

        // Each kind of place: header, salt, checksum and page of the last frame.
        let last = bytes.len() - 24 - 4096;
        for at in [17, last + 9, last + 20, last + 4000] {
            wal.write_all_at(&[!bytes[at]], at as u64).unwrap();
            let error = write_anew(&wal, &shm).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {at}");
            wal.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
        write_anew(&wal, &shm).unwrap();

        // What has been folded is folded again, to the same effect.
        let fold = || {
            conn.query_row("PRAGMA wal_checkpoint", [], |row| row.get::<_, i64>(2))
                .unwrap()
        };
        let folded = fold();
        assert!(folded > 0 && room::is_folded(&shm).unwrap());
        write_anew(&wal, &shm).unwrap();
        assert!(!room::is_folded(&shm).unwrap());
        assert_eq!(fold(), folded);
        conn.execute("INSERT INTO t VALUES (3)", []).unwrap();
        let sum = conn.query_row("SELECT sum(x) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(sum.unwrap(), 6);
    }
}
