//! The database as a value: two volumes of storage, and the life of the thread
//! that writes them.
//!
//! # Locks, in the order they are taken
//! `state` (by transactions for their whole life, by the committer for moments),
//! then a [`crate::gate::Lease`], then one of the small mutexes (caches,
//! numbers, mailbox), which are held for a few instructions. Who waits for a chunk that is
//! read ahead waits for a thread that has the state already, and for a moment only.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::thread::JoinHandle;

use agentfs_core::storage::{ReadTxn, SyncDone, WriteTxn};
use agentfs_core::{Ino, Storage, StorageError};
use parking_lot::{Mutex, RwLock, RwLockUpgradableReadGuard};

use crate::apply;
use crate::cache::Cache;
use crate::committer::{self, BATCH_BYTES, Mailbox};
use crate::connection::Access;
use crate::error::{OpenError, io_error, storage_error};
use crate::gate::Purpose;
use crate::open::{self, OpenOptions, Opened};
use crate::read_ahead::ReadAhead;
use crate::rows;
use crate::shared::Shared;
use crate::sql::{self, VolumeSql};
use crate::stamp;
use crate::txn::Txn;
use crate::wal;

/// One of the two trees that a database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Volume {
    /// The view of the base directory, in the tables of the format.
    View,
    /// The private layer over the user's home directory, in tables of ours,
    /// made on the first write.
    Home,
}

/// A session database, open.
///
/// Cloning is cheap and gives another handle on the same database. One process
/// opens a database once.
///
/// ```
/// use agentfs_core::Storage;
/// use agentfs_sqlite::{Database, OpenOptions, Volume};
///
/// let dir = tempfile::tempdir()?;
/// let path = dir.path().join("demo.db");
/// let database = Database::open(&path, &OpenOptions::new().create(true))?;
/// let storage = database.volume(Volume::View);
/// storage.write(|txn| txn.put_kv("answer", "42", 0))?;
/// storage.sync()?;
/// database.close()?;
/// // One file is left, and any SQLite can read it.
/// assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Database {
    handle: Arc<Handle>,
}

/// Ends the committer when the last handle goes.
struct Handle {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

/// One volume of a [`Database`]: what core's overlay keeps its upper layer in.
#[derive(Clone)]
pub struct SqliteStorage {
    handle: Arc<Handle>,
    volume: Volume,
}

impl Database {
    /// Opens a database, or creates it where `options` say so.
    ///
    /// # Errors
    /// [`OpenError`], one sentence each; the file has not been changed then.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let opened = open::open(path, options)?;
        let Opened {
            gate,
            access,
            chunk_size_bytes,
            home_exists,
            had_wal,
            numbers,
            registration,
        } = opened;
        let shared = Arc::new(Shared {
            state: RwLock::default(),
            mailbox: Mailbox::default(),
            discarded: Mutex::default(),
            caches: [(); 2].map(|()| Cache::new(chunk_size_bytes)),
            read_ahead: ReadAhead::default(),
            sqls: [VolumeSql::new(Volume::View), VolumeSql::new(Volume::Home)],
            chunk_size_bytes,
            access,
            home_exists: AtomicBool::new(home_exists),
            had_wal,
            left_to_host_bytes: AtomicUsize::new(0),
            numbers: Mutex::new(numbers.into_iter().collect()),
            seen_changes: AtomicU64::new(gate.changes()),
            external: AtomicBool::new(false),
            unreconciled: AtomicBool::new(false),
            hook: Mutex::new(None),
            gate,
            _registration: registration,
        });
        let for_thread = Arc::clone(&shared);
        let committer = std::thread::Builder::new()
            .name("afs-committer".into())
            .spawn(move || committer::run(&for_thread))
            .map_err(|e| OpenError::from_io(path, &e))?;
        ReadAhead::start(&shared);
        Ok(Self {
            handle: Arc::new(Handle {
                shared,
                committer: Mutex::new(Some(committer)),
            }),
        })
    }

    /// The thread that writes what is pending, as gettid(2) names it: for whoever
    /// places threads on processors. `None` for a moment after opening.
    #[must_use]
    pub fn committer_thread(&self) -> Option<i32> {
        self.shared().mailbox.committer_thread()
    }

