//! A hostile database file: any bytes, a sound file with bytes changed, a `-wal`
//! beside it, or sound SQLite with absurd rows. Opened, read, changed, closed.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::hostile::{base, exercise, spoil, template};

/// Bytes of a change: where (four) and what (one).
const PATCH_BYTES: usize = 5;

/// Makes a database of the bytes and does everything to it.
///
/// # Panics
/// When there is no temporary directory.
pub fn sqlite_open(bytes: &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else {
        return;
    };
    let dir = scratch();
    let path = dir.path().join("hostile.db");
    match how & 3 {
        0 => fs::write(&path, rest).expect("a file"),
        1 => fs::write(&path, patched(rest)).expect("a file"),
        2 => {
            fs::write(&path, template()).expect("a file");
            fs::write(dir.path().join("hostile.db-wal"), rest).expect("a file");
        }
        _ => {
            fs::write(&path, template()).expect("a file");
            absurd(&path, rest);
        }
    }
    exercise(&path, &base());
}

/// The sound file with single bytes changed.
fn patched(changes: &[u8]) -> Vec<u8> {
    let mut file = template().to_vec();
    for change in changes.chunks_exact(PATCH_BYTES) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], change[3]]);
        let at = at as usize % file.len();
        file[at] = change[4];
    }
    file
}

fn absurd(path: &Path, bytes: &[u8]) {
    let conn = Connection::open(path).expect("a sound database");
    // Nothing here has to survive a crash.
    let _ = conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF");
    spoil(&conn, bytes);
}

/// In memory, where there is such a place.
fn scratch() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a temporary directory")
}
