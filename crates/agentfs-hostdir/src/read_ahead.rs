//! [`ReadAhead`]: has the kernel read from the disk what programs are about to ask
//! for, while they still work on what they have.
//!
//! A cold tree costs a program one wait for the disk after the other, with a round
//! trip to us between them; the disk could serve many at once. So, where something
//! turns out not to be in the kernel's caches, threads of ours go through what lies
//! next to it: they look names up and begin to read small files. What they find they
//! throw away: only the kernel's caches have it, and only time shows.
//!
//! Must never change anything (access times included), open what is left out or no
//! regular file, leave the file system that the directory lies on, keep a descriptor
//! longer than one step, or do anything where all is in the caches.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use agentfs_core::{LowerPath, Name};
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{Advice, Mode, OFlags, RawDir, ResolveFlags, fadvise, openat2};
use rustix::io::Errno;

use crate::file;
use crate::left_out::LeftOut;
use crate::plan::{FORGOTTEN_AFTER, Plan, Step};
use crate::walk;

/// Directories are read one block after the other, each by a thread that waits.
const THREADS: usize = 2;
/// Bytes of directory entries asked for at once.
const DIRENT_BUFFER_BYTES: usize = 32 * 1024;
/// What counts as a small file.
const SMALL_FILE_MAX_BYTES: u64 = 256 * 1024;
/// The lowest priority: where the disk is not waited for, programs and their answers have
/// the processors, and are not held up by what is read for them.
const NICE: i32 = 19;
/// Of one directory no more is read, in bytes and in files.
const DIRECTORY_MAX_BYTES: u64 = 8 << 20;
const DIRECTORY_MAX_FILES: usize = 512;

/// The threads that read ahead in a directory. They end when it is dropped, after
/// the system call that each is in.
pub(crate) struct ReadAhead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads, the directory and its open files share.
pub(crate) struct Shared {
    root: Arc<OwnedFd>,
    left_out: Arc<LeftOut>,
    plan: Mutex<Plan>,
    wake: Condvar,
    ended: AtomicBool,
    /// The threads that have begun, as gettid(2) names them.
    begun: Mutex<Vec<i32>>,
}

