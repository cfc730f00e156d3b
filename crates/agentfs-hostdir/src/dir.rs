//! [`HostDir`]: the lower layer over a directory descriptor.
//!
//! Directories are kept open as `O_PATH` in a bounded cache, so that a `stat`
//! costs one system call. A cached descriptor keeps pointing at the directory it
//! was opened for even when others replace it, therefore it is used for a short
//! time only ([`CACHED_FOR`]) and dropped at once by [`HostDir::invalidate`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentfs_core::lower::{LowerAttr, LowerDirEntry, LowerFile, LowerLayer};
use agentfs_core::types::FsStats;
use agentfs_core::{LowerError, LowerPath, Name};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, Stat, openat, statat};
use rustix::io::Errno;

use crate::convert::{dirent_kind, lower_attr};
use crate::file::{self, HostFile};
use crate::left_out::LeftOut;
use crate::read_ahead::ReadAhead;
use crate::{walk, xattr};

/// Directory descriptors kept open, at most.
const CACHED_DIRS_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(512).unwrap();
/// How long a cached descriptor is believed to be what its path leads to.
const CACHED_FOR: Duration = Duration::from_millis(500);
/// Bytes of directory entries asked for at once.
const DIRENT_BUFFER_BYTES: usize = 64 * 1024;
/// The first buffer for the target of a symbolic link, in bytes.
const LINK_BUFFER_BYTES: usize = 256;

/// A directory of the host, read-only. Cheap to share: put it into an [`Arc`].
pub struct HostDir {
    root: Arc<OwnedFd>,
    dirs: Mutex<LruCache<LowerPath, CachedDir>>,
    left_out: Arc<LeftOut>,
    ahead: Option<ReadAhead>,
}

struct CachedDir {
    fd: Arc<OwnedFd>,
    opened: Instant,
    /// Whether a name has been looked for in it.
    looked_into: bool,
}

