//! What every lower layer has to do: the same answers as [`MemoryLower`] on the
//! same tree.

use std::collections::{BTreeMap, HashMap};

use agentfs_core::lower::{LowerAttr, LowerLayer, MemoryLower};
use agentfs_core::types::{FileKind, LowerPath, Name};

/// Compares `lower` with `reference`, which holds the same tree (built by
/// [`crate::base::BaseTree`]). Inode numbers, devices, change times and the
/// sizes of directories are each layer's own.
pub fn lower_suite<L: LowerLayer>(lower: &L, reference: &MemoryLower) {
    let mut ids = HashMap::new();
    compare(lower, reference, &LowerPath::root(), &mut ids);
    missing(lower, reference);
    let stats = lower.statfs().expect("statfs");
    assert!(stats.block_size_bytes > 0, "statfs: {stats:?}");
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).unwrap()
}

fn compare<L: LowerLayer>(
    lower: &L,
    reference: &MemoryLower,
    path: &LowerPath,
    ids: &mut HashMap<agentfs_core::storage::LowerId, agentfs_core::storage::LowerId>,
) {
    let real = lower
        .stat(path)
        .expect("stat")
        .unwrap_or_else(|| panic!("{path:?} is missing"));
    let expected = reference.stat(path).expect("stat").expect("walked");
    same_attr(path, &real, &expected);
    if expected.kind != FileKind::Directory {
        let same = ids.entry(expected.id).or_insert(real.id);
        assert_eq!(*same, real.id, "hard links have one id: {path:?}");
    }
    same_xattrs(lower, reference, path);
    below_a_leaf(lower, path, expected.kind);
    match expected.kind {
        FileKind::Directory => {
            let list = |entries: Vec<agentfs_core::lower::LowerDirEntry>| {
                let count = entries.len();
                let map: BTreeMap<_, _> = entries
                    .into_iter()
                    .map(|e| (e.name, (e.kind, e.ino)))
                    .collect();
                assert_eq!(map.len(), count, "{path:?} lists a name twice");
                map
            };
            let real = list(lower.read_dir(path).expect("read_dir"));
            let expected = list(reference.read_dir(path).expect("read_dir"));
            assert!(real.keys().eq(expected.keys()), "{path:?} lists {real:?}");
            for (name, (kind, ino)) in &real {
                assert_eq!(*kind, expected[name].0, "kind of {name:?} in {path:?}");
                let child = path.join(name);
                let attr = lower.stat(&child).expect("stat").expect("listed");
                assert_eq!(attr.id.ino, *ino, "number of {child:?}");
                compare(lower, reference, &child, ids);
            }
        }
        FileKind::Symlink => {
            let target = lower.read_link(path).expect("read_link");
            assert_eq!(
                target,
                reference.read_link(path).expect("read_link"),
                "{path:?}"
            );
        }
        FileKind::Regular => same_bytes(lower, reference, path, &expected),
        _ => {}
    }
    if expected.kind != FileKind::Symlink {
        let refused = lower
            .read_link(path)
            .expect_err("read_link of something else");
        assert_eq!(refused.errno, libc::EINVAL, "read_link of {path:?}");
    }
    if expected.kind != FileKind::Regular {
        let Err(refused) = lower.open(path) else {
            panic!("{path:?} was opened")
        };
        assert_eq!(refused.errno, libc::EINVAL, "open of {path:?}");
    }
}

fn same_attr(path: &LowerPath, real: &LowerAttr, expected: &LowerAttr) {
    assert_eq!(real.kind, expected.kind, "kind of {path:?}");
    if path.is_root() {
        return;
    }
    assert_eq!(real.perm, expected.perm, "perm of {path:?}");
    let owner = (expected.uid, expected.gid);
    assert_eq!((real.uid, real.gid), owner, "owner of {path:?}");
    assert_eq!(real.rdev, expected.rdev, "rdev of {path:?}");
    assert_eq!(real.mtime, expected.mtime, "mtime of {path:?}");
    if real.kind != FileKind::Directory {
        assert_eq!(real.size, expected.size, "size of {path:?}");
        assert_eq!(real.nlink, expected.nlink, "nlink of {path:?}");
    }
    // Reading a link on the host changes its access time, whoever reads.
    if real.kind != FileKind::Symlink {
        let (real, expected) = (real.atime, expected.atime);
        assert_eq!(
            real, expected,
            "atime of {path:?}: reading must not change it"
        );
    }
}

