//! Random transactions, some of which fail, on a storage and on
//! [`MemoryStorage`]: the same rows after each, and after reopening.

use agentfs_core::error::StorageError;
use agentfs_core::storage::{MemoryStorage, Storage, WriteTxn};
use agentfs_core::types::{FileKind, Ino, LowerPath, Name, Timestamp};

use super::Dump;
use super::storage::{StorageBench, call, name, path, row};
use crate::dice::Dice;

const ROUNDS: u32 = 12;
const TRANSACTIONS: u32 = 25;
const CHUNK: u32 = 512;

impl Dice {
    fn name(&mut self) -> Name {
        name(&[b"a\xff"[self.roll(2) as usize], b'0' + self.roll(6) as u8])
    }

    fn dir(&mut self) -> LowerPath {
        path([&b""[..], b"d", b"d/e", b"d\xff"][self.roll(4) as usize])
    }
}

/// One random change, the same on both for the same dice.
fn change(txn: &mut dyn WriteTxn, dice: &mut Dice) -> Result<(), StorageError> {
    let ino = Ino(2 + dice.roll(6));
    let exists = txn.inode(ino)?.is_some();
    let tag = dice.roll(1000) as u32;
    match dice.roll(16) {
        0..=2 => txn.put_inode(ino, &row(FileKind::Regular, tag)),
        3 => txn.put_inode(ino, &crate_orphan(tag)),
        4 => {
            let mut gone = Vec::new();
            for parent in 1..8 {
                txn.dentries(Ino(parent), &mut |name, to| {
                    if to == ino || Ino(parent) == ino {
                        gone.push((Ino(parent), name));
                    }
                })?;
            }
            for (parent, name) in gone {
                txn.delete_dentry(parent, &name)?;
            }
            txn.delete_inode(ino)
        }
        5..=6 if exists => {
            let parent = if dice.roll(2) == 0 || txn.inode(Ino(2))?.is_none() {
                1
            } else {
                2
            };
            txn.put_dentry(Ino(parent), &dice.name(), ino)
        }
        7 => txn.delete_dentry(Ino::ROOT, &dice.name()),
        8 => txn.put_whiteout(&dice.dir(), &dice.name(), Timestamp::new(tag.into(), 0)),
        9 => txn.delete_whiteout(&dice.dir(), &dice.name()),
        10 if dice.roll(2) == 0 => {
            let index = dice.roll(8);
            let Some(len) = txn.chunk(ino, index)?.map(|chunk| chunk.len()) else {
                return Ok(());
            };
            let start = dice.roll(len as u64) as usize;
            let part = 1 + dice.roll((len - start) as u64) as usize;
            let part = vec![!tag as u8; part];
            assert!(txn.patch_chunk(ino, index, len, start, &part)?);
            Ok(())
        }
        10..=11 if exists => {
            let len = 1 + dice.roll(u64::from(CHUNK)) as usize;
            txn.put_chunk(ino, dice.roll(8), vec![tag as u8; len].into())
        }
        12 => {
            let from = dice.roll(8);
            txn.delete_chunks(ino, from, from + dice.roll(5))
        }
        13 if exists => txn.put_xattr(ino, &[b'u', dice.roll(3) as u8], &tag.to_le_bytes()),
        14 => txn.delete_xattr(ino, &[b'u', dice.roll(3) as u8]),
        15 => {
            let key = dice.roll(4).to_string();
            match dice.roll(4) {
                0 => txn.delete_kv(&key).map(drop),
                1 => txn.insert_tool_call(&call(&key)).map(drop),
                _ => txn.put_kv(&key, &tag.to_string(), tag.into()),
            }
        }
        _ => Ok(()),
    }
}

fn crate_orphan(tag: u32) -> agentfs_core::storage::InodeRow {
    agentfs_core::storage::InodeRow {
        nlink: 0,
        ..row(FileKind::Regular, tag)
    }
}

fn transaction<S: Storage>(storage: &S, seed: u64) -> Result<(), StorageError> {
    storage.write(|txn| {
        let mut dice = Dice(seed);
        for _ in 0..1 + dice.roll(8) {
            change(txn, &mut dice)?;
        }
        if dice.roll(4) == 0 {
            Err(StorageError::Full)
        } else {
            Ok(())
        }
    })
}

pub(super) fn same_as_memory<B: StorageBench>(bench: &mut B) {
    for round in 0..ROUNDS {
        let memory = MemoryStorage::new(CHUNK);
        let mut storage = bench.create(CHUNK);
        let root = row(FileKind::Directory, 1);
        memory.write(|txn| txn.put_inode(Ino::ROOT, &root)).unwrap();
        storage
            .write(|txn| txn.put_inode(Ino::ROOT, &root))
            .unwrap();
        for step in 0..TRANSACTIONS {
            let seed =
                u64::from(round * TRANSACTIONS + step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let expected = transaction(&memory, seed);
            assert_eq!(
                transaction(&storage, seed),
                expected,
                "round {round}, step {step}"
            );
            match seed >> 60 {
                0 => storage = bench.reopen(storage),
                1..4 => storage.sync().unwrap(),
                _ => {}
            }
            let (have, want) = (
                without_ids(Dump::of(&storage)),
                without_ids(Dump::of(&memory)),
            );
            assert_eq!(have, want, "round {round}, step {step}");
        }
        storage = bench.reopen(storage);
        assert_eq!(
            without_ids(Dump::of(&storage)),
            without_ids(Dump::of(&memory))
        );
    }
}

/// Ids of tool calls have to ascend, no more: gaps differ.
fn without_ids(mut dump: Dump) -> Dump {
    for call in &mut dump.tool_calls {
        call.id = 0;
    }
    dump
}
