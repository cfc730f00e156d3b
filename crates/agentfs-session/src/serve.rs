//! What a session serves: the overlay of a database over a directory, as FUSE
//! file systems. Knows nothing of namespaces or clients.
//!
//! The database is opened before anything is served and closed after the last
//! mount has gone; this process never touches its own mounts.

use std::fs::TryLockError;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use agentfs_core::{Ino, LowerPath, Name, Overlay, OverlayConfig, Owner, StorageError};
use agentfs_fuse::{DirInterest, FuseConfig, KnownIds, Notifier, Pairing, Server};
use agentfs_hostdir::{BaseChange, BaseWatcher, EntryChange, HostClock, HostDir, WatchState};

use agentfs_sqlite::{Database, DatabaseFiles, OpenOptions, SqliteStorage, clear_place};
use parking_lot::Mutex;

use crate::db_watch::DbWatcher;
use crate::error::SessionError;
use crate::note::{Note, NoteError, Noted};
use crate::onlooker::Onlooker;
use crate::protocol::Volume;
use crate::runtime;

/// Whether there is a layer over `$HOME`.
pub(crate) const HAS_HOME_VOLUME: bool = true;
/// How long a client that is about to read the database waits for a commit.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
/// How long the mounts may take to go once their namespace has ended. They
/// write back what the kernel still holds meanwhile.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(60);

/// How long another program may keep the database's lock.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long the session before this one may take to commit and close.
const ENDING_PATIENCE: Duration = Duration::from_secs(80);

/// What is to be served.
pub(crate) struct ViewConfig {
    pub(crate) db: PathBuf,
    pub(crate) base: OwnedFd,
    pub(crate) base_path: PathBuf,
    pub(crate) home: Option<PathBuf>,
    pub(crate) log: PathBuf,
}

/// The open database and its file systems.
pub(crate) struct View {
    base: Arc<HostDir>,
    db: PathBuf,
    home: Option<PathBuf>,
    log: PathBuf,
    database: Database,
    notifiers: Arc<Notifiers>,
    watcher: Option<DbWatcher>,
    pairing: Option<Arc<Pairing>>,
    served: Vec<Served>,
    /// The lower layers of what is served.
    lowers: Vec<Arc<HostDir>>,
}

struct Served {
    server: Server,
    interest: Arc<Interest>,
    overlay: Arc<Overlay<SqliteStorage, Arc<HostDir>>>,
}

/// Options of the FUSE mounts, without `fd=`.
pub(crate) fn mount_options(device: &OwnedFd) -> String {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    agentfs_fuse::mount_data(device, uid, gid)
}

/// Root's namespace knows all ids, an ordinary user's their own.
fn known_ids() -> Option<KnownIds> {
    let uid = rustix::process::geteuid();
    (!uid.is_root()).then(|| KnownIds {
        uid: uid.as_raw(),
        gid: rustix::process::getegid().as_raw(),
        groups: rustix::process::getgroups()
            .unwrap_or_default()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect(),
    })
}

/// A directory of the host as a lower layer: without the session's database, and the
/// kernel reads ahead in it what programs will want; everything works without that.
fn lower(host: HostDir, directory: &Path, db: &Path) -> HostDir {
    let files = DatabaseFiles::of(db);
    let host = host.without_database(directory, &files.database, &files.shm, &files.companions());
    host.with_read_ahead().unwrap_or_else(|(host, error)| {
        tracing::warn!("nothing is read ahead: {error}");
        host
    })
}

/// Watches what the kernel has looked into. Without a watcher the kernel asks again
/// every second.
struct Interest {
    watcher: Option<BaseWatcher>,
}

