//! What transactions, the committer and the handles of a database share.
//!
//! Holds state and answers small questions on it; runs no statement but through
//! a lease, and decides nothing about batches.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use agentfs_core::{Ino, StorageError};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rusqlite::Connection;

use crate::apply;
use crate::cache::Cache;
use crate::committer::{BATCH_PATIENCE, BUSY_PATIENCE, Mailbox};
use crate::connection::{self, Access};
use crate::database::Volume;
use crate::gate::{Gate, Lease, Purpose};
use crate::open::Registration;
use crate::pending::Set;
use crate::read_ahead::ReadAhead;
use crate::sql::VolumeSql;
use crate::txn::State;
use crate::wal;

/// How often [`Shared::exclusive`] looks before it queues: some ten microseconds.
const EXCLUSIVE_TRIES: usize = 200;

pub(crate) type Hook = Box<dyn Fn() + Send + Sync>;

/// What transactions and the committer share.
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    /// Of each volume, the inodes that go with the next batch, see [`Storage::discard`].
    ///
    /// [`Storage::discard`]: agentfs_core::Storage::discard
    pub(crate) discarded: Mutex<[Set<Ino>; 2]>,
    pub(crate) mailbox: Mailbox,
    pub(crate) caches: [Cache; 2],
    pub(crate) read_ahead: ReadAhead,
    pub(crate) sqls: [VolumeSql; 2],
    pub(crate) chunk_size_bytes: u32,
    pub(crate) access: Access,
    pub(crate) home_exists: AtomicBool,
    /// When it was opened, the `-wal` held what the database did not.
    pub(crate) had_wal: bool,
    /// Committed since the disk was last told to write, roughly.
    pub(crate) left_to_host_bytes: AtomicUsize,
    /// Inode numbers that may be given, as ranges `[from, to)`.
    pub(crate) numbers: Mutex<VecDeque<(u64, u64)>>,
    /// Changes of the files that have been taken note of.
    pub(crate) seen_changes: AtomicU64,
    /// Others wrote, and the hook has not been told.
    pub(crate) external: AtomicBool,
    /// Others wrote, and the pending changes have not been fitted to that.
    pub(crate) unreconciled: AtomicBool,
    pub(crate) hook: Mutex<Option<Arc<Hook>>>,
    pub(crate) gate: Gate,
    pub(crate) _registration: Registration,
}

impl Shared {
    pub(crate) fn path(&self) -> &Path {
        &self.gate.paths().database
    }

    pub(crate) fn sql(&self, volume: Volume) -> &VolumeSql {
        &self.sqls[volume as usize]
    }

    pub(crate) fn cache(&self, volume: Volume) -> &Cache {
        &self.caches[volume as usize]
    }

    pub(crate) fn chunk_size_bytes(&self) -> u32 {
        self.chunk_size_bytes
    }

    pub(crate) fn home_exists(&self) -> bool {
        self.home_exists.load(Ordering::Acquire)
    }

    pub(crate) fn set_home_exists(&self) {
        self.home_exists.store(true, Ordering::Release);
    }

