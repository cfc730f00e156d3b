//! What every storage has to do, clause by clause of the documentation of
//! [`agentfs_core::storage`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use agentfs_core::error::StorageError;
use agentfs_core::storage::{
    Fingerprint, InodeRow, LowerId, Origin, Storage, ToolCallRow, WriteTxn,
};
use agentfs_core::types::{FILE_MAX_BYTES, FileKind, Ino, LowerPath, Name, Timestamp};

use super::{Dump, content, random};

/// Makes the storages that the suite tries.
pub trait StorageBench {
    /// The storage.
    type S: Storage;

    /// A new, empty one.
    fn create(&mut self, chunk_size_bytes: u32) -> Self::S;
    /// Closes one and opens it again. What was applied is still there.
    fn reopen(&mut self, storage: Self::S) -> Self::S;
}

type Clause<B> = (&'static str, fn(&mut B));

/// Runs all clauses; a panic names the one that does not hold.
pub fn storage_suite<B: StorageBench>(bench: &mut B) {
    let clauses: [Clause<B>; 17] = [
        ("a write that succeeds is applied whole", applied_whole),
        ("a write that fails leaves no trace", no_trace),
        ("a write that panics leaves no trace", no_trace_of_a_panic),
        ("a transaction sees its own writes", own_writes),
        ("readers see whole transactions only", isolation),
        (
            "what was applied is there after reopening",
            survives_reopening,
        ),
        ("inode numbers are never given twice", numbers_once),
        ("rows come back as they were put", rows_exact),
        ("deleting an inode removes all that is its own", deletes_all),
        (
            "what is discarded is gone with the next sync, and nothing else",
            discards,
        ),
        ("names, targets and attributes are bytes", content::binary),
        (
            "chunks are found, replaced and removed by range",
            content::chunks,
        ),
        (
            "parts of chunks are read, zeros where they are short",
            content::parts,
        ),
        ("parts of chunks are overwritten", content::patches),
        ("the chunk size is kept and enforced", content::chunk_size),
        ("key-values and tool calls", content::records),
        (
            "random transactions do what they do in memory",
            random::same_as_memory,
        ),
    ];
    for (clause, check) in clauses {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(bench)));
        assert!(outcome.is_ok(), "the contract is broken: {clause}");
    }
}

pub(super) type Done = Result<(), StorageError>;

pub(super) fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).unwrap()
}

pub(super) fn path(bytes: &[u8]) -> LowerPath {
    LowerPath::parse(bytes).unwrap()
}

pub(super) fn row(kind: FileKind, tag: u32) -> InodeRow {
    let time = |n: i64| Timestamp::new(i64::from(tag) * n, tag % 1_000_000_000);
    InodeRow {
        kind,
        perm: (tag % 0o10000) as u16,
        nlink: 1 + tag % 5,
        uid: tag,
        gid: tag / 2,
        rdev: if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
            tag
        } else {
            0
        },
        size: u64::from(tag) * 3,
        atime: time(1),
        mtime: time(2),
        ctime: time(3),
        origin: None,
    }
}

fn with_origin(tag: u32, at: &[u8]) -> InodeRow {
    let origin = Origin {
        path: path(at),
        fingerprint: Fingerprint {
            id: LowerId {
                dev: u64::from(tag) << 8,
                ino: u64::from(tag) + 77,
            },
            nlink: 2,
            size: u64::from(tag) * 5,
            mtime: Timestamp::new(-3, 999_999_999),
            ctime: Timestamp::new(13_569_465_600, 1),
        },
        data_len_bytes: u64::from(tag),
    };
    InodeRow {
        origin: Some(origin),
        ..row(FileKind::Regular, tag)
    }
}

/// The root and a file `f` in it, one of everything.
fn fill(txn: &mut dyn WriteTxn, tag: u32) -> Result<Ino, StorageError> {
    txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 1))?;
    let ino = txn.allocate_ino()?;
    txn.put_inode(ino, &with_origin(tag, b"dir/f"))?;
    txn.put_dentry(Ino::ROOT, &name(format!("f{tag}").as_bytes()), ino)?;
    txn.put_whiteout(
        &path(b"dir"),
        &name(format!("w{tag}").as_bytes()),
        Timestamp::new(5, 6),
    )?;
    txn.put_chunk(ino, 0, vec![1; 512].into())?;
    txn.put_chunk(ino, 7, vec![2; 3].into())?;
    txn.put_xattr(ino, b"user.x", b"value")?;
    let link = txn.allocate_ino()?;
    txn.put_inode(link, &row(FileKind::Symlink, 4))?;
    txn.put_symlink(link, b"target")?;
    txn.put_dentry(Ino::ROOT, &name(format!("l{tag}").as_bytes()), link)?;
    txn.put_kv(&format!("k{tag}"), "{}", 9)?;
    txn.insert_tool_call(&call("tool"))?;
    Ok(ino)
}

