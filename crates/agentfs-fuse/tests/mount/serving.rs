//! The mount itself: made by hand, shared, left by panics and locks unharmed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::lower::{LowerAttr, LowerDirEntry, LowerFile, MemoryLower};
use agentfs_core::storage::{MemoryStorage, ReadTxn, SyncDone, WriteTxn};
use agentfs_core::types::FsStats;
use agentfs_core::{LowerError, LowerLayer, LowerPath, Storage, StorageError};
use agentfs_fuse::{FuseConfig, MountOptions, Unchanging, mount_data, serve};
use rustix::fs::FlockOperation;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{View, errno, host_view, memory_view, overlay, overlay_on, skip};

#[test]
fn a_mount_made_by_hand_is_served() {
    if !rustix::process::geteuid().is_root() {
        return skip("mounting needs root");
    }
    let place = tempfile::tempdir().unwrap();
    let base = MemoryLower::new();
    base.file("f", 0o644, "content").unwrap();
    let overlay = overlay(base);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let data = std::ffi::CString::new(mount_data(&device, 0, 0)).unwrap();
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    mount(
        "agentfs",
        place.path(),
        "fuse.agentfs",
        flags,
        data.as_c_str(),
    )
    .unwrap();
    let config = FuseConfig::new(Arc::new(Unchanging));
    let server = serve(overlay, OwnedFd::from(device), config).unwrap();
    assert_eq!(fs::read(place.path().join("f")).unwrap(), b"content");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = format!(
        "agentfs {} fuse.agentfs rw,nosuid,nodev",
        place.path().display()
    );
    assert!(mounts.contains(&line), "{mounts}");
    assert!(!server.is_finished());
    unmount(place.path(), UnmountFlags::empty()).unwrap();
    server.wait().unwrap();
}

/// Through `fusermount3`, in a process of its own.
#[test]
fn an_ordinary_user_mounts_through_the_helper() {
    const CHILD: &str = "AGENTFS_TEST_ORDINARY_USER";
    if std::env::var_os(CHILD).is_some() {
        assert!(!rustix::process::geteuid().is_root());
        let base = MemoryLower::new();
        base.file("f", 0o644, "content")
            .unwrap()
            .set_owner("", 65534, 65534)
            .unwrap();
        let view = View::mount_here(base, Arc::new(Unchanging), &MountOptions::default());
        assert_eq!(fs::read(view.at("f")).unwrap(), b"content");
        fs::write(view.at("new"), "new").unwrap();
        assert_eq!(fs::metadata(view.at("new")).unwrap().uid(), 65534);
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return skip("needs root to become another user");
    }
    let device = fs::metadata("/dev/fuse").map_or(0, |stat| stat.mode() & 0o006);
    if device != 0o006 || !std::path::Path::new("/usr/bin/fusermount3").exists() {
        return skip("needs fusermount3 and a /dev/fuse open to all");
    }
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new(&program)
        .args([
            "serving::an_ordinary_user_mounts_through_the_helper",
            "--exact",
        ])
        .current_dir(place.path())
        .env(CHILD, "1")
        .env("TMPDIR", place.path())
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
fn permissions_are_checked() {
    let base = MemoryLower::new();
    base.file("open", 0o644, "content")
        .unwrap()
        .file("closed", 0o600, "content")
        .unwrap();
    base.dir("private", 0o700)
        .unwrap()
        .file("private/f", 0o666, "content")
        .unwrap();
    let Some(view) = memory_view(&base) else {
        return;
    };
    let as_other = |command: &str| {
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", command])
            .current_dir(&*view)
            .uid(65534)
            .gid(65534);
        sh.output().unwrap().status.success()
    };
    assert!(as_other("cat open"));
    for refused in [
        "cat closed",
        "cat private/f",
        "ls private",
        "echo >> open",
        "echo > new",
        "rm open",
        "mkdir d",
        "mv open closed",
        "chmod 777 open",
        "touch -d now open",
    ] {
        assert!(!as_other(refused), "{refused}");
    }
    fs::set_permissions(&*view, fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(as_other("echo content > theirs && mkdir d && rmdir d"));
    assert_eq!(fs::metadata(view.at("theirs")).unwrap().uid(), 65534);
    assert!(!as_other("rm open"), "the sticky bit");
}

#[test]
fn locks_exclude_each_other() {
    let base = MemoryLower::new();
    base.file("f", 0o644, "content").unwrap();
    let Some(view) = memory_view(&base) else {
        return;
    };
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(view.at("f"))
            .unwrap()
    };
    let (one, two) = (open(), open());
    rustix::fs::flock(&one, FlockOperation::LockExclusive).unwrap();
    let refused = rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared);
    assert_eq!(refused, Err(rustix::io::Errno::AGAIN));
    rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
    rustix::fs::flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    // Record locks are between processes.
    rustix::fs::fcntl_lock(&one, FlockOperation::LockExclusive).unwrap();
    let script = "import fcntl; fcntl.lockf(open('f', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)";
    let python = |script: &str| {
        std::process::Command::new("python3")
            .args(["-c", script])
            .current_dir(&*view)
            .output()
    };
    match python(script) {
        Ok(output) => {
            assert!(String::from_utf8_lossy(&output.stderr).contains("BlockingIOError"));
            rustix::fs::fcntl_lock(&one, FlockOperation::Unlock).unwrap();
            assert!(python(script).unwrap().status.success());
        }
        Err(error) => skip(&format!("python3: {error}")),
    }
}

