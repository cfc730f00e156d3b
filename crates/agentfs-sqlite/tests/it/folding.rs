//! A large `-wal`: it is folded into the database while others go on, and nothing is
//! lost or mixed on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use agentfs_core::storage::{Chunk, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};

use crate::kit::{Dir, Shell, inode, make_root, name, wal_of};

/// Enough not to be folded between two batches, and for the `-wal` to be shortened.
const LARGE_CHUNKS: u64 = 3200;
const CHUNK_BYTES: usize = 30_000;

/// Beyond this it is shortened.
const LARGE_BYTES: u64 = 64 << 20;

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

/// A database with a `-wal` large enough to be folded and shortened at rest.
struct Large {
    dir: Dir,
    database: Database,
    storage: SqliteStorage,
    large: Ino,
}

impl Large {
    /// `before` is called when the `-wal` is still empty.
    fn new<T>(before: impl FnOnce(&Path) -> T) -> (Self, T) {
        let dir = Dir::new();
        let made = dir.open();
        make_root(&made.volume(Volume::View));
        made.close().unwrap();
        drop(made);
        let value = before(&dir.path());
        let database = dir.open();
        let storage = database.volume(Volume::View);
        let large = new_file(&storage, "large", 1).unwrap();
        for index in 0..LARGE_CHUNKS {
            storage
                .write(|txn| txn.put_chunk(large, index, chunk(index)))
                .map_err(|e: StorageError| e)
                .unwrap();
        }
        storage.sync().unwrap();
        let made = Self {
            dir,
            database,
            storage,
            large,
        };
        assert!(made.is_large());
        (made, value)
    }

    fn is_large(&self) -> bool {
        std::fs::metadata(wal_of(&self.dir.path())).is_ok_and(|meta| meta.len() > LARGE_BYTES)
    }

    fn wait_until_folded(&self) {
        let begin = Instant::now();
        while self.is_large() {
            assert!(begin.elapsed() < Duration::from_secs(60), "never folded");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything is there, also in the files alone.
    fn check_and_close(self, small: u32) {
        check(&self.storage, self.large, small);
        let copy = self.dir.path().with_extension("copy");
        std::fs::copy(self.dir.path(), &copy).unwrap();
        std::fs::copy(wal_of(&self.dir.path()), wal_of(&copy)).unwrap();
        let copied = Database::open(&copy, &OpenOptions::new()).unwrap();
        check(&copied.volume(Volume::View), self.large, small);
        assert_eq!(
            self.database.integrity_check().unwrap(),
            Vec::<String>::new()
        );
        self.database.close().unwrap();
    }
}

#[test]
fn syncs_go_on_while_a_large_wal_is_folded_and_in_the_end_it_is_small() {
    let (large, ()) = Large::new(|_| ());
    // The fold begins after some seconds of rest.
    let begin = Instant::now();
    while std::fs::metadata(large.dir.path()).unwrap().len() < 1 << 20 {
        assert!(begin.elapsed() < Duration::from_secs(60), "no fold began");
        std::thread::sleep(Duration::from_millis(1));
    }
    let begin = Instant::now();
    let mut small = 0;
    while begin.elapsed() < Duration::from_secs(1) {
        new_file(&large.storage, &format!("s{small}"), 2).unwrap();
        large.storage.sync().unwrap();
        small += 1;
    }
    check(&large.storage, large.large, small);
    large.wait_until_folded();
    large.check_and_close(small);
}

#[test]
fn regression_a_large_wal_that_a_reader_kept_is_folded_when_it_has_gone() {
    let (large, mut shell) = Large::new(|database| {
        let mut shell = Shell::new(database);
        // It would fold all itself.
        shell.ask(".dbconfig no_ckpt_on_close on");
        assert_eq!(shell.ask("BEGIN; SELECT count(*) FROM fs_dentry;"), "0");
        shell
    });
    // Longer than the rest after which a fold is tried.
    std::thread::sleep(Duration::from_secs(7));
    assert!(large.is_large());
    assert_eq!(shell.ask("COMMIT; SELECT count(*) FROM fs_dentry;"), "1");
    drop(shell);
    // Without another batch.
    large.wait_until_folded();
    large.check_and_close(0);
}