pub(super) fn call(name: &str) -> ToolCallRow {
    ToolCallRow {
        id: -1,
        name: name.to_owned(),
        parameters: Some("{\"a\":1}".to_owned()),
        result: None,
        error: Some("boom".to_owned()),
        status: "error".to_owned(),
        started_at: 1_700_000_000,
        completed_at: Some(1_700_000_001),
        duration_ms: Some(1000),
    }
}

fn applied_whole<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let mut inside = None;
    storage
        .write(|txn| {
            fill(txn, 1)?;
            inside = Some(Dump::within(&*txn)?);
            Done::Ok(())
        })
        .unwrap();
    let dump = Dump::of(&storage);
    assert_eq!(Some(&dump), inside.as_ref());
    assert_eq!(dump.inodes.len(), 3);
    assert_eq!(dump.dentries.len(), 2);
    assert_eq!(dump.chunks.len(), 2);
    assert_eq!(dump.whiteouts.len(), 1);
    assert_eq!((dump.kvs.len(), dump.tool_calls.len()), (1, 1));
}

fn change_everything(txn: &mut dyn WriteTxn, ino: Ino) -> Done {
    fill(txn, 2)?;
    txn.put_inode(ino, &row(FileKind::Regular, 99))?;
    txn.put_chunk(ino, 0, vec![9; 5].into())?;
    txn.delete_chunks(ino, 1, u64::MAX)?;
    txn.put_xattr(ino, b"user.x", b"other")?;
    txn.delete_dentry(Ino::ROOT, &name(b"l1"))?;
    txn.delete_whiteout(&path(b"dir"), &name(b"w1"))?;
    txn.put_kv("k1", "1", 10)?;
    txn.delete_kv("k2")?;
    txn.delete_inode(Ino::ROOT)
}

fn no_trace<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let ino = storage.write(|txn| fill(txn, 1)).unwrap();
    let before = Dump::of(&storage);
    let failed: Done = storage.write(|txn| {
        change_everything(txn, ino)?;
        Err(StorageError::Full)
    });
    assert_eq!(failed, Err(StorageError::Full));
    assert_eq!(Dump::of(&storage), before);
    let storage = bench.reopen(storage);
    assert_eq!(Dump::of(&storage), before);
    storage.write(|txn| change_everything(txn, ino)).unwrap();
    assert_ne!(Dump::of(&storage), before);
}

fn no_trace_of_a_panic<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let ino = storage.write(|txn| fill(txn, 1)).unwrap();
    let before = Dump::of(&storage);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _: Done = storage.write(|txn| {
            change_everything(txn, ino)?;
            panic!("the closure's own");
        });
    }));
    std::panic::set_hook(hook);
    assert!(outcome.is_err());
    assert_eq!(Dump::of(&storage), before);
    storage.write(|txn| change_everything(txn, ino)).unwrap();
}

fn own_writes<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    storage
        .write(|txn| {
            let ino = fill(txn, 1)?;
            assert_eq!(txn.inode(ino)?, Some(with_origin(1, b"dir/f")));
            assert_eq!(txn.dentry(Ino::ROOT, &name(b"f1"))?, Some(ino));
            assert!(txn.whiteout(&path(b"dir"), &name(b"w1"))?);
            assert_eq!(txn.chunk(ino, 7)?.as_deref(), Some(&[2, 2, 2][..]));
            assert_eq!(txn.next_chunk(ino, 1)?, Some(7));
            txn.delete_chunks(ino, 0, 8)?;
            assert_eq!(txn.next_chunk(ino, 0)?, None);
            txn.delete_inode(ino)?;
            assert_eq!(txn.inode(ino)?, None);
            assert_eq!(txn.xattr(ino, b"user.x")?, None);
            txn.delete_dentry(Ino::ROOT, &name(b"f1"))?;
            txn.delete_dentry(Ino::ROOT, &name(b"f1"))?;
            assert_eq!(txn.dentry(Ino::ROOT, &name(b"f1"))?, None);
            assert!(txn.delete_kv("k1")?);
            assert!(!txn.delete_kv("k1")?);
            assert_eq!(txn.kv("k1")?, None);
            Done::Ok(())
        })
        .unwrap();
}