#[test]
fn programs_run_from_it() {
    let Some(view) = memory_view(&MemoryLower::new()) else {
        return;
    };
    // By a process of its own: what this one has open for writing a child that another
    // test is just starting has open, too, until it executes something.
    let copied = std::process::Command::new("cp")
        .arg("/bin/sh")
        .arg(view.at("shell"))
        .status();
    assert!(copied.unwrap().success());
    let mut child = std::process::Command::new(view.at("shell"))
        .args(["-c", "read line; echo \"$line\""])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(
        errno(OpenOptions::new().write(true).open(view.at("shell"))),
        libc::ETXTBSY
    );
    child.stdin.take().unwrap().write_all(b"it runs\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"it runs\n");
}

#[test]
fn direct_io() {
    let Some(view) = memory_view(&MemoryLower::new()) else {
        return;
    };
    let mut direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(view.at("direct"))
        .unwrap();
    let block = vec![7; 8192];
    direct.write_all(&block).unwrap();
    assert!(fs::read(view.at("direct")).unwrap() == block);
}

/// A base whose every answer about the name `bug` is a panic.
struct Buggy(MemoryLower);

impl LowerLayer for Buggy {
    fn stat(&self, path: &LowerPath) -> Result<Option<LowerAttr>, LowerError> {
        assert_ne!(path.as_bytes(), b"bug");
        self.0.stat(path)
    }
    fn read_dir(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, LowerError> {
        self.0.read_dir(path)
    }
    fn read_link(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError> {
        self.0.read_link(path)
    }
    fn open(&self, path: &LowerPath) -> Result<Box<dyn LowerFile>, LowerError> {
        self.0.open(path)
    }
    fn xattrs(&self, path: &LowerPath) -> Result<Vec<(Vec<u8>, Vec<u8>)>, LowerError> {
        self.0.xattrs(path)
    }
    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        self.0.xattr(path, name)
    }
    fn statfs(&self) -> Result<FsStats, LowerError> {
        self.0.statfs()
    }
}

#[test]
fn a_panic_is_an_error_for_one_program_only() {
    let base = MemoryLower::new();
    base.file("f", 0o644, "content").unwrap();
    let Some(view) = View::mount(Buggy(base), Arc::new(Unchanging)) else {
        return;
    };
    for _ in 0..10 {
        assert_eq!(errno(File::open(view.at("bug"))), libc::EIO);
        assert_eq!(errno(fs::write(view.at("bug"), "x")), libc::EIO);
        fs::write(view.at("other"), "works").unwrap();
    }
    let mut text = String::new();
    File::open(view.at("f"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "content");
}

/// Three that wait for each other, if anything does: unlink holds the directory
/// and wants the file, lseek holds the file and wants its pages written back,
/// and an invalidation wants the directory.
#[test]
fn seeking_removing_and_outside_changes_do_not_block_each_other() {
    const EACH: usize = 1000;
    let Some(view) = host_view(|base| fs::write(base.join("f"), "content").unwrap()) else {
        return;
    };
    let (top, base) = (view.to_owned(), view.base.path().to_owned());
    let (done, ended) = std::sync::mpsc::channel();
    let repeat = |mut work: Box<dyn FnMut(usize) + Send>| {
        let done = done.clone();
        std::thread::spawn(move || {
            (0..EACH).for_each(&mut work);
            done.send(()).unwrap();
        });
    };
    let file = top.join("seek");
    repeat(Box::new(move |_| {
        if let Ok(file) = File::create(&file) {
            let _ = file.set_len(100_000);
            let _ = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0));
        }
    }));
    let file = top.join("seek");
    repeat(Box::new(move |_| drop(fs::remove_file(&file))));
    repeat(Box::new(move |number| {
        fs::write(base.join(format!("n{}", number % 10)), "x").unwrap();
        let _ = fs::metadata(top.join("n1"));
    }));
    for _ in 0..3 {
        if ended.recv_timeout(Duration::from_secs(30)).is_err() {
            // Lets those that are stuck go, so that this fails and does not hang.
            let _ = unmount(&view.path, UnmountFlags::FORCE);
            panic!("stuck");
        }
    }
}

/// A storage that cannot sync.
struct Unsynced(MemoryStorage);

impl Storage for Unsynced {
    fn read<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&dyn ReadTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        self.0.read(f)
    }

    fn write<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&mut dyn WriteTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        self.0.write(f)
    }

    fn sync_then(&self, done: SyncDone) {
        done(Err(StorageError::Full));
    }

    fn chunk_size_bytes(&self) -> u32 {
        self.0.chunk_size_bytes()
    }
}

/// Whatever it is called on: an answer that nobody had to give the storage for would
/// leave what was done before without the promise.
#[test]
fn fsync_of_a_base_file_that_was_only_read_reaches_the_storage() {
    if !rustix::process::geteuid().is_root() {
        return skip("mounting needs root");
    }
    let base = MemoryLower::new();
    base.file("f", 0o644, "content").unwrap();
    let overlay = overlay_on(Unsynced(MemoryStorage::new(4096)), base);
    let place = tempfile::tempdir().unwrap();
    let options = MountOptions { allow_other: true };
    let config = FuseConfig::new(Arc::new(Unchanging));
    let server = agentfs_fuse::mount(overlay, place.path(), &options, config).unwrap();
    for path in [place.path().join("f"), place.path().to_owned()] {
        let synced = File::open(path).unwrap().sync_all();
        assert_eq!(errno(synced), libc::ENOSPC);
    }
    server.unmount().unwrap();
    server.wait().unwrap();
}
