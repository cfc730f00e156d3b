//! What only shows between two steps of the gate: others come in from other
//! processes, as `sqlite3`, at just that moment.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;

struct Place {
    dir: tempfile::TempDir,
    gate: Gate,
}

impl Place {
    /// A database with the row 1.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let gate = Gate::new(DatabaseFiles::of(&path), file.unwrap(), Access::ReadWrite);
        let place = Self { dir, gate };
        place.write("CREATE TABLE t (x); INSERT INTO t VALUES (1)");
        place
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("s.db")
    }

    fn write(&self, sql: &str) {
        let lease = self.gate.enter(Purpose::Write).unwrap();
        lease.query(|conn| execute(conn, sql)).unwrap();
    }

    fn number(&self, sql: &str) -> i64 {
        let lease = self.gate.enter(Purpose::Read).unwrap();
        let number = lease.query(|conn| {
            conn.query_row(sql, [], |row| row.get(0))
                .map_err(|e| crate::error::storage_error(&e))
        });
        number.unwrap()
    }
}

fn execute(conn: &Connection, sql: &str) -> Result<(), StorageError> {
    conn.execute_batch(sql)
        .map_err(|e| crate::error::storage_error(&e))
}

/// A program that closes, and removes the companions when it is the last.
fn sqlite3(path: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg(path).arg(sql).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A program that is killed when its answer has come.
fn sqlite3_killed(path: &Path, sql: &str) {
    let mut child = Command::new("sqlite3")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{sql}; SELECT 'done';").unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "done\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Another one closed last and removed the companions, and a third has begun them
/// anew and rests, without a lock.
#[test]
fn regression_closing_does_not_remove_a_log_that_it_has_not_seen() {
    let place = Place::new();
    place.gate.fold().unwrap();
    sqlite3(&place.path(), "INSERT INTO t VALUES (2)");
    sqlite3_killed(&place.path(), "INSERT INTO t VALUES (3)");
    place.gate.end().unwrap();
    assert_eq!(sqlite3(&place.path(), "SELECT x FROM t"), "1\n2\n3\n");
}

#[test]
fn a_log_removed_by_hand_is_not_passed_over_in_silence() {
    let place = Place::new();
    place.gate.sync_wal().unwrap();
    let lost = || {
        let refused = place.gate.sync_wal().unwrap_err();
        assert!(refused.to_string().contains("removed"), "{refused}");
        place.gate.sync_wal().unwrap();
    };
    // While it is in use.
    let lease = place.gate.enter(Purpose::Write).unwrap();
    lease
        .query(|conn| execute(conn, "CREATE TABLE IF NOT EXISTS other (x)"))
        .unwrap();
    std::fs::remove_file(&place.gate.paths().wal).unwrap();
    lost();
    // What goes on being written into it is lost, too.
    let write = "CREATE TABLE IF NOT EXISTS yet_another (x)";
    lease.query(|conn| execute(conn, write)).unwrap();
    lost();
    drop(lease);
    place.gate.sync_wal().unwrap();
    // And at rest.
    place.write("CREATE TABLE another (x)");
    std::fs::remove_file(&place.gate.paths().wal).unwrap();
    lost();
    // And where it is used before it is synced.
    place.write("CREATE TABLE one_more (x)");
    std::fs::remove_file(&place.gate.paths().wal).unwrap();
    drop(place.gate.enter(Purpose::Read).unwrap());
    lost();
}

#[test]
fn a_log_that_another_program_folded_and_removed_is_nothing_lost() {
    let place = Place::new();
    place.write("INSERT INTO t VALUES (2)");
    sqlite3(&place.path(), "INSERT INTO t VALUES (3)");
    assert!(!place.gate.paths().wal.exists());
    drop(place.gate.enter(Purpose::Read).unwrap());
    place.gate.sync_wal().unwrap();
}

/// As before Linux 6.13 two writes within a tick of the clock do, and a clock set back.
#[test]
fn a_foreign_write_that_leaves_size_and_times_as_they_were_is_seen() {
    let place = Place::new();
    let wal = place.gate.paths().wal.clone();
    // Old frames are left behind those that count: nothing grows.
    for _ in 0..20 {
        place.write("INSERT INTO t VALUES (2)");
    }
    place.write("PRAGMA wal_checkpoint(PASSIVE)");
    place.write("DELETE FROM t WHERE x > 1");
    for row in [3, 4] {
        let before = std::fs::metadata(&wal).unwrap();
        sqlite3_killed(&place.path(), &format!("INSERT INTO t VALUES ({row})"));
        let changes = place.gate.changes();
        let file = File::options().write(true).open(&wal).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), before.len());
        assert!(place.gate.looks_changed());
        let sum = place.number("SELECT sum(x) FROM t");
        assert_eq!(sum, if row == 3 { 4 } else { 8 });
        assert!(place.gate.changes() > changes);
    }
    // Looking is no change.
    assert!(!place.gate.looks_changed());
    let changes = place.gate.changes();
    drop(place.gate.enter(Purpose::Read).unwrap());
    assert_eq!(place.gate.changes(), changes);
}

