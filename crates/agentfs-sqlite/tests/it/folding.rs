//! A large `-wal`: it is folded into the database while others go on, and nothing is
//! lost or mixed on the way.

use std::time::{Duration, Instant};

use agentfs_core::storage::{Chunk, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};

use crate::kit::{inode, name};

/// Enough not to be folded between two batches, and for the `-wal` to be shortened.
const LARGE_CHUNKS: u64 = 1600;
const CHUNK_BYTES: usize = 60_000;

fn new_file(storage: &SqliteStorage, file: &str, number: u32) -> Result<Ino, StorageError> {
    storage.write(|txn| {
        let ino = txn.allocate_ino()?;
        txn.put_inode(ino, &inode(FileKind::Regular, number))?;
        txn.put_dentry(Ino::ROOT, &name(file), ino)?;
        Ok(ino)
    })
}

fn chunk(index: u64) -> Chunk {
    let mut bytes = vec![0; CHUNK_BYTES];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Chunk::from(bytes)
}

fn check(storage: &SqliteStorage, large: Ino, small: u32) {
    for index in 0..LARGE_CHUNKS {
        let stored = storage.read(|txn| txn.chunk(large, index));
        assert!(stored.unwrap().is_some_and(|found| *found == *chunk(index)));
    }
    for number in 0..small {
        let found = storage.read(|txn| txn.dentry(Ino::ROOT, &name(format!("s{number}"))));
        assert!(found.unwrap().is_some(), "s{number}");
    }
}

#[test]
fn syncs_go_on_while_a_large_wal_is_folded_and_in_the_end_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let database = Database::open(&path, &OpenOptions::new().create(true)).unwrap();
    let storage = database.volume(Volume::View);
    storage
        .write(|txn| txn.put_inode(Ino::ROOT, &inode(FileKind::Directory, 0)))
        .map_err(|e: StorageError| e)
        .unwrap();
    let large = new_file(&storage, "large", 1).unwrap();
    for index in 0..LARGE_CHUNKS {
        storage
            .write(|txn| txn.put_chunk(large, index, chunk(index)))
            .map_err(|e: StorageError| e)
            .unwrap();
    }
    storage.sync().unwrap();
    let wal = dir.path().join("s.db-wal");
    let wal_bytes = || std::fs::metadata(&wal).map_or(0, |meta| meta.len());
    assert!(wal_bytes() > 64 << 20);

    // The fold begins with these, and they do not end it.
    let begin = Instant::now();
    let mut small = 0;
    while begin.elapsed() < Duration::from_secs(1) {
        new_file(&storage, &format!("s{small}"), 2).unwrap();
        storage.sync().unwrap();
        small += 1;
    }
    check(&storage, large, small);
    while wal_bytes() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "never folded");
        std::thread::sleep(Duration::from_millis(20));
    }
    // What was folded is in the file alone.
    let copy = dir.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let copied = Database::open(&copy, &OpenOptions::new()).unwrap();
    check(&copied.volume(Volume::View), large, small);
    check(&storage, large, small);
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    database.close().unwrap();
}
