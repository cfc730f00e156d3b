//! Notices that somebody wrote to the database: an SDK, `sqlite3`, `agentfs kv`.
//!
//! Watches the directory (the `-wal` comes and goes) and only says "look": what
//! was written by whom the storage layer finds out. Never opens the files.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use agentfs_sqlite::Database;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// How long events are gathered, our own batches' included.
const GATHER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Watches until dropped.
pub(crate) struct DbWatcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl DbWatcher {
    /// Starts watching the files of `db`, an absolute path.
    pub(crate) fn start(db: &Path, database: Database) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (db.parent(), db.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut wal = name.to_owned();
        wal.push("-wal");
        let names = [name.to_owned(), wal];
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mask =
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&events, directory, mask)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let thread = std::thread::Builder::new()
            .name("db-watcher".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || watch(&events, &stop, &names, &database)
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

fn watch(events: &OwnedFd, stop: &OwnedFd, names: &[OsString; 2], database: &Database) {
    loop {
        let mut fds = [
            PollFd::new(events, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let [_, stopping] = &fds;
        if !stopping.revents().is_empty() {
            return;
        }
        // Gathers, but lets itself be stopped.
        let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&GATHER));
        if concerns(events, names) {
            database.check_external_change();
        }
    }
}

/// Takes all events; whether any is about our files.
fn concerns(events: &OwnedFd, names: &[OsString; 2]) -> bool {
    let mut any = false;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    while let Ok(event) = reader.next() {
        any |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
            || event.file_name().is_some_and(|name| {
                names
                    .iter()
                    .any(|ours| ours.as_encoded_bytes() == name.to_bytes())
            });
    }
    any
}

impl Drop for DbWatcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