impl Interest {
    /// Never fails: of inotify instances a user has 128, for all programs together.
    fn start(host: Arc<HostDir>, notifier: Arc<OnceLock<Notifier>>) -> Self {
        let watcher = BaseWatcher::start(host, move |change| {
            let Some(notifier) = notifier.get() else {
                return;
            };
            match change {
                BaseChange::Entry { dir, name, change } => {
                    let change = match change {
                        EntryChange::Object => agentfs_fuse::EntryChange::Object,
                        EntryChange::Name => agentfs_fuse::EntryChange::Name,
                    };
                    notifier.base_entry_changed(dir, name, change);
                }
                BaseChange::Directory { dir } => notifier.base_directory_changed(dir),
                BaseChange::Lost => notifier.base_changed(),
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(
                "changes of the base show a second late, and looking files up takes longer: \
                 no inotify ({error}); raise the sysctl fs.inotify.max_user_instances"
            );
        }
        Self {
            watcher: watcher.ok(),
        }
    }
}

impl DirInterest for Interest {
    fn looked_up(&self, dir: Ino, lower: &LowerPath) -> bool {
        let watcher = self.watcher.as_ref();
        watcher.is_some_and(|watcher| watcher.watch(lower, dir) == WatchState::Watched)
    }

    fn forgotten(&self, dir: Ino) {
        if let Some(watcher) = &self.watcher {
            watcher.unwatch(dir);
        }
    }
}

impl View {
    /// Opens the database, once nobody else has it.
    ///
    /// # Errors
    /// The storage's sentence when it refuses the file.
    pub(crate) fn open(config: ViewConfig) -> Result<Self, SessionError> {
        let base = HostDir::from_fd(config.base).map_err(|error| SessionError::BaseGone {
            base: config.base_path.clone(),
            reason: error.to_string(),
        })?;
        wait_for_turn(&config.db, &config.log)?;
        let options = OpenOptions::new().create(true);
        let database = Database::open(&config.db, &options).map_err(|error| {
            SessionError::DatabaseRefused {
                reason: error.to_string(),
            }
        })?;
        match database.lock_exclusive() {
            Ok(true) => {}
            Ok(false) => return Err(SessionError::DatabaseInUse { db: config.db }),
            Err(error) => {
                return Err(SessionError::DatabaseUnreachable {
                    db: config.db,
                    reason: error.to_string(),
                });
            }
        }
        let notifiers = Arc::new(Notifiers::default());
        database.set_external_change_hook({
            let notifiers = Arc::clone(&notifiers);
            move || notifiers.invalidate_all()
        });
        let watcher = DbWatcher::start(&config.db, database.clone());
        if let Err(error) = &watcher {
            tracing::warn!("changes of the database by others show late: {error}");
        }
        Ok(Self {
            base: Arc::new(lower(base, &config.base_path, &config.db)),
            db: config.db,
            home: config.home,
            log: config.log,
            database,
            notifiers,
            watcher: watcher.ok(),
            pairing: Pairing::start(),
            served: Vec::new(),
            lowers: Vec::new(),
        })
    }

    /// Starts answering on a mounted device, of which `onlooker` is the socket.
    ///
    /// # Errors
    /// A sentence for the log and the user.
    pub(crate) fn serve(
        &mut self,
        volume: Volume,
        device: OwnedFd,
        onlooker: OwnedFd,
    ) -> Result<(), SessionError> {
        let (lower, stored) = match (volume, &self.home) {
            (Volume::Base, _) => (Arc::clone(&self.base), agentfs_sqlite::Volume::View),
            (Volume::Home, Some(home)) => {
                let host = HostDir::open(home).map_err(|e| self.failed(home, e))?;
                let lower = lower(host, home, &self.db);
                (Arc::new(lower), agentfs_sqlite::Volume::Home)
            }
            (Volume::Home, None) => return Err(self.failed(Path::new("$HOME"), "it is not known")),
        };
        self.lowers.push(Arc::clone(&lower));
        let storage = self.database.volume(stored);
        let onlooker = Onlooker::new(onlooker);
        let served = start(storage, lower, device, onlooker, self.pairing.clone())
            .map_err(|error| self.failed(Path::new("the file system"), error))?;
        self.notifiers.add(served.server.notifier());
        self.served.push(served);
        Ok(())
    }

    /// Gives the process numbers in requests a meaning: they are those of `proc`,
    /// the `/proc` of the namespace that the mounts were made in. From now on what works
    /// beside those that answer keeps off whoever asks.
    pub(crate) fn show_processes(&self, proc: OwnedFd) {
        if let Some(pairing) = &self.pairing {
            // Not earlier: the threads need a moment to begin.
            let read_ahead = self
                .lowers
                .iter()
                .flat_map(|lower| lower.read_ahead_threads());
            for worker in read_ahead.chain(self.database.committer_thread()) {
                pairing.add_worker(worker);
            }
            pairing.set_processes(proc);
        }
    }

    #[allow(clippy::needless_pass_by_value)] // for map_err
    fn failed(&self, what: &Path, error: impl ToString) -> SessionError {
        let reason = format!("{}: {}", what.display(), error.to_string());
        SessionError::ServerDied {
            reason,
            log: self.log.clone(),
        }
    }

    /// Inodes that the kernel holds, and the directories they lie in.
    pub(crate) fn inodes(&self) -> usize {
        let served = self.served.iter();
        served.map(|one| one.overlay.referenced_inodes()).sum()
    }

    /// Writes to the store or the log beside the files.
    ///
    /// # Errors
    /// Theirs.
    pub(crate) fn write(&self, note: &Note) -> Result<Noted, NoteError> {
        note.write_to(&self.database.volume(agentfs_sqlite::Volume::View))
    }

    /// Commits what has been done so far, and tells whether that succeeded. Returns in
    /// any case after a second, as nobody else is answered meanwhile.
    pub(crate) fn flush(&self) -> bool {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.database.sync_in_background(Box::new(move |result| {
            // Nobody waits any more when this fails.
            let _ = sender.send(result);
        }));
        match receiver.recv_timeout(FLUSH_PATIENCE) {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!("what was done could not be committed: {error}"),
            Err(error) => tracing::warn!("committing takes longer than others wait: {error}"),
        }
        false
    }

    /// After the namespace of the mounts has ended: waits until they are gone,
    /// commits and closes. Where the database has been removed, nothing is kept.
    ///
    /// # Errors
    /// A sentence that says what has been lost.
    pub(crate) fn finish(self) -> Result<(), String> {
        let Self {
            database,
            db,
            served,
            watcher,
            ..
        } = self;
        drop(watcher);
        let until = Instant::now() + UNMOUNT_PATIENCE;
        for served in served {
            let Served {
                server, interest, ..
            } = served;
            // Closing its watches takes the kernel long; the end of this process
            // does it as well, after whoever waits for us has gone.
            std::mem::forget(interest);
            while !server.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !server.is_finished() {
                tracing::error!("a mount does not end; what the kernel holds of it is lost");
                continue;
            }
            if let Err(error) = server.wait() {
                tracing::warn!("a mount ended with an error: {error}");
            }
        }
        if database.is_removed() {
            tracing::info!("the database has been removed: nothing is kept");
            // Closing would remove the -wal by its name, which may be that of
            // a new database by now. This looks first whether there is one.
            std::mem::forget(database);
            let _ = clear_place(&db);
            return Ok(());
        }
        // An SDK locks the whole file for as long as it has it open. What is
        // pending is in our memory alone, so ending now would lose it.
        while let Err(StorageError::Busy) = database.sync() {
            tracing::warn!("another program holds the database: waiting to save what was done");
            std::thread::sleep(Duration::from_millis(100));
        }
        match database.close() {
            Ok(()) => Ok(()),
            // All is committed; the other program removes the -wal.
            Err(StorageError::Busy) => {
                tracing::warn!("another program keeps the database open");
                Ok(())
            }
            Err(error) => Err(format!("what was done last could not be saved: {error}")),
        }
    }
}

/// Waits while another server has the database: one that ends, most likely.
/// The look is taken before the database is opened, because closing any
/// descriptor of it gives up this process's locks.
fn wait_for_turn(db: &Path, log: &Path) -> Result<(), SessionError> {
    let began = Instant::now();
    let unreachable = |reason: std::io::Error| SessionError::DatabaseUnreachable {
        db: db.to_owned(),
        reason: reason.to_string(),
    };
    let file = std::fs::File::open(db).map_err(unreachable)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(unreachable(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let ending = log.parent().is_some_and(runtime::is_ending);
        let patience = if ending {
            ENDING_PATIENCE
        } else {
            TURN_PATIENCE
        };
        if began.elapsed() > patience {
            return Err(SessionError::DatabaseInUse { db: db.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Who is told when somebody else wrote to the database.
#[derive(Default)]
struct Notifiers(Mutex<Vec<Notifier>>);

impl Notifiers {
    fn add(&self, notifier: Notifier) {
        self.0.lock().push(notifier);
    }

    fn invalidate_all(&self) {
        for notifier in self.0.lock().iter() {
            notifier.invalidate_all();
        }
    }
}

fn start(
    storage: SqliteStorage,
    lower: Arc<HostDir>,
    device: OwnedFd,
    onlooker: Onlooker,
    pairing: Option<Arc<Pairing>>,
) -> Result<Served, Box<dyn std::error::Error>> {
    let config = OverlayConfig {
        clock: Arc::new(HostClock),
        hidden: vec![Name::new(b".agentfs")?],
        root_owner: Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
    };
    let overlay = Overlay::open(storage, Arc::clone(&lower), config)?;
    let notifier = Arc::new(OnceLock::new());
    let interest = Arc::new(Interest::start(lower, Arc::clone(&notifier)));
    let mut config = FuseConfig::new(Arc::clone(&interest) as Arc<dyn DirInterest>);
    config.known_ids = known_ids();
    config.pairing = pairing;
    config.revalidator = Some(Arc::new(onlooker));
    let overlay = Arc::new(overlay);
    let server = agentfs_fuse::serve(Arc::clone(&overlay), device, config)?;
    let _ = notifier.set(server.notifier());
    Ok(Served {
        server,
        interest,
        overlay,
    })
}
