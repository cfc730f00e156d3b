//! What is opened, what is refused, and that a refused file is not changed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agentfs_core::storage::ReadTxn;
use agentfs_core::{Ino, Storage, StorageError};
use agentfs_sqlite::{Database, OpenError, OpenOptions, SqliteStorage, Volume, clear_place};

use crate::kit::{Dir, inode, name, wal_of};

/// Opens it, and writes one row.
fn open_with_a_row(dir: &Dir) -> (Database, SqliteStorage) {
    let database = dir.open();
    let storage = database.volume(Volume::View);
    storage
        .write(|txn| txn.put_kv("k", "1", 5))
        .map_err(|e: StorageError| e)
        .unwrap();
    (database, storage)
}

#[test]
fn a_new_database_is_closed_to_one_file_and_keeps_what_was_written() {
    let dir = Dir::new();
    let (database, storage) = open_with_a_row(&dir);
    database.close().unwrap();
    assert_eq!(dir.files(), ["test session.db"]);
    drop((database, storage));
    let database = dir.open();
    let row = database
        .volume(Volume::View)
        .read(|txn| txn.kv("k"))
        .unwrap()
        .unwrap();
    assert_eq!((row.value.as_str(), row.created_at), ("1", 5));
    assert_eq!(dir.sqlite3("PRAGMA integrity_check"), "ok");
    assert_eq!(
        dir.sqlite3("PRAGMA page_size; PRAGMA journal_mode"),
        "8192\nwal"
    );
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
}

/// A session database at rest, changed with SQL.
fn database_with(sql: &str) -> Dir {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    let root = inode(agentfs_core::FileKind::Directory, 0);
    storage
        .write(|txn| txn.put_inode(Ino::ROOT, &root))
        .unwrap();
    database.close().unwrap();
    if !sql.is_empty() {
        dir.sqlite3(sql);
    }
    dir
}

/// Opens, expects a refusal, and that neither the file nor the directory is
/// other than before.
fn check_refused(dir: &Dir, expected: &str) {
    let before = (std::fs::read(dir.path()).ok(), dir.files());
    for options in [
        OpenOptions::new(),
        OpenOptions::new().create(true),
        OpenOptions::new().read_only(true),
    ] {
        let error = Database::open(&dir.path(), &options).err();
        let error = error.unwrap_or_else(|| panic!("opened: {expected}"));
        let sentence = error.to_string();
        assert!(sentence.contains(expected), "{sentence}");
        assert!(sentence.contains("test session.db"), "{sentence}");
        assert_eq!(
            (std::fs::read(dir.path()).ok(), dir.files()),
            before,
            "{expected}"
        );
    }
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = Dir::new();
    std::fs::write(
        dir.path(),
        "a shopping list, long enough for a header".repeat(9),
    )
    .unwrap();
    check_refused(&dir, "not an SQLite file");
    std::fs::write(dir.path(), "x").unwrap();
    check_refused(&dir, "not an SQLite file");
    std::fs::write(dir.path(), "SQLite format 3\0abc").unwrap();
    check_refused(&dir, "shorter than its header");
    std::fs::remove_file(dir.path()).unwrap();
    std::fs::create_dir(dir.path()).unwrap();
    check_refused(&dir, "not a regular file");
}

#[test]
fn a_damaged_database_is_refused() {
    let cut = |to: fn(u64) -> u64| {
        let dir = database_with("");
        let file = std::fs::File::options()
            .write(true)
            .open(dir.path())
            .unwrap();
        let size = file.metadata().unwrap().len();
        file.set_len(to(size)).unwrap();
        dir
    };
    check_refused(&cut(|size| size - 1), "truncated");
    check_refused(&cut(|size| size / 2), "truncated");
    check_refused(&cut(|_| 100), "truncated");
    let dir = database_with("");
    let mut bytes = std::fs::read(dir.path()).unwrap();
    bytes[100..2000].fill(0xa5);
    std::fs::write(dir.path(), bytes).unwrap();
    check_refused(&dir, "is damaged");
    check_refused(
        &database_with("DROP TABLE fs_data"),
        "table fs_data is missing",
    );
    check_refused(
        &database_with("DROP TABLE fs_data; CREATE VIEW fs_data AS SELECT 1"),
        "fs_data",
    );
    check_refused(
        &database_with("ALTER TABLE fs_dentry RENAME COLUMN name TO title"),
        "has no column name",
    );
    check_refused(
        &database_with("UPDATE fs_inode SET mode = 33188 WHERE ino = 1"),
        "root is not a directory",
    );
    for size in ["0", "511", "16777217", "-1", "many", "4096.0"] {
        let sql = format!("UPDATE fs_config SET value = '{size}' WHERE key = 'chunk_size'");
        check_refused(&database_with(&sql), "its chunk size is");
    }
}

