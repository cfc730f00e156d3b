//! The clauses about what is stored: bytes of any kind, chunks, records.

use agentfs_core::error::StorageError;
use agentfs_core::storage::{Storage, ToolCallRow};
use agentfs_core::types::{FILE_MAX_BYTES, FileKind, Ino, LowerPath, Timestamp};

use super::Dump;
use super::storage::{Done, StorageBench, call, name, path, row};

pub(super) fn binary<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let long = [0xf0; 255];
    let names: [&[u8]; 9] = [
        b"\xff\xfe",
        b"a",
        b"A",
        b"\xc3\xa9",
        b"e\xcc\x81",
        &long,
        b"%",
        b"'\"\\\n",
        b" ",
    ];
    storage
        .write(|txn| {
            txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 1))?;
            for (n, bytes) in (10..).zip(names) {
                txn.put_inode(Ino(n), &row(FileKind::Symlink, 1))?;
                txn.put_dentry(Ino::ROOT, &name(bytes), Ino(n))?;
                txn.put_whiteout(&LowerPath::root(), &name(bytes), Timestamp::default())?;
                txn.put_whiteout(
                    &path(b"d").join(&name(bytes)),
                    &name(bytes),
                    Timestamp::default(),
                )?;
                txn.put_symlink(Ino(n), bytes)?;
                txn.put_xattr(Ino(n), &[b"user.", bytes].concat(), &[0, 255, 0])?;
                txn.put_xattr(Ino(n), b"user.empty", b"")?;
            }
            Done::Ok(())
        })
        .unwrap();
    let before = Dump::of(&storage);
    assert_eq!(before.dentries.len(), names.len());
    assert_eq!(before.whiteouts.len(), 2 * names.len());
    assert_eq!(before.xattrs.len(), 2 * names.len());
    for (n, bytes) in (10..).zip(names) {
        assert_eq!(before.dentries.get(&(1, name(bytes))), Some(&n));
        assert_eq!(before.symlinks.get(&n).map(Vec::as_slice), Some(bytes));
    }
    let storage = bench.reopen(storage);
    assert_eq!(Dump::of(&storage), before);
    storage
        .write(|txn| {
            for bytes in names {
                txn.delete_dentry(Ino::ROOT, &name(bytes))?;
                txn.delete_whiteout(&LowerPath::root(), &name(bytes))?;
            }
            Done::Ok(())
        })
        .unwrap();
    let storage = bench.reopen(storage);
    let after = Dump::of(&storage);
    assert_eq!(
        (after.dentries.len(), after.whiteouts.len()),
        (0, names.len())
    );
}

pub(super) fn chunks<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    let far = (FILE_MAX_BYTES / 512) - 1;
    let indices = [0, 1, 2, 5, 100, far];
    storage
        .write(|txn| {
            txn.put_inode(Ino(5), &row(FileKind::Regular, 1))?;
            txn.put_inode(Ino(6), &row(FileKind::Regular, 1))?;
            for (n, index) in (1..).zip(indices) {
                txn.put_chunk(Ino(5), index, vec![n; 512].into())?;
            }
            txn.put_chunk(Ino(6), 3, vec![9; 1].into())
        })
        .unwrap();
    let storage = bench.reopen(storage);
    let next = |from| storage.read(|txn| txn.next_chunk(Ino(5), from)).unwrap();
    assert_eq!(
        [next(0), next(1), next(3), next(6)],
        [Some(0), Some(1), Some(5), Some(100)]
    );
    assert_eq!(
        [next(101), next(far), next(far + 1)],
        [Some(far), Some(far), None]
    );
    storage
        .write(|txn| {
            txn.put_chunk(Ino(5), 1, vec![77; 3].into())?;
            txn.delete_chunks(Ino(5), 2, 100)?;
            txn.delete_chunks(Ino(5), 3, 3)?;
            txn.delete_chunks(Ino(5), 9, 4)?;
            txn.put_chunk(Ino(5), 50, vec![50; 2].into())
        })
        .unwrap();
    let expect = |storage: &B::S| {
        let dump = Dump::of(storage);
        let have: Vec<u64> = dump
            .chunks
            .keys()
            .filter(|k| k.0 == 5)
            .map(|k| k.1)
            .collect();
        assert_eq!(have, [0, 1, 50, 100, far]);
        assert_eq!(dump.chunks[&(5, 1)], [77; 3]);
        assert_eq!(dump.chunks[&(6, 3)], [9]);
    };
    expect(&storage);
    let storage = bench.reopen(storage);
    expect(&storage);
    storage
        .write(|txn| txn.delete_chunks(Ino(5), 50, u64::MAX))
        .unwrap();
    let storage = bench.reopen(storage);
    assert_eq!(storage.read(|txn| txn.next_chunk(Ino(5), 2)).unwrap(), None);
    assert_eq!(
        storage.read(|txn| txn.next_chunk(Ino(6), 0)).unwrap(),
        Some(3)
    );
}

