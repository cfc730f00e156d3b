//! The runtime directory: where a session's socket and log lie, how two `run`s
//! on one database meet, and who may start a server.
//!
//! Nothing here follows a symbolic link that somebody else could have made, or
//! uses a directory that is not ours alone.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, chmodat, openat};

use crate::error::SessionError;

/// How long the log of a server that died is kept.
const DEAD_LOG_AGE: Duration = Duration::from_secs(24 * 3600);

/// How deep directories are opened up to be removed: each takes two descriptors.
const OPEN_UP_MAX: u32 = 256;

/// Identity of a database file: device and inode.
pub(crate) type DbId = (u64, u64);

#[allow(clippy::needless_pass_by_value)] // for map_err
fn bad(path: &Path, reason: impl ToString) -> SessionError {
    SessionError::RuntimeDirectory {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Makes sure of a directory of ours with mode 0700.
fn private_directory(path: &Path) -> Result<(), SessionError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(bad(path, error)),
        _ => {}
    }
    let meta = fs::symlink_metadata(path).map_err(|e| bad(path, e))?;
    if !meta.is_dir() {
        return Err(bad(path, "it is not a directory"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(bad(path, "it belongs to another user"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(bad(path, "others have access to it"));
    }
    Ok(())
}

/// Whether `path` is a directory of ours alone: fit to hold the runtime directory.
fn fit(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| {
        meta.is_dir()
            && meta.uid() == rustix::process::geteuid().as_raw()
            && meta.mode() & 0o077 == 0
    })
}

/// Where runtime directories may lie, best first. A `run` with a different
/// environment (cron, su) may have used another one than we would.
fn roots() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let mut roots = Vec::new();
    let from_env = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute());
    for dir in from_env
        .into_iter()
        .chain([PathBuf::from(format!("/run/user/{uid}"))])
    {
        let root = dir.join("agentfs");
        if fit(&dir) && !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots.push(temp_root(Path::new("/tmp")));
    roots
}

/// This user's directory in a temporary directory shared by all.
pub(crate) fn temp_root(in_dir: &Path) -> PathBuf {
    in_dir.join(format!("agentfs-{}", rustix::process::geteuid().as_raw()))
}

/// Every directory that must not be reachable from inside.
pub(crate) fn all_roots() -> Vec<PathBuf> {
    let mut all = roots();
    for shared in ["/tmp", "/var/tmp"] {
        let root = temp_root(Path::new(shared));
        if !all.contains(&root) {
            all.push(root);
        }
    }
    all
}

fn key((device, inode): DbId) -> String {
    format!("{device:x}-{inode:x}")
}

/// The directories in which sessions may be found, with their names.
pub(crate) fn session_directories() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in roots().iter().filter(|root| fit(root)) {
        let Ok(entries) = fs::read_dir(root) else {
            continue;
        };
        found.extend(
            entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.join(SOCKET).exists()),
        );
    }
    found
}

/// Name of the socket in a session's directory.
pub(crate) const SOCKET: &str = "socket";
/// Name of the log in a session's directory.
pub(crate) const LOG: &str = "log";

/// Connects to the server of a session, if one listens.
pub(crate) fn connect(directory: &Path) -> io::Result<OwnedFd> {
    Ok(std::os::unix::net::UnixStream::connect(directory.join(SOCKET))?.into())
}

/// The directory of the live session on a database and a connection to it.
pub(crate) fn find(id: DbId) -> Option<(PathBuf, OwnedFd)> {
    roots()
        .into_iter()
        .filter(|root| fit(root))
        .find_map(|root| {
            let directory = root.join(key(id));
            connect(&directory).ok().map(|socket| (directory, socket))
        })
}

/// A session's directory, locked: nobody else starts a server in it.
#[derive(Debug)]
pub(crate) struct StartLock {
    pub(crate) directory: PathBuf,
    _lock: OwnedFd,
}

impl StartLock {
    /// Makes the directory of a database's session and waits for its lock.
    pub(crate) fn take(id: DbId) -> Result<Self, SessionError> {
        let roots = roots();
        let mut result = Err(bad(Path::new("/tmp"), "there is none"));
        for root in roots {
            result = private_directory(&root).and_then(|()| Self::take_in(&root.join(key(id))));
            if result.is_ok() {
                sweep(&root);
                break;
            }
        }
        result
    }

    fn take_in(directory: &Path) -> Result<Self, SessionError> {
        loop {
            private_directory(directory)?;
            let lock = match open_directory(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| bad(directory, e))?,
            };
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)
                .map_err(|e| bad(directory, e))?;
            // The session that had it may have removed or renamed it meanwhile.
            let held = rustix::fs::fstat(&lock).map_err(|e| bad(directory, e))?;
            if fs::symlink_metadata(directory)
                .is_ok_and(|m| m.ino() == held.st_ino && m.dev() == held.st_dev)
            {
                return Ok(Self {
                    directory: directory.to_owned(),
                    _lock: lock,
                });
            }
        }
    }

    /// Takes the lock of a directory that exists.
    pub(crate) fn take_existing(directory: &Path) -> io::Result<Self> {
        let lock = open_directory(directory)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The name a session's directory gets while the session ends.
pub(crate) fn ending_name(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(format!("{ENDING}{}", std::process::id()));
    PathBuf::from(name)
}

/// Whether the session that had this directory before is about to end.
pub(crate) fn is_ending(directory: &Path) -> bool {
    let (Some(root), Some(key)) = (directory.parent(), directory.file_name()) else {
        return false;
    };
    let prefix = format!("{}{ENDING}", key.to_string_lossy());
    fs::read_dir(root).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A server that was killed while it ended has left it behind.
            name.strip_prefix(&prefix)
                .is_some_and(|pid| Path::new("/proc").join(pid).exists())
        })
    })
}

