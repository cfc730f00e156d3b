//! The committer: one thread that writes what is pending, in order, in batches.
//!
//! A batch is one SQLite transaction. Everything applied up to one moment is in
//! it and nothing applied after, so a crash leaves a prefix. No transaction
//! stays open between batches, and when nothing is pending the thread sleeps on
//! a condition variable without waking.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use agentfs_core::StorageError;
use agentfs_core::storage::SyncDone;
use parking_lot::{Condvar, Mutex};

use crate::apply::{self, Context, Outcome};
use crate::database::Volume;
use crate::folding::{self, Folding};
use crate::gate::Purpose;
use crate::pending::Delta;
use crate::shared::Shared;
use crate::wal;

/// The longest that an applied change waits before it is written. What was not
/// synced is lost in a crash for at most this long plus the time of a batch.
pub(crate) const BATCH_INTERVAL: Duration = Duration::from_millis(50);
/// A batch is written at once when it has become this large.
pub(crate) const BATCH_BYTES: usize = 4 << 20;
/// Writers wait while more than this is pending. Less than SQLite's page cache: of a
/// larger batch pages are written early, and those that change again make SQLite read
/// the batch back from the `-wal` for its checksums.
const PENDING_MAX_BYTES: usize = 12 << 20;
/// The same while batches fail or one takes longer than [`BATCH_PATIENCE`], mostly as
/// another program holds the database: programs go on meanwhile.
const HELD_UP_MAX_BYTES: usize = 64 << 20;
pub(crate) const BATCH_PATIENCE: Duration = Duration::from_millis(500);
/// How long writers and syncs wait for a database that another program holds.
pub(crate) const BUSY_PATIENCE: Duration = Duration::from_secs(30);
/// A sync with no more pending than this is committed by the thread that asks,
/// which spares it two changes of thread.
const SYNC_HERE_MAX_BYTES: usize = 1 << 20;
/// After batches of so much the disk begins to write them, so that it is not idle until
/// the sync: one of a single byte waits for all of the `-wal`.
const WRITE_EARLY_BYTES: usize = 1 << 20;
/// Syncs that follow one another within this time find room in the `-wal`.
const SYNCS_TOGETHER: Duration = Duration::from_millis(50);
/// Room for the next sync is made once nothing has been written for this long.
const ROOM_IDLE: Duration = Duration::from_millis(200);
/// How soon a failed batch is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// How the rest of the program and the committer talk.
#[derive(Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Letters>,
    /// Held by whoever writes a batch, before any other lock.
    turn: Mutex<LastSync>,
    /// Held while the `-wal` is folded beside the committer.
    pub(crate) folding: Mutex<()>,
    /// To the committer: there is work.
    work: Condvar,
    /// From the committer: a batch has ended, well or badly.
    pub(crate) batch_ended: Condvar,
    pub(crate) progress: Mutex<Progress>,
    /// The committer, as gettid(2) names it.
    thread: OnceLock<i32>,
}

/// When the last sync began, and whether it came closely after another.
#[derive(Default)]
struct LastSync {
    at: Option<Instant>,
    followed: bool,
}

impl LastSync {
    /// Notes a sync; whether it follows closely on another.
    fn follows(&mut self) -> bool {
        let now = Instant::now();
        let last = self.at.replace(now);
        self.followed = last.is_some_and(|last| now - last < SYNCS_TOGETHER);
        self.followed
    }

    /// Whether more are likely to follow.
    fn go_on(&self) -> bool {
        self.followed && self.at.is_some_and(|last| last.elapsed() < SYNCS_TOGETHER)
    }
}

#[derive(Default)]
struct Letters {
    /// When the oldest pending change must be written.
    due: Option<Instant>,
    /// `due` is when a batch, or a sync alone (which [`Progress::failure`] does not tell),
    /// is tried again.
    is_retry: bool,
    waiters: Vec<Waiter>,
    check_external: bool,
    /// A fold beside the committer has ended, or one is due.
    look_at_wal: bool,
    stop: bool,
}

struct Waiter {
    done: SyncDone,
    deadline: Instant,
}

