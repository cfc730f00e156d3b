//! One broken row at a time, and what is said of it.

use super::*;
use crate::error::StorageError;
use crate::lower::MemoryLower;
use crate::storage::{Fingerprint, MemoryStorage, Origin, Storage, WriteTxn};
use crate::types::Timestamp;

const CHUNK_BYTES: u32 = 8;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn row(kind: FileKind, size: u64) -> InodeRow {
    InodeRow {
        kind,
        perm: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        origin: None,
    }
}

fn base() -> MemoryLower {
    let base = MemoryLower::new();
    base.file("old", 0o644, "twelve bytes").unwrap();
    base.dir("dir", 0o755)
        .unwrap()
        .file("dir/x", 0o644, "x")
        .unwrap();
    base
}

/// The origin of a copy of a base object, `len` bytes of which still count.
fn origin(base: &MemoryLower, path: &str, len: u64) -> Option<Origin> {
    let path = LowerPath::parse(path.as_bytes()).unwrap();
    let fingerprint: Fingerprint = base.stat(&path).unwrap().unwrap().fingerprint();
    Some(Origin {
        path,
        fingerprint,
        data_len_bytes: len,
    })
}

const FILE: Ino = Ino(1 << 48);
const DIR: Ino = Ino((1 << 48) + 1);
const SUB: Ino = Ino((1 << 48) + 2);
const LINK: Ino = Ino((1 << 48) + 3);
const COPY: Ino = Ino((1 << 48) + 4);

/// A sound upper layer: `/file` of 12 bytes, `/dir` (of the base) with `/dir/sub`,
/// `/link`, `/copy` of the base's `old`, which is gone.
fn sound(base: &MemoryLower, txn: &mut dyn WriteTxn) -> Result<(), StorageError> {
    txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 0))?;
    for (ino, parent, as_name, made) in [
        (FILE, Ino::ROOT, "file", row(FileKind::Regular, 12)),
        (DIR, Ino::ROOT, "dir", row(FileKind::Directory, 0)),
        (SUB, DIR, "sub", row(FileKind::Directory, 0)),
        (LINK, Ino::ROOT, "link", row(FileKind::Symlink, 4)),
        (COPY, Ino::ROOT, "copy", row(FileKind::Regular, 12)),
    ] {
        let origin = if ino == COPY {
            origin(base, "old", 12)
        } else {
            None
        };
        txn.put_inode(ino, &InodeRow { origin, ..made })?;
        txn.put_dentry(parent, &name(as_name), ino)?;
    }
    txn.put_chunk(FILE, 0, vec![1; 8].into())?;
    txn.put_chunk(FILE, 1, vec![1; 4].into())?;
    txn.put_symlink(LINK, b"file")?;
    txn.put_whiteout(&LowerPath::root(), &name("old"), Timestamp::default())
}

/// Breaks a sound layer and compares what is said.
fn verify(
    break_it: impl FnOnce(&MemoryLower, &mut dyn WriteTxn) -> Result<(), StorageError>,
    want: &[Violation],
) {
    let (storage, base) = (MemoryStorage::new(CHUNK_BYTES), base());
    storage.write(|txn| sound(&base, txn)).unwrap();
    storage.write(|txn| break_it(&base, txn)).unwrap();
    let found = storage.read(|txn| check(txn, &base, CHUNK_BYTES)).unwrap();
    assert_eq!(found, want);
}

fn change(
    txn: &mut dyn WriteTxn,
    ino: Ino,
    f: impl FnOnce(&mut InodeRow),
) -> Result<(), StorageError> {
    let mut row = txn.inode(ino)?.unwrap();
    f(&mut row);
    txn.put_inode(ino, &row)
}

#[test]
fn a_sound_layer_and_an_empty_one() {
    verify(|_, _| Ok(()), &[]);
    let storage = MemoryStorage::new(CHUNK_BYTES);
    let found = storage
        .read(|txn| check(txn, &base(), CHUNK_BYTES))
        .unwrap();
    assert_eq!(found, []);
}