/// It begins the `-shm` anew all the same, as it finds no lock.
#[test]
fn a_program_that_only_reads_is_no_change() {
    let place = Place::new();
    let changes = place.gate.changes();
    for row in 2..4 {
        sqlite3_killed(&place.path(), "SELECT x FROM t WHERE x < 0");
        let sum = place.number("SELECT sum(x) FROM t");
        assert_eq!((sum, place.gate.changes()), (row * (row - 1) / 2, changes));
        place.write(&format!("INSERT INTO t VALUES ({row})"));
        assert_eq!(place.gate.changes(), changes);
    }
    assert_eq!(sqlite3(&place.path(), "SELECT sum(x) FROM t"), "6\n");
    assert_eq!(place.number("SELECT sum(x) FROM t"), 6);
    assert!(place.gate.changes() > changes, "the -wal was folded");
}

/// Whoever is let in where others had only read sees what is written from then on.
#[test]
fn a_write_after_a_look_is_told_by_the_version() {
    let place = Place::new();
    sqlite3_killed(&place.path(), "SELECT x FROM t WHERE x < 0");
    let changes = place.gate.changes();
    let lease = place.gate.enter(Purpose::Write).unwrap();
    assert_eq!(place.gate.changes(), changes);
    let is_changed = || {
        let version = lease.query(connection::data_version).unwrap();
        place.gate.note_version(version)
    };
    sqlite3_killed(&place.path(), "INSERT INTO t VALUES (2)");
    assert!(is_changed());
    assert!(!is_changed());
}

/// What is committed between the first look at the files and the last is not taken for what
/// was left.
#[test]
fn regression_a_write_during_a_lease_is_not_passed_over() {
    let place = Place::new();
    for (row, purpose) in [(2, Purpose::Read), (3, Purpose::Write)] {
        assert!(!place.gate.looks_changed());
        let lease = place.gate.enter(purpose).unwrap();
        if purpose == Purpose::Write {
            let ours = "CREATE TABLE other (x)";
            lease.query(|conn| execute(conn, ours)).unwrap();
        }
        sqlite3_killed(&place.path(), &format!("INSERT INTO t VALUES ({row})"));
        assert!(place.gate.looks_changed(), "{purpose:?}: while it is out");
        drop(lease);
        assert!(place.gate.looks_changed(), "{purpose:?}: and after");
        let changes = place.gate.changes();
        assert_eq!(place.number("SELECT max(x) FROM t"), row);
        assert!(place.gate.changes() > changes, "{purpose:?}");
    }
    // What is written and folded here is no news.
    place.write("INSERT INTO t VALUES (4)");
    assert!(!place.gate.looks_changed());
    let folding = place.gate.enter(Purpose::Fold).unwrap();
    assert!(folding.query(connection::checkpoint_passive).unwrap());
    drop(folding);
    assert!(!place.gate.looks_changed());
    place.write("INSERT INTO t VALUES (5)");
    place.gate.fold().unwrap();
    assert!(!place.gate.looks_changed());
    let changes = place.gate.changes();
    assert_eq!(place.number("SELECT max(x) FROM t"), 5);
    assert_eq!(place.gate.changes(), changes);
}

/// A transaction that failed half-way, of ours or of another, is no change; the same
/// begun again writes the same first frame, and is.
#[test]
fn where_the_same_may_be_written_again_the_time_tells() {
    let place = Place::new();
    let wal = place.gate.paths().wal.clone();
    let page_size = usize::try_from(place.number("PRAGMA page_size")).unwrap();
    // The last frame once more: of the salt that the header has, and not committed, as
    // its checksum does not follow.
    let frames = std::fs::read(&wal).unwrap();
    // Behind it is the rest of a page, as zeros.
    let end = frames.len() - (frames.len() - 32) % (24 + page_size);
    let begun = &frames[end - page_size - 24..end];
    let file = File::options().write(true).open(&wal).unwrap();
    let end = end as u64;
    file.write_all_at(begun, end).unwrap();
    assert!(place.gate.looks_changed());
    assert_eq!(place.number("SELECT x FROM t"), 1);
    let changes = place.gate.changes();
    assert_eq!(place.number("SELECT x FROM t"), 1);
    assert_eq!(place.gate.changes(), changes);
    assert!(!place.gate.looks_changed());
    // In another tick of the clock, where one leaves the same time.
    std::thread::sleep(std::time::Duration::from_millis(20));
    file.write_all_at(begun, end).unwrap();
    assert!(place.gate.looks_changed());
    place.write("INSERT INTO t VALUES (2)");
    assert!(!place.gate.looks_changed());
    assert_eq!(sqlite3(&place.path(), "SELECT x FROM t"), "1\n2\n");
}