pub(super) fn parts<B: StorageBench>(bench: &mut B) {
    const CHUNK_BYTES: usize = 512;
    let storage = bench.create(512);
    let whole: Vec<u8> = (0..CHUNK_BYTES).map(|n| n.to_le_bytes()[0]).collect();
    storage
        .write(|txn| {
            txn.put_inode(Ino(5), &row(FileKind::Regular, 1))?;
            txn.put_chunk(Ino(5), 0, whole.clone().into())?;
            txn.put_chunk(Ino(5), 1, whole[..100].into())?;
            txn.put_chunk(Ino(5), 3, whole.clone().into())
        })
        .unwrap();
    let mut changed = whole.clone();
    changed[7] = 99;
    // Pending, clean, pending in part over what is clean, and clean again.
    let expect = |storage: &B::S, last: &[u8]| {
        for (index, stored) in [
            (0, Some(&whole[..])),
            (1, Some(&whole[..100])),
            (2, None),
            (3, Some(last)),
        ] {
            for (skip, len) in [(0, 512), (0, 511), (1, 511), (90, 20), (100, 5), (400, 112)] {
                let mut buf = vec![0xee; len];
                let found = storage.read(|txn| txn.read_chunk(Ino(5), index, skip, &mut buf));
                assert_eq!(found.unwrap(), stored.is_some(), "chunk {index}");
                if let Some(stored) = stored {
                    let mut padded = stored.to_vec();
                    padded.resize(CHUNK_BYTES, 0);
                    assert_eq!(buf, padded[skip..skip + len], "chunk {index} from {skip}");
                }
            }
        }
    };
    expect(&storage, &whole);
    let storage = bench.reopen(storage);
    expect(&storage, &whole);
    let patched = storage.write(|txn| txn.patch_chunk(Ino(5), 3, CHUNK_BYTES, 7, &[99]));
    assert_eq!(patched, Ok(true));
    expect(&storage, &changed);
    let storage = bench.reopen(storage);
    expect(&storage, &changed);
    // An inode that there never was.
    let found = storage.read(|txn| txn.read_chunk(Ino(6), 0, 0, &mut [0; CHUNK_BYTES]));
    assert_eq!(found, Ok(false));
}