fn isolation<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let over = AtomicBool::new(false);
    let set = |n: u32| {
        storage.write(|txn| {
            txn.put_inode(Ino(10), &row(FileKind::Regular, n))?;
            txn.put_kv("n", &n.to_string(), 0)?;
            txn.put_chunk(Ino(10), 0, n.to_le_bytes().to_vec().into())
        })
    };
    set(0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while !over.load(SeqCst) {
                    let (row, kv, chunk) = storage
                        .read(|txn| {
                            let row = txn.inode(Ino(10))?;
                            Ok::<_, StorageError>((row, txn.kv("n")?, txn.chunk(Ino(10), 0)?))
                        })
                        .unwrap();
                    let n = row.unwrap().uid;
                    assert_eq!(kv.unwrap().value, n.to_string());
                    assert_eq!(chunk.unwrap()[..], n.to_le_bytes());
                    assert!(n >= last, "readers never go back");
                    last = n;
                }
            });
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| (1..400).try_for_each(set)));
        over.store(true, SeqCst);
        outcome.unwrap().unwrap();
    });
}

fn survives_reopening<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    storage.write(|txn| fill(txn, 1)).unwrap();
    storage.sync().unwrap();
    storage.write(|txn| fill(txn, 2)).unwrap();
    let before = Dump::of(&storage);
    let storage = bench.reopen(storage);
    assert_eq!(Dump::of(&storage), before);
    let (sender, receiver) = std::sync::mpsc::channel();
    storage.sync_then(Box::new(move |result| sender.send(result).unwrap()));
    assert_eq!(receiver.recv(), Ok(Ok(())));
    assert!(receiver.recv().is_err(), "called once");
}

fn numbers_once<B: StorageBench>(bench: &mut B) {
    let mut storage = bench.create(512);
    let mut given = std::collections::HashSet::new();
    for round in 0..3 {
        for _ in 0..5 {
            storage
                .write(|txn| {
                    let ino = txn.allocate_ino()?;
                    assert!(ino >= Ino::FIRST_UPPER && ino < Ino::FIRST_MAPPED, "{ino}");
                    assert!(given.insert(ino), "{ino} was given before (round {round})");
                    txn.put_inode(ino, &row(FileKind::Regular, 1))
                })
                .unwrap();
        }
        let _: Done = storage.write(|txn| {
            assert!(
                given.insert(txn.allocate_ino()?),
                "given before, round {round}"
            );
            Err(StorageError::Full)
        });
        // The last one is removed: its number must not come back all the same.
        let last = *given.iter().max().unwrap();
        storage.write(|txn| txn.delete_inode(last)).unwrap();
        storage
            .write(|txn| txn.delete_inode(Ino(last.0 - 1)))
            .unwrap();
        storage = bench.reopen(storage);
    }
    storage
        .write(|txn| {
            let ino = txn.allocate_ino()?;
            assert!(given.insert(ino), "{ino} was given before");
            Done::Ok(())
        })
        .unwrap();
}

fn rows_exact<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let kinds = [
        FileKind::Regular,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::CharDevice,
        FileKind::BlockDevice,
    ];
    let mut rows: Vec<InodeRow> = kinds.iter().map(|&kind| row(kind, 0o1234)).collect();
    rows.push(with_origin(3, b""));
    rows.push(with_origin(4, b"a/\xff\xfe/c"));
    rows.push(InodeRow {
        perm: 0o7777,
        nlink: 0,
        uid: u32::MAX,
        gid: u32::MAX,
        rdev: 0,
        size: FILE_MAX_BYTES,
        atime: Timestamp::new(-1, 999_999_999),
        mtime: Timestamp::new(13_569_465_600, 999_999_999),
        ctime: Timestamp::new(0, 0),
        ..row(FileKind::Regular, 1)
    });
    rows.push(InodeRow {
        rdev: u32::MAX,
        ..row(FileKind::CharDevice, 1)
    });
    let mut origin = with_origin(5, b"x");
    if let Some(origin) = &mut origin.origin {
        origin.fingerprint.id = LowerId {
            dev: u64::MAX,
            ino: u64::MAX,
        };
        origin.fingerprint.nlink = u32::MAX;
        origin.fingerprint.size = FILE_MAX_BYTES;
        origin.data_len_bytes = FILE_MAX_BYTES;
    }
    rows.push(origin.clone());
    let inos = [2, 77, (1 << 48) - 1, 1 << 48, (1 << 62) + 5, Ino::MAX.0];
    for (at, row) in rows.iter().enumerate() {
        let ino = Ino(inos[at % inos.len()]);
        storage.write(|txn| txn.put_inode(ino, row)).unwrap();
        let back = storage.read(|txn| txn.inode(ino)).unwrap();
        assert_eq!(back.as_ref(), Some(row), "inode {ino}");
    }
    let before = Dump::of(&storage);
    let storage = bench.reopen(storage);
    assert_eq!(Dump::of(&storage), before);
    // An origin can go again.
    let plain = InodeRow {
        origin: None,
        ..origin
    };
    storage.write(|txn| txn.put_inode(Ino(2), &plain)).unwrap();
    let storage = bench.reopen(storage);
    assert_eq!(storage.read(|txn| txn.inode(Ino(2))).unwrap(), Some(plain));
}

