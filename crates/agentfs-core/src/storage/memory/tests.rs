//! What the storage in memory does beyond the contract that every storage keeps.
//!
//! Looks at it from outside only, through the traits.

use super::*;

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).unwrap()
}

fn contents(storage: &MemoryStorage) -> String {
    let state = storage.state.read();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        state.dentries.rows,
        state.whiteouts.rows,
        state.chunks.rows,
        state.symlinks.rows,
        state.xattrs.rows,
        state.kvs.rows,
        state.tool_calls.rows,
    )
}

/// One change of every kind.
fn change(txn: &mut dyn WriteTxn, tag: u8) -> Result<(), StorageError> {
    let ino = Ino(7);
    txn.put_dentry(Ino::ROOT, &name(&[b'a', tag]), ino)?;
    txn.put_whiteout(
        &LowerPath::root(),
        &name(&[b'w', tag]),
        Timestamp::default(),
    )?;
    txn.put_chunk(ino, u64::from(tag), Chunk::from([tag]))?;
    txn.put_symlink(ino, &[tag])?;
    txn.put_xattr(ino, b"user.x", &[tag])?;
    txn.put_kv("k", &tag.to_string(), i64::from(tag))?;
    txn.delete_chunks(ino, 0, 1)?;
    txn.delete_dentry(Ino::ROOT, &name(b"a\x01"))
}

#[test]
fn a_failed_write_leaves_no_trace() {
    let storage = MemoryStorage::new(16);
    storage.write(|txn| change(txn, 1)).unwrap();
    let before = contents(&storage);
    let failed: Result<(), StorageError> = storage.write(|txn| {
        change(txn, 2)?;
        change(txn, 3)?;
        txn.delete_inode(Ino(7))?;
        assert_eq!(
            txn.chunk(Ino(7), 2)?,
            None,
            "a transaction sees its own writes"
        );
        Err(StorageError::Full)
    });
    assert_eq!(failed, Err(StorageError::Full));
    assert_eq!(contents(&storage), before);
    storage.write(|txn| change(txn, 2)).unwrap();
    assert_ne!(contents(&storage), before);
}

#[test]
fn a_panicking_write_leaves_no_trace() {
    let storage = MemoryStorage::new(16);
    let before = contents(&storage);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<(), StorageError> = storage.write(|txn| {
            change(txn, 2)?;
            panic!("the closure's own");
        });
    }));
    assert!(outcome.is_err());
    assert_eq!(contents(&storage), before);
}

#[test]
fn listings_stay_within_their_directory() {
    let storage = MemoryStorage::new(16);
    let sub = LowerPath::root().join(&name(b"d"));
    storage
        .write(|txn| {
            for parent in [1, 2, 3] {
                txn.put_dentry(Ino(parent), &name(b"\xff\xff"), Ino(parent + 10))?;
                txn.put_dentry(Ino(parent), &name(b"\x01"), Ino(parent + 20))?;
            }
            txn.put_whiteout(&LowerPath::root(), &name(b"x"), Timestamp::default())?;
            txn.put_whiteout(&sub, &name(b"y"), Timestamp::default())
        })
        .unwrap();
    let check = |parent: Ino, expected: &[u64]| {
        let mut inos = Vec::new();
        storage
            .read(|txn| txn.dentries(parent, &mut |_, ino| inos.push(ino.0)))
            .unwrap();
        assert_eq!(inos, expected);
    };
    check(Ino(1), &[21, 11]);
    check(Ino(2), &[22, 12]);
    check(Ino(4), &[]);
    let mut seen = Vec::new();
    storage
        .read(|txn| {
            txn.whiteouts(&LowerPath::root(), &mut |n| seen.push(n.to_string()))?;
            txn.whiteouts(&sub, &mut |n| seen.push(n.to_string()))?;
            txn.whiteout_dirs(&mut |d| seen.push(d.to_string()))
        })
        .unwrap();
    assert_eq!(seen, ["x", "y", "/", "/d"]);
}
