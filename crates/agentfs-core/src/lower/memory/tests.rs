//! What the lower layer in memory does beyond the contract that every lower layer keeps.
//!
//! Looks at it through its own methods and the trait.

use super::*;
use crate::lower::LowerLayer;

fn path(text: &str) -> LowerPath {
    LowerPath::parse(text.as_bytes()).unwrap()
}

fn content(base: &MemoryLower, at: &str) -> Vec<u8> {
    let file = base.open(&path(at)).unwrap();
    let mut buf = vec![0xAA; usize::try_from(file.attr().unwrap().size).unwrap()];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), buf.len());
    buf
}

#[test]
fn what_was_added_is_found() {
    let base = MemoryLower::new();
    base.dir("d", 0o700).unwrap();
    base.file("d/f", 0o640, "hello")
        .unwrap()
        .symlink("d/l", "f")
        .unwrap();
    base.special("d/p", FileKind::Fifo, 0o600, 0).unwrap();
    base.hard_link("d/f", "g")
        .unwrap()
        .set_xattr("g", "user.k", "v")
        .unwrap();
    let names: Vec<_> = base.read_dir(&path("d")).unwrap();
    assert_eq!(names.len(), 3);
    let (f, g) = (
        base.stat(&path("d/f")).unwrap(),
        base.stat(&path("g")).unwrap(),
    );
    assert_eq!(f, g);
    assert_eq!(f.unwrap().nlink, 2);
    assert_eq!(base.read_link(&path("d/l")).unwrap(), b"f");
    assert_eq!(base.xattr(&path("d/f"), b"user.k").unwrap().unwrap(), b"v");
    assert_eq!(base.stat(&path("g/x")).unwrap(), None);
    assert_eq!(
        base.file("g/x", 0o600, "").err(),
        Some(FsError::NotADirectory)
    );
    assert_eq!(base.dir("d", 0o700).err(), Some(FsError::Exists));
}

#[test]
fn runs_of_data_join_and_are_cut() {
    let base = MemoryLower::new();
    base.sparse_file("s", 0o600, 30).unwrap();
    base.write_at("s", 10, "aaaa")
        .unwrap()
        .write_at("s", 20, "bb")
        .unwrap();
    let file = base.open(&path("s")).unwrap();
    let seeks = [
        (0, false),
        (0, true),
        (10, true),
        (14, false),
        (22, false),
        (30, true),
    ];
    let found: Vec<_> = seeks.map(|(at, hole)| file.seek(at, hole).unwrap()).into();
    assert_eq!(found, [Some(10), Some(0), Some(14), Some(20), None, None]);
    base.write_at("s", 12, "cccccccc").unwrap();
    assert_eq!(
        content(&base, "s"),
        b"\0\0\0\0\0\0\0\0\0\0aaccccccccbb\0\0\0\0\0\0\0\0"
    );
    base.truncate("s", 11).unwrap().truncate("s", 12).unwrap();
    assert_eq!(content(&base, "s"), b"\0\0\0\0\0\0\0\0\0\0a\0");
}

#[test]
fn changes_from_outside_show_and_keep_open_files() {
    let base = MemoryLower::new();
    base.file("f", 0o600, "one").unwrap();
    let file = base.open(&path("f")).unwrap();
    let before = file.attr().unwrap();
    base.set_content("f", "other").unwrap();
    let after = file.attr().unwrap();
    assert_ne!(before.fingerprint(), after.fingerprint());
    base.remove("f").unwrap().file("f", 0o600, "new").unwrap();
    assert_eq!(file.attr().unwrap().nlink, 0);
    assert_ne!(base.stat(&path("f")).unwrap().unwrap().id, after.id);
    base.dir("d", 0o755).unwrap().rename("f", "d/f").unwrap();
    assert_eq!(content(&base, "d/f"), b"new");
    assert_eq!(
        base.rename("d", "d/x").err(),
        Some(FsError::InvalidArgument)
    );
}
