//! Databases that an enemy has made: one absurdity each, against the storage and
//! the overlay in this process, the commands, and a session.
//!
//! What each has to be is: refused with one sentence, or served without a panic,
//! in time and within memory. Random ones are the fuzz targets' business; their
//! seeds are replayed here.

mod commands;
mod rows;
mod schema;
mod seeds;
mod whiteouts;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use agentfs_tests::hostile::{Tried, base, exercise, template};
use rusqlite::Connection;

/// Longer than anything here may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `f`, or fails when it takes too long: a thread that hangs is left behind.
fn in_time<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(f());
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: not within {PATIENCE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => panic!("{what}: ended without a value"),
        },
    }
}

/// Writes a sound database at `path` and runs `sql` on it.
fn plant(path: &Path, sql: &str) {
    std::fs::write(path, template()).unwrap();
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Does everything to a database on which `sql` was run.
fn tried(sql: &str) -> Tried {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.db");
    plant(&path, sql);
    in_time(sql, move || {
        let tried = exercise(&path, &base());
        drop(dir);
        tried
    })
}

/// The one check of rows: what `check` says of a database on which `sql` was run.
/// Whatever else was done to it has ended without a panic.
fn check(sql: &str, sentence: &str) {
    let tried = tried(sql);
    assert_eq!(tried.refused, None, "{sql}");
    assert!(
        tried.check.contains(sentence),
        "{sql}\ncheck said:\n{}",
        tried.check
    );
}

/// The one check of what is refused: the sentence, for reading and for writing.
fn check_refused(sql: &str, sentence: &str) {
    let tried = tried(sql);
    for refused in [&tried.refused, &tried.refused_to_write] {
        let refused = refused.as_deref().unwrap_or_default();
        assert!(refused.contains(sentence), "{sql}: {tried:?}");
    }
}

#[test]
fn the_database_that_hostile_ones_are_made_from_is_sound() {
    let tried = tried("");
    assert_eq!((tried.check.as_str(), &tried.diff), ("", &None));
    assert!(tried.walked > 10, "{tried:?}");
}
