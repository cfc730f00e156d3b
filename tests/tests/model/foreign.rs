//! Directories that another writer of the format has made at the names of base
//! directories: a row and an entry, no origin. They merge with the base, and go
//! on doing so wherever they are moved.

use agentfs_core::error::StorageError;
use agentfs_core::storage::{InodeRow, Storage};
use agentfs_core::types::{FileKind, Ino, Name, Timestamp};
use agentfs_testkit::driver::{Checked, Driver, Options, World};
use agentfs_testkit::model::{Model, ROOT};
use agentfs_testkit::op::{Op, hidden_name};
use agentfs_tests::worlds::MemoryWorld;

use super::{CHUNK_BYTES, check};

const PERM: u16 = 0o711;
const MADE: Timestamp = Timestamp::new(1_600_000_000, 5);

/// Makes rows for the directories that `seed` chooses and those above them.
fn make(world: &mut MemoryWorld, model: &mut Model, seed: u64) -> Result<(), StorageError> {
    let mut rows = vec![(ROOT, Ino::ROOT)];
    let storage = world.storage();
    for (dir, name, node) in model.names() {
        let Some(&(_, parent)) = rows.iter().find(|(made, _)| *made == dir) else {
            continue;
        };
        let is_chosen = seed >> (rows.len() * 5 % 64) & 1 == 1;
        if !model.node(node).kind.is_dir() || !is_chosen {
            continue;
        }
        let row = InodeRow {
            kind: FileKind::Directory,
            perm: PERM,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            atime: MADE,
            mtime: MADE,
            ctime: MADE,
            origin: None,
        };
        let ino = put(&storage, parent, &name, &row)?;
        model.remake_directory(node, PERM, MADE);
        rows.push((node, ino));
    }
    Ok(())
}

fn put<S: Storage>(
    storage: &S,
    parent: Ino,
    name: &Name,
    row: &InodeRow,
) -> Result<Ino, StorageError> {
    storage.write(|txn| {
        let ino = txn.allocate_ino()?;
        txn.put_inode(ino, row)?;
        txn.put_dentry(parent, name, ino)?;
        Ok(ino)
    })
}

fn run(mut world: MemoryWorld, ops: &[Op], options: Options, seed: u64) -> Checked {
    let mut model = Model::from_lower(&world.lower(), &[hidden_name()]);
    make(&mut world, &mut model, seed).expect("a storage in memory");
    let mut driver = Driver::attach(world, options, model)?;
    driver.verify()?;
    driver.run(ops)
}

#[test]
fn directories_of_another_writer_merge_and_move() {
    check(100, CHUNK_BYTES.into(), 50, |base, ops, options| {
        let seed = (base.entries.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        run(MemoryWorld::new(base, CHUNK_BYTES), ops, options, seed)
    });
}
