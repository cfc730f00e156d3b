//! SQLite's own VFS, but for how it writes to a `-wal` ([`gather`]) and for what is read
//! beside what SQLite asks for ([`waits`]).
//!
//! Any other file is opened by SQLite's VFS as if this one were not there. Must never
//! decide anything: what is written and read when is decided in these two.

#![allow(unsafe_code)]

mod around;
mod db_file;
mod gather;
mod waits;
mod wal_file;

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use rusqlite::ffi;

use around::Around;

/// The name to open a database by; none where the VFS could not be made known: then
/// SQLite's own does, more slowly.
pub(crate) fn name() -> Option<&'static CStr> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    REGISTERED.get_or_init(register).then_some(NAME)
}

const NAME: &CStr = c"agentfs";

fn register() -> bool {
    // SAFETY: the default VFS of SQLite is there for as long as the process, and may
    // be copied: its other methods do not look at which VFS they are called through.
    // The copy is never freed, as SQLite asks of a VFS that is registered.
    unsafe {
        let real = ffi::sqlite3_vfs_find(std::ptr::null());
        if real.is_null() {
            return false;
        }
        let mut vfs = Box::new(*real);
        let Ok(real_at) = c_int::try_from(wal_file::REAL_AT) else {
            return false;
        };
        vfs.szOsFile += real_at;
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.pAppData = real.cast();
        vfs.xOpen = Some(open);
        ffi::sqlite3_vfs_register(Box::leak(vfs), 0) == ffi::SQLITE_OK
    }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    path: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls this with a VFS of ours, whose data is the real one, and
    // with as much room at `file` as `szOsFile` says.
    unsafe {
        let real_vfs: *mut ffi::sqlite3_vfs = (*vfs).pAppData.cast();
        let Some(real_open) = (*real_vfs).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let name = match path.is_null() {
            true => &[],
            false => CStr::from_ptr(path).to_bytes(),
        };
        let real_open = |file| real_open(real_vfs, path, file, flags, out_flags);
        if flags & ffi::SQLITE_OPEN_WAL != 0 {
            wal_file::open(file, Around::new(name), real_open)
        } else if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            let code = real_open(file);
            if code == ffi::SQLITE_OK {
                db_file::begin(file, Around::new(name));
            }
            code
        } else {
            real_open(file)
        }
    }
}

/// Calls a method of a file of the real VFS.
///
/// # Safety
/// `real` is open.
unsafe fn call<F>(
    real: *mut ffi::sqlite3_file,
    method: impl Fn(&ffi::sqlite3_io_methods) -> Option<F>,
    with: impl Fn(F) -> c_int,
) -> c_int {
    // SAFETY: an open file has methods, which outlive it.
    let methods = unsafe { &*(*real).pMethods };
    method(methods).map_or(ffi::SQLITE_IOERR, with)
}

/// Reads from a file of the real VFS, by its method, and what lies around where that pays.
///
/// # Safety
/// `file` is open, `buffer` has room for `len` bytes.
unsafe fn read(
    around: &mut Around,
    file: *mut ffi::sqlite3_file,
    real: unsafe extern "C" fn(*mut ffi::sqlite3_file, *mut c_void, c_int, i64) -> c_int,
    buffer: *mut c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    around.read(
        offset.unsigned_abs(),
        len.unsigned_abs().into(),
        // SAFETY: handed on as it came.
        || unsafe { real(file, buffer, len, offset) },
        |unused, from| {
            if let (Ok(len), Ok(from)) = (c_int::try_from(unused.len()), i64::try_from(from)) {
                // SAFETY: there is room for so many bytes. Whether it works is of no
                // interest.
                unsafe { real(file, unused.as_mut_ptr().cast(), len, from) };
            }
        },
    )
}
