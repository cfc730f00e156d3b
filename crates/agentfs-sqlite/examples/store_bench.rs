//! How fast the storage is, alone: small files, one large file, reading back.
//!
//! `cargo run --release -p agentfs-sqlite --example store_bench [DIR]`

#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentfs_core::storage::{Chunk, InodeRow, Storage, WriteTxn};
use agentfs_core::{FileKind, Ino, Name, StorageError, Timestamp};
use agentfs_sqlite::{Database, OpenOptions, Volume};

const FILES: u32 = 20_000;
const LARGE_BYTES: u64 = 1 << 30;

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

/// What core does to create a file and write it.
fn create(txn: &mut dyn WriteTxn, dir: Ino, name: &Name, data: &[u8]) -> Result<(), StorageError> {
    let ino = match txn.dentry(dir, name)? {
        Some(ino) => ino,
        None => txn.allocate_ino()?,
    };
    txn.put_inode(ino, &row(FileKind::Regular, data.len() as u64))?;
    txn.put_inode(dir, &row(FileKind::Directory, 0))?;
    txn.put_dentry(dir, name, ino)?;
    txn.put_chunk(ino, 0, Chunk::from(data))
}

/// Time on a CPU of all threads, which a busy machine does not distort.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let nanos = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Wall clock and CPU since the start of a phase.
struct Phase(Instant, Duration);

impl Phase {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    /// Per file of [`FILES`], in microseconds.
    fn each(&self) -> String {
        let us = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(FILES);
        format!(
            "{:.1} us each (CPU {:.1})",
            us(self.0.elapsed()),
            us(cpu().saturating_sub(self.1))
        )
    }

    /// Over [`LARGE_BYTES`].
    fn rate(&self) -> String {
        let rate = |time: Duration| LARGE_BYTES as f64 / f64::from(1 << 20) / time.as_secs_f64();
        let (wall, cpu) = (rate(self.0.elapsed()), rate(cpu().saturating_sub(self.1)));
        format!("{wall:.0} MiB/s (per CPU second {cpu:.0} MiB)")
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let path = dir.join(format!("store-bench-{}.db", std::process::id()));
    let database = Database::open(&path, &OpenOptions::new().create(true))?;
    let storage = database.volume(Volume::View);
    storage.write(|txn| txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 0)))?;

    let start = Phase::start();
    let mut dirs = Vec::new();
    for number in 0..FILES {
        if number % 200 == 0 {
            let dir: Ino = storage.write(|txn| {
                let ino = txn.allocate_ino()?;
                txn.put_inode(ino, &row(FileKind::Directory, 0))?;
                let name = Name::new(format!("dir{number}").as_bytes());
                let name = name.map_err(|e| StorageError::Io(e.to_string()))?;
                txn.put_dentry(Ino::ROOT, &name, ino)?;
                Ok::<_, StorageError>(ino)
            })?;
            dirs.push(dir);
        }
        let data = vec![number.to_le_bytes()[0]; 1024 + (number as usize * 7919) % 7168];
        let dir = dirs[dirs.len() - 1];
        let name = Name::new(format!("file{number}").as_bytes())?;
        storage.write(|txn| create(txn, dir, &name, &data))?;
    }
    println!("{FILES} files of 1-8 KiB applied: {}", start.each());
    storage.sync()?;
    println!("  ... and synced: {}", start.each());

    let start = Phase::start();
    let ino: Ino = storage.write(|txn| txn.allocate_ino())?;
    let chunk = storage.chunk_size_bytes();
    let chunks = LARGE_BYTES / u64::from(chunk);
    for index in 0..chunks {
        let data = vec![index.to_le_bytes()[0]; chunk as usize];
        storage.write(|txn| {
            txn.put_inode(ino, &row(FileKind::Regular, (index + 1) * u64::from(chunk)))?;
            txn.put_chunk(ino, index, Chunk::from(data))
        })?;
    }
    storage.sync()?;
    println!(
        "1 GiB in {} KiB chunks written: {}",
        chunk >> 10,
        start.rate()
    );
    database.close()?;
    println!("  ... and folded into one file: {}", start.rate());
    drop((database, storage));

    let start = Phase::start();
    let database = Database::open(&path, &OpenOptions::new())?;
    let (wall, cpu) = (start.0.elapsed(), cpu().saturating_sub(start.1));
    println!("opening: {wall:.1?} (CPU {cpu:.1?})");
    let storage = database.volume(Volume::View);
    let start = Phase::start();
    let mut bytes = 0;
    for index in 0..chunks {
        bytes += storage
            .read(|txn| txn.chunk(ino, index))?
            .map_or(0, |chunk| chunk.len());
    }
    assert_eq!(bytes as u64, LARGE_BYTES);
    println!("1 GiB read: {}", start.rate());
    let start = Phase::start();
    for number in 0..FILES {
        let name = Name::new(format!("file{number}").as_bytes())?;
        let dir = dirs[number as usize / 200];
        let found = storage.read(|txn| match txn.dentry(dir, &name)? {
            Some(ino) => txn.inode(ino),
            None => Ok(None),
        })?;
        assert!(found.is_some());
    }
    println!("{FILES} cold lookups: {}", start.each());
    let start = Phase::start();
    for number in 0..FILES {
        storage.read(|txn| txn.inode(Ino(u64::from(number) + 1000)))?;
    }
    println!("{FILES} lookups of lower inodes: {}", start.each());
    database.close()?;
    std::fs::remove_file(&path)?;
    Ok(())
}
