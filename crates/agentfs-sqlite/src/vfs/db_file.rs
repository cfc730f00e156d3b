//! The methods of a database file: those of SQLite's own VFS, but that what lies around a
//! read comes with it where that pays ([`Around`]).
//!
//! The file is the real VFS's own, with a table of methods of which two are ours, and behind
//! the table what they need. Must never change what a read gives.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use rusqlite::ffi;

use super::around::Around;

/// What an open file's `pMethods` points to.
#[repr(C)]
struct Ours {
    /// First, as SQLite knows nothing else of it.
    methods: ffi::sqlite3_io_methods,
    real: *const ffi::sqlite3_io_methods,
    around: Around,
}

/// Puts our methods in place of the real ones.
///
/// # Safety
/// `file` has just been opened by the real VFS, as a database.
pub(super) unsafe fn begin(file: *mut ffi::sqlite3_file, around: Around) {
    // SAFETY: an open file has methods, which outlive it. Ours do, too: until `close`.
    unsafe {
        let real = (*file).pMethods;
        let mut methods = *real;
        methods.xClose = Some(close);
        methods.xRead = Some(read);
        let ours = Box::new(Ours {
            methods,
            real,
            around,
        });
        (*file).pMethods = Box::into_raw(ours).cast();
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: what `begin` put there; nothing is called after this, so that it may go.
    unsafe {
        let ours = Box::from_raw((*file).pMethods.cast::<Ours>().cast_mut());
        (*file).pMethods = ours.real;
        super::call(file, |methods| methods.xClose, |close| close(file))
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: what `begin` put there, and no other method of the file runs: SQLite sees
    // to that. The rest is handed on as it came.
    unsafe {
        let ours = &mut *(*file).pMethods.cast::<Ours>().cast_mut();
        match (*ours.real).xRead {
            Some(real) => super::read(&mut ours.around, file, real, buffer, len, offset),
            None => ffi::SQLITE_IOERR_READ,
        }
    }
}
