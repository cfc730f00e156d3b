//! The byte-range locks that SQLite's Unix VFS uses, taken and given back by
//! hand, starting to write a file, and the host's error behind one of SQLite's:
//! the only unsafe file of the crate.
//!
//! POSIX record locks belong to the process, not to a descriptor, so a lock
//! that SQLite took can be given back here and taken again later. Why that is
//! done and why it is safe is told in [`crate::gate`]. Must never be used by
//! anything else: a stray unlock is a corrupted database.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use rusqlite::{Connection, ffi};

/// A range of bytes of the lock file, as SQLite's `os_unix.c` fixes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockRange {
    start: i64,
    len: i64,
}

/// The `SHARED` range of a database file: `PENDING_BYTE + 2`, 510 bytes.
pub(crate) const DATABASE_SHARED: LockRange = LockRange {
    start: 0x4000_0002,
    len: 510,
};
/// The "dead man's switch" of a `-shm` file: whoever uses the file holds it
/// shared, and who finds it free starts the file anew (`UNIX_SHM_DMS`).
pub(crate) const SHM_IN_USE: LockRange = LockRange { start: 128, len: 1 };

impl LockRange {
    fn record(self, kind: libc::c_int) -> libc::flock {
        // SAFETY: `flock` is plain data for which all zeroes is a valid value.
        let mut record: libc::flock = unsafe { std::mem::zeroed() };
        // The lock kinds are 0, 1 and 2, whatever the platform's field type.
        #[allow(clippy::cast_possible_truncation)]
        {
            record.l_type = kind as libc::c_short;
            record.l_whence = libc::SEEK_SET as libc::c_short;
        }
        record.l_start = self.start;
        record.l_len = self.len;
        record
    }
}

/// Takes a shared lock without waiting; `false` when another process holds a
/// conflicting one.
///
/// # Errors
/// The host's, anything but a conflict.
pub(crate) fn try_lock_shared(file: &File, range: LockRange) -> io::Result<bool> {
    let record = range.record(libc::F_RDLCK);
    // SAFETY: the descriptor is open for the borrow of `file`, and `record` is a
    // valid `flock` that the kernel only reads.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const record) };
    if outcome == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Gives a lock back; no error when it was not held.
pub(crate) fn unlock(file: &File, range: LockRange) {
    let record = range.record(libc::F_UNLCK);
    // SAFETY: as in `try_lock_shared`. Unlocking cannot fail for a valid
    // descriptor and range (fcntl(2)), so there is no result to look at.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const record) };
}

/// The process that holds a lock in the way of a shared one.
pub(crate) fn holder(file: &File, range: LockRange) -> Option<i32> {
    let mut record = range.record(libc::F_RDLCK);
    // SAFETY: as in `try_lock_shared`; the kernel writes the conflicting lock
    // into `record`, which outlives the call.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut record) };
    (outcome == 0 && i32::from(record.l_type) != libc::F_UNLCK).then_some(record.l_pid)
}

/// Has the kernel begin to write the pages of a file that are dirty
/// (`sync_file_range(2)`): a hint, which may fail.
pub(crate) fn start_writing(file: &File) {
    // SAFETY: the descriptor is open for the borrow of `file`; the call takes
    // numbers only. 0 bytes: to the end.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Has the kernel begin to read a part of a file into its cache
/// (`posix_fadvise(2)`): a hint, which may fail.
pub(crate) fn start_reading(file: &File, start: i64, len: i64) {
    // SAFETY: the descriptor is open for the borrow of `file`; the call takes
    // numbers only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, libc::POSIX_FADV_WILLNEED) };
}

/// Whether another process has locked the whole file, as Turso does, rather
/// than a range, as SQLite does.
pub(crate) fn is_whole_file_held(file: &File) -> bool {
    let mut record = DATABASE_SHARED.record(libc::F_RDLCK);
    // SAFETY: as in `holder`.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut record) };
    outcome == 0 && i32::from(record.l_type) == libc::F_WRLCK && record.l_len == 0
}

/// The host's errno behind what a connection has just failed with, if that was the
/// host's doing: 0 otherwise.
pub(crate) fn system_errno(conn: &Connection) -> i32 {
    // SAFETY: the handle is that of an open connection, which the borrow keeps open,
    // and the two calls only read fields of it.
    let (code, errno) = unsafe {
        let handle = conn.handle();
        (
            ffi::sqlite3_errcode(handle),
            ffi::sqlite3_system_errno(handle),
        )
    };
    // SQLite does not forget an errno when it fails with something else.
    match code & 0xff {
        ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN => errno,
        _ => 0,
    }
}