    /// The storage of one volume.
    #[must_use]
    pub fn volume(&self, volume: Volume) -> SqliteStorage {
        SqliteStorage {
            handle: Arc::clone(&self.handle),
            volume,
        }
    }

    /// Where the database lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared().path()
    }

    /// Keeps any other server from opening the database as long as this value
    /// lives (`flock` on the file; SQLite and the SDKs do not look at it).
    /// Returns `false` when another one has it.
    ///
    /// What a server that was killed left in the `-wal` is from now on taken for not
    /// synced, whatever that server was told: the kernel tells of a failed write once.
    ///
    /// # Errors
    /// The host's.
    pub fn lock_exclusive(&self) -> Result<bool, StorageError> {
        match self.shared().gate.database().try_lock() {
            Ok(()) => {
                if self.shared().had_wal {
                    self.shared().gate.doubt();
                }
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(io_error(&error)),
        }
    }

    /// Whether the file has been removed, or replaced by another: not when it has only
    /// been moved, or has another name.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        stamp::is_removed(self.shared().gate.database())
    }

    /// Sets what is called, on the committer thread, after another program wrote
    /// to the database and everything cached here was dropped.
    pub fn set_external_change_hook(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.shared().hook.lock() = Some(Arc::new(Box::new(hook)));
    }

    /// Asks to look, soon and on the committer thread, whether another program
    /// wrote to the database: for a watcher of the file and its `-wal`. It is
    /// looked at before every batch anyway. Cheap and harmless when nothing
    /// happened, our own writing included.
    pub fn check_external_change(&self) {
        if self.shared().gate.looks_changed() {
            self.shared().mailbox.check_external();
        }
    }

    /// Commits all that is pending and answers when it is on stable storage.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.volume(Volume::View).sync()
    }

    /// As [`Self::sync`], but calls `done` when all is on stable storage, on
    /// another thread, and does not wait.
    pub fn sync_in_background(&self, done: SyncDone) {
        self.shared().mailbox.sync(done);
    }

    /// The directory that the session covers, as last recorded.
    ///
    /// # Errors
    /// The storage's.
    pub fn base_path(&self) -> Result<Option<String>, StorageError> {
        self.shared()
            .lease(Purpose::Read)?
            .query(|conn| rows::setting(conn, sql::OVERLAY_CONFIG_GET, "base_path"))
    }

    /// Records the directory that the session covers
    /// (`fs_overlay_config.base_path`).
    ///
    /// # Errors
    /// The storage's.
    pub fn set_base_path(&self, path: &str) -> Result<(), StorageError> {
        if self.base_path()?.as_deref() == Some(path) {
            return Ok(());
        }
        let shared = self.shared();
        let lease = shared.lease(Purpose::Write)?;
        lease.query(|conn| {
            wal::transaction(&shared.gate, conn, || {
                conn.execute(sql::BASE_PATH_PUT, [path])
                    .map(|_| ())
                    .map_err(|e| storage_error(&e))
            })
        })
    }

    /// Writes a consistent copy of the database, as of now, to a new file, and
    /// returns when that is on stable storage (its name is the caller's to sync).
    /// Others may go on writing to the database meanwhile.
    ///
    /// # Errors
    /// The storage's; [`StorageError::Io`] when `path` holds anything already. What
    /// was begun is left there.
    pub fn backup_to(&self, path: &Path) -> Result<(), StorageError> {
        if self.shared().access == Access::ReadWrite {
            self.sync()?;
        }
        let target = path.to_str().ok_or_else(|| {
            StorageError::Io(format!("{} cannot be named in SQL", path.display()))
        })?;
        let copy = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| io_error(&e))?;
        if copy.metadata().map_err(|e| io_error(&e))?.len() > 0 {
            return Err(StorageError::Io(format!("{} exists", path.display())));
        }
        // Into an empty file, and without a -wal. It may run more than once.
        self.shared().lease(Purpose::Read)?.query(|conn| {
            copy.set_len(0).map_err(|e| io_error(&e))?;
            conn.execute("VACUUM INTO ?1", [target])
                .map(|_| ())
                .map_err(|e| storage_error(&e))
        })?;
        // SQLite itself does not sync what it vacuums into.
        copy.sync_all().map_err(|e| io_error(&e))
    }

    /// What SQLite finds wrong with the file, and rows that refer to nothing.
    /// Empty: all is well.
    ///
    /// # Errors
    /// The storage's, when it cannot be examined at all.
    pub fn integrity_check(&self) -> Result<Vec<String>, StorageError> {
        if self.shared().access == Access::ReadWrite {
            self.sync()?;
        }
        let home = self.shared().home_exists();
        self.shared()
            .lease(Purpose::Read)?
            .query(|conn| crate::check::problems(conn, home))
    }

    /// Commits everything and leaves one file: no `-wal`, no `-shm`. Afterwards
    /// every use fails. May be called again after an error.
    ///
    /// # Errors
    /// Those of committing; then nothing has been given up, and
    /// [`StorageError::Busy`] when another program has the database open, which
    /// will remove the `-wal` when it closes.
    pub fn close(&self) -> Result<(), StorageError> {
        let shared = self.shared();
        if shared.access == Access::ReadWrite && !shared.gate.is_closed() {
            self.sync()?;
        }
        shared.mailbox.stop();
        shared.read_ahead.stop();
        if let Some(committer) = self.handle.committer.lock().take() {
            // A panic there has been reported on stderr by the runtime.
            let _ = committer.join();
        }
        if shared.access != Access::ReadWrite {
            return Ok(());
        }
        if shared.gate.is_closed() {
            return shared.gate.companions_gone();
        }
        if let Some((next, end)) = shared.numbers.lock().back().copied() {
            let lease = shared.lease(Purpose::Write)?;
            lease.query(|conn| {
                wal::transaction(&shared.gate, conn, || apply::give_back(conn, next, end))
            })?;
        }
        shared.numbers.lock().clear();
        match shared.gate.close() {
            // The database grows when the -wal is folded into it.
            Err(StorageError::Full) => {
                wal::give_back_room(shared)?;
                shared.gate.close()?;
            }
            closed => closed?,
        }
        shared.gate.companions_gone()
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.mailbox.stop();
        self.shared.read_ahead.stop();
        if let Some(committer) = self.committer.get_mut().take() {
            let _ = committer.join();
        }
    }
}