#[test]
fn roots() {
    verify(
        |_, txn| {
            txn.delete_inode(Ino::ROOT)?;
            change(txn, DIR, |row| row.perm = 0o700)
        },
        &[Violation::NoRoot],
    );
    verify(
        |_, txn| change(txn, Ino::ROOT, |row| row.kind = FileKind::Regular),
        &[Violation::RootNotADirectory],
    );
}

#[test]
fn entries() {
    verify(
        |_, txn| txn.put_dentry(DIR, &name("lost"), Ino(77)),
        &[Violation::DanglingEntry {
            dir: DIR,
            name: name("lost"),
            ino: Ino(77),
        }],
    );
    verify(
        |_, txn| txn.put_dentry(FILE, &name("in-a-file"), LINK),
        &[Violation::EntryInNonDirectory {
            dir: FILE,
            name: name("in-a-file"),
        }],
    );
    verify(
        |_, txn| txn.put_dentry(SUB, &name("again"), SUB),
        &[Violation::DirectoryTwice {
            dir: SUB,
            name: name("again"),
            ino: SUB,
        }],
    );
    verify(
        |_, txn| txn.delete_dentry(DIR, &name("sub")),
        &[Violation::Unreachable { ino: SUB }],
    );
    // A cycle apart from the root.
    verify(
        |_, txn| {
            txn.delete_dentry(DIR, &name("sub"))?;
            txn.put_dentry(SUB, &name("self"), SUB)
        },
        &[Violation::Unreachable { ino: SUB }],
    );
}

#[test]
fn link_counts() {
    let wrong = |nlink, names| Violation::WrongLinkCount {
        ino: FILE,
        nlink,
        names,
    };
    verify(
        |_, txn| txn.put_dentry(DIR, &name("second"), FILE),
        &[wrong(1, 2)],
    );
    verify(
        |_, txn| change(txn, FILE, |row| row.nlink = 3),
        &[wrong(3, 1)],
    );
    verify(
        |_, txn| change(txn, FILE, |row| row.nlink = 0),
        &[wrong(0, 1)],
    );
    verify(
        |_, txn| txn.delete_dentry(Ino::ROOT, &name("file")),
        &[wrong(1, 0)],
    );
    verify(
        |_, txn| {
            change(txn, FILE, |row| row.nlink = 0)?;
            txn.delete_dentry(Ino::ROOT, &name("file"))
        },
        &[Violation::Unlinked { ino: FILE }],
    );
    // Other names of a base file.
    verify(
        |_, txn| {
            change(txn, COPY, |row| {
                row.nlink = 3;
                row.origin.as_mut().unwrap().fingerprint.nlink = 3;
            })
        },
        &[],
    );
}

#[test]
fn origins() {
    verify(
        |_, txn| {
            change(txn, COPY, |row| {
                row.origin.as_mut().unwrap().data_len_bytes = 13;
            })
        },
        &[Violation::OriginDataTooLong {
            ino: COPY,
            len: 13,
            size: 12,
        }],
    );
    verify(
        |base, txn| change(txn, LINK, |row| row.origin = origin(base, "old", 1)),
        &[
            Violation::OriginDataOfNonFile { ino: LINK },
            Violation::BaseChanged {
                ino: LINK,
                path: LowerPath::parse(b"old").unwrap(),
            },
        ],
    );
    verify(
        |base, _| {
            base.set_content("old", "TWELVE BYTES").unwrap();
            Ok(())
        },
        &[Violation::BaseChanged {
            ino: COPY,
            path: LowerPath::parse(b"old").unwrap(),
        }],
    );
    verify(
        |base, txn| change(txn, SUB, |row| row.origin = origin(base, "dir", 0)),
        &[Violation::ShownTwice {
            path: LowerPath::parse(b"dir").unwrap(),
        }],
    );
}

#[test]
fn symbolic_links() {
    verify(
        |_, txn| change(txn, LINK, |row| row.size = 5),
        &[Violation::WrongTargetSize {
            ino: LINK,
            size: 5,
            len: 4,
        }],
    );
    verify(
        |_, txn| txn.put_symlink(LINK, b""),
        &[Violation::BadTarget { ino: LINK }],
    );
    verify(
        |_, txn| txn.put_symlink(FILE, b"x"),
        &[Violation::TargetOfNonLink { ino: FILE }],
    );
    verify(
        |_, txn| txn.put_inode(SUB, &row(FileKind::Symlink, 4)),
        &[Violation::NoTarget { ino: SUB }],
    );
}