fn discards<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let unlinked = InodeRow {
        nlink: 0,
        size: 1024,
        ..row(FileKind::Regular, 1)
    };
    let make = |synced: bool| -> [Ino; 3] {
        let made = storage.write(|txn| {
            let inos = [
                txn.allocate_ino()?,
                txn.allocate_ino()?,
                txn.allocate_ino()?,
            ];
            for ino in inos {
                txn.put_inode(ino, &unlinked)?;
                txn.put_chunk(ino, 0, vec![1].into())?;
                txn.put_chunk(ino, 1, vec![1].into())?;
                txn.put_xattr(ino, b"user.a", b"1")?;
                txn.put_symlink(ino, b"t")?;
            }
            Ok::<_, StorageError>(inos)
        });
        if synced {
            storage.sync().unwrap();
        }
        made.unwrap()
    };
    let (stored, fresh) = (make(true), make(false));
    storage.discard(&[stored[0], stored[1], fresh[0]]).unwrap();
    storage.discard(&[fresh[1]]).unwrap();
    let left = [stored[2], fresh[2]];
    let mut orphans = Vec::new();
    let mut inodes = Vec::new();
    storage
        .read(|txn| {
            txn.orphans(&mut |ino| orphans.push(ino))?;
            txn.inodes(Ino(0), &mut |ino| inodes.push(ino))
        })
        .unwrap();
    orphans.sort();
    assert_eq!((orphans, inodes), (left.to_vec(), left.to_vec()));
    storage.sync().unwrap();
    let check = |storage: &B::S| {
        let dump = Dump::of(storage);
        let left = left.map(|ino| ino.0);
        assert_eq!(dump.inodes.keys().copied().collect::<Vec<_>>(), left);
        assert_eq!(
            (dump.chunks.len(), dump.xattrs.len(), dump.symlinks.len()),
            (4, 2, 2)
        );
        for ino in [stored[0], fresh[0]] {
            let chunk = storage.read(|txn| txn.chunk(ino, 1));
            assert_eq!(chunk.unwrap(), None);
        }
    };
    check(&storage);
    check(&bench.reopen(storage));
}

fn deletes_all<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    storage
        .write(|txn| {
            for ino in [Ino(5), Ino(6)] {
                txn.put_inode(ino, &with_origin(1, b"o"))?;
                txn.put_chunk(ino, 0, vec![1].into())?;
                txn.put_chunk(ino, 1 << 40, vec![1].into())?;
                txn.put_xattr(ino, b"user.a", b"")?;
                txn.put_symlink(ino, b"t")?;
            }
            txn.put_dentry(Ino::ROOT, &name(b"kept"), Ino(6))
        })
        .unwrap();
    storage.write(|txn| txn.delete_inode(Ino(5))).unwrap();
    let dump = Dump::of(&storage);
    assert_eq!(dump.inodes.keys().collect::<Vec<_>>(), [&6]);
    assert_eq!(
        (dump.chunks.len(), dump.xattrs.len(), dump.symlinks.len()),
        (2, 1, 1)
    );
    let check = |storage: &B::S| {
        storage
            .read(|txn| {
                assert_eq!(txn.next_chunk(Ino(5), 0)?, None);
                assert_eq!(txn.chunk(Ino(5), 0)?, None);
                assert_eq!(txn.xattr(Ino(5), b"user.a")?, None);
                assert_eq!(txn.symlink(Ino(5))?, None);
                assert_eq!(txn.dentry(Ino::ROOT, &name(b"kept"))?, Some(Ino(6)));
                Done::Ok(())
            })
            .unwrap();
    };
    check(&storage);
    let storage = bench.reopen(storage);
    check(&storage);
    // A number that comes back finds nothing of the old one.
    storage
        .write(|txn| txn.put_inode(Ino(5), &row(FileKind::Regular, 1)))
        .unwrap();
    check(&storage);
}
