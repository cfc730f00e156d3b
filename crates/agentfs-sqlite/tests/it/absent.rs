//! What the database is known not to have is not looked for in it.

use agentfs_core::storage::{ReadTxn, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{SqliteStorage, Volume};

use crate::kit::{Dir, inode, make_root};

/// How often this thread has called `read(2)` and its like.
fn reads_of_this_thread() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let count = io.lines().find_map(|line| line.strip_prefix("syscr: "));
    count.unwrap().parse().unwrap()
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// All attributes, and one.
fn attributes(storage: &SqliteStorage, ino: Ino) -> (Attributes, Option<Vec<u8>>) {
    let look = |txn: &dyn ReadTxn| {
        let mut all = Vec::new();
        txn.xattrs(ino, &mut |name, value| {
            all.push((name.to_vec(), value.to_vec()));
        })?;
        Ok::<_, StorageError>((all, txn.xattr(ino, b"user.a")?))
    };
    storage.read(look).unwrap()
}

/// `ls -l` asks each file for an attribute that it does not have.
#[test]
fn extended_attributes_are_looked_for_where_there_are_some() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    let make = || {
        let made = storage.write(|txn| {
            let ino = txn.allocate_ino()?;
            txn.put_inode(ino, &inode(FileKind::Regular, 1))?;
            Ok::<_, StorageError>(ino)
        });
        made.unwrap()
    };
    let (with, without) = (make(), make());
    storage
        .write(|txn| txn.put_xattr(with, b"user.b", b"1"))
        .unwrap();
    storage.sync().unwrap();
    let b = (b"user.b".to_vec(), b"1".to_vec());
    let found = attributes(&storage, with);
    assert_eq!(found, (vec![b.clone()], None));

    let for_counting = reads_of_this_thread();
    let before = reads_of_this_thread();
    let none = attributes(&storage, without);
    let after = reads_of_this_thread();
    assert_eq!(none, (Vec::new(), None));
    assert_eq!(after - before, before - for_counting);

    // The first of one that had none.
    storage
        .write(|txn| txn.put_xattr(without, b"user.a", b"2"))
        .unwrap();
    storage.sync().unwrap();
    let a = (b"user.a".to_vec(), b"2".to_vec());
    let (all, one) = (vec![a], Some(b"2".to_vec()));
    assert_eq!(attributes(&storage, without), (all.clone(), one.clone()));
    drop(storage);
    database.close().unwrap();
    drop(database);

    let database = dir.open();
    let storage = database.volume(Volume::View);
    assert_eq!(attributes(&storage, without), (all, one));
    assert_eq!(attributes(&storage, with), (vec![b], None));
}
