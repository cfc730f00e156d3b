//! Watching base directories for changes made by others.
//!
//! One inotify descriptor and one thread that sleeps until something changes.
//! An inotify watch of a directory covers the content and attributes of its
//! entries too. The callback must never wait for a request to our own mount.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use agentfs_core::{Ino, LowerPath, Name};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::HostDir;

/// How long events are gathered before they are told, so that a burst of
/// writes to one file is told once.
const GATHER: Duration = Duration::from_millis(5);
/// Distinct changes told one by one, at most; more are told as [`BaseChange::Lost`].
const GATHERED_MAX: usize = 16 * 1024;
const EVENT_BUFFER_BYTES: usize = 64 * 1024;
/// The host's limit of watches per user, which an editor needs some of too.
const HOST_LIMIT: &str = "/proc/sys/fs/inotify/max_user_watches";
/// Assumed when the host does not tell (the smallest that Linux computes).
const HOST_LIMIT_LEAST: usize = 8192;

/// What others did in the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseChange {
    /// Something happened to one entry of a watched directory.
    Entry {
        /// The directory, as it was given to [`BaseWatcher::watch`].
        dir: Ino,
        /// The entry.
        name: Name,
        /// What happened, the graver of several.
        change: EntryChange,
    },
    /// The watched directory itself changed its attributes, was moved or removed.
    Directory {
        /// The directory, as it was given to [`BaseWatcher::watch`].
        dir: Ino,
    },
    /// Events were lost: anything may have changed.
    Lost,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryChange {
    /// Content or attributes.
    Object,
    /// The name appeared, vanished or leads to another object.
    Name,
}

/// Whether changes in a directory will be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// They will, from before [`BaseWatcher::watch`] returned.
    Watched,
    /// They will not: the limit of watches is reached, or the directory is gone.
    Unwatched,
}

/// Watches directories of a [`HostDir`]; ends when dropped.
pub struct BaseWatcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    host: Arc<HostDir>,
    inotify: OwnedFd,
    stop: OwnedFd,
    watches: Mutex<Watches>,
    watches_max: usize,
}

#[derive(Default)]
struct Watches {
    by_descriptor: HashMap<i32, (Ino, LowerPath)>,
    by_ino: HashMap<Ino, i32>,
}

impl BaseWatcher {
    /// As [`Self::start_with_limit`], with half of what the host allows a user.
    ///
    /// # Errors
    /// As [`Self::start_with_limit`].
    pub fn start(
        host: Arc<HostDir>,
        tell: impl FnMut(BaseChange) + Send + 'static,
    ) -> io::Result<Self> {
        let limit = std::fs::read_to_string(HOST_LIMIT).ok();
        let limit = limit
            .and_then(|limit| limit.trim().parse().ok())
            .unwrap_or(HOST_LIMIT_LEAST);
        Self::start_with_limit(host, limit / 2, tell)
    }

