//! Notices that somebody wrote to the database: an SDK, `sqlite3`, `agentfs kv`.
//!
//! Watches the two files for writes, and their directory for a new one of either (the
//! `-wal` comes and goes): the writes of the sessions beside it are not its business,
//! there may be hundreds. Only says "look": what was written by whom the storage layer
//! finds out. Never opens the files.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use agentfs_sqlite::{Database, DatabaseFiles};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// How long events are gathered, our own batches' included.
const GATHER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Watches until dropped.
pub(crate) struct DbWatcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<Files>>,
}

impl DbWatcher {
    /// Starts watching the files of `db`, an absolute path.
    pub(crate) fn start(db: &Path, database: Database) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (db.parent(), db.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let wal = DatabaseFiles::of(Path::new(name)).wal;
        let names = [name.to_owned(), wal.into_os_string()];
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mask = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&events, directory, mask)?;
        let files = Files {
            events,
            directory: directory.to_owned(),
            names,
        };
        files.watch_each();
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let thread = std::thread::Builder::new()
            .name("db-watcher".into())
            .spawn({
                let stop = Arc::clone(&stop);
                move || {
                    watch(&files, &stop, &database);
                    files
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

/// The files of a database, and what happens to them.
struct Files {
    events: OwnedFd,
    directory: PathBuf,
    names: [OsString; 2],
}

impl Files {
    /// Watches for writes, again where that is done already.
    fn watch_each(&self) {
        for name in &self.names {
            let path = self.directory.join(name);
            if let Err(errno) = inotify::add_watch(&self.events, &path, WatchFlags::MODIFY)
                && errno != Errno::NOENT
            {
                tracing::debug!(%errno, path = %path.display(), "writes to this will not be noticed at once");
            }
        }
    }

    /// Takes all events; whether any is about our files.
    fn concerned(&self) -> bool {
        let (mut any, mut is_new) = (false, false);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        while let Ok(event) = reader.next() {
            // Only the directory's events have a name.
            match event.file_name() {
                Some(name) => {
                    is_new |= self
                        .names
                        .iter()
                        .any(|ours| ours.as_encoded_bytes() == name.to_bytes());
                }
                None => any = true,
            }
        }
        if is_new {
            // Before it is looked at: what is written from now on is told.
            self.watch_each();
        }
        any || is_new
    }
}

fn watch(files: &Files, stop: &OwnedFd, database: &Database) {
    loop {
        let mut fds = [
            PollFd::new(&files.events, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let [_, stopping] = &fds;
        if !stopping.revents().is_empty() {
            return;
        }
        // Gathers, but lets itself be stopped.
        let _ = poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&GATHER));
        if files.concerned() {
            database.check_external_change();
        }
    }
}

impl Drop for DbWatcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(Ok(files)) = self.thread.take().map(JoinHandle::join) {
            // Closing it takes the kernel 20 ms. The end of this process, which is
            // near, does it as well, after whoever waits for us has gone.
            std::mem::forget(files.events);
        }
    }
}
