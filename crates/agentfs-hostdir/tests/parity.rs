//! [`HostDir`] tells what the host's own calls tell, and never leaves its directory.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // A failing helper fails the test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::lower::LowerAttr;
use agentfs_core::{FileKind, LowerLayer, LowerPath, Name};
use agentfs_hostdir::HostDir;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

/// Tells that a test cannot run here; with `AGENTFS_REQUIRE_ALL=1` that is a failure.
fn skip(why: &str) {
    assert!(
        std::env::var_os("AGENTFS_REQUIRE_ALL").is_none(),
        "not skipped: {why}"
    );
    eprintln!("skipped: {why}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// One of everything that a directory can hold.
fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("dir/sub/deeper")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    fs::write(top.join("file"), "content").unwrap();
    fs::write(top.join("dir/file"), vec![7; 100_000]).unwrap();
    fs::write(top.join(OsStr::from_bytes(b"caf\xe9 \xff\n")), "not UTF-8").unwrap();
    fs::write(top.join("n".repeat(255)), "long name").unwrap();
    fs::hard_link(top.join("file"), top.join("dir/hard link")).unwrap();
    symlink("file", top.join("link")).unwrap();
    symlink("nowhere", top.join("dangling")).unwrap();
    symlink("/etc", top.join("escape")).unwrap();
    symlink("../../../../../../etc", top.join("dir/escape")).unwrap();
    symlink("x".repeat(4000), top.join("long link")).unwrap();
    let sparse = fs::File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(b"data", 1 << 20).unwrap();
    sparse.set_len(4 << 20).unwrap();
    mknodat(
        CWD,
        top.join("fifo"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    drop(std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap());
    if is_root() {
        let dev = rustix::fs::makedev(1, 3);
        mknodat(
            CWD,
            top.join("null"),
            FileType::CharacterDevice,
            Mode::RUSR,
            dev,
        )
        .unwrap();
    }
    fs::set_permissions(top.join("file"), fs::Permissions::from_mode(0o4711)).unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(top.join("file"), name, value, XattrFlags::empty())
    };
    set("user.short", b"v").unwrap();
    set("user.long", &[b'x'; 1000]).unwrap();
    set("user.empty", b"").unwrap();
    if is_root() {
        set("trusted.hidden", b"no").unwrap();
    }
}

fn assert_attr(attr: &LowerAttr, host: &fs::Metadata, at: &LowerPath) {
    assert_eq!(attr.id.ino, host.ino(), "{at}");
    assert_eq!(attr.id.dev, host.dev(), "{at}");
    assert_eq!(
        attr.kind.mode_bits() | u32::from(attr.perm),
        host.mode(),
        "{at}"
    );
    assert_eq!(u64::from(attr.nlink), host.nlink(), "{at}");
    assert_eq!((attr.uid, attr.gid), (host.uid(), host.gid()), "{at}");
    assert_eq!(
        (attr.size, attr.blocks),
        (host.size(), host.blocks()),
        "{at}"
    );
    assert_eq!(
        (attr.mtime.secs, i64::from(attr.mtime.nanos)),
        (host.mtime(), host.mtime_nsec())
    );
    assert_eq!(
        (attr.ctime.secs, i64::from(attr.ctime.nanos)),
        (host.ctime(), host.ctime_nsec())
    );
}

/// Compares everything below `path` and returns how many objects there were.
fn compare(base: &HostDir, top: &Path, path: &LowerPath) -> usize {
    let on_host = top.join(OsStr::from_bytes(path.as_bytes()));
    let host = fs::symlink_metadata(&on_host).unwrap();
    let attr = base.stat(path).unwrap().unwrap();
    assert_attr(&attr, &host, path);
    let mut count = 1;
    match attr.kind {
        FileKind::Directory => {
            let entries: BTreeMap<_, _> = base
                .read_dir(path)
                .unwrap()
                .into_iter()
                .map(|entry| (entry.name.clone(), entry))
                .collect();
            let expected: Vec<_> = fs::read_dir(&on_host)
                .unwrap()
                .map(Result::unwrap)
                .collect();
            assert_eq!(entries.len(), expected.len(), "{path}");
            for entry in expected {
                let name = Name::new(entry.file_name().as_bytes()).unwrap();
                assert_eq!(entries[&name].ino, entry.ino());
                let mode = entry.metadata().unwrap().mode();
                assert_eq!(FileKind::from_mode(mode), Some(entries[&name].kind));
                count += compare(base, top, &path.join(&name));
            }
        }
        FileKind::Regular => {
            let file = base.open(path).unwrap();
            assert_attr(&file.attr().unwrap(), &host, path);
            let mut bytes = vec![0; usize::try_from(attr.size).unwrap() + 10];
            let len = file.read_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes[..len], fs::read(&on_host).unwrap(), "{path}");
        }
        FileKind::Symlink => {
            let target = fs::read_link(&on_host).unwrap();
            assert_eq!(base.read_link(path).unwrap(), target.as_os_str().as_bytes());
        }
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {}
    }
    if attr.kind != FileKind::Regular {
        assert_eq!(
            base.open(path).err().map(|e| e.errno),
            Some(libc::EINVAL),
            "{path}"
        );
    }
    if attr.kind != FileKind::Symlink {
        assert_eq!(
            base.read_link(path).err().map(|e| e.errno),
            Some(libc::EINVAL),
            "{path}"
        );
    }
    count
}

fn parse(path: &str) -> LowerPath {
    LowerPath::parse(path.as_bytes()).unwrap()
}

#[test]
fn tells_what_the_host_tells() {
    let top = tempfile::tempdir().unwrap();
    make_tree(top.path());
    let base = HostDir::open(top.path()).unwrap();
    let count = compare(&base, top.path(), &LowerPath::root());
    assert_eq!(count, 18 + usize::from(is_root()));

    if is_root() {
        assert_eq!(base.stat(&parse("null")).unwrap().unwrap().rdev, 0x0103);
    }
    let sparse = base.open(&parse("sparse")).unwrap();
    assert_eq!(sparse.seek(0, false).unwrap(), Some(1 << 20));
    assert_eq!(sparse.seek(2 << 20, false).unwrap(), None);
    assert_eq!(sparse.seek(0, true).unwrap(), Some(0));
    assert_eq!(sparse.seek(4 << 20, true).unwrap(), None);

    let names: Vec<_> = base.xattrs(&parse("file")).unwrap();
    let expected = [("user.empty", 0), ("user.long", 1000), ("user.short", 1)];
    let names: Vec<_> = names.iter().map(|(n, v)| (n.as_slice(), v.len())).collect();
    assert_eq!(names, expected.map(|(n, len)| (n.as_bytes(), len)));
    assert_eq!(
        base.xattr(&parse("file"), b"user.short").unwrap().unwrap(),
        b"v"
    );
    assert_eq!(base.xattr(&parse("file"), b"user.none").unwrap(), None);
    assert_eq!(base.xattr(&parse("file"), b"trusted.hidden").unwrap(), None);
    for other in ["link", "fifo", "dir", ""] {
        assert_eq!(base.xattrs(&parse(other)).unwrap(), [], "{other}");
        assert_eq!(
            base.xattr(&parse(other), b"user.none").unwrap(),
            None,
            "{other}"
        );
    }
    let stats = base.statfs().unwrap();
    assert!(stats.blocks > 0 && stats.block_size_bytes >= 512);
}

#[test]
fn what_is_not_there_is_none_and_links_are_not_followed() {
    let top = tempfile::tempdir().unwrap();
    make_tree(top.path());
    let base = HostDir::open(top.path()).unwrap();
    let missing = [
        "none",
        "none/x",
        "file/x",
        "escape/passwd",
        "dir/escape/passwd",
        "link/x",
        "fifo/x",
    ];
    for path in missing {
        assert_eq!(base.stat(&parse(path)).unwrap(), None, "{path}");
        assert_eq!(base.read_dir(&parse(path)).unwrap(), [], "{path}");
        assert!(base.open(&parse(path)).is_err(), "{path}");
    }
    assert_eq!(base.read_dir(&parse("escape")).unwrap(), []);
}

#[test]
fn a_replaced_directory_shows_soon_and_at_once_when_told() {
    let top = tempfile::tempdir().unwrap();
    let base = HostDir::open(top.path()).unwrap();
    let at = |path: &str| top.path().join(path);
    let size = |path: &str| base.stat(&parse(path)).unwrap().map(|attr| attr.size);
    let replace = |size: usize| {
        fs::rename(at("d"), at("old")).unwrap();
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/e/f"), vec![0; size]).unwrap();
        fs::remove_dir_all(at("old")).unwrap();
    };
    fs::create_dir_all(at("d/e")).unwrap();
    fs::write(at("d/e/f"), "1").unwrap();
    assert_eq!(size("d/e/f"), Some(1));
    replace(2);
    base.invalidate(&parse("d"));
    assert_eq!(size("d/e/f"), Some(2));
    replace(3);
    let start = Instant::now();
    while size("d/e/f") != Some(3) {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Another thread keeps swapping a directory for a symbolic link to a directory
/// outside: never an attribute, an entry or a byte from there.
#[test]
fn a_base_that_changes_underneath_never_leads_outside() {
    let place = tempfile::tempdir().unwrap();
    let (inside, outside) = (place.path().join("base"), place.path().join("outside"));
    for (dir, content) in [
        (inside.join("swap/d"), "inside"),
        (outside.join("d"), "secret!"),
    ] {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("f"), content).unwrap();
    }
    fs::write(outside.join("d/only-outside"), "").unwrap();
    symlink(&outside, inside.join("evil")).unwrap();
    let base = HostDir::open(&inside).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (stop, inside) = (Arc::clone(&stop), inside.clone());
        move || {
            let (a, b) = (inside.join("swap"), inside.join("evil"));
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &a, CWD, &b, flags).unwrap();
            }
        }
    });
    let (mut seen, mut missed) = (0, 0);
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        base.invalidate(&LowerPath::root());
        let stat = base.stat(&parse("swap/d/f")).unwrap();
        assert!(stat.is_none_or(|attr| attr.size == 6));
        let entries = base.read_dir(&parse("swap/d")).unwrap();
        assert!(entries.iter().all(|entry| entry.name.as_bytes() == b"f"));
        match base.open(&parse("swap/d/f")) {
            Ok(file) => {
                let mut bytes = [0; 16];
                let len = file.read_at(&mut bytes, 0).unwrap();
                assert_eq!(&bytes[..len], b"inside");
                seen += 1;
            }
            Err(_) => missed += 1,
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(
        seen > 0 && missed > 0,
        "the race was not run: {seen} seen, {missed} missed"
    );
}