    /// Starts watching nothing yet, and never more than `watches_max`
    /// directories; `tell` is called from a thread of its own,
    /// after `host` has dropped what it had cached of the place.
    ///
    /// # Errors
    /// The host's: no inotify instance left, no thread.
    pub fn start_with_limit(
        host: Arc<HostDir>,
        watches_max: usize,
        mut tell: impl FnMut(BaseChange) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            host,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
            watches: Mutex::default(),
            watches_max,
        });
        let thread = std::thread::Builder::new()
            .name("base-watcher".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    if let Err(errno) = shared.run(&mut tell) {
                        tracing::error!(%errno, "watching the base directory ended");
                        tell(BaseChange::Lost);
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Watches the directory at `path`, to be told as `dir`. Costs two system
    /// calls and does not wait for anything, so that it can be called before the
    /// directory is read: no change can slip in between.
    #[must_use]
    pub fn watch(&self, path: &LowerPath, dir: Ino) -> WatchState {
        let mask = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // Held while the watch is added: its first event must find it listed.
        let mut watches = self.shared.watches.lock();
        let is_new = !watches.by_ino.contains_key(&dir);
        if is_new && watches.by_ino.len() >= self.shared.watches_max {
            return WatchState::Unwatched;
        }
        let added = self.shared.host.dir(path).and_then(|fd| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            inotify::add_watch(&self.shared.inotify, link, mask)
        });
        match added {
            Ok(descriptor) => {
                if let Some(old) = watches.by_ino.insert(dir, descriptor)
                    && old != descriptor
                {
                    watches.by_descriptor.remove(&old);
                    let _ = inotify::remove_watch(&self.shared.inotify, old);
                }
                watches
                    .by_descriptor
                    .insert(descriptor, (dir, path.clone()));
                WatchState::Watched
            }
            Err(errno) => {
                tracing::debug!(%errno, %path, "cannot watch this base directory");
                WatchState::Unwatched
            }
        }
    }

    /// Stops watching, and keeps the directory open no longer; no error when it was
    /// not watched.
    pub fn unwatch(&self, dir: Ino) {
        let mut watches = self.shared.watches.lock();
        if let Some(descriptor) = watches.by_ino.remove(&dir) {
            if let Some((_, path)) = watches.by_descriptor.remove(&descriptor) {
                self.shared.host.forget(&path);
            }
            // Fails when the directory is gone: then the kernel removed it.
            let _ = inotify::remove_watch(&self.shared.inotify, descriptor);
        }
    }

    /// Directories watched now.
    #[must_use]
    pub fn watched_count(&self) -> usize {
        self.shared.watches.lock().by_ino.len()
    }
}

impl Drop for BaseWatcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Dropped from inside its own callback: it ends by itself.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Changes gathered, each told once.
#[derive(Default)]
struct Gathered {
    entries: BTreeMap<(Ino, Name), EntryChange>,
    dirs: Vec<Ino>,
    lost: bool,
}

impl Shared {
    fn run(&self, tell: &mut impl FnMut(BaseChange)) -> Result<(), Errno> {
        let mut buffer = vec![MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
        loop {
            let mut fds = [
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(());
            }
            std::thread::sleep(GATHER);
            let gathered = self.gather(&mut buffer)?;
            if gathered.lost {
                self.host.invalidate(&LowerPath::root());
                tell(BaseChange::Lost);
                continue;
            }
            for dir in gathered.dirs {
                tell(BaseChange::Directory { dir });
            }
            for ((dir, name), change) in gathered.entries {
                tell(BaseChange::Entry { dir, name, change });
            }
        }
    }

    /// Reads all events there are.
    fn gather(&self, buffer: &mut [MaybeUninit<u8>]) -> Result<Gathered, Errno> {
        let mut gathered = Gathered::default();
        let mut reader = inotify::Reader::new(&self.inotify, buffer);
        loop {
            let event = match reader.next() {
                Err(Errno::AGAIN) => return Ok(gathered),
                Err(Errno::INTR) => continue,
                event => event?,
            };
            let events = event.events();
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                gathered.lost = true;
                continue;
            }
            let mut watches = self.watches.lock();
            let Some((dir, path)) = watches.by_descriptor.get(&event.wd()).cloned() else {
                continue;
            };
            if events.contains(ReadFlags::IGNORED) {
                watches.by_descriptor.remove(&event.wd());
                if watches.by_ino.get(&dir) == Some(&event.wd()) {
                    watches.by_ino.remove(&dir);
                }
                continue;
            }
            drop(watches);
            let name = event
                .file_name()
                .and_then(|name| Name::new(name.to_bytes()).ok());
            let Some(name) = name else {
                // The directory itself: told once per gathering.
                if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
                    self.host.invalidate(&path);
                }
                if gathered.dirs.last() != Some(&dir) {
                    gathered.dirs.push(dir);
                }
                continue;
            };
            let renamed =
                ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
            let change = if events.intersects(renamed) {
                EntryChange::Name
            } else {
                EntryChange::Object
            };
            if change == EntryChange::Name && events.contains(ReadFlags::ISDIR) {
                self.host.invalidate(&path.join(&name));
            }
            let told = gathered.entries.entry((dir, name)).or_insert(change);
            *told = (*told).max(change);
            if gathered.entries.len() + gathered.dirs.len() > GATHERED_MAX {
                gathered.lost = true;
                gathered.entries.clear();
                gathered.dirs.clear();
            }
        }
    }
}