#[test]
fn a_database_of_another_kind_or_version_is_refused() {
    let dir = Dir::new();
    dir.sqlite3("CREATE TABLE recipes (id INTEGER)");
    check_refused(&dir, "belongs to another application");
    check_refused(
        &database_with("PRAGMA application_id = 1196444487"),
        "another application",
    );
    for version in ["0.5", "1.0", "7"] {
        let sql = format!("UPDATE fs_config SET value = '{version}' WHERE key = 'schema_version'");
        check_refused(&database_with(&sql), "newer version");
    }
    check_refused(
        &database_with("UPDATE afs_meta SET value = 2 WHERE key = 'version'"),
        "newer version",
    );
    let garbled = "UPDATE fs_config SET value = 'x.y' WHERE key = 'schema_version'";
    check_refused(&database_with(garbled), "schema version");
}

#[test]
fn a_missing_database_is_only_created_when_asked() {
    let dir = Dir::new();
    let missing = Database::open(&dir.path(), &OpenOptions::new());
    assert!(matches!(missing, Err(OpenError::NotFound(_))));
    let missing = Database::open(
        &dir.path(),
        &OpenOptions::new().create(true).read_only(true),
    );
    assert!(matches!(missing, Err(OpenError::NotFound(_))));
    let nowhere = Database::open(
        Path::new("/proc/nowhere/x.db"),
        &OpenOptions::new().create(true),
    );
    assert!(
        matches!(nowhere, Err(OpenError::NotFound(_))),
        "{:?}",
        nowhere.err()
    );
    assert_eq!(dir.files(), Vec::<String>::new());
    // An empty file is what a crash at creation leaves.
    std::fs::write(dir.path(), "").unwrap();
    dir.open().close().unwrap();
}

/// Found by `power.rs`: the power failed while the first pages were written.
#[test]
fn regression_a_half_made_database_is_made_anew() {
    let dir = Dir::new();
    std::fs::write(dir.path(), vec![0xa5; 16_384]).unwrap();
    // A journal of a file that was empty before, as SQLite writes its header.
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for word in [0_u32, 1, 0, 512, 16_384] {
        journal.extend(word.to_be_bytes());
    }
    journal.resize(512, 0);
    let beside = dir.path().with_extension("db-journal");
    std::fs::write(&beside, &journal).unwrap();
    dir.open().close().unwrap();
    assert_eq!(dir.files(), ["test session.db"]);
    assert_eq!(dir.sqlite3("PRAGMA integrity_check"), "ok");
    // One of a file that held more says nothing about one that is no database.
    journal[19] = 2;
    std::fs::write(dir.path(), vec![0xa5; 16_384]).unwrap();
    std::fs::write(&beside, &journal).unwrap();
    check_refused(&dir, "not an SQLite file");
}

#[test]
fn a_wal_beside_a_removed_database_is_not_taken_for_current() {
    let dir = database_with("");
    let wal = wal_of(&dir.path());
    let database = dir.open();
    let storage = database.volume(Volume::View);
    storage.write(|txn| txn.put_kv("old", "1", 0)).unwrap();
    storage.sync().unwrap();
    let stale = std::fs::read(&wal).unwrap();
    assert!(stale.len() > 4096);
    database.close().unwrap();
    drop((database, storage));
    std::fs::remove_file(dir.path()).unwrap();
    std::fs::write(&wal, &stale).unwrap();
    std::fs::write(dir.path().with_extension("db-shm"), [0; 32768]).unwrap();
    let database = dir.open();
    assert_eq!(
        database
            .volume(Volume::View)
            .read(|txn| txn.kv("old"))
            .unwrap(),
        None
    );
    database.close().unwrap();
    drop(database);
    assert_eq!(dir.files(), ["test session.db"]);
    // Beside one that was made, or put there, since.
    std::fs::write(&wal, &stale).unwrap();
    for options in [OpenOptions::new(), OpenOptions::new().read_only(true)] {
        let refused = Database::open(&dir.path(), &options);
        assert!(
            matches!(refused, Err(OpenError::ForeignWal(_))),
            "{:?}",
            refused.err()
        );
    }
    assert_eq!(std::fs::read(&wal).unwrap(), stale);
    std::fs::remove_file(&wal).unwrap();
    dir.open().close().unwrap();
}