impl ReadAhead {
    /// # Errors
    /// No thread can be had.
    pub(crate) fn start(root: Arc<OwnedFd>, left_out: Arc<LeftOut>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            root,
            left_out,
            plan: Mutex::new(Plan::new()),
            wake: Condvar::new(),
            ended: AtomicBool::new(false),
            begun: Mutex::default(),
        });
        // Those that could be started end with it when one cannot.
        let mut this = Self {
            shared,
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let shared = Arc::clone(&this.shared);
            let thread = std::thread::Builder::new().name("read-ahead".into());
            this.threads.push(thread.spawn(move || shared.run())?);
        }
        Ok(this)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn ids(&self) -> Vec<i32> {
        self.shared.begun.lock().clone()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        {
            // With the lock, or one that is about to sleep would not see it.
            let _plan = self.shared.plan.lock();
            self.shared.ended.store(true, Ordering::Relaxed);
        }
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A program looks into a directory, and for `name` in it first.
    pub(crate) fn entered(&self, path: &LowerPath, dir: &OwnedFd, name: &Name) {
        let cold = is_cold(dir.as_fd(), name);
        self.tell(|plan| plan.entered(path, cold));
    }

    /// A program reads a file for the first time; `cold` where it had to wait.
    pub(crate) fn read_first(&self, path: &LowerPath, cold: bool) {
        self.tell(|plan| plan.read_first(path, cold));
    }

    fn tell(&self, what: impl FnOnce(&mut Plan) -> bool) {
        if what(&mut self.plan.lock()) {
            self.wake.notify_all();
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn run(&self) {
        let own = rustix::thread::gettid().as_raw_pid();
        self.begun.lock().push(own);
        // Of this thread alone. Without, it works as well, at the expense of others.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut plan = self.plan.lock();
        while !self.has_ended() {
            let Some(step) = plan.next() else {
                if plan.is_empty() {
                    self.wake.wait(&mut plan);
                } else if self.wake.wait_for(&mut plan, FORGOTTEN_AFTER).timed_out() {
                    // Here, and not in the request that comes next: to give back what is in no
                    // cache of the processor any more takes a millisecond.
                    let old = plan.forget();
                    MutexGuard::unlocked(&mut plan, || drop(old));
                }
                continue;
            };
            drop(plan);
            // Whatever cannot be read is for the program to find out.
            let done: Result<(), Errno> = match step {
                Step::Look {
                    path,
                    visited,
                    known,
                } => self.look(&path, visited, known),
                Step::Contents(path) => self.contents(&path),
            };
            if let Err(errno) = done {
                tracing::trace!(%errno, "not read ahead");
            }
            plan = self.plan.lock();
        }
    }

    /// Looks all names of a directory up.
    fn look(&self, path: &LowerPath, visited: bool, known: bool) -> Result<(), Errno> {
        let listing = self.list(path)?;
        let mut below = Vec::new();
        each_entry(&listing, |name, kind, _| {
            // An `O_PATH` descriptor reads the inode and opens nothing.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = known || here(listing.as_fd(), name.as_bytes(), flags).is_ok();
            if found && kind.is_dir() {
                below.push(path.join(&name));
            }
            !self.has_ended()
        })?;
        self.plan.lock().looked(path, below, visited);
        self.wake.notify_all();
        Ok(())
    }

    /// Begins to read the small files of a directory.
    fn contents(&self, path: &LowerPath) -> Result<(), Errno> {
        let listing = self.list(path)?;
        let (mut files, mut bytes) = (0, 0);
        each_entry(&listing, |name, kind, ino| {
            let at = path.join(&name);
            if kind.is_file()
                && !self.left_out.may_be(&at, ino)
                && let Ok(size) = self.small_file(listing.as_fd(), &name)
            {
                files += 1;
                bytes += size;
                self.plan.lock().began(at, size);
            }
            files < DIRECTORY_MAX_FILES && bytes < DIRECTORY_MAX_BYTES && !self.has_ended()
        })
    }

    fn small_file(&self, dir: BorrowedFd<'_>, name: &Name) -> Result<u64, Errno> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = match here(dir, name.as_bytes(), flags | OFlags::NOATIME) {
            Err(Errno::PERM) => here(dir, name.as_bytes(), flags)?,
            result => result?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        let fd = self.left_out.refuse(fd, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let is_regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        if !is_regular || size == 0 || size > SMALL_FILE_MAX_BYTES {
            return Err(Errno::INVAL);
        }
        fadvise(&fd, 0, NonZeroU64::new(size), Advice::WillNeed)?;
        Ok(size)
    }

    fn list(&self, path: &LowerPath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if path.is_root() {
            return file::open_noatime(self.root.as_fd(), b".", flags);
        }
        let dir = walk::open_dir_on_same_mount(&self.root, path.as_bytes())?;
        file::open_noatime(dir.as_fd(), b".", flags)
    }
}

/// Whether the kernel would have to ask the file system for `name`.
fn is_cold(dir: BorrowedFd<'_>, name: &Name) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::CACHED | ResolveFlags::NO_XDEV;
    // A kernel before 5.12 does not know it: nothing is cold then.
    openat2(dir, name.as_bytes(), flags, Mode::empty(), resolve).err() == Some(Errno::AGAIN)
}

/// Opens an entry of a directory on the directory's own file system: nothing is
/// mounted in answer, and nothing that is mounted is held or waited for.
fn here(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(dir, name, flags, Mode::empty(), resolve)
}

/// Tells of each entry its name, type and number, until `f` says no.
fn each_entry(
    listing: &OwnedFd,
    mut f: impl FnMut(Name, rustix::fs::FileType, u64) -> bool,
) -> Result<(), Errno> {
    let mut buffer = Vec::with_capacity(DIRENT_BUFFER_BYTES);
    let mut raw = RawDir::new(listing, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let Ok(name) = Name::new(entry.file_name().to_bytes()) else {
            continue;
        };
        if !f(name, entry.file_type(), entry.ino()) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    fn started(top: &Path, left_out: LeftOut) -> ReadAhead {
        let root = Arc::new(OwnedFd::from(fs::File::open(top).unwrap()));
        ReadAhead::start(root, Arc::new(left_out)).unwrap()
    }

    #[test]
    fn only_small_regular_files_that_are_shown_are_begun() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::write(at("small"), "x").unwrap();
        fs::write(at("s.db"), "database").unwrap();
        fs::write(at("s.db-wal"), "log").unwrap();
        fs::hard_link(at("s.db"), at("other name")).unwrap();
        fs::File::create(at("large"))
            .unwrap()
            .set_len(SMALL_FILE_MAX_BYTES + 1)
            .unwrap();
        let (mode, fifo) = (Mode::RUSR | Mode::WUSR, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, mode, 0).unwrap();
        std::os::unix::fs::symlink("small", at("link")).unwrap();
        // So old that listing would renew it, were the kernel not told otherwise.
        let times = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
        let dir = fs::File::open(top.path()).unwrap();
        dir.set_times(times).unwrap();

        let (database, index, log) = (at("s.db"), at("s.db-shm"), at("s.db-wal"));
        let left_out = LeftOut::database(top.path(), &database, &index, &[&log, &index]);
        let ahead = started(top.path(), left_out);
        ahead.shared().contents(&LowerPath::root()).unwrap();
        let begun = ahead.shared().plan.lock().begun();
        assert_eq!(begun, [LowerPath::parse(b"small").unwrap()]);
        assert_eq!(dir.metadata().unwrap().atime(), 0);
    }

    #[test]
    fn its_threads_are_known_by_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = started(dir.path(), LeftOut::default());
        while ahead.ids().len() < THREADS {
            std::thread::yield_now();
        }
        for id in ahead.ids() {
            let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm"));
            assert_eq!(name.unwrap().trim(), "read-ahead");
        }
    }

    #[test]
    fn it_ends_when_dropped() {
        let top = tempfile::tempdir().unwrap();
        for i in 0..50 {
            fs::create_dir_all(top.path().join(format!("{i}/a/b"))).unwrap();
        }
        let ahead = started(top.path(), LeftOut::default());
        let shared = Arc::downgrade(ahead.shared());
        ahead
            .shared()
            .tell(|plan| plan.entered(&LowerPath::root(), true));
        let began = Instant::now();
        drop(ahead);
        assert!(shared.upgrade().is_none(), "a thread still holds it");
        assert!(began.elapsed().as_secs() < 10);
    }
}
