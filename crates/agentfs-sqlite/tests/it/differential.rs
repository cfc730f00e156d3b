//! The same random transactions on SQLite and on the storage in memory: after
//! each, both say the same. In between the database is synced, left to commit in
//! its own time, and closed and opened again.

use agentfs_core::storage::{
    Chunk, Fingerprint, LowerId, MemoryStorage, Origin, ToolCallRow, WriteTxn,
};
use agentfs_core::{FileKind, Ino, Storage, StorageError, Timestamp};
use agentfs_sqlite::{Database, OpenOptions, Volume};
use proptest::prelude::*;
use proptest::sample::select;

use crate::kit::{Dir, dump, inode, lower, name};

const CHUNK_SIZE_BYTES: u32 = 512;

/// One change. Small domains, so that changes meet.
#[derive(Clone, Debug)]
enum Change {
    Allocate,
    PutInode(usize, u32, bool),
    DeleteInode(usize),
    PutDentry(usize, usize, usize),
    DeleteDentry(usize, usize),
    PutWhiteout(usize, usize),
    DeleteWhiteout(usize, usize),
    PutChunk(usize, u64, u8),
    /// Inode, chunk, permille where the part begins and ends, and a byte.
    PatchChunk(usize, u64, (usize, usize), u8),
    DeleteChunks(usize, u64, u64),
    PutSymlink(usize, u8),
    PutXattr(usize, usize, u8),
    DeleteXattr(usize, usize),
    PutKv(usize, u8),
    DeleteKv(usize),
    ToolCall(u8),
}

#[derive(Clone, Debug)]
enum Step {
    /// A transaction; whether it succeeds.
    Write(Vec<Change>, bool),
    Sync,
    Pause,
    Reopen,
}

/// Copied-up numbers, a mapped one, the root; born ones are added as allocated.
const INOS: [u64; 6] = [1, 5, 1234, (1 << 47) + 3, 1 << 62, (1 << 62) + 77];
const NAMES: [&[u8]; 5] = [
    b"a",
    b"b.txt",
    b"\xff\xfe",
    "\u{e9}".as_bytes(),
    &[b'n'; 255],
];
const DIRS: [&str; 3] = ["", "src", "src/deep"];

fn change() -> impl Strategy<Value = Change> {
    let ino = || 0..10_usize;
    let small = || 0..NAMES.len();
    prop_oneof![
        2 => Just(Change::Allocate),
        4 => (ino(), 0..50_u32, any::<bool>()).prop_map(|(i, t, o)| Change::PutInode(i, t, o)),
        2 => ino().prop_map(Change::DeleteInode),
        4 => (ino(), small(), ino()).prop_map(|(p, n, i)| Change::PutDentry(p, n, i)),
        2 => (ino(), small()).prop_map(|(p, n)| Change::DeleteDentry(p, n)),
        2 => (0..DIRS.len(), small()).prop_map(|(d, n)| Change::PutWhiteout(d, n)),
        1 => (0..DIRS.len(), small()).prop_map(|(d, n)| Change::DeleteWhiteout(d, n)),
        4 => (ino(), 0..12_u64, any::<u8>()).prop_map(|(i, c, b)| Change::PutChunk(i, c, b)),
        4 => (ino(), 0..12_u64, (0..1000_usize, 0..1000_usize), any::<u8>())
            .prop_map(|(i, c, r, b)| Change::PatchChunk(i, c, r, b)),
        2 => (ino(), 0..12_u64, select(vec![1, 3, 9, 12, u64::MAX]))
            .prop_map(|(i, f, t)| Change::DeleteChunks(i, f, t)),
        1 => (ino(), any::<u8>()).prop_map(|(i, b)| Change::PutSymlink(i, b)),
        2 => (ino(), small(), any::<u8>()).prop_map(|(i, n, b)| Change::PutXattr(i, n, b)),
        1 => (ino(), small()).prop_map(|(i, n)| Change::DeleteXattr(i, n)),
        1 => (0..6_usize, any::<u8>()).prop_map(|(k, b)| Change::PutKv(k, b)),
        1 => (0..6_usize).prop_map(Change::DeleteKv),
        1 => any::<u8>().prop_map(Change::ToolCall),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (prop::collection::vec(change(), 1..8), prop::bool::weighted(0.85))
            .prop_map(|(changes, ok)| Step::Write(changes, ok)),
        2 => Just(Step::Sync),
        1 => Just(Step::Pause),
        1 => Just(Step::Reopen),
    ]
}