    /// Enters the database; drops what is cached when others turn out to have
    /// written.
    pub(crate) fn lease(&self, purpose: Purpose) -> Result<Lease<'_>, StorageError> {
        let lease = self.gate.enter(purpose)?;
        let changes = self.gate.changes();
        if self.seen_changes.swap(changes, Ordering::AcqRel) != changes {
            self.clear_caches();
            self.unreconciled.store(true, Ordering::Release);
            self.note_external_change();
        }
        Ok(lease)
    }

    /// The state, for the committer alone.
    pub(crate) fn exclusive(&self) -> RwLockWriteGuard<'_, State> {
        // Others have it for a microsecond at a time. Once this thread queues for it,
        // they wait until it has been woken.
        for _ in 0..EXCLUSIVE_TRIES {
            if let Some(state) = self.state.try_write() {
                return state;
            }
            std::hint::spin_loop();
        }
        self.state.write()
    }

    pub(crate) fn clear_caches(&self) {
        self.caches.iter().for_each(Cache::clear);
    }

    pub(crate) fn note_external_change(&self) {
        if !self.external.swap(true, Ordering::AcqRel) {
            self.mailbox.check_external();
        }
    }

    /// Whether another SQLite connection committed since the last call.
    pub(crate) fn note_data_version(&self, conn: &Connection) -> Result<bool, StorageError> {
        let changed = self.gate.note_version(connection::data_version(conn)?);
        if changed {
            self.unreconciled.store(true, Ordering::Release);
            self.external.store(true, Ordering::Release);
        }
        Ok(changed)
    }

    /// Whether others wrote since the last batch; the batch that asks takes care
    /// of it.
    pub(crate) fn has_external_change(&self) -> bool {
        self.unreconciled.swap(false, Ordering::AcqRel)
    }

    /// Drops all that is cached, while no transaction is under way.
    pub(crate) fn drop_clean_state(&self) {
        let _no_transaction = self.state.write();
        self.clear_caches();
    }

    /// Looks whether others wrote. Runs on the committer thread.
    pub(crate) fn look_for_external_change(&self) {
        let outcome = self
            .lease(Purpose::Write)
            .and_then(|lease| lease.query(|conn| self.note_data_version(conn)));
        match outcome {
            Ok(true) => self.drop_clean_state(),
            Ok(false) => {}
            // Held by another engine: whether that one wrote, the files tell.
            Err(StorageError::Busy) => {
                if self.gate.moved_since_last_look() {
                    self.drop_clean_state();
                    self.external.store(true, Ordering::Release);
                }
            }
            Err(error) => {
                tracing::warn!(%error, path = %self.path().display(), "the database was not looked at");
            }
        }
    }

    /// Calls the hook if others wrote.
    pub(crate) fn tell_of_external_change(&self) {
        if self.external.swap(false, Ordering::AcqRel) {
            let hook = self.hook.lock().clone();
            if let Some(hook) = hook {
                hook();
            }
        }
    }

    pub(crate) fn set_progress(&self, pending_bytes: usize, failure: Option<StorageError>) {
        let mut progress = self.mailbox.progress.lock();
        progress.pending_bytes = pending_bytes;
        progress.failure = failure;
        progress.batch_began = None;
        drop(progress);
        self.mailbox.batch_ended.notify_all();
    }

    pub(crate) fn allocate_ino(&self) -> Result<Ino, StorageError> {
        let mut numbers = self.numbers.lock();
        let Some((next, end)) = numbers.front_mut() else {
            return Err(match self.access {
                Access::ReadWrite => StorageError::Busy,
                _ => StorageError::ReadOnly,
            });
        };
        let ino = Ino(*next);
        *next += 1;
        if next == end {
            numbers.pop_front();
        }
        Ok(ino)
    }

    pub(crate) fn wants_inodes(&self) -> bool {
        let left: u64 = self
            .numbers
            .lock()
            .iter()
            .map(|(next, end)| end - next)
            .sum();
        left < apply::RESERVED_INODES / 2
    }

    pub(crate) fn add_inodes(&self, range: (u64, u64)) {
        let mut numbers = self.numbers.lock();
        match numbers.back_mut() {
            Some((_, end)) if *end == range.0 => *end = range.1,
            _ => numbers.push_back(range),
        }
    }

    /// Says that something waits to be written.
    pub(crate) fn has_changed(&self, at_once: bool) {
        if self.mailbox.dirty(at_once) {
            wal::expect(&self.gate);
        }
    }

    /// Waits until there is room for more changes.
    pub(crate) fn wait_for_room(&self) -> Result<(), StorageError> {
        let mut progress = self.mailbox.progress.lock();
        if progress.has_room() {
            return Ok(());
        }
        let deadline = Instant::now() + BUSY_PATIENCE;
        while !progress.has_room() {
            match &progress.failure {
                // Held by another program: it may let go.
                None | Some(StorageError::Busy) => {}
                // Not refused here: a deletion needs no room.
                Some(_) => return Ok(()),
            }
            if progress.stopped {
                return Err(StorageError::Io("it has been closed".into()));
            }
            // Nobody tells of a batch that takes long.
            let until = deadline.min(Instant::now() + BATCH_PATIENCE);
            self.mailbox.batch_ended.wait_until(&mut progress, until);
            if Instant::now() >= deadline {
                return Err(StorageError::Busy);
            }
        }
        Ok(())
    }

    /// Why a transaction is refused, if it is.
    pub(crate) fn refusal(&self, grows: bool) -> Option<StorageError> {
        let progress = self.mailbox.progress.lock();
        if progress.stopped {
            return Some(StorageError::Io("it has been closed".into()));
        }
        progress
            .failure
            .clone()
            .filter(|error| grows && *error != StorageError::Busy)
    }
}