/// While syncs follow one another the `-wal` is begun anew without being
/// shortened. It is the database's own then as well, and no other's.
#[test]
fn a_wal_begun_anew_in_its_room_still_belongs_to_one_database() {
    let dir = database_with("");
    let wal = wal_of(&dir.path());
    let before = std::fs::read(dir.path()).unwrap();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    let sync = |value: usize| {
        let value = format!("{value:0>20000}");
        storage.write(|txn| txn.put_kv("k", &value, 0)).unwrap();
        storage.sync().unwrap();
    };
    // The salt in the header changes with every beginning.
    let salt = || std::fs::read(&wal).unwrap()[16..24].to_vec();
    let mut count = 0;
    sync(count);
    let first = salt();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while salt() == first {
        count += 1;
        sync(count);
        assert!(std::time::Instant::now() < until, "never begun anew");
    }
    sync(count + 1);
    let (stale, folded) = (
        std::fs::read(&wal).unwrap(),
        std::fs::read(dir.path()).unwrap(),
    );
    assert!(stale.len() > 1 << 20, "there is no room in it");
    database.close().unwrap();
    drop((database, storage));

    // Beside the copy from before, as if that had been put back.
    std::fs::write(dir.path(), &before).unwrap();
    std::fs::write(&wal, &stale).unwrap();
    let refused = Database::open(&dir.path(), &OpenOptions::new());
    assert!(
        matches!(refused, Err(OpenError::ForeignWal(_))),
        "{:?}",
        refused.err()
    );
    // Beside its own, as after a crash.
    std::fs::write(dir.path(), &folded).unwrap();
    let database = dir.open();
    let read = |txn: &dyn ReadTxn| txn.kv("k");
    let value = database.volume(Volume::View).read(read).unwrap();
    let expected = (count + 1).to_string();
    assert!(value.is_some_and(|row| row.value.trim_start_matches('0') == expected));
    database.close().unwrap();
}

#[test]
fn reading_only_changes_nothing_and_sees_a_live_session() {
    let dir = database_with("INSERT INTO kv_store (key, value) VALUES ('k', '1')");
    let read_only = OpenOptions::new().read_only(true);
    let before = std::fs::read(dir.path()).unwrap();
    let database = Database::open(&dir.path(), &read_only).unwrap();
    let storage = database.volume(Volume::View);
    assert_eq!(storage.read(|txn| txn.kv("k")).unwrap().unwrap().value, "1");
    let refused = storage.write(|txn| txn.put_kv("k", "2", 0));
    assert_eq!(refused, Err(StorageError::ReadOnly));
    assert_eq!(dir.files(), ["test session.db"]);
    // Somebody writes meanwhile.
    dir.sqlite3("UPDATE kv_store SET value = '3'");
    assert_eq!(storage.read(|txn| txn.kv("k")).unwrap().unwrap().value, "3");
    database.close().unwrap();
    drop((database, storage));
    dir.sqlite3("UPDATE kv_store SET value = '1'");
    assert_eq!(std::fs::read(dir.path()).unwrap().len(), before.len());
}

#[test]
fn one_process_opens_a_database_once_and_one_server_locks_it() {
    let dir = Dir::new();
    let database = dir.open();
    let second = Database::open(&dir.path(), &OpenOptions::new());
    assert!(
        matches!(second, Err(OpenError::Busy { .. })),
        "{:?}",
        second.err()
    );
    assert!(database.lock_exclusive().unwrap());
    let flock = |path: &Path| {
        let status = std::process::Command::new("flock")
            .args(["--nonblock", "--exclusive"])
            .arg(path)
            .arg("true")
            .status()
            .unwrap();
        status.success()
    };
    assert!(!flock(&dir.path()), "another server would start");
    let storage = database.volume(Volume::View);
    storage.write(|txn| txn.put_kv("k", "1", 0)).unwrap();
    storage.sync().unwrap();
    assert!(!flock(&dir.path()), "writing dropped the lock");
    database.close().unwrap();
    assert!(
        !flock(&dir.path()),
        "closing dropped the lock before the value is gone"
    );
    drop((database, storage));
    assert!(flock(&dir.path()));
}

