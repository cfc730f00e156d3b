//! What is in memory, or known not to be in the database, is not looked for there.

use agentfs_core::storage::{ReadTxn, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{SqliteStorage, Volume};
use agentfs_testkit::reads::without_a_read;

use crate::kit::{Dir, inode, make_root};

fn make_file(storage: &SqliteStorage) -> Ino {
    let made = storage.write(|txn| {
        let ino = txn.allocate_ino()?;
        txn.put_inode(ino, &inode(FileKind::Regular, 1))?;
        Ok::<_, StorageError>(ino)
    });
    made.unwrap()
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
    let (with, without) = (make_file(&storage), make_file(&storage));
    storage
        .write(|txn| txn.put_xattr(with, b"user.b", b"1"))
        .unwrap();
    storage.sync().unwrap();
    let b = (b"user.b".to_vec(), b"1".to_vec());
    let found = attributes(&storage, with);
    assert_eq!(found, (vec![b.clone()], None));

    let none = without_a_read(|| attributes(&storage, without));
    assert_eq!(none, (Vec::new(), None));

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

/// What is appended to a file that was written a moment ago.
#[test]
fn the_length_of_a_chunk_that_is_in_memory_is_known() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    let file = make_file(&storage);
    storage
        .write(|txn| txn.put_chunk(file, 0, vec![1; 100].into()))
        .unwrap();
    storage.sync().unwrap();

    let patch = |len_bytes| {
        let patched = storage.write(|txn| txn.patch_chunk(file, 0, len_bytes, 0, b"22"));
        patched.map_err(|error: StorageError| error).unwrap()
    };
    // A longer one would have to be written whole.
    assert_eq!(without_a_read(|| (patch(110), patch(100))), (false, true));
    let chunk = storage.read(|txn| txn.chunk(file, 0)).unwrap().unwrap();
    assert_eq!(chunk[..3], [b'2', b'2', 1]);
}
