//! Several threads change and read while batches are committed without a pause: what a
//! batch held until now the caches say from then on, and nobody sees it happen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agentfs_core::storage::{MemoryStorage, ReadTxn, Storage, WriteTxn};
use agentfs_core::{FileKind, Ino, LowerPath, Name, StorageError, Timestamp};
use agentfs_sqlite::{SqliteStorage, Volume};
use agentfs_testkit::dice::Dice;

use crate::kit::{Dir, inode, lower, make_root, name};

const THREADS: u64 = 3;
const CHANGES: u64 = 4_000;
const INOS: u64 = 8;
const CHUNKS: u64 = 4;
const NAMES: u64 = 12;

fn some_name(dice: &mut Dice, thread: u64) -> Name {
    name(format!("{thread}-{}", dice.roll(NAMES)))
}

/// One of the thread's own: half of them as if copied up.
fn some_ino(dice: &mut Dice, thread: u64) -> Ino {
    let own = thread * INOS + dice.roll(INOS);
    match own % 2 {
        0 => Ino(100 + own),
        _ => Ino(Ino::FIRST_UPPER.0 + 100 + own),
    }
}

/// The root, which all share, or a directory of the thread's own.
fn some_parent(dice: &mut Dice, thread: u64) -> Ino {
    match dice.roll(2) {
        0 => Ino::ROOT,
        _ => some_ino(dice, thread),
    }
}

fn lower_dir(thread: u64) -> LowerPath {
    lower(&format!("dir-{thread}"))
}

/// One change by a thread to what is its own, the same for the same dice.
fn change(txn: &mut dyn WriteTxn, thread: u64, dice: &mut Dice) -> Result<(), StorageError> {
    let (ino, tag) = (some_ino(dice, thread), dice.roll(1_000));
    let tag = u32::try_from(tag).unwrap();
    let parent = some_parent(dice, thread);
    match dice.roll(9) {
        0 | 1 => txn.put_inode(ino, &inode(FileKind::Regular, tag)),
        2 => {
            let mut names = Vec::new();
            txn.dentries(ino, &mut |name, _| names.push(name))?;
            for name in names {
                txn.delete_dentry(ino, &name)?;
            }
            txn.delete_inode(ino)
        }
        3 | 4 if txn.inode(parent)?.is_some() => {
            txn.put_dentry(parent, &some_name(dice, thread), ino)
        }
        5 => txn.delete_dentry(parent, &some_name(dice, thread)),
        6 => match dice.roll(2) {
            0 => txn.put_whiteout(
                &lower_dir(thread),
                &some_name(dice, thread),
                Timestamp::new(1, 0),
            ),
            _ => txn.delete_whiteout(&lower_dir(thread), &some_name(dice, thread)),
        },
        7 if txn.inode(ino)?.is_some() => {
            let (index, byte) = (dice.roll(CHUNKS), tag.to_le_bytes()[0]);
            if !txn.patch_chunk(ino, index, 40, 7, &[byte; 9])? {
                txn.put_chunk(ino, index, vec![byte; 40].into())?;
            }
            Ok(())
        }
        8 => {
            let from = dice.roll(CHUNKS);
            txn.delete_chunks(ino, from, from + dice.roll(CHUNKS))
        }
        _ => Ok(()),
    }
}

/// What a thread can see of its own, or of another's.
fn view(txn: &dyn ReadTxn, thread: u64, dice: &mut Dice) -> Result<String, StorageError> {
    let ino = some_ino(dice, thread);
    let parent = some_parent(dice, thread);
    let name = some_name(dice, thread);
    let own = format!("{thread}-");
    let mut listed = Vec::new();
    if dice.roll(4) == 0 {
        txn.dentries(parent, &mut |name, ino| {
            if name.as_bytes().starts_with(own.as_bytes()) {
                listed.push((name, ino));
            }
        })?;
    }
    listed.sort();
    Ok(format!(
        "{ino}: {:?}, {parent}/{name}: {:?}, {listed:?}, hidden {}, chunk {:?}, next {:?}",
        txn.inode(ino)?,
        txn.dentry(parent, &name)?,
        txn.whiteout(&lower_dir(thread), &name)?,
        txn.chunk(ino, dice.roll(CHUNKS))?,
        txn.next_chunk(ino, dice.roll(CHUNKS))?,
    ))
}