#[test]
fn a_closed_database_refuses_use() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    database.close().unwrap();
    assert!(storage.write(|txn| txn.put_kv("k", "1", 0)).is_err());
    assert!(storage.read(|txn| txn.kv("k")).is_err());
    assert!(storage.sync().is_err());
    assert_eq!(dir.files(), ["test session.db"]);
}

#[test]
fn a_place_without_permission_is_named() {
    // Root may write anywhere: then there is nothing to refuse.
    let dir = database_with("");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o400)).unwrap();
    match Database::open(&dir.path(), &OpenOptions::new()) {
        Err(error) => assert!(matches!(error, OpenError::Permission { .. }), "{error}"),
        Ok(_) => eprintln!("skipped: running as root"),
    }
}

/// Rows that no session writes: each is an error of the storage, never a panic.
#[test]
fn hostile_rows_are_corrupt() {
    let check =
        |sql: &str,
         read: &dyn Fn(&dyn agentfs_core::storage::ReadTxn) -> Result<(), StorageError>| {
            let dir = database_with(sql);
            let database = Database::open(&dir.path(), &OpenOptions::new()).unwrap();
            let result = database.volume(Volume::View).read(read);
            assert!(
                matches!(result, Err(StorageError::Corrupt(_))),
                "{sql}: {result:?}"
            );
        };
    let row =
        "INSERT INTO fs_inode (ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev) VALUES";
    for values in [
        "(9, 0, 1, 0, 0, 0, 0, 0, 0, 0)",
        "(9, 33188, -1, 0, 0, 0, 0, 0, 0, 0)",
        "(9, 33188, 1, -1, 0, 0, 0, 0, 0, 0)",
        "(9, 33188, 1, 0, 4294967296, 0, 0, 0, 0, 0)",
        "(9, 33188, 1, 0, 0, -1, 0, 0, 0, 0)",
        "(9, 33188, 1, 0, 0, 'big', 0, 0, 0, 0)",
        "(9, 33188, 1, 0, 0, 0, 1.5, 0, 0, 0)",
        "(9, 33188, 1, 0, 0, 0, 0, 0, 0, -1)",
        "(9, -32348, 1, 0, 0, 0, 0, 0, 0, 0)",
        "(9, 4294967296, 1, 0, 0, 0, 0, 0, 0, 0)",
        "(9, x'00', 1, 0, 0, 0, 0, 0, 0, 0)",
    ] {
        check(&format!("{row} {values}"), &|txn| {
            txn.inode(Ino(9)).map(|_| ())
        });
    }
    for (name, ino) in [
        ("'a/b'", "1"),
        ("''", "1"),
        ("'.'", "1"),
        ("'..'", "1"),
        ("x'6100'", "1"),
        ("7", "-1"),
        ("'a'", "0"),
        ("'a'", "-9"),
        ("'a'", "'x'"),
        ("printf('%.256c', 'a')", "1"),
        ("CAST(x'ff' AS TEXT)", "1"),
    ] {
        let sql =
            format!("INSERT INTO fs_dentry (name, parent_ino, ino) VALUES ({name}, 1, {ino})");
        check(&sql, &|txn| txn.dentries(Ino::ROOT, &mut |_, _| ()));
    }
    for data in [
        "'text'",
        "7",
        "zeroblob(65537)",
        "zeroblob(0)",
        "zeroblob(100000000)",
    ] {
        let sql = format!("INSERT INTO fs_data (ino, chunk_index, data) VALUES (1, 0, {data})");
        check(&sql, &|txn| txn.chunk(Ino::ROOT, 0).map(|_| ()));
    }
    check(
        "INSERT INTO fs_data (ino, chunk_index, data) VALUES (1, 9223372036854775807, x'00')",
        &|txn| txn.next_chunk(Ino::ROOT, 0).map(|_| ()),
    );
    for target in [
        "''",
        "printf('%.5000c', 'a')",
        "x'6100'",
        "CAST(x'ff' AS TEXT)",
    ] {
        let sql = format!("INSERT INTO fs_symlink (ino, target) VALUES (1, {target})");
        check(&sql, &|txn| txn.symlink(Ino::ROOT).map(|_| ()));
    }
    for (path, parent) in [
        ("'/a'", "'/b'"),
        ("'a'", "'/'"),
        ("'/a//b'", "'/a/'"),
        ("'/..'", "'/'"),
    ] {
        let sql = format!("INSERT INTO fs_whiteout VALUES ({path}, {parent}, 0)");
        check(&sql, &|txn| {
            let mut dirs = Vec::new();
            txn.whiteout_dirs(&mut |dir| dirs.push(dir))?;
            dirs.iter()
                .try_for_each(|dir| txn.whiteouts(dir, &mut |_| ()))
        });
    }
    check(
        "INSERT INTO kv_store (key, value) VALUES ('k', x'00')",
        &|txn| txn.kv("k").map(|_| ()),
    );
    check(
        "INSERT INTO tool_calls (name, started_at) VALUES ('t', 'yesterday')",
        &|txn| txn.tool_calls(&mut |_| true),
    );
    check(
        "INSERT INTO afs_xattr VALUES (1, 'user.a', zeroblob(70000))",
        &|txn| txn.xattr(Ino::ROOT, b"user.a").map(|_| ()),
    );
    check(
        "INSERT INTO afs_origin VALUES (1, '../etc', 1, 1, 1, 1, 1, 1, 1, 1, 1)",
        &|txn| txn.inode(Ino::ROOT).map(|_| ()),
    );
    // Out of range nanoseconds are known of other writers, and clamped.
    let dir = database_with("UPDATE fs_inode SET mtime_nsec = -5, ctime_nsec = 2000000000");
    let database = dir.open();
    let row = database
        .volume(Volume::View)
        .read(|txn| txn.inode(Ino::ROOT))
        .unwrap()
        .unwrap();
    assert_eq!((row.mtime.nanos, row.ctime.nanos), (0, 999_999_999));
    let missing = database
        .volume(Volume::View)
        .read(|txn| txn.dentry(Ino::ROOT, &name("x")));
    assert_eq!(missing, Ok(None));
}