pub(super) fn patches<B: StorageBench>(bench: &mut B) {
    let (storage, ino) = (bench.create(512), Ino(5));
    storage
        .write(|txn| {
            txn.put_inode(ino, &row(FileKind::Regular, 1))?;
            txn.put_chunk(ino, 0, vec![1; 512].into())?;
            txn.put_chunk(ino, 1, vec![1; 9].into())
        })
        .unwrap();
    let mut storage = bench.reopen(storage);
    let mut expected = vec![1; 512];
    for round in 2..6_u8 {
        let at = usize::from(round) * 100 - 150;
        storage
            .write(|txn| {
                assert!(txn.patch_chunk(ino, 0, 512, at, &[round; 120])?);
                assert!(txn.patch_chunk(ino, 0, 512, 511, &[round])?);
                assert!(txn.patch_chunk(ino, 1, 9, 0, &[round; 9])?);
                // Nothing is there, another length is, or it does not fit.
                assert!(!txn.patch_chunk(ino, 2, 512, 0, &[round])?);
                assert!(!txn.patch_chunk(ino, 1, 512, 0, &[round])?);
                assert!(!txn.patch_chunk(ino, 1, 9, 8, &[round; 2])?);
                assert!(!txn.patch_chunk(ino, 1, 9, usize::MAX, &[round])?);
                Ok::<_, StorageError>(())
            })
            .unwrap();
        let failed: Result<(), StorageError> = storage.write(|txn| {
            assert!(txn.patch_chunk(ino, 0, 512, 0, &[99; 512])?);
            Err(StorageError::Full)
        });
        assert_eq!(failed, Err(StorageError::Full));
        expected[at..at + 120].fill(round);
        expected[511] = round;
        for reopened in [false, true] {
            if reopened && round % 2 == 0 {
                storage = bench.reopen(storage);
            }
            let dump = Dump::of(&storage);
            assert_eq!(dump.chunks[&(5, 0)], expected);
            assert_eq!(dump.chunks[&(5, 1)], [round; 9]);
            assert_eq!(dump.chunks.len(), 2);
        }
    }
    storage
        .write(|txn| {
            txn.patch_chunk(ino, 0, 512, 0, &[7])?;
            txn.delete_chunks(ino, 0, 1)?;
            assert!(!txn.patch_chunk(ino, 0, 512, 0, &[7])?);
            Ok::<_, StorageError>(())
        })
        .unwrap();
    let storage = bench.reopen(storage);
    assert_eq!(Dump::of(&storage).chunks.len(), 1);
}

pub(super) fn chunk_size<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(1024);
    assert_eq!(storage.chunk_size_bytes(), 1024);
    let storage = bench.reopen(storage);
    assert_eq!(storage.chunk_size_bytes(), 1024);
    storage
        .write(|txn| txn.put_inode(Ino(5), &row(FileKind::Regular, 1)))
        .unwrap();
    storage
        .write(|txn| txn.put_chunk(Ino(5), 0, vec![1; 1024].into()))
        .unwrap();
    let before = Dump::of(&storage);
    for len in [0, 1025] {
        let refused = storage.write(|txn| txn.put_chunk(Ino(5), 0, vec![2; len].into()));
        assert!(refused.is_err(), "a chunk of {len} bytes was taken");
    }
    assert_eq!(Dump::of(&storage), before);
}

pub(super) fn records<B: StorageBench>(bench: &mut B) {
    let storage = bench.create(512);
    storage
        .write(|txn| {
            for key in ["b", "a", "ä", "", "a:1", "%"] {
                txn.put_kv(key, &format!("{{\"k\":\"{key}\"}}"), 100)?;
            }
            txn.put_kv("a", "2", 200)?;
            Done::Ok(())
        })
        .unwrap();
    let storage = bench.reopen(storage);
    let dump = Dump::of(&storage);
    assert_eq!(dump.kvs.len(), 6);
    let a = dump.kvs.iter().find(|row| row.key == "a").unwrap();
    assert_eq!(
        (a.value.as_str(), a.created_at, a.updated_at),
        ("2", 100, 200)
    );

    let plain = ToolCallRow {
        parameters: None,
        error: None,
        status: "pending".to_owned(),
        completed_at: None,
        duration_ms: None,
        ..call("plain")
    };
    let first = storage
        .write(|txn| txn.insert_tool_call(&call("first")))
        .unwrap();
    let second = storage.write(|txn| txn.insert_tool_call(&plain)).unwrap();
    assert!(second > first);
    let storage = bench.reopen(storage);
    let third = storage
        .write(|txn| txn.insert_tool_call(&call("third")))
        .unwrap();
    assert!(third > second);
    let expected = [
        ToolCallRow {
            id: third,
            ..call("third")
        },
        ToolCallRow {
            id: second,
            ..plain
        },
        ToolCallRow {
            id: first,
            ..call("first")
        },
    ];
    assert_eq!(Dump::of(&storage).tool_calls, expected);
    let mut seen = Vec::new();
    storage
        .read(|txn| {
            txn.tool_calls(&mut |row| {
                seen.push(row.id);
                seen.len() < 2
            })
        })
        .unwrap_or_else(|e: StorageError| panic!("{e}"));
    assert_eq!(seen, [third, second], "until it returns false");
}
