//! Wrappers around the two boundaries of core that count calls and fail the
//! N-th one. They must never change what passes through when not armed.

mod lower;
mod storage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

pub use lower::FaultyLower;
pub use storage::FaultyStorage;

/// Decides which call fails, and counts. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<State>);

#[derive(Debug, Default)]
struct State {
    calls: AtomicU64,
    fail_at: AtomicU64,
    fired: AtomicBool,
    write_transactions: AtomicU64,
    chunks_put: AtomicU64,
    inodes_put: AtomicU64,
}

impl Faults {
    /// Lets the `nth` call from now fail (1 is the next), and only that.
    pub fn arm(&self, nth: u64) {
        self.0.calls.store(0, SeqCst);
        self.0.fired.store(false, SeqCst);
        self.0.fail_at.store(nth, SeqCst);
    }

    /// Lets all calls pass; tells whether one failed since [`Self::arm`].
    pub fn disarm(&self) -> bool {
        self.0.fail_at.store(0, SeqCst);
        self.0.fired.swap(false, SeqCst)
    }

    /// Whether this call is the one that fails.
    fn hit(&self) -> bool {
        let call = self.0.calls.fetch_add(1, SeqCst) + 1;
        let hit = call == self.0.fail_at.load(SeqCst);
        if hit {
            self.0.fired.store(true, SeqCst);
        }
        hit
    }

    /// What was written so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            write_transactions: self.0.write_transactions.load(SeqCst),
            chunks_put: self.0.chunks_put.load(SeqCst),
            inodes_put: self.0.inodes_put.load(SeqCst),
        }
    }
}

/// Counts of what was written to a storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Write transactions begun.
    pub write_transactions: u64,
    /// Chunks stored.
    pub chunks_put: u64,
    /// Inode rows stored.
    pub inodes_put: u64,
}

impl std::ops::Sub for Tally {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            write_transactions: self.write_transactions - earlier.write_transactions,
            chunks_put: self.chunks_put - earlier.chunks_put,
            inodes_put: self.inodes_put - earlier.inodes_put,
        }
    }
}
