//! Clauses that only a kernel can show, on a real mount.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use agentfs_core::storage::MemoryStorage;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::mount_model::{mount, unmount};

/// Runs `f` in a view of a directory with a file `file` in it.
fn mounted(f: impl FnOnce(&Path)) {
    let (base, at) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(base.path().join("file"), vec![b'0'; 10_000]).unwrap();
    let storage = Arc::new(MemoryStorage::new(4096));
    let server = mount(storage, base.path(), at.path());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(at.path())));
    unmount(server, at.path());
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(
        std::fs::read(base.path().join("file")).unwrap(),
        vec![b'0'; 10_000]
    );
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting needs root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn an_open_file_is_one_file_across_copy_up() {
    mounted(|root| {
        let path = root.join("file");
        let reader = File::open(&path).unwrap();
        let number = reader.metadata().unwrap().ino();
        let mut byte = [0];
        reader.read_exact_at(&mut byte, 5_000).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(b"X", 5_000).unwrap();
        reader.read_exact_at(&mut byte, 5_000).unwrap();
        assert_eq!(&byte, b"X", "opened before the copy-up");
        crate::mount_model::map_write(
            &OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap(),
            5_001,
            b"Y",
        );
        reader.read_exact_at(&mut byte, 5_001).unwrap();
        assert_eq!(&byte, b"Y", "written through a mapping");
        assert_eq!(path.metadata().unwrap().ino(), number);
        std::fs::rename(&path, root.join("moved")).unwrap();
        std::fs::remove_file(root.join("moved")).unwrap();
        reader.read_exact_at(&mut byte, 5_000).unwrap();
        assert_eq!((&byte, reader.metadata().unwrap().nlink()), (b"X", 0));
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting needs root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn appends_of_two_terminals_do_not_meet() {
    mounted(|root| {
        let path = root.join("log");
        File::create(&path).unwrap();
        std::thread::scope(|scope| {
            for tag in ["a", "b"] {
                let path = &path;
                scope.spawn(move || {
                    let mut file = OpenOptions::new().append(true).open(path).unwrap();
                    for n in 0..200 {
                        // One call: what is formatted piecemeal may be split.
                        file.write_all(format!("{tag}{n:03}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
        let mut text = String::new();
        File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        for tag in ["a", "b"] {
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(tag)).collect();
            assert_eq!(lines.len(), 200);
            assert!(lines.is_sorted());
        }
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting needs root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn locks_are_shared_by_all_terminals() {
    mounted(|root| {
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(root.join("file"))
                .unwrap()
        };
        let (first, second) = (open(), open());
        rustix::fs::flock(&first, FlockOperation::LockExclusive).unwrap();
        let refused = rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(refused, Err(Errno::WOULDBLOCK));
        rustix::fs::flock(&first, FlockOperation::Unlock).unwrap();
        rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive).unwrap();
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting needs root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn a_mount_has_tmpfiles() {
    let unnamed = |dir: &Path| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        File::from(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).unwrap())
    };
    let link = |file: &File, to: &Path| {
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, name, CWD, to, AtFlags::SYMLINK_FOLLOW)
    };
    let uses = |dir: &Path| {
        let file = unnamed(dir);
        file.write_all_at(b"content", 3).unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!(
            (stat.nlink(), stat.len(), stat.mode() & 0o7777),
            (0, 10, 0o600)
        );
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1, "no name");
        link(&file, &dir.join("named")).unwrap();
        assert_eq!(std::fs::read(dir.join("named")).unwrap(), b"\0\0\0content");
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        assert_eq!(
            dir.join("named").metadata().unwrap().ino(),
            stat.ino(),
            "the same file"
        );
        // What is never named is gone.
        unnamed(dir).write_all_at(b"lost", 0).unwrap();
        let left = std::fs::read_dir(dir).unwrap().count();
        assert_eq!(left, 2);
    };
    mounted(uses);
    let plain = tempfile::tempdir().unwrap();
    std::fs::write(plain.path().join("file"), "").unwrap();
    uses(plain.path());
}