/// The inode an index means: the fixed ones, then those allocated so far.
fn resolve(index: usize, born: &[Ino]) -> Ino {
    match INOS.get(index) {
        Some(ino) => Ino(*ino),
        None => born
            .get(index % born.len().max(1))
            .copied()
            .unwrap_or(Ino::ROOT),
    }
}

/// Applies one change. Inodes are kept as core keeps them: what hangs on an
/// inode is only written while its row exists.
fn apply(txn: &mut dyn WriteTxn, change: &Change, born: &mut Vec<Ino>) -> Result<(), StorageError> {
    let exists = |txn: &dyn WriteTxn, ino| Ok::<_, StorageError>(txn.inode(ino)?.is_some());
    match *change {
        Change::Allocate => {
            let ino = txn.allocate_ino()?;
            assert!(ino >= Ino::FIRST_UPPER && !born.contains(&ino));
            born.push(ino);
            txn.put_inode(ino, &inode(FileKind::Regular, 3))
        }
        Change::PutInode(index, tag, has_origin) => {
            // A database whose root is no directory is not opened again.
            let kind = if resolve(index, born) == Ino::ROOT {
                FileKind::Directory
            } else {
                select_kind(tag)
            };
            let mut row = inode(kind, tag);
            row.nlink = tag % 3;
            row.origin = has_origin.then(|| Origin {
                path: lower(DIRS[tag as usize % DIRS.len()]),
                fingerprint: Fingerprint {
                    id: LowerId {
                        dev: u64::MAX - u64::from(tag),
                        ino: 1 << 63,
                    },
                    nlink: tag,
                    size: u64::from(tag),
                    mtime: Timestamp::new(-1, 5),
                    ctime: Timestamp::new(1, tag),
                },
                data_len_bytes: u64::from(tag),
            });
            txn.put_inode(resolve(index, born), &row)
        }
        Change::DeleteInode(index) => {
            let ino = resolve(index, born);
            let mut names = Vec::new();
            txn.dentries(ino, &mut |name, _| names.push(name))?;
            names
                .iter()
                .try_for_each(|name| txn.delete_dentry(ino, name))?;
            txn.delete_inode(ino)
        }
        Change::PutDentry(parent, n, index) => {
            let (parent, ino) = (resolve(parent, born), resolve(index, born));
            if exists(txn, parent)? {
                txn.put_dentry(parent, &name(NAMES[n]), ino)
            } else {
                Ok(())
            }
        }
        Change::DeleteDentry(parent, n) => {
            txn.delete_dentry(resolve(parent, born), &name(NAMES[n]))
        }
        Change::PutWhiteout(dir, n) => {
            txn.put_whiteout(&lower(DIRS[dir]), &name(NAMES[n]), Timestamp::new(9, 0))
        }
        Change::DeleteWhiteout(dir, n) => txn.delete_whiteout(&lower(DIRS[dir]), &name(NAMES[n])),
        Change::PutChunk(index, chunk, byte) => {
            let ino = resolve(index, born);
            let len = usize::from(byte) * 2 + 1;
            if exists(txn, ino)? {
                txn.put_chunk(ino, chunk, Chunk::from(vec![byte; len]))
            } else {
                Ok(())
            }
        }
        Change::PatchChunk(index, chunk, (a, b), byte) => {
            let ino = resolve(index, born);
            // Not by `chunk`, which would fill the cache.
            let len = (1..=CHUNK_SIZE_BYTES as usize)
                .find(|len| txn.patch_chunk(ino, chunk, *len, 0, &[byte]).unwrap());
            let Some(len) = len else { return Ok(()) };
            let (from, to) = (a.min(b) * len / 1000, a.max(b) * len / 1000 + 1);
            assert!(txn.patch_chunk(ino, chunk, len, from, &vec![byte; to - from])?);
            assert!(!txn.patch_chunk(ino, chunk, len, len, &[byte])?);
            Ok(())
        }
        Change::DeleteChunks(index, from, to) => txn.delete_chunks(resolve(index, born), from, to),
        Change::PutSymlink(index, byte) => {
            let ino = resolve(index, born);
            if exists(txn, ino)? {
                txn.put_symlink(ino, &[byte | 1, 0xff])
            } else {
                Ok(())
            }
        }
        Change::PutXattr(index, n, byte) => {
            let ino = resolve(index, born);
            if exists(txn, ino)? {
                txn.put_xattr(ino, NAMES[n], &[byte])
            } else {
                Ok(())
            }
        }
        Change::DeleteXattr(index, n) => txn.delete_xattr(resolve(index, born), NAMES[n]),
        Change::PutKv(key, byte) => txn.put_kv(&format!("k{key}"), &byte.to_string(), byte.into()),
        Change::DeleteKv(key) => txn.delete_kv(&format!("k{key}")).map(|_| ()),
        Change::ToolCall(byte) => {
            let call = ToolCallRow {
                id: 0,
                name: format!("tool {byte}"),
                parameters: Some("{}".into()),
                result: None,
                error: Some("no".into()),
                status: "error".into(),
                started_at: i64::from(byte),
                completed_at: Some(-1),
                duration_ms: None,
            };
            txn.insert_tool_call(&call).map(|_| ())
        }
    }
}