/// How the committer fares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Roughly what is pending or being written, in bytes.
    pub(crate) pending_bytes: usize,
    /// When the batch that is being written was begun.
    pub(crate) batch_began: Option<Instant>,
    /// Why the last batch failed, as long as none has succeeded since.
    pub(crate) failure: Option<StorageError>,
    /// The committer has ended.
    pub(crate) stopped: bool,
}

impl Progress {
    /// Whether more may be added to what is pending.
    pub(crate) fn has_room(&self) -> bool {
        self.pending_bytes <= PENDING_MAX_BYTES
            || (self.pending_bytes <= HELD_UP_MAX_BYTES && self.is_held_up())
    }

    fn is_held_up(&self) -> bool {
        let takes_long = |began: Instant| began.elapsed() >= BATCH_PATIENCE;
        self.failure.is_some() || self.batch_began.is_some_and(takes_long)
    }
}

impl Mailbox {
    /// Says that something is pending; whether nothing was.
    pub(crate) fn dirty(&self, at_once: bool) -> bool {
        let mut letters = self.letters.lock();
        let before = letters.due;
        if before.is_some() && !at_once && !letters.is_retry {
            // It is sooner than this would be.
            return false;
        }
        let now = Instant::now();
        let due = if at_once { now } else { now + BATCH_INTERVAL };
        if before.is_none_or(|earlier| earlier > due) {
            letters.due = Some(due);
            self.work.notify_one();
        }
        before.is_none()
    }

    pub(crate) fn sync(&self, done: SyncDone) {
        let mut letters = self.letters.lock();
        if letters.stop {
            drop(letters);
            done(Err(StorageError::Io("it has been closed".into())));
            return;
        }
        letters.waiters.push(Waiter {
            done,
            deadline: Instant::now() + BUSY_PATIENCE,
        });
        self.work.notify_one();
    }

    /// Whether a sync may be done at once: nothing is being written, nobody waits
    /// and no batch has failed.
    fn is_calm(&self) -> bool {
        let letters = self.letters.lock();
        if letters.stop || letters.check_external || !letters.waiters.is_empty() {
            return false;
        }
        let progress = self.progress.lock();
        progress.failure.is_none() && progress.pending_bytes <= SYNC_HERE_MAX_BYTES
    }

    pub(crate) fn check_external(&self) {
        self.letters.lock().check_external = true;
        self.work.notify_one();
    }

    /// Says that a fold beside the committer has ended, or that one is due.
    pub(crate) fn look_at_wal(&self) {
        self.letters.lock().look_at_wal = true;
        self.work.notify_one();
    }

    /// The committer, once it has begun.
    pub(crate) fn committer_thread(&self) -> Option<i32> {
        self.thread.get().copied()
    }

    pub(crate) fn stop(&self) {
        self.letters.lock().stop = true;
        self.work.notify_one();
    }
}

/// Commits and syncs on the calling thread where that is quick, else lets the
/// committer do it. What cannot be committed now is the committer's, too: it
/// tries again.
pub(crate) fn sync(shared: &Shared, done: SyncDone) {
    if let Some(mut turn) = shared.mailbox.turn.try_lock()
        && shared.mailbox.is_calm()
    {
        let written = commit_pending(shared, turn.follows());
        if shared.external.load(Ordering::Acquire) {
            shared.mailbox.check_external();
        }
        if written.is_ok() {
            let synced = wal::sync(shared);
            let is_full = turn.go_on() && folding::is_ring_full(shared);
            drop(turn);
            done(synced);
            if is_full {
                shared.mailbox.look_at_wal();
            }
            return;
        }
    }
    shared.mailbox.sync(done);
}

/// One turn of the committer.
#[derive(Default)]
struct Turn {
    waiters: Vec<Waiter>,
    check_external: bool,
    stop: bool,
    /// There is nothing to do, and has not been for a while.
    idle: bool,
}

/// Runs until told to stop and nothing is left to write, or writing it failed.
pub(crate) fn run(shared: &Shared) {
    let own = rustix::thread::gettid().as_raw_pid();
    // Nobody else sets it.
    let _ = shared.mailbox.thread.set(own);
    std::thread::scope(|scope| run_with(shared, Folding::new(scope, shared)));
}