impl SqliteStorage {
    /// The database that this is a volume of.
    #[must_use]
    pub fn database(&self) -> Database {
        Database {
            handle: Arc::clone(&self.handle),
        }
    }
}

impl Storage for SqliteStorage {
    fn read<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&dyn ReadTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        let shared = &self.handle.shared;
        let state = shared.state.read();
        f(&Txn::new(shared, self.volume, &state))
    }

    fn write<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&mut dyn WriteTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        let shared = &self.handle.shared;
        if shared.access != Access::ReadWrite {
            return Err(StorageError::ReadOnly.into());
        }
        shared.wait_for_room()?;
        // Upgradable: there is one at a time, readers run beside it.
        let state = shared.state.upgradable_read();
        let mut txn = Txn::new(shared, self.volume, &state);
        let value = f(&mut txn)?;
        let Some(staged) = txn.into_staged() else {
            return Ok(value);
        };
        if let Some(refusal) = shared.refusal(staged.grows()) {
            return Err(refusal.into());
        }
        // The id given to a tool call is only sure once it is stored.
        let at_once = !staged.tool_calls.is_empty();
        let mut state = RwLockUpgradableReadGuard::upgrade(state);
        state.pending.merge(staged);
        let pending_bytes = state.pending.cost_bytes()
            + state
                .committing
                .as_ref()
                .map_or(0, |batch| batch.cost_bytes());
        drop(state);
        shared.mailbox.progress.lock().pending_bytes = pending_bytes;
        shared.has_changed(at_once || pending_bytes > BATCH_BYTES);
        Ok(value)
    }

    fn discard(&self, inos: &[Ino]) -> Result<(), StorageError> {
        let shared = &self.handle.shared;
        if shared.access != Access::ReadWrite {
            return Err(StorageError::ReadOnly);
        }
        shared.discarded.lock()[self.volume as usize].extend(inos);
        shared.has_changed(false);
        Ok(())
    }

    fn sync_then(&self, done: SyncDone) {
        committer::sync(&self.handle.shared, done);
    }

    fn chunk_size_bytes(&self) -> u32 {
        self.handle.shared.chunk_size_bytes
    }
}
