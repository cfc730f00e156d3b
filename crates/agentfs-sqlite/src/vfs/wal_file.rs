//! The methods of a `-wal`, whose writes are gathered ([`super::gather`]).
//!
//! It is two files in the memory that SQLite sets aside for one: ours, and behind it
//! the real one that it hands everything on to. Must never decide anything: what is
//! written when is decided in `gather`.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use rusqlite::ffi;

use super::around::Around;
use super::call;
use super::gather::{Gather, Sink};

/// What SQLite knows as a file, where that is a `-wal`.
#[repr(C)]
struct WalFile {
    base: ffi::sqlite3_file,
    /// Owned: from `open` to `close`.
    ours: *mut Ours,
}

/// What there is to know of a `-wal`.
struct Ours {
    gather: Gather,
    around: Around,
}

/// Where the real file begins, aligned for anything.
pub(super) const REAL_AT: usize = size_of::<WalFile>().next_multiple_of(16);

/// Pieces end on a boundary of this, so that the host can put each into one piece of its
/// page cache. `os_unix.c` of SQLite writes less than 128 KiB at once, and takes a rest of
/// just that for a full disk.
const WRITE_BYTES: u64 = 64 << 10;

/// For a `-wal`: version 1 has neither shared memory nor mapping, which SQLite uses
/// through the database's file alone.
static WAL_METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// The real file, as somewhere to write to.
struct Real(*mut ffi::sqlite3_file);

impl Sink for Real {
    type Error = c_int;

    const FAILED_BEFORE: c_int = ffi::SQLITE_IOERR_WRITE;

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), c_int> {
        let (mut rest, mut at) = (bytes, offset);
        while !rest.is_empty() {
            let room = usize::try_from(WRITE_BYTES - at % WRITE_BYTES).unwrap_or(usize::MAX);
            let (piece, later) = rest.split_at(rest.len().min(room));
            let (Ok(len), Ok(offset)) = (c_int::try_from(piece.len()), i64::try_from(at)) else {
                return Err(ffi::SQLITE_IOERR_WRITE);
            };
            // SAFETY: the real file is open as long as ours (`Wal::of`), and only
            // reads `piece`.
            let code = unsafe {
                call(
                    self.0,
                    |methods| methods.xWrite,
                    |write| write(self.0, piece.as_ptr().cast(), len, offset),
                )
            };
            if code != ffi::SQLITE_OK {
                return Err(code);
            }
            at += piece.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

/// A `-wal` that SQLite calls a method of.
struct Wal<'f> {
    ours: &'f mut Ours,
    real: Real,
}

impl Wal<'_> {
    /// # Safety
    /// `file` was opened by [`open`] as a `-wal`, is not closed, and no other method
    /// of it runs: SQLite sees to that.
    unsafe fn of<'f>(file: *mut ffi::sqlite3_file) -> Wal<'f> {
        // SAFETY: as promised; `ours` came from a box.
        unsafe {
            Wal {
                ours: &mut *(*file.cast::<WalFile>()).ours,
                real: Real(real_of(file)),
            }
        }
    }

    /// Writes what is gathered; SQLite's code.
    fn flush(&mut self) -> c_int {
        match self.ours.gather.flush(&mut self.real) {
            Ok(()) => ffi::SQLITE_OK,
            Err(code) => code,
        }
    }
}

/// # Safety
/// `file` has the room that the VFS asks for.
unsafe fn real_of(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: within that room.
    unsafe { file.byte_add(REAL_AT) }
}