#[test]
fn chunks() {
    let wrong = |index, len, want| Violation::WrongChunkLength {
        ino: FILE,
        index,
        len,
        want,
    };
    verify(
        |_, txn| txn.put_chunk(FILE, 0, vec![1; 3].into()),
        &[wrong(0, 3, 8)],
    );
    verify(
        |_, txn| txn.put_chunk(FILE, 1, vec![1; 8].into()),
        &[wrong(1, 8, 4)],
    );
    verify(
        |_, txn| txn.put_chunk(FILE, 2, vec![1; 1].into()),
        &[Violation::ChunkPastEnd {
            ino: FILE,
            index: 2,
            size: 12,
        }],
    );
    verify(
        |_, txn| txn.put_chunk(DIR, 0, vec![1; 1].into()),
        &[Violation::ChunkOfNonFile { ino: DIR, index: 0 }],
    );
    verify(
        |_, txn| change(txn, FILE, |row| row.size = u64::MAX),
        &[Violation::TooLarge {
            ino: FILE,
            size: u64::MAX,
        }],
    );
    // A hole.
    verify(|_, txn| txn.delete_chunks(FILE, 0, 1), &[]);
}

#[test]
fn whiteouts() {
    let path = |text: &str| LowerPath::parse(text.as_bytes()).unwrap();
    verify(
        |_, txn| txn.put_whiteout(&path("dir"), &name("never"), Timestamp::default()),
        &[Violation::HidesNothing {
            path: path("dir/never"),
        }],
    );
    verify(
        |_, txn| {
            txn.put_dentry(Ino::ROOT, &name("old"), FILE)?;
            change(txn, FILE, |row| row.nlink = 2)
        },
        &[Violation::HiddenAndCovered { path: path("old") }],
    );
    // A directory over a whiteout is an opaque one.
    verify(
        |_, txn| txn.put_whiteout(&LowerPath::root(), &name("dir"), Timestamp::default()),
        &[],
    );
}

#[test]
#[cfg_attr(miri, ignore = "too many rows for Miri")]
fn the_list_has_an_end() {
    let storage = MemoryStorage::new(CHUNK_BYTES);
    storage
        .write(|txn| {
            txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 0))?;
            for number in 0..=VIOLATIONS_MAX {
                txn.put_dentry(Ino::ROOT, &name(&number.to_string()), Ino(77))?;
            }
            Ok::<_, StorageError>(())
        })
        .unwrap();
    let found = storage
        .read(|txn| check(txn, &base(), CHUNK_BYTES))
        .unwrap();
    assert_eq!(found.len(), VIOLATIONS_MAX + 1);
    assert_eq!(found.last(), Some(&Violation::More));
}

#[test]
#[cfg_attr(miri, ignore = "too many rows for Miri")]
fn no_number_of_notices_is_an_error() {
    let storage = MemoryStorage::new(CHUNK_BYTES);
    storage
        .write(|txn| {
            txn.put_inode(Ino::ROOT, &row(FileKind::Directory, 0))?;
            for number in 0..=VIOLATIONS_MAX {
                let gone = name(&number.to_string());
                txn.put_whiteout(&LowerPath::root(), &gone, Timestamp::default())?;
            }
            Ok::<_, StorageError>(())
        })
        .unwrap();
    let found = storage
        .read(|txn| check(txn, &base(), CHUNK_BYTES))
        .unwrap();
    assert_eq!(found.len(), VIOLATIONS_MAX + 1);
    assert_eq!(found.last(), Some(&Violation::MoreNotices));
    assert!(found.iter().all(|v| v.severity() == Severity::Notice));
}

#[test]
fn codes_are_unique_words_and_severities_known() {
    let notice = Violation::Unlinked { ino: FILE };
    assert_eq!(
        (notice.severity(), notice.code()),
        (Severity::Notice, "unlinked")
    );
    assert_eq!(Violation::NoRoot.severity(), Severity::Error);
    assert_eq!(notice.to_string().matches(&FILE.to_string()).count(), 1);
}