fn run_with(shared: &Shared, mut folding: Folding<'_, '_>) {
    let mut retry = RETRY_MIN;
    let mut fold_at = None;
    let mut room_at = None;
    loop {
        let idle_at = [fold_at, room_at].into_iter().flatten().min();
        let mut turn = next_turn(&shared.mailbox, idle_at);
        let mut writing = shared.mailbox.turn.lock();
        if turn.idle {
            let is_over = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
            if is_over(room_at) {
                room_at = None;
                // The disk may be slow: programs go on meanwhile.
                shared.mailbox.progress.lock().batch_began = Some(Instant::now());
                wal::make_room(shared);
                shared.mailbox.progress.lock().batch_began = None;
            }
            if is_over(fold_at) {
                fold_at = folding.when_idle();
            }
            continue;
        }
        if turn.check_external {
            shared.look_for_external_change();
        }
        let keep_room = !turn.waiters.is_empty() && writing.follows();
        let mut result = commit_pending(shared, keep_room);
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut turn.waiters)
            .into_iter()
            // A database held by another program is worth waiting for.
            .partition(|waiter| {
                result != Err(StorageError::Busy) || turn.stop || waiter.deadline <= Instant::now()
            });
        if result.is_ok() && !now.is_empty() {
            result = wal::sync(shared);
        }
        match &result {
            Ok(()) => retry = RETRY_MIN,
            Err(error) => {
                tracing::warn!(%error, path = %shared.path().display(), "a batch was not written");
                if *error == StorageError::Full
                    && let Err(error) = wal::give_back_room(shared)
                {
                    tracing::debug!(%error, "the room in the -wal was not given back");
                }
                let mut letters = shared.mailbox.letters.lock();
                letters.waiters.splice(0..0, later);
                letters.due = Some(Instant::now() + retry);
                letters.is_retry = true;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
        for waiter in now {
            (waiter.done)(result.clone());
        }
        fold_at = folding.after_batch(writing.go_on());
        let wants_room = result.is_ok() && wal::wants_room(shared);
        room_at = wants_room.then(|| Instant::now() + ROOM_IDLE);
        drop(writing);
        shared.tell_of_external_change();
        if turn.stop {
            shared.mailbox.progress.lock().stopped = true;
            shared.mailbox.batch_ended.notify_all();
            return;
        }
    }
}

/// Waits for something to do, or that it is `idle_at`.
fn next_turn(mailbox: &Mailbox, idle_at: Option<Instant>) -> Turn {
    let mut letters = mailbox.letters.lock();
    loop {
        let now = Instant::now();
        // While batches fail, `due` says when to try again, and new syncs wait
        // for that.
        let retrying = mailbox.progress.lock().failure.is_some();
        let urgent = letters.stop
            || letters.check_external
            || letters.look_at_wal
            || (!letters.waiters.is_empty() && !retrying)
            || letters.due.is_some_and(|due| due <= now);
        if urgent {
            letters.due = None;
            letters.is_retry = false;
            letters.look_at_wal = false;
            return Turn {
                waiters: std::mem::take(&mut letters.waiters),
                check_external: std::mem::take(&mut letters.check_external),
                stop: letters.stop,
                idle: false,
            };
        }
        if letters.due.is_none() && idle_at.is_some_and(|idle| idle <= now) {
            return Turn {
                idle: true,
                ..Turn::default()
            };
        }
        match letters.due.or(idle_at) {
            Some(until) => {
                mailbox.work.wait_until(&mut letters, until);
            }
            None => mailbox.work.wait(&mut letters),
        }
    }
}

/// Writes all that is pending as one batch; with room in the `-wal` for the next.
fn commit_pending(shared: &Shared, keep_room: bool) -> Result<(), StorageError> {
    let batch = {
        let mut state = shared.exclusive();
        let discarded = std::mem::take(&mut *shared.discarded.lock());
        state.pending.discard(discarded);
        if state.pending.is_empty() {
            shared.set_progress(0, None);
            return Ok(());
        }
        let batch = Arc::new(std::mem::take(&mut state.pending));
        state.committing = Some(Arc::clone(&batch));
        batch
    };
    shared.mailbox.progress.lock().batch_began = Some(Instant::now());
    let outcome = write_batch(shared, &batch, keep_room);
    match outcome {
        Ok(written) => {
            let left = hand_over(shared, &batch, &written);
            shared.set_progress(left, None);
            let batch_bytes = batch.cost_bytes();
            let waiting = &shared.left_to_host_bytes;
            if waiting.fetch_add(batch_bytes, Ordering::Relaxed) + batch_bytes >= WRITE_EARLY_BYTES
            {
                waiting.store(0, Ordering::Relaxed);
                shared.gate.start_writing_wal();
            }
            Ok(())
        }
        Err(error) => {
            let mut state = shared.state.write();
            state.committing = None;
            // Readers hold the state while they use the batch, so this is the
            // last reference and nothing is copied.
            let mut merged = Arc::unwrap_or_clone(batch);
            merged.doubt();
            merged.merge(std::mem::take(&mut state.pending));
            let left = merged.cost_bytes();
            state.pending = merged;
            drop(state);
            shared.set_progress(left, Some(error.clone()));
            Err(error)
        }
    }
}

/// Lets the caches take over what has been committed. Until they have, the batch lies
/// over them and the state is free for others. Roughly what is pending then, in bytes.
fn hand_over(shared: &Shared, batch: &Delta, written: &Written) -> usize {
    if !batch.home.is_empty() {
        shared.set_home_exists();
    }
    if !written.reconciled {
        // Whoever began to read before the commit may still put older rows into the
        // caches: not after this.
        drop(shared.exclusive());
        shared.cache(Volume::View).apply(&batch.view);
        shared.cache(Volume::Home).apply(&batch.home);
    }
    let mut state = shared.exclusive();
    state.committing = None;
    // Which rows others have written is not known here: all are read anew.
    let seen_changes = shared.seen_changes.load(Ordering::Acquire);
    if written.reconciled || seen_changes != written.seen_changes {
        shared.clear_caches();
    }
    state.pending.cost_bytes()
}

struct Written {
    /// Others had written, and the batch was fitted to that.
    reconciled: bool,
    /// [`Shared::seen_changes`] at the commit.
    seen_changes: u64,
}

fn write_batch(shared: &Shared, batch: &Delta, keep_room: bool) -> Result<Written, StorageError> {
    let lease = shared.lease(Purpose::Write)?;
    let seen_changes = shared.seen_changes.load(Ordering::Acquire);
    let external = Cell::new(false);
    let result = lease.query(|conn| {
        apply::touch_tables(conn, batch, shared.sql(Volume::View));
        wal::transaction(&shared.gate, conn, || {
            // A connection opened anew has been told of by the gate.
            external.set(shared.note_data_version(conn)? || shared.has_external_change());
            if external.get() {
                shared.drop_clean_state();
            }
            let context = Context {
                view_sql: shared.sql(Volume::View),
                home_sql: shared.sql(Volume::Home),
                reconcile: external.get(),
                reserve: shared.wants_inodes(),
            };
            let outcome = apply::apply(conn, batch, &context)?;
            if keep_room {
                wal::keep_room(&shared.gate);
            }
            Ok(outcome)
        })
    });
    match result {
        Ok(Outcome { reserved }) => {
            if let Some(range) = reserved {
                shared.add_inodes(range);
            }
            Ok(Written {
                reconciled: external.get(),
                seen_changes,
            })
        }
        // The lease rolls back what is left of the transaction. The next attempt, too,
        // has to fit the batch to what others wrote.
        Err(error) => {
            if external.get() {
                shared.unreconciled.store(true, Ordering::Release);
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pending_is_due_with_the_oldest_of_it() {
        let mailbox = Mailbox::default();
        let due = || mailbox.letters.lock().due.unwrap();
        assert!(mailbox.dirty(false));
        let first = due();
        assert!(!mailbox.dirty(false));
        assert_eq!(due(), first);
        assert!(!mailbox.dirty(true));
        assert!(due() < first);
    }

    /// Where a batch has failed, what changes next does not wait as long as the retry.
    #[test]
    fn a_change_brings_a_retry_forward() {
        let mailbox = Mailbox::default();
        let retry = Instant::now() + RETRY_MAX;
        {
            let mut letters = mailbox.letters.lock();
            (letters.due, letters.is_retry) = (Some(retry), true);
        }
        mailbox.dirty(false);
        assert!(mailbox.letters.lock().due.unwrap() < retry);
    }
}
