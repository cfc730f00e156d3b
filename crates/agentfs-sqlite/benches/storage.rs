//! What the storage costs alone: transactions, commits of batches, chunks, and
//! lookups whose rows are in memory or are not. On a database below the
//! directory for temporary files (`TMPDIR`); durable where it says sync.
//!
//! `cargo bench -p agentfs-sqlite`

#![allow(clippy::unwrap_used, missing_docs)] // A benchmark that fails shall stop.

use agentfs_core::storage::{Chunk, InodeRow, Storage, WriteTxn};
use agentfs_core::{FileKind, Ino, Name, StorageError, Timestamp};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const FILES: u64 = 1_000;
const BODY: [u8; 1024] = [9; 1024];

fn main() {
    divan::main();
}

struct Place {
    database: Database,
    storage: SqliteStorage,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self::open(dir);
        let root = row(FileKind::Directory, 0);
        let made = place.storage.write(|txn| txn.put_inode(Ino::ROOT, &root));
        made.unwrap();
        place.storage.sync().unwrap();
        place
    }

    fn open(dir: tempfile::TempDir) -> Self {
        let path = dir.path().join("session.db");
        let database = Database::open(&path, &OpenOptions::new().create(true)).unwrap();
        let storage = database.volume(Volume::View);
        Self {
            database,
            storage,
            dir,
        }
    }

    /// With a thousand files, on disk.
    fn filled() -> Self {
        let place = Self::new();
        place.fill();
        place.storage.sync().unwrap();
        place
    }

    fn fill(&self) {
        for number in 0..FILES {
            self.storage.write(|txn| create(txn, number)).unwrap();
        }
    }

    /// The same without anything in memory.
    fn reopened(self) -> Self {
        let Self {
            database,
            storage,
            dir,
        } = self;
        database.close().unwrap();
        drop((database, storage));
        Self::open(dir)
    }

    fn look_all_up(&self) {
        for number in 0..FILES {
            let name = name(number);
            let found = self
                .storage
                .read(|txn| match txn.dentry(Ino::ROOT, &name)? {
                    Some(ino) => txn.inode(ino),
                    None => Ok(None),
                });
            assert!(found.unwrap().is_some());
        }
    }
}

fn name(number: u64) -> Name {
    Name::new(format!("file-{number}").as_bytes()).unwrap()
}

fn row(kind: FileKind, size: u64) -> InodeRow {
    let now = Timestamp::new(1_700_000_000, 5);
    InodeRow {
        kind,
        perm: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        atime: now,
        mtime: now,
        ctime: now,
        origin: None,
    }
}

/// What core does to create a file of 1 KiB.
fn create(txn: &mut dyn WriteTxn, number: u64) -> Result<(), StorageError> {
    let ino = txn.allocate_ino()?;
    txn.put_inode(ino, &row(FileKind::Regular, BODY.len() as u64))?;
    txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 0))?;
    txn.put_dentry(Ino::ROOT, &name(number), ino)?;
    txn.put_chunk(ino, 0, Chunk::from(&BODY[..]))
}

/// A thousand transactions, in memory.
#[divan::bench(sample_count = 10)]
fn create_1000_files(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(Place::new)
        .counter(ItemsCount::new(FILES))
        .bench_local_refs(|place| place.fill());
}

/// The same, on disk.
#[divan::bench(sample_count = 10)]
fn create_1000_files_and_sync(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(Place::new)
        .counter(ItemsCount::new(FILES))
        .bench_local_refs(|place| {
            place.fill();
            place.storage.sync().unwrap();
        });
}

/// What one fsync of a small change takes.
#[divan::bench(sample_count = 50, sample_size = 1)]
fn change_one_inode_and_sync(bencher: Bencher<'_, '_>) {
    let place = Place::new();
    let mut size = 0;
    bencher.bench_local(|| {
        size += 1;
        let row = row(FileKind::Regular, size);
        let put = place.storage.write(|txn| txn.put_inode(Ino(2_000), &row));
        put.unwrap();
        place.storage.sync().unwrap();
    });
}

/// 16 MiB in whole chunks, on disk.
#[divan::bench(sample_count = 10)]
fn write_16_mib_and_sync(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(Place::new)
        .counter(BytesCount::new(16_u32 << 20))
        .bench_local_refs(|place| {
            let ino = place.storage.write(|txn| txn.allocate_ino()).unwrap();
            let bytes = u64::from(place.storage.chunk_size_bytes());
            let chunk = Chunk::from(vec![5; usize::try_from(bytes).unwrap()]);
            for index in 0..(16 << 20) / bytes {
                let row = row(FileKind::Regular, (index + 1) * bytes);
                let put = place.storage.write(|txn| {
                    txn.put_inode(ino, &row)?;
                    txn.put_chunk(ino, index, chunk.clone())
                });
                put.unwrap();
            }
            place.storage.sync().unwrap();
        });
}

#[divan::bench(sample_count = 20)]
fn look_1000_up_hot(bencher: Bencher<'_, '_>) {
    let place = Place::filled();
    place.look_all_up();
    bencher
        .counter(ItemsCount::new(FILES))
        .bench_local(|| place.look_all_up());
}

/// Rows come from SQLite; the host's page cache is warm.
#[divan::bench(sample_count = 10)]
fn look_1000_up_cold(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(|| Place::filled().reopened())
        .counter(ItemsCount::new(FILES))
        .bench_local_refs(|place| place.look_all_up());
}

/// An inode of the base, which the database knows nothing of.
#[divan::bench]
fn look_for_an_absent_inode(bencher: Bencher<'_, '_>) {
    let place = Place::filled();
    bencher.bench_local(|| place.storage.read(|txn| txn.inode(Ino(77))).unwrap());
}