const ENDING: &str = ".ending-";

/// Opens a fresh log in a session's directory; the one before is kept beside it.
pub(crate) fn open_log(directory: &Path) -> io::Result<File> {
    let path = directory.join(LOG);
    let _ = fs::rename(&path, directory.join("log.old"));
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// A directory for the session's temporary files on the disk of `/tmp` or
/// `/var/tmp`, locked for as long as the returned descriptor lives.
pub(crate) fn make_temp(shared: &Path) -> Result<(PathBuf, OwnedFd), SessionError> {
    let root = temp_root(shared);
    private_directory(&root)?;
    remove_stale_temps(&root);
    for attempt in 0..1000_u32 {
        let path = root.join(format!(
            "tmp-{}-{attempt}",
            rustix::process::getpid().as_raw_pid()
        ));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {
                let lock = open_directory(&path).map_err(|e| bad(&path, e))?;
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)
                    .map_err(|e| bad(&path, e))?;
                return Ok((path, lock));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(bad(&path, error)),
        }
    }
    Err(bad(&root, "it is full of old temporary directories"))
}

/// Removes temporary directories whose session is gone.
fn remove_stale_temps(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let is_temp = path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with("tmp-"));
        let Some(lock) = is_temp.then(|| open_directory(&path).ok()).flatten() else {
            continue;
        };
        let young = fs::symlink_metadata(&path)
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().unwrap_or_default() < Duration::from_secs(10));
        // Between mkdir and flock a directory looks stale; those are young.
        if !young && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_tree(&path);
        }
    }
}

/// Removes a tree made by programs inside, whatever modes they gave it.
pub(crate) fn remove_tree(path: &Path) {
    if fs::remove_dir_all(path).is_ok() {
        return;
    }
    if let Err(error) = open_up(CWD, path, 0) {
        tracing::warn!("{} cannot be opened up: {error}", path.display());
    }
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!("{} is left behind: {error}", path.display());
    }
}

/// Gives ourselves access to every directory of a tree, by descriptors: programs
/// of a session whose server was killed may still be in it, and put links where
/// directories were.
fn open_up(parent: impl AsFd, name: &Path, depth: u32) -> io::Result<()> {
    if depth > OPEN_UP_MAX {
        return Ok(());
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    // Of a descriptor that gives no access the mode is changed by this way only.
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    chmodat(CWD, itself, Mode::RWXU, AtFlags::empty())?;
    let listing = openat(&found, ".", flags | OFlags::RDONLY, Mode::empty())?;
    let mut buffer = Vec::with_capacity(16 << 10);
    let mut entries = RawDir::new(&listing, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let maybe = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if maybe && name != "." && name != ".." {
            // What has gone or is something else by now needs no access.
            let _ = open_up(&listing, Path::new(name), depth + 1);
        }
    }
    Ok(())
}

/// Removes what sessions that died long ago left in a runtime directory.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let old = fs::symlink_metadata(path.join(LOG))
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().unwrap_or_default() > DEAD_LOG_AGE);
        if old && connect(&path).is_err() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// The identity of a database file.
pub(crate) fn db_id(path: &Path) -> io::Result<DbId> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tree_without_access_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        for closed in ["a/b", "a"] {
            fs::set_permissions(top.join(closed), fs::Permissions::from_mode(0o000)).unwrap();
        }
        open_up(CWD, &top, 0).unwrap();
        for opened in ["a", "a/b"] {
            let mode = fs::metadata(top.join(opened)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700, "{opened}");
        }
        remove_tree(&top);
        assert!(!top.exists());
    }

    /// A program of a session whose server was killed swaps a directory of its
    /// `/tmp` for a link, while the next session's start clears that away.
    #[test]
    fn opening_up_a_tree_changes_nothing_that_a_link_leads_to() {
        use rustix::fs::{RenameFlags, renameat_with};
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir_all(top.join("a")).unwrap();
        fs::create_dir_all(outside.join("below")).unwrap();
        let kept = fs::Permissions::from_mode(0o755);
        for path in [&outside, &outside.join("below")] {
            fs::set_permissions(path, kept.clone()).unwrap();
        }
        std::os::unix::fs::symlink(&outside, top.join("b")).unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let (a, b) = (top.join("a"), top.join("b"));
                    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..3000 {
                let _ = open_up(CWD, &top, 0);
            }
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        for path in [&outside, &outside.join("below")] {
            let mode = fs::metadata(path).unwrap().mode();
            assert_eq!(mode & 0o777, 0o755, "{}", path.display());
        }
    }
}
