//! A large file that is read in order: chunks are read before they are asked for, and
//! what changes meanwhile is seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::storage::Storage;
use agentfs_core::{FileKind, Ino};
use agentfs_sqlite::{Database, SqliteStorage, Volume};
use agentfs_testkit::reads::reads_in;

use crate::kit::{Dir, inode};

const FILE: Ino = Ino(Ino::FIRST_UPPER.0 + 7);
const CHUNKS: u64 = 100;
/// Asked for in order so far, and certainly read ahead.
const BEGINNING: u64 = 20;
const CHANGED: u64 = 40;

/// What chunk `index` holds in its generation.
fn content(storage: &SqliteStorage, index: u64, generation: u64) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(index).unwrap(); storage.chunk_size_bytes() as usize];
    bytes[..8].copy_from_slice(&generation.to_le_bytes());
    bytes
}

/// The file is in the database, and nothing of it in memory.
fn stored(dir: &Dir) -> Database {
    let database = dir.open();
    let storage = database.volume(Volume::View);
    let write = storage.write(|txn| {
        txn.put_inode(FILE, &inode(FileKind::Regular, 1))?;
        (0..CHUNKS)
            .try_for_each(|index| txn.put_chunk(FILE, index, content(&storage, index, 0).into()))
    });
    write.unwrap();
    database.close().unwrap();
    drop((storage, database));
    dir.open()
}

fn read(storage: &SqliteStorage, index: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0xff; storage.chunk_size_bytes() as usize];
    let read = storage.read(|txn| txn.read_chunk(FILE, index, 0, &mut bytes));
    read.unwrap().then_some(bytes)
}

/// Reads the beginning, in order, until some of what follows has been read ahead.
fn begin(storage: &SqliteStorage) {
    for index in 0..BEGINNING {
        assert!(read(storage, index).is_some());
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// Overwrites the generation of a chunk, which then is in none of the caches.
fn patch(storage: &SqliteStorage, index: u64, generation: u64) {
    let len = storage.chunk_size_bytes() as usize;
    let part = generation.to_le_bytes();
    let patched = storage.write(|txn| txn.patch_chunk(FILE, index, len, 0, &part));
    assert!(patched.unwrap());
}

/// The rest has what it should, with one chunk changed.
fn assert_rest(storage: &SqliteStorage, changed: Option<&[u8]>) {
    for index in BEGINNING..CHUNKS {
        let first = content(storage, index, 0);
        let expected = match index {
            CHANGED => changed,
            _ => Some(&*first),
        };
        assert!(read(storage, index).as_deref() == expected, "chunk {index}");
    }
}

#[test]
fn what_follows_is_read_by_another_thread() {
    const OWN: &str = "/proc/thread-self/io";
    let dir = Dir::new();
    let storage = stored(&dir).volume(Volume::View);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        begin(&storage);
        let for_counting = reads_in(OWN);
        let before = reads_in(OWN);
        for index in BEGINNING..BEGINNING + 20 {
            assert!(read(&storage, index) == Some(content(&storage, index, 0)));
        }
        if reads_in(OWN) - before == before - for_counting {
            return;
        }
        assert!(Instant::now() < until, "never");
    }
}

#[test]
fn what_was_read_ahead_and_then_written_is_what_was_written() {
    for is_synced in [false, true] {
        let dir = Dir::new();
        let storage = stored(&dir).volume(Volume::View);
        begin(&storage);
        patch(&storage, CHANGED, 1);
        if is_synced {
            storage.sync().unwrap();
        }
        assert_rest(&storage, Some(&content(&storage, CHANGED, 1)));
    }
}

#[test]
fn what_was_read_ahead_and_then_erased_is_gone() {
    let dir = Dir::new();
    let storage = stored(&dir).volume(Volume::View);
    begin(&storage);
    let erased = storage.write(|txn| txn.delete_chunks(FILE, CHANGED, CHANGED + 1));
    erased.unwrap();
    storage.sync().unwrap();
    assert_rest(&storage, None);
}

#[test]
fn what_was_read_ahead_and_then_written_by_others_is_what_they_wrote() {
    let dir = Dir::new();
    let database = stored(&dir);
    let storage = database.volume(Volume::View);
    let is_told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&is_told);
    database.set_external_change_hook(move || tell.store(true, Ordering::SeqCst));
    begin(&storage);
    dir.sqlite3(&format!(
        "UPDATE fs_data SET data = CAST(x'0100000000000000' || substr(data, 9) AS BLOB)
         WHERE ino = {} AND chunk_index = {CHANGED}",
        FILE.0
    ));
    let until = Instant::now() + Duration::from_secs(20);
    while !is_told.load(Ordering::SeqCst) {
        assert!(Instant::now() < until, "never");
        database.check_external_change();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_rest(&storage, Some(&content(&storage, CHANGED, 1)));
}

#[test]
fn a_reader_never_goes_back() {
    let dir = Dir::new();
    let storage = stored(&dir).volume(Volume::View);
    let written: Vec<AtomicU64> = (0..CHUNKS).map(|_| AtomicU64::new(0)).collect();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for generation in 1..400 {
                let index = generation * 37 % CHUNKS;
                patch(&storage, index, generation);
                if generation % 3 == 0 {
                    storage.sync().unwrap();
                }
                written[usize::try_from(index).unwrap()].store(generation, Ordering::SeqCst);
            }
            ended.store(true, Ordering::SeqCst);
        });
        while !ended.load(Ordering::SeqCst) {
            for index in 0..CHUNKS {
                let at_least = written[usize::try_from(index).unwrap()].load(Ordering::SeqCst);
                let bytes = read(&storage, index).unwrap();
                let found = u64::from_le_bytes(*bytes.first_chunk().unwrap());
                assert!(
                    found >= at_least,
                    "chunk {index}: {found}, written {at_least}"
                );
            }
        }
    });
}

/// Those that answer programs are kept on one processor for moments, and a thread that
/// is started then would be for good.
#[test]
fn regression_the_thread_runs_where_the_database_was_opened_and_not_where_it_was_first_wanted() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let dir = Dir::new();
    let database = stored(&dir);
    let anywhere = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| anywhere.is_set(cpu));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut one = CpuSet::new();
            one.set(first.unwrap());
            sched_setaffinity(None, &one).unwrap();
            begin(&database.volume(Volume::View));
        });
    });
    let mut looked_at = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap();
        // It may be another test's, and have ended.
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() != "afs-read-ahead" {
            continue;
        }
        let id = task.file_name().to_str().unwrap().parse().unwrap();
        if let Ok(allowed) = sched_getaffinity(rustix::thread::Pid::from_raw(id)) {
            assert_eq!(allowed, anywhere);
            looked_at += 1;
        }
    }
    assert!(looked_at > 0);
}