/// Changes its own rows and looks at them, here and in memory. Counts what it did.
fn work(storage: &SqliteStorage, model: &MemoryStorage, thread: u64, done: &AtomicU64) {
    let mut dice = Dice(0x9e37_79b9 + thread);
    for step in 0..CHANGES {
        let seed = dice.roll(u64::MAX) | 1;
        let changed = storage.write(|txn| change(txn, thread, &mut Dice(seed)));
        changed.unwrap();
        let changed = model.write(|txn| change(txn, thread, &mut Dice(seed)));
        changed.unwrap();
        for _ in 0..3 {
            let seed = dice.roll(u64::MAX) | 1;
            let real = storage.read(|txn| view(txn, thread, &mut Dice(seed)));
            let expected = model.read(|txn| view(txn, thread, &mut Dice(seed)));
            assert_eq!(real.unwrap(), expected.unwrap(), "thread {thread}, {step}");
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn nobody_sees_a_batch_go_to_the_caches() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    let models: Vec<_> = (0..THREADS).map(|_| MemoryStorage::new(512)).collect();
    for model in &models {
        make_root(model);
    }
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (storage, done, over) = (&storage, &done, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                storage.sync().unwrap();
            }
        });
        // Puts into the caches whatever it comes upon.
        scope.spawn(move || {
            let mut dice = Dice(77);
            while !over.load(Ordering::Relaxed) {
                let thread = dice.roll(THREADS);
                storage.read(|txn| view(txn, thread, &mut dice)).unwrap();
            }
        });
        let workers: Vec<_> = models
            .iter()
            .zip(0..)
            .map(|(model, thread)| scope.spawn(move || work(storage, model, thread, done)))
            .collect();
        let ended: Vec<_> = workers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    assert_eq!(done.into_inner(), THREADS * CHANGES);
    drop(storage);
    database.close().unwrap();
    drop(database);
    let storage = dir.open().volume(Volume::View);
    for (model, thread) in models.iter().zip(0..) {
        for seed in 1..500 {
            let real = storage.read(|txn| view(txn, thread, &mut Dice(seed)));
            let expected = model.read(|txn| view(txn, thread, &mut Dice(seed)));
            assert_eq!(real.unwrap(), expected.unwrap());
        }
    }
}

/// Who began to read before a commit, and still does after it, must not leave what it
/// finds where the batch has just been taken over.
#[test]
fn what_was_read_before_a_commit_is_not_kept_after_it() {
    const DIRS: u64 = 40;
    let dirs = || (0..DIRS).map(|number| Ino(Ino::FIRST_UPPER.0 + 1_000 + number));
    let (changed, other) = (name("changed"), name("other"));
    let (before, after) = (Ino(5), Ino(6));
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    let made = storage.write::<_, StorageError>(|txn| {
        dirs().try_for_each(|dir| {
            txn.put_inode(dir, &inode(FileKind::Directory, 1))?;
            txn.put_dentry(dir, &changed, before)?;
            txn.put_dentry(dir, &other, before)
        })
    });
    made.unwrap();
    database.close().unwrap();
    drop((storage, database));

    // Nothing is in memory now.
    let storage = dir.open().volume(Volume::View);
    let large = || vec![7; storage.chunk_size_bytes() as usize].into();
    for dir in dirs() {
        let put = storage.write::<_, StorageError>(|txn| {
            txn.put_dentry(dir, &changed, after)?;
            (0..64).try_for_each(|index| txn.put_chunk(dir, index, large()))
        });
        put.unwrap();
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| storage.sync());
            std::thread::sleep(Duration::from_micros(500));
            let looked = storage.read::<_, StorageError>(|txn| {
                // Asks SQLite, which shows the same state from now on.
                txn.symlink(before)?;
                std::thread::sleep(Duration::from_millis(10));
                txn.dentry(dir, &other)
            });
            assert_eq!(looked.unwrap(), Some(before));
            sync.join().unwrap().unwrap();
        });
        let found = storage.read::<_, StorageError>(|txn| txn.dentry(dir, &changed));
        assert_eq!(found.unwrap(), Some(after), "{dir}");
    }
}