#[test]
fn running_out_of_descriptors_is_survived() {
    const CHILD: &str = "AGENTFS_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        return rerun("running_out_of_descriptors_is_survived", CHILD, |_| {});
    }
    let top = tempfile::tempdir().unwrap();
    for i in 0..100 {
        fs::create_dir(top.path().join(format!("d{i}"))).unwrap();
        fs::write(top.path().join(format!("d{i}/f")), "x").unwrap();
    }
    let limit = rustix::process::Rlimit {
        current: Some(64),
        maximum: Some(64),
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let base = HostDir::open(top.path()).unwrap();
    for i in 0..100 {
        let path = parse(&format!("d{i}/f"));
        assert_eq!(base.stat(&path).unwrap().unwrap().size, 1);
        assert!(base.open(&path).is_ok());
    }
}

#[test]
fn an_ordinary_user_gets_the_same_and_no_more() {
    const CHILD: &str = "AGENTFS_TEST_ORDINARY_USER";
    if std::env::var_os(CHILD).is_some() {
        assert!(!is_root());
        let top = std::env::temp_dir();
        let base = HostDir::open(&top).unwrap();
        assert_eq!(
            base.stat(&parse("of-root/f")).err().map(|e| e.errno),
            Some(libc::EACCES)
        );
        assert_eq!(
            base.read_dir(&parse("of-root")).err().map(|e| e.errno),
            Some(libc::EACCES)
        );
        assert_eq!(
            base.open(&parse("unreadable")).err().map(|e| e.errno),
            Some(libc::EACCES)
        );
        // Not its own file: opened without O_NOATIME then.
        let mut bytes = [0; 8];
        let len = base
            .open(&parse("readable"))
            .unwrap()
            .read_at(&mut bytes, 0)
            .unwrap();
        assert_eq!(&bytes[..len], b"text");
        tells_what_the_host_tells();
        return;
    }
    if !is_root() {
        return skip("needs root to become another user");
    }
    rerun(
        "an_ordinary_user_gets_the_same_and_no_more",
        CHILD,
        |command| {
            let top = Path::new(
                command
                    .get_envs()
                    .find(|(k, _)| *k == "TMPDIR")
                    .unwrap()
                    .1
                    .unwrap(),
            );
            fs::create_dir(top.join("of-root")).unwrap();
            fs::set_permissions(top.join("of-root"), fs::Permissions::from_mode(0o700)).unwrap();
            fs::write(top.join("unreadable"), "").unwrap();
            fs::set_permissions(top.join("unreadable"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(top.join("readable"), "text").unwrap();
            command.uid(65534).gid(65534);
        },
    );
}

/// Runs one test of this binary in a process of its own, with a fresh
/// world-writable `TMPDIR`.
fn rerun(test: &str, variable: &str, prepare: impl FnOnce(&mut std::process::Command)) {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    command
        .args([test, "--exact", "--test-threads=1"])
        .current_dir(place.path());
    command.env(variable, "1").env("TMPDIR", place.path());
    prepare(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
fn a_descriptor_is_enough_and_a_file_is_refused() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("f"), "x").unwrap();
    let dir = fs::File::open(top.path()).unwrap();
    let base = HostDir::from_fd(dir.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert!(base.stat(&parse("f")).unwrap().is_some());
    let file = fs::File::open(top.path().join("f")).unwrap();
    let refused = HostDir::from_fd(file.into()).err().unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTDIR));
}

/// A database in the directory, which this process has open: closing another
/// descriptor of it would give up the process's locks.
#[test]
fn the_own_database_is_neither_seen_nor_opened() {
    let top = tempfile::tempdir().unwrap();
    let file = |name: &str| top.path().join(name);
    fs::create_dir(file("sub")).unwrap();
    for name in ["sub/s.db", "sub/s.db-wal", "sub/other", "s.db-wal"] {
        fs::write(file(name), "text").unwrap();
    }
    fs::hard_link(file("sub/s.db"), file("link")).unwrap();
    let meta = fs::metadata(file("link")).unwrap();
    let path = |name: &str| LowerPath::parse(name.as_bytes()).unwrap();
    let host = HostDir::open(top.path()).unwrap();
    let (database, index, log) = (file("sub/s.db"), file("sub/s.db-shm"), file("sub/s.db-wal"));
    let host = host.without_database(top.path(), &database, &index, &[&log, &index]);
    let shown = |dir: &LowerPath| -> Vec<Vec<u8>> {
        let entries = host.read_dir(dir).unwrap().into_iter();
        let mut names: Vec<_> = entries.map(|e| e.name.as_bytes().to_vec()).collect();
        names.retain(|name| name != b"." && name != b"..");
        names.sort();
        names
    };
    assert_eq!(shown(&LowerPath::root()), [&b"s.db-wal"[..], b"sub"]);
    assert_eq!(shown(&path("sub")), [b"other"]);
    // Made and named otherwise later.
    fs::write(file("sub/s.db-shm"), [0; 64 << 10]).unwrap();
    fs::hard_link(file("sub/s.db-shm"), file("index")).unwrap();
    for name in ["sub/s.db", "sub/s.db-wal", "sub/s.db-shm", "link", "index"] {
        assert_eq!(host.stat(&path(name)).unwrap(), None, "{name}");
        assert!(host.open(&path(name)).is_err(), "{name}");
    }
    // What has been looked up may have become it since; a lock tells a closing.
    let lock = fs::File::options().write(true).open(file("link")).unwrap();
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let locks = || {
        let table = fs::read_to_string("/proc/locks").unwrap();
        let inode = format!(":{} ", meta.ino());
        let ours = format!(" {} ", std::process::id());
        table
            .lines()
            .filter(|line| line.contains(&inode) && line.contains(&ours))
            .count()
    };
    assert_eq!(locks(), 1);
    assert!(host.open(&path("link")).is_err());
    assert!(host.open(&path("sub/s.db")).is_err());
    assert_eq!(locks(), 1);
    drop(
        HostDir::open(top.path())
            .unwrap()
            .open(&path("link"))
            .unwrap(),
    );
    assert_eq!(locks(), 0, "so the lock does show it");
}

/// Who changes a byte of a large file reads a page of it first, and has the chunk around
/// that copied up right after.
#[test]
fn a_first_read_within_a_cold_file_brings_the_chunk_around_it() {
    const CHUNK_BYTES: usize = 32 << 10;
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("file");
    fs::write(&path, vec![7; 4 << 20]).unwrap();
    let kernel = fs::File::open(&path).unwrap();
    kernel.sync_all().unwrap();
    rustix::fs::fadvise(&kernel, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    // How much of it the kernel has, from an offset. Asking has it read the rest.
    let cached = |offset: u64| {
        let mut buf = vec![0; CHUNK_BYTES];
        let into = &mut [std::io::IoSliceMut::new(&mut buf)];
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        rustix::io::preadv2(&kernel, into, offset, flags)
    };
    if cached(3 << 20) != Err(rustix::io::Errno::AGAIN) {
        return skip("this file system drops nothing from the cache");
    }
    let dir = HostDir::open(top.path()).unwrap();
    let dir = dir.with_read_ahead().map_err(|(_, error)| error).unwrap();
    let file = dir.open(&LowerPath::parse(b"file").unwrap()).unwrap();
    let chunk = 1 << 20;
    file.read_at(&mut [0], chunk + 5 * 4096).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(cached(chunk), Ok(CHUNK_BYTES));
}