fn select_kind(tag: u32) -> FileKind {
    [
        FileKind::Regular,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
    ][tag as usize % 4]
}

fn write(storage: &impl Storage, changes: &[Change], ok: bool, born: &[Ino]) -> Vec<Ino> {
    let mut now_born = born.to_vec();
    let result: Result<(), StorageError> = storage.write(|txn| {
        changes
            .iter()
            .try_for_each(|change| apply(txn, change, &mut now_born))?;
        if ok { Ok(()) } else { Err(StorageError::Full) }
    });
    assert_eq!(result.is_ok(), ok, "{result:?}");
    if ok { now_born } else { born.to_vec() }
}

fn open(dir: &Dir) -> Database {
    let options = OpenOptions::new()
        .create(true)
        .chunk_size_bytes(CHUNK_SIZE_BYTES);
    Database::open(&dir.path(), &options).unwrap()
}

fn check(volume: Volume, steps: &[Step]) {
    let dir = Dir::new();
    let memory = MemoryStorage::new(CHUNK_SIZE_BYTES);
    let mut database = open(&dir);
    // Numbers differ between the two where a failed transaction took one: the
    // dumps are compared with born numbers replaced by their order.
    let (mut born_memory, mut born_sqlite) = (Vec::new(), Vec::new());
    for (number, step) in steps.iter().enumerate() {
        let storage = database.volume(volume);
        match step {
            Step::Write(changes, ok) => {
                born_memory = write(&memory, changes, *ok, &born_memory);
                born_sqlite = write(&storage, changes, *ok, &born_sqlite);
            }
            Step::Sync => storage.sync().unwrap(),
            Step::Pause => std::thread::sleep(std::time::Duration::from_millis(60)),
            Step::Reopen => {
                drop(storage);
                database.close().unwrap();
                drop(database);
                assert_eq!(dir.files(), ["test session.db"]);
                database = open(&dir);
            }
        }
        let normal = |text: String, born: &[Ino]| {
            born.iter().enumerate().fold(text, |text, (i, ino)| {
                text.replace(&ino.to_string(), &format!("born{i}"))
            })
        };
        let expected = normal(dump(&memory, 12), &born_memory);
        let actual = normal(dump(&database.volume(volume), 12), &born_sqlite);
        if actual != expected {
            let differing = actual.lines().zip(expected.lines()).find(|(a, b)| a != b);
            let lines = (actual.lines().count(), expected.lines().count());
            panic!("after step {number} ({step:?}): {lines:?} lines, {differing:?}");
        }
    }
    database.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_view_says_what_memory_says(steps in prop::collection::vec(step(), 1..40)) {
        check(Volume::View, &steps);
    }

    #[test]
    fn the_home_volume_says_what_memory_says(steps in prop::collection::vec(step(), 1..20)) {
        check(Volume::Home, &steps);
    }
}
