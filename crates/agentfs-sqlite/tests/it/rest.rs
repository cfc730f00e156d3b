//! What is done so that the next sync is quick: the `-wal` is made ready for it at rest,
//! and its tables stay in memory.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use agentfs_core::storage::Storage;
use agentfs_sqlite::Volume;

use crate::kit::{Dir, make_root, wal_of};

/// A megabyte and more, written and synced once: syncs do not follow one another.
const MUCH_BYTES: usize = 2 << 20;
const ROOM_BYTES: u64 = 1 << 20;

/// A sync after much data need not grow the file.
#[test]
fn room_for_the_next_sync_is_made_when_a_large_wal_rests() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    let put = |key: &str, bytes: usize| {
        let value = "x".repeat(bytes);
        storage.write(|txn| txn.put_kv(key, &value, 0)).unwrap();
        storage.sync().unwrap();
    };
    put("much", MUCH_BYTES);
    let wal = wal_of(&dir.path());
    let size_bytes = || std::fs::metadata(&wal).unwrap().len();
    let written = size_bytes();
    let until = Instant::now() + Duration::from_secs(30);
    while size_bytes() < written + ROOM_BYTES {
        assert!(Instant::now() < until, "no room was made");
        std::thread::sleep(Duration::from_millis(10));
    }
    let with_room = size_bytes();
    put("little", 1000);
    assert_eq!(size_bytes(), with_room, "the file has grown");
    drop(storage);
    database.close().unwrap();
    assert_eq!(dir.sqlite3("SELECT sum(length(value)) FROM kv_store"), {
        (MUCH_BYTES + 1000).to_string()
    });
}

/// It would be the larger part of it.
#[test]
fn a_small_wal_gets_no_room_while_it_rests() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    storage.sync().unwrap();
    let wal = wal_of(&dir.path());
    let written = std::fs::metadata(&wal).unwrap().len();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(std::fs::metadata(&wal).unwrap().len(), written);
    assert!(written < ROOM_BYTES);
    drop(storage);
    database.close().unwrap();
}

/// A large batch looks into all tables; one that is damaged is in the way only of who
/// needs it.
#[test]
fn a_damaged_table_does_not_keep_a_large_batch_from_the_others() {
    let dir = Dir::new();
    let database = dir.open();
    make_root(&database.volume(Volume::View));
    database.close().unwrap();
    drop(database);
    let number = |sql: &str| -> u64 { dir.sqlite3(sql).parse().unwrap() };
    let root = number("SELECT rootpage FROM sqlite_schema WHERE name = 'fs_symlink'");
    let page_bytes = number("PRAGMA page_size");
    let file = std::fs::File::options()
        .write(true)
        .open(dir.path())
        .unwrap();
    file.write_all_at(&[0xff; 64], (root - 1) * page_bytes)
        .unwrap();

    let database = dir.open();
    let storage = database.volume(Volume::View);
    let value = "x".repeat(MUCH_BYTES);
    storage.write(|txn| txn.put_kv("much", &value, 0)).unwrap();
    storage.sync().unwrap();
    drop(storage);
    database.close().unwrap();
    let length = "SELECT length(value) FROM kv_store WHERE key = 'much'";
    assert_eq!(dir.sqlite3(length), MUCH_BYTES.to_string());
}
