//! The rowids of chunks: where they are as wished, where another row has the number,
//! and where they were changed, every chunk is found, changed and erased.

use agentfs_core::storage::{Chunk, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{SqliteStorage, Volume};

use crate::kit::{Dir, inode, make_root};

/// Below 2^39, as the host numbers.
const COPIED_UP: Ino = Ino(77);
const CHUNKS: u64 = 5;
const CHUNK_BYTES: usize = 100;

fn chunk(ino: Ino, index: u64) -> Chunk {
    let byte = (ino.0 * 16 + index).to_le_bytes()[0];
    Chunk::from(vec![byte; CHUNK_BYTES])
}

fn put(storage: &SqliteStorage, ino: Ino) {
    storage
        .write(|txn| {
            txn.put_inode(ino, &inode(FileKind::Regular, 10))?;
            (0..CHUNKS).try_for_each(|index| txn.put_chunk(ino, index, chunk(ino, index)))
        })
        .map_err(|e: StorageError| e)
        .unwrap();
}

fn new_file(storage: &SqliteStorage) -> Ino {
    let ino = storage.write(|txn| txn.allocate_ino()).unwrap();
    put(storage, ino);
    ino
}

/// Opens the database, past all caches; closes it when `f` is done.
fn reopened<T>(dir: &Dir, f: impl FnOnce(&SqliteStorage) -> T) -> T {
    let database = dir.open();
    let done = f(&database.volume(Volume::View));
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    database.close().unwrap();
    done
}

fn chunks(storage: &SqliteStorage, ino: Ino) -> Vec<Option<Chunk>> {
    storage
        .read(|txn| {
            (0..=CHUNKS)
                .map(|index| txn.chunk(ino, index))
                .collect::<Result<_, StorageError>>()
        })
        .unwrap()
}

/// Reads, patches, replaces and erases chunks of `ino` as they are in the file.
fn use_all(dir: &Dir, ino: Ino) {
    let mut expected: Vec<_> = (0..CHUNKS).map(|index| Some(chunk(ino, index))).collect();
    expected.push(None);
    reopened(dir, |storage| {
        assert_eq!(chunks(storage, ino), expected);
        let patched = storage.write(|txn| txn.patch_chunk(ino, 1, CHUNK_BYTES, 7, b"patch"));
        assert!(patched.unwrap());
        storage.sync().unwrap();
        storage
            .write(|txn| {
                txn.put_chunk(ino, 2, Chunk::from([9; 3]))?;
                txn.delete_chunks(ino, 3, 4)
            })
            .map_err(|e: StorageError| e)
            .unwrap();
    });
    let mut patched = chunk(ino, 1).to_vec();
    patched[7..12].copy_from_slice(b"patch");
    expected[1] = Some(Chunk::from(patched));
    expected[2] = Some(Chunk::from([9; 3]));
    expected[3] = None;
    reopened(dir, |storage| assert_eq!(chunks(storage, ino), expected));
}

/// A database with one file copied up and two born, nobody in it.
fn database() -> (Dir, [Ino; 3]) {
    let dir = Dir::new();
    let inos = reopened(&dir, |storage| {
        make_root(storage);
        put(storage, COPIED_UP);
        [COPIED_UP, new_file(storage), new_file(storage)]
    });
    (dir, inos)
}

#[test]
fn rows_are_numbered_by_inode_and_chunk() {
    let (dir, inos) = database();
    // As docs/FORMAT.md has it.
    let others = dir.sqlite3(
        "SELECT count(*) FROM fs_data WHERE rowid <> chunk_index + \
         iif(ino < 1 << 48, ino << 22, (1 << 61) + (ino - (1 << 48) << 22))",
    );
    assert_eq!(others, "0");
    for ino in inos {
        use_all(&dir, ino);
    }
}

#[test]
fn rows_with_other_numbers_are_found_and_keep_them() {
    let (dir, inos) = database();
    dir.sqlite3("UPDATE fs_data SET rowid = random()");
    let rows = "SELECT rowid, ino, chunk_index FROM fs_data WHERE chunk_index <> 3 ORDER BY 2, 3";
    let before = dir.sqlite3(rows);
    for ino in inos {
        use_all(&dir, ino);
    }
    assert_eq!(dir.sqlite3(rows), before);
}

#[test]
fn a_number_that_is_taken_is_left_to_its_row() {
    let (dir, [_, first, second]) = database();
    // Every number that the first file wants belongs to a row of the second.
    dir.sqlite3(&format!(
        "CREATE TEMP TABLE wanted AS SELECT rowid AS number, chunk_index FROM fs_data \
         WHERE ino = {first}; DELETE FROM fs_data WHERE ino = {first}; \
         UPDATE fs_data SET rowid = (SELECT number FROM wanted AS w \
         WHERE w.chunk_index = fs_data.chunk_index) WHERE ino = {second}"
    ));
    reopened(&dir, |storage| put(storage, first));
    use_all(&dir, first);
    use_all(&dir, second);
}