impl HostDir {
    /// Opens a directory, following symbolic links in `path` itself.
    ///
    /// # Errors
    /// As `open(2)` with `O_DIRECTORY`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::from_fd(openat(CWD, path.as_ref(), flags, Mode::empty())?)
    }

    /// Uses a directory that is open already (`O_PATH` will do).
    ///
    /// # Errors
    /// ENOTDIR when it is no directory.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Self {
            root: Arc::new(fd),
            dirs: Mutex::new(LruCache::new(CACHED_DIRS_MAX)),
            left_out: Arc::default(),
            ahead: None,
        })
    }

    /// Leaves out a database that this process has open: neither it nor its companions
    /// are seen, or ever opened; it and the `index` among these, the `-shm`, under
    /// whatever name. The root of this is at `directory` on the host, by which they are
    /// looked for.
    ///
    /// For closing any descriptor of a file gives up all locks that the process
    /// has on it (fcntl(2)), SQLite's with them.
    #[must_use]
    pub fn without_database(
        mut self,
        directory: &Path,
        database: &Path,
        index: &Path,
        companions: &[&Path],
    ) -> Self {
        self.left_out = Arc::new(LeftOut::database(directory, database, index, companions));
        self
    }

    /// From now on has the kernel read ahead what programs seem to want next, where
    /// it is not in the kernel's caches yet: names and attributes of directories
    /// near those looked into, and small files beside those read. Nothing but time
    /// shows. It takes two threads, which sleep while nothing is cold and end with
    /// this, and at most about a MiB; no descriptor is kept, and no other file system
    /// is touched that is mounted below. To be called after [`Self::without_database`].
    ///
    /// # Errors
    /// Itself, as it was, when no thread can be had.
    #[allow(clippy::result_large_err)] // Goes on without, as a rule.
    pub fn with_read_ahead(mut self) -> Result<Self, (Self, io::Error)> {
        match ReadAhead::start(Arc::clone(&self.root), Arc::clone(&self.left_out)) {
            Ok(ahead) => {
                self.ahead = Some(ahead);
                Ok(self)
            }
            Err(error) => Err((self, error)),
        }
    }

    /// The threads that read ahead, once they have begun, as gettid(2) names them, for
    /// whoever says where they may run; none without [`Self::with_read_ahead`]. They end
    /// with this.
    #[must_use]
    pub fn read_ahead_threads(&self) -> Vec<i32> {
        self.ahead.as_ref().map(ReadAhead::ids).unwrap_or_default()
    }

    /// Forgets what is cached of `path` and everything beneath: the base changed
    /// there.
    pub fn invalidate(&self, path: &LowerPath) {
        let mut dirs = self.dirs.lock();
        if path.is_root() {
            dirs.clear();
            return;
        }
        let stale: Vec<LowerPath> = dirs
            .iter()
            .map(|(at, _)| at)
            .filter(|at| is_at_or_below(at, path))
            .cloned()
            .collect();
        for at in stale {
            dirs.pop(&at);
        }
    }

    /// Closes what is kept open of `path` itself: nobody asks for it any more.
    pub(crate) fn forget(&self, path: &LowerPath) {
        self.dirs.lock().pop(path);
    }

    /// The directory at `path`, as `O_PATH`.
    pub(crate) fn dir(&self, path: &LowerPath) -> Result<Arc<OwnedFd>, Errno> {
        self.dir_for(path, None)
    }

    /// As [`Self::dir`], to look for `name` in it.
    fn dir_for(&self, path: &LowerPath, name: Option<&Name>) -> Result<Arc<OwnedFd>, Errno> {
        if path.is_root() {
            return Ok(Arc::clone(&self.root));
        }
        let cached = self.dirs.lock().get_mut(path).and_then(|cached| {
            let is_first = name.is_some() && !std::mem::replace(&mut cached.looked_into, true);
            (cached.opened.elapsed() < CACHED_FOR).then(|| (Arc::clone(&cached.fd), is_first))
        });
        if let Some((fd, is_first)) = cached {
            if is_first {
                self.entered(path, &fd, name);
            }
            return Ok(fd);
        }
        let opened = Instant::now();
        let fd = Arc::new(walk::open_dir(&self.root, path.as_bytes())?);
        self.entered(path, &fd, name);
        self.dirs.lock().put(
            path.clone(),
            CachedDir {
                fd: Arc::clone(&fd),
                opened,
                looked_into: name.is_some(),
            },
        );
        Ok(fd)
    }

    /// A program looks for `name` in a directory, the first time in a while.
    fn entered(&self, path: &LowerPath, dir: &OwnedFd, name: Option<&Name>) {
        if let (Some(ahead), Some(name)) = (&self.ahead, name) {
            ahead.shared().entered(path, dir, name);
        }
    }

    /// The directory that holds `path` and the name in it; for the root, itself
    /// and `.`.
    fn place(&self, path: &LowerPath) -> Result<(Arc<OwnedFd>, Option<Name>), Errno> {
        match path.split() {
            Some((dir, name)) => Ok((self.dir_for(&dir, Some(&name))?, Some(name))),
            None => Ok((Arc::clone(&self.root), None)),
        }
    }

    /// Runs `f`; when descriptors have run out, frees ours and runs it again.
    fn with_fds<T>(
        &self,
        path: &LowerPath,
        f: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, LowerError> {
        let result = match f() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.dirs.lock().clear();
                f()
            }
            result => result,
        };
        result.map_err(|errno| error(path, errno))
    }

    /// Whether an entry of a directory is not shown. `ino` is the listing's, which
    /// says nothing of the device.
    fn leaves_out(&self, dir: &LowerPath, listing: &OwnedFd, name: &Name, ino: u64) -> bool {
        let is_file = self.left_out.may_have_number(ino)
            && statat(listing, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| self.left_out.is_file(&stat));
        is_file || self.left_out.has_entry(dir, name)
    }

    /// `None` when nothing is at `path`.
    fn stat_raw(&self, path: &LowerPath) -> Result<Option<Stat>, Errno> {
        if self.left_out.has_path(path) {
            return Ok(None);
        }
        let (dir, name) = match self.place(path) {
            Ok(place) => place,
            Err(errno) if is_missing(errno) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let result = match &name {
            Some(name) => statat(
                &dir,
                name.as_bytes(),
                AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            ),
            None => rustix::fs::fstat(&dir),
        };
        match result {
            Ok(stat) => Ok(Some(stat).filter(|stat| !self.left_out.is_file(stat))),
            Err(errno) if is_missing(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn read_dir_raw(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, Errno> {
        let dir = match self.dir(path) {
            Ok(dir) => dir,
            Err(errno) if is_missing(errno) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = file::open_noatime(dir.as_fd(), b".", flags)?;
        let mut buffer = Vec::with_capacity(DIRENT_BUFFER_BYTES);
        let mut raw = RawDir::new(&listing, buffer.spare_capacity_mut());
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = match entry {
                // Removed while it was open: empty from now on.
                Err(Errno::NOENT) => break,
                entry => entry?,
            };
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else {
                continue;
            };
            if self.leaves_out(path, &listing, &name, entry.ino()) {
                continue;
            }
            let kind = match dirent_kind(entry.file_type()) {
                Some(kind) => kind,
                None => match statat(&listing, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => match lower_attr(&stat) {
                        Some(attr) => attr.kind,
                        None => continue,
                    },
                    Err(errno) if is_missing(errno) => continue,
                    Err(errno) => return Err(errno),
                },
            };
            entries.push(LowerDirEntry {
                name,
                kind,
                ino: entry.ino(),
            });
        }
        self.entered(path, &dir, entries.first().map(|first| &first.name));
        Ok(entries)
    }
}

impl LowerLayer for HostDir {
    fn stat(&self, path: &LowerPath) -> Result<Option<LowerAttr>, LowerError> {
        let stat = self.with_fds(path, || self.stat_raw(path))?;
        Ok(stat.as_ref().and_then(lower_attr))
    }

    fn read_dir(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, LowerError> {
        self.with_fds(path, || self.read_dir_raw(path))
    }

    fn read_link(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError> {
        let target = self.with_fds(path, || match self.place(path)? {
            (dir, Some(name)) => {
                let buffer = Vec::with_capacity(LINK_BUFFER_BYTES);
                rustix::fs::readlinkat(&dir, name.as_bytes(), buffer)
            }
            (_, None) => Err(Errno::INVAL),
        })?;
        Ok(target.into_bytes())
    }

    fn open(&self, path: &LowerPath) -> Result<Box<dyn LowerFile>, LowerError> {
        if self.left_out.has_path(path) {
            return Err(error(path, Errno::NOENT));
        }
        let (fd, stat) = self.with_fds(path, || match self.place(path)? {
            (dir, Some(name)) => file::open_regular(dir.as_fd(), name.as_bytes()),
            (_, None) => Err(Errno::INVAL),
        })?;
        let fd = self
            .left_out
            .refuse(fd, &stat)
            .map_err(|errno| error(path, errno))?;
        let ahead = self.ahead.as_ref().map(|ahead| Arc::clone(ahead.shared()));
        Ok(Box::new(HostFile::new(fd, path.clone(), ahead)))
    }

    fn xattrs(&self, path: &LowerPath) -> Result<Vec<(Vec<u8>, Vec<u8>)>, LowerError> {
        self.with_fds(path, || {
            let (dir, name) = self.place(path)?;
            xattr::all(dir.as_fd(), name.as_ref())
        })
    }

    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        self.with_fds(path, || {
            let (dir, entry) = self.place(path)?;
            xattr::one(dir.as_fd(), entry.as_ref(), name)
        })
    }

    fn statfs(&self) -> Result<FsStats, LowerError> {
        let root = LowerPath::root();
        let stats = rustix::fs::fstatvfs(&self.root).map_err(|errno| error(&root, errno))?;
        Ok(FsStats {
            // The counts are in units of the fragment size.
            block_size_bytes: u32::try_from(stats.f_frsize).unwrap_or(4096),
            blocks: stats.f_blocks,
            blocks_free: stats.f_bfree,
            blocks_available: stats.f_bavail,
            files: stats.f_files,
            files_free: stats.f_ffree,
        })
    }
}

/// Whether the host says that there is nothing at the path: a component is
/// missing, is no directory, or has become a symbolic link.
fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

fn is_at_or_below(path: &LowerPath, top: &LowerPath) -> bool {
    path.as_bytes()
        .strip_prefix(top.as_bytes())
        .is_some_and(|rest| rest.first().is_none_or(|&b| b == b'/'))
}

pub(crate) fn error(path: &LowerPath, errno: Errno) -> LowerError {
    LowerError {
        path: path.clone(),
        errno: errno.raw_os_error(),
    }
}