fn same_xattrs<L: LowerLayer>(lower: &L, reference: &MemoryLower, path: &LowerPath) {
    let sorted = |mut all: Vec<(Vec<u8>, Vec<u8>)>| {
        all.sort();
        all
    };
    let real = sorted(lower.xattrs(path).expect("xattrs"));
    let expected = sorted(reference.xattrs(path).expect("xattrs"));
    if path.is_root() {
        return;
    }
    assert_eq!(real, expected, "extended attributes of {path:?}");
    for (name, value) in real {
        assert_eq!(
            lower.xattr(path, &name).expect("xattr"),
            Some(value),
            "{path:?}"
        );
    }
    assert_eq!(
        lower.xattr(path, b"user.none").expect("xattr"),
        None,
        "{path:?}"
    );
}

/// Nothing lies beneath what is no directory, and that is no error.
fn below_a_leaf<L: LowerLayer>(lower: &L, path: &LowerPath, kind: FileKind) {
    if kind == FileKind::Directory {
        return;
    }
    let below = path.join(&name(b"x"));
    assert_eq!(lower.stat(&below).expect("stat"), None, "{below:?}");
}

fn missing<L: LowerLayer>(lower: &L, reference: &MemoryLower) {
    for path in [&b"absent"[..], b"absent/too", b"\xfd\xfc"] {
        let path = LowerPath::parse(path).unwrap();
        assert_eq!(reference.stat(&path).expect("stat"), None);
        assert_eq!(lower.stat(&path).expect("stat"), None, "{path:?}");
        assert_eq!(lower.read_dir(&path).expect("read_dir"), [], "{path:?}");
        assert!(lower.open(&path).is_err(), "{path:?} was opened");
        assert!(lower.read_link(&path).is_err(), "{path:?} was read");
    }
}

fn same_bytes<L: LowerLayer>(
    lower: &L,
    reference: &MemoryLower,
    path: &LowerPath,
    attr: &LowerAttr,
) {
    let (real, expected) = (
        lower.open(path).expect("open"),
        reference.open(path).expect("open"),
    );
    same_attr(path, &real.attr().expect("attr of an open file"), attr);
    let size = attr.size;
    let mut offsets = vec![0, 1, size / 2, size.saturating_sub(3), size, size + 10];
    let mut at = 0;
    while let Some(data) = expected.seek(at, false).expect("seek") {
        let end = expected.seek(data, true).expect("seek").unwrap_or(size);
        offsets.extend([data.saturating_sub(5), data, end.saturating_sub(5), end]);
        at = end;
    }
    for offset in offsets {
        for len in [0, 1, 10, 700] {
            let (mut a, mut b) = (vec![7; len], vec![7; len]);
            let got = real.read_at(&mut a, offset).expect("read_at");
            let want = expected.read_at(&mut b, offset).expect("read_at");
            assert_eq!(got, want, "{len} bytes at {offset} of {path:?}");
            assert_eq!(a[..got], b[..got], "bytes at {offset} of {path:?}");
        }
    }
    // A hole that is reported reads as zeros; what is reported ascends.
    let mut at = 0;
    while at < size {
        let data = real.seek(at, false).expect("seek");
        let to = data.unwrap_or(size);
        assert!(
            to >= at && to <= size,
            "SEEK_DATA from {at} of {path:?} gives {data:?}"
        );
        let step = usize::try_from((to - at).min(5000)).unwrap();
        let mut buf = vec![7; step];
        expected.read_at(&mut buf, at).expect("read_at");
        assert!(
            buf.iter().all(|&b| b == 0),
            "a hole at {at} of {path:?} holds data"
        );
        let Some(data) = data else { break };
        let hole = real.seek(data, true).expect("seek").unwrap_or(size);
        assert!(
            hole > data,
            "SEEK_HOLE from {data} of {path:?} gives {hole}"
        );
        at = hole;
    }
    assert_eq!(
        real.seek(size, false).expect("seek"),
        None,
        "data past the end of {path:?}"
    );
}