/// Opens the real file, and ours in front of it.
///
/// # Safety
/// `file` has the room that the VFS asks for; `real_open` opens a `-wal` there.
pub(super) unsafe fn open(
    file: *mut ffi::sqlite3_file,
    around: Around,
    real_open: impl FnOnce(*mut ffi::sqlite3_file) -> c_int,
) -> c_int {
    // SAFETY: as promised.
    unsafe {
        // Without methods there is nothing to close.
        (*file).pMethods = std::ptr::null();
        let code = real_open(real_of(file));
        if code == ffi::SQLITE_OK {
            let ours = Box::new(Ours {
                gather: Gather::default(),
                around,
            });
            (*file.cast::<WalFile>()).ours = Box::into_raw(ours);
            (*file).pMethods = &raw const WAL_METHODS;
        }
        code
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: see `Wal::of`; nothing is called after this, so the box may go.
    unsafe {
        // With what is left in it: a transaction that committed has been written.
        let wal_file: *mut WalFile = file.cast();
        drop(Box::from_raw((*wal_file).ours));
        let real = real_of(file);
        call(real, |methods| methods.xClose, |close| close(real))
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    let (Ok(len), Ok(offset)) = (usize::try_from(len), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: see `Wal::of`; SQLite gives `len` bytes.
    unsafe {
        let mut wal = Wal::of(file);
        let bytes = std::slice::from_raw_parts(bytes.cast(), len);
        match wal.ours.gather.write(bytes, offset, &mut wal.real) {
            Ok(()) => ffi::SQLITE_OK,
            Err(code) => code,
        }
    }
}

/// Writes what is gathered, then does what SQLite asks of the real file.
///
/// # Safety
/// See [`Wal::of`].
unsafe fn flushed<F>(
    file: *mut ffi::sqlite3_file,
    method: impl Fn(&ffi::sqlite3_io_methods) -> Option<F>,
    with: impl Fn(F, *mut ffi::sqlite3_file) -> c_int,
) -> c_int {
    // SAFETY: as promised.
    unsafe {
        match Wal::of(file).flush() {
            ffi::SQLITE_OK => {
                let real = real_of(file);
                call(real, method, |method| with(method, real))
            }
            code => code,
        }
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: handed on as it came.
    unsafe {
        flushed(
            file,
            |m| m.xRead,
            |read, real| {
                let around = &mut Wal::of(file).ours.around;
                super::read(around, real, read, buffer, len, offset)
            },
        )
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: handed on as it came.
    unsafe { flushed(file, |m| m.xTruncate, |truncate, real| truncate(real, size)) }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: handed on as it came.
    unsafe { flushed(file, |m| m.xSync, |sync, real| sync(real, flags)) }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: handed on as it came.
    unsafe {
        flushed(
            file,
            |m| m.xFileSize,
            |file_size, real| file_size(real, size),
        )
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: handed on as it came.
    unsafe { flushed(file, |m| m.xLock, |lock, real| lock(real, level)) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: handed on as it came.
    unsafe { flushed(file, |m| m.xUnlock, |unlock, real| unlock(real, level)) }
}

unsafe extern "C" fn check_reserved_lock(
    file: *mut ffi::sqlite3_file,
    is_held: *mut c_int,
) -> c_int {
    // SAFETY: handed on as it came.
    unsafe {
        flushed(
            file,
            |m| m.xCheckReservedLock,
            |check, real| check(real, is_held),
        )
    }
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: handed on as it came.
    unsafe {
        flushed(
            file,
            |m| m.xFileControl,
            |control, real| control(real, operation, argument),
        )
    }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: handed on as it came; says nothing of the content.
    unsafe {
        let real = real_of(file);
        call(real, |m| m.xSectorSize, |sector_size| sector_size(real))
    }
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: handed on as it came; says nothing of the content.
    unsafe {
        let real = real_of(file);
        call(real, |m| m.xDeviceCharacteristics, |ask| ask(real))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, OpenFlags};

    use crate::vfs::name;

    fn open_gathering(path: &std::path::Path) -> Connection {
        let name = name().unwrap();
        let conn = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), name).unwrap();
        conn.execute_batch(
            "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA wal_autocheckpoint = 0;
             -- So few that a transaction is written, read and written again before it ends.
             PRAGMA cache_size = 200;
             CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v BLOB)",
        )
        .unwrap();
        conn
    }

    fn content(conn: &Connection) -> Vec<(i64, Vec<u8>)> {
        conn.prepare("SELECT k, v FROM t ORDER BY k")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    }

    /// Transactions that outgrow the cache, are rolled back, wholly or in part, and
    /// restart the log: after each, another connection with SQLite's own VFS, and one
    /// that has the files alone, as after a crash, see what the first one does.
    #[test]
    fn others_see_each_transaction_when_it_has_committed_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let writer = open_gathering(&path);
        let reader = Connection::open(&path).unwrap();
        let mut before = content(&writer);
        for round in 0..60_i64 {
            writer.execute_batch("BEGIN IMMEDIATE").unwrap();
            for n in 0..80 {
                let (key, len) = ((round * 7 + n * 13) % 90, 200 + (n * 61 + round) % 9000);
                writer
                    .execute(
                        "INSERT OR REPLACE INTO t VALUES (?1, randomblob(?2))",
                        [key, len],
                    )
                    .unwrap();
                if n == 20 && round % 3 == 0 {
                    writer.execute_batch("SAVEPOINT s").unwrap();
                }
            }
            assert_eq!(content(&reader), before, "not before it commits");
            if round % 3 == 0 {
                writer.execute_batch("ROLLBACK TO s; RELEASE s").unwrap();
            }
            let commits = round % 5 != 4;
            writer
                .execute_batch(if commits { "COMMIT" } else { "ROLLBACK" })
                .unwrap();
            let after = content(&writer);
            assert!(commits || after == before);
            assert_eq!(content(&reader), after, "when it has committed");
            let copy = dir.path().join("copy");
            std::fs::copy(&path, &copy).unwrap();
            std::fs::copy(dir.path().join("db-wal"), dir.path().join("copy-wal")).unwrap();
            let copied = Connection::open(&copy).unwrap();
            assert_eq!(content(&copied), after, "after a crash");
            let sound: String = copied
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(sound, "ok");
            drop(copied);
            before = after;
            if round % 10 == 9 {
                let mode = if round % 20 == 9 {
                    "RESTART"
                } else {
                    "PASSIVE"
                };
                reader
                    .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
                    .unwrap();
            }
        }
    }

    #[test]
    fn what_was_rolled_back_is_not_written_over_what_others_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let writer = open_gathering(&path);
        let other = Connection::open(&path).unwrap();
        // An empty log, in which nothing is looked up. More than the cache holds, less
        // than is gathered.
        writer
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        writer
            .execute_batch(
                "BEGIN IMMEDIATE; INSERT INTO t VALUES (1, randomblob(600000)); ROLLBACK",
            )
            .unwrap();
        other
            .execute("INSERT INTO t VALUES (2, randomblob(300000))", [])
            .unwrap();
        let written = content(&other);
        drop(writer);
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(dir.path().join("db-wal"), dir.path().join("copy-wal")).unwrap();
        assert_eq!(content(&Connection::open(&copy).unwrap()), written);
    }
}
