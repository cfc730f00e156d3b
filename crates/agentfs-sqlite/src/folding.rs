//! When the `-wal` is folded into the database file, and by whom.
//!
//! Folding writes everything once more and syncs it. Little is folded by the
//! committer, between two batches. Much is folded beside it, on a thread and a
//! connection of its own, while batches and syncs go on: SQLite lets a passive
//! checkpoint and a writer work at the same time. What was written meanwhile is
//! little again. A failure is no failure of the data, and is tried again later.
//! Must never run two folds at once, or decide what is in a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use agentfs_core::StorageError;
use rusqlite::Connection;

use crate::connection;
use crate::gate::Purpose;
use crate::shared::Shared;
use crate::wal::{self, Fill};

/// While syncs follow one another, a `-wal` in use this far, but not large, is folded
/// and begun anew.
const RING_BYTES: u64 = 4 << 20;
/// No more than this is folded between two batches.
const LITTLE_BYTES: u64 = 8 << 20;
/// A `-wal` this large is folded and shortened once nothing has been written for
/// [`IDLE`].
const LARGE_BYTES: u64 = 64 << 20;
const IDLE: Duration = Duration::from_secs(5);
/// One in use this far is folded in any case.
const VERY_LARGE_BYTES: u64 = 1 << 30;
/// And at this, batches wait for it.
const WAL_MAX_BYTES: u64 = 2 << 30;

/// The folds of one committer.
pub(crate) struct Folding<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared,
    beside: Option<Beside<'scope>>,
}

/// A fold beside the committer.
struct Beside<'scope> {
    /// Set before the committer is told: the thread itself may take longer to end.
    has_ended: Arc<AtomicBool>,
    /// Whether it got on.
    thread: ScopedJoinHandle<'scope, bool>,
}

impl<'scope, 'env> Folding<'scope, 'env> {
    pub(crate) fn new(scope: &'scope Scope<'scope, 'env>, shared: &'env Shared) -> Self {
        Self {
            scope,
            shared,
            beside: None,
        }
    }

    /// Folds what has to be folded now, with the turn to write. When to come again if
    /// nothing happens until then.
    pub(crate) fn after_batch(&mut self, syncs_follow: bool) -> Option<Instant> {
        let fill = wal::fill(&self.shared.gate);
        if fill.used_bytes > WAL_MAX_BYTES {
            self.end_beside();
            self.here(connection::checkpoint);
        } else if self.is_beside() {
            // It wakes the committer when it ends.
            return None;
        } else if self.beside.is_some() {
            // Unless somebody who reads is in the way, or as much was written meanwhile:
            // shortened now, the file is not written over by what follows. That would
            // read what was there first, as frames begin on no boundary of its pages.
            let is_large = fill.size_bytes > LARGE_BYTES;
            if self.end_beside() && is_large && fill.unfolded_bytes <= LITTLE_BYTES {
                self.here(connection::checkpoint);
            }
        } else if syncs_follow && is_ring(&fill) {
            self.fold(&fill, |conn| connection::checkpoint_passive(conn).map(drop));
        } else if fill.used_bytes > VERY_LARGE_BYTES {
            self.fold(&fill, connection::checkpoint);
        }
        self.come_again()
    }

    /// Folds a large `-wal` when nothing else is to be done, with the turn to write.
    /// When to come again, as after a batch.
    pub(crate) fn when_idle(&mut self) -> Option<Instant> {
        if !self.is_beside() {
            self.fold(&wal::fill(&self.shared.gate), connection::checkpoint);
        }
        self.come_again()
    }

    /// Also after a fold that could not be done: no batch may ever follow.
    fn come_again(&self) -> Option<Instant> {
        let is_large = wal::fill(&self.shared.gate).size_bytes > LARGE_BYTES;
        (is_large && !self.is_beside()).then(|| Instant::now() + IDLE)
    }

    fn is_beside(&self) -> bool {
        self.beside.as_ref().is_some_and(|fold| {
            !fold.has_ended.load(Ordering::Acquire) && !fold.thread.is_finished()
        })
    }

    /// Waits for the fold beside, if there is one; `false` when it did not get on.
    fn end_beside(&mut self) -> bool {
        self.beside
            .take()
            .is_none_or(|fold| fold.thread.join().is_ok_and(|got_on| got_on))
    }

    /// Folds here if it is little, else beside. Not after a failed sync, until all is
    /// written again.
    fn fold(&mut self, fill: &Fill, here: impl Fn(&Connection) -> Result<(), StorageError>) {
        if fill.unfolded_bytes <= LITTLE_BYTES {
            self.here(here);
            return;
        }
        if report(wal::mend(self.shared)).is_none() {
            return;
        }
        let shared = self.shared;
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let thread = std::thread::Builder::new()
            .name("afs-fold".into())
            .spawn_scoped(self.scope, move || {
                let got_on = report(beside(shared)).unwrap_or(false);
                ended.store(true, Ordering::Release);
                shared.mailbox.look_at_wal();
                got_on
            });
        match thread {
            Ok(thread) => self.beside = Some(Beside { has_ended, thread }),
            Err(error) => tracing::debug!(%error, "no thread to fold the -wal"),
        }
    }

    fn here(&self, checkpoint: impl Fn(&Connection) -> Result<(), StorageError>) {
        let shared = self.shared;
        report(wal::mend(shared).and_then(|()| {
            let lease = shared.lease(Purpose::Write)?;
            doubted(shared, lease.query(checkpoint))
        }));
    }
}

/// Whether less is left than before: somebody who reads may be in the way.
fn beside(shared: &Shared) -> Result<bool, StorageError> {
    let _folding = shared.mailbox.folding.lock();
    let lease = shared.lease(Purpose::Fold)?;
    if lease.is_snapshot() {
        return Err(StorageError::Busy);
    }
    let before = wal::fill(&shared.gate).unfolded_bytes;
    doubted(shared, lease.query(connection::checkpoint_passive))?;
    Ok(wal::fill(&shared.gate).unfolded_bytes < before)
}

/// A fold that failed may have failed to sync.
fn doubted<T>(shared: &Shared, folded: Result<T, StorageError>) -> Result<T, StorageError> {
    if folded.as_ref().is_err_and(|e| *e != StorageError::Busy) {
        shared.gate.doubt();
    }
    folded
}

/// Whether the committer should be woken to fold, while syncs follow one another. Not
/// where it has just done so and somebody who reads keeps the `-wal` from beginning anew.
pub(crate) fn is_ring_full(shared: &Shared) -> bool {
    let fill = wal::fill(&shared.gate);
    is_ring(&fill) && fill.unfolded_bytes >= RING_BYTES && !shared.mailbox.folding.is_locked()
}

fn is_ring(fill: &Fill) -> bool {
    fill.used_bytes > RING_BYTES && fill.unfolded_bytes <= LARGE_BYTES
}

fn report<T>(outcome: Result<T, StorageError>) -> Option<T> {
    outcome
        .inspect_err(|error| tracing::debug!(%error, "the -wal was not folded into the database"))
        .ok()
}