/// It holds what programs wrote into files that nobody else may read.
#[test]
fn a_new_database_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    let root = inode(agentfs_core::FileKind::Directory, 0);
    storage
        .write(|txn| txn.put_inode(Ino::ROOT, &root))
        .unwrap();
    database.sync().unwrap();
    assert_eq!(
        dir.files().len(),
        3,
        "with -wal and -shm: {:?}",
        dir.files()
    );
    for name in dir.files() {
        let path = dir.path().with_file_name(&name);
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    database.close().unwrap();
}

/// Two that make the same database: the second saw none, waited, and then removed the
/// `-wal` of the first's, which was in use by then.
#[test]
fn regression_the_log_of_a_database_just_made_is_not_taken_for_a_leftover() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let wal = dir.path().join("s.db-wal");
    std::fs::write(&wal, "of one that is gone").unwrap();
    let first = clear_place(&path).unwrap();
    assert!(first.is_some() && !wal.exists());
    let second = std::thread::spawn({
        let path = path.clone();
        move || clear_place(&path).unwrap().is_some()
    });
    // Long enough for the second to come as far as it can.
    std::thread::sleep(std::time::Duration::from_millis(100));
    std::fs::write(&path, "").unwrap();
    std::fs::write(&wal, "in use").unwrap();
    drop(first);
    assert!(!second.join().unwrap(), "there is a database");
    assert_eq!(std::fs::read(&wal).unwrap(), b"in use");
}

/// A server that begins its log has written the header and perhaps some frames, but no
/// commit. For whoever looks at the database meanwhile there is nothing in the log; that
/// is no reason to remove it.
#[test]
fn regression_a_log_just_begun_is_not_removed_by_who_only_looks() {
    let dir = Dir::new();
    let wal = wal_of(&dir.path());
    dir.open().close().unwrap();
    let (database, storage) = open_with_a_row(&dir);
    storage.sync().unwrap();
    let log = std::fs::read(&wal).unwrap();
    database.close().unwrap();
    drop((database, storage));
    for len in [32, 32 + 24 + 8_192] {
        std::fs::write(&wal, &log[..len]).unwrap();
        let looks = Database::open(&dir.path(), &OpenOptions::new().read_only(true)).unwrap();
        let read = looks.volume(Volume::View).read(|txn| txn.kv("k")).unwrap();
        assert!(read.is_some());
        drop(looks);
        let left = std::fs::read(&wal).expect("the log is gone");
        assert_eq!(left, log[..len]);
    }
}
