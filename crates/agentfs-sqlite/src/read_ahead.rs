//! [`ReadAhead`]: a thread that reads the chunks behind those that somebody reads in
//! order, so that SQLite is asked for them while the last are handed over.
//!
//! The kernel asks for a file one piece after the other: without this, one processor
//! has all the work. Must never read what a transaction could not, nor keep what has
//! changed since: it reads as a transaction does, and the cache forgets with the others.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::database::Volume;
use crate::shared::Shared;
use crate::txn::Txn;

/// The thread, and what it waits for.
#[derive(Default)]
pub(crate) struct ReadAhead {
    order: Mutex<Order>,
    given: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Order {
    is_given: bool,
    ends: bool,
}

impl ReadAhead {
    /// Starts the thread. With the database, and not with the first that asks: a thread may
    /// run where the one that starts it may, and those that answer programs are kept on one
    /// processor for moments.
    pub(crate) fn start(shared: &Arc<Shared>) {
        let for_thread = Arc::clone(shared);
        let begun = std::thread::Builder::new()
            .name("afs-read-ahead".into())
            .spawn(move || run(&for_thread));
        // Without one, chunks are read when they are asked for.
        *shared.read_ahead.thread.lock() = begun.ok();
    }

    /// Has the thread read what the caches want.
    pub(crate) fn begin(&self) {
        self.order.lock().is_given = true;
        self.given.notify_one();
    }

    /// Waits until there is something to read; `false`: it is over.
    fn is_ordered(&self) -> bool {
        let mut order = self.order.lock();
        while !order.is_given && !order.ends {
            self.given.wait(&mut order);
        }
        order.is_given = false;
        !order.ends
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.order.lock().ends = true;
        self.given.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic there has been reported on stderr by the runtime.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Arc<Shared>) {
    while shared.read_ahead.is_ordered() {
        for volume in [Volume::View, Volume::Home] {
            while read_piece(shared, volume) {}
        }
    }
}

/// Whether there was anything to read.
fn read_piece(shared: &Arc<Shared>, volume: Volume) -> bool {
    let cache = shared.cache(volume);
    // Before it is known what is coming: others wait for that with the state in their
    // hands, and so must not have to be waited for.
    let state = shared.state.read();
    let Some((ino, piece)) = cache.ahead_piece() else {
        return false;
    };
    let txn = Txn::new(shared, volume, &state);
    for index in piece {
        // Whoever asks for it will be told what is wrong with it.
        let read = txn.chunk_ahead(ino, index).unwrap_or(None);
        if !cache.put_ahead(ino, index, read) {
            break;
        }
    }
    true
}
