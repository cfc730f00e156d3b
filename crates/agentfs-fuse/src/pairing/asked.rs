//! Who asks: what the answering threads note with every request, and what the
//! companion makes of it.
//!
//! Counts and compares; knows nothing of processors. Notes of threads that answer
//! at the same time may be lost, or a count go back, which nothing depends on.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So many askers there are as long as at most one request in so many comes from
/// another thread.
const REQUESTS_PER_STRANGER: u64 = 8;

/// Two that take turns are not held up by each other as long as each request takes
/// less than this in the middle. Where more, one of them waits for the disk or for a
/// sync, and the other would, too.
const TURN_MAX: Duration = Duration::from_micros(30);

/// By itself in its cache lines: the companion reads it all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Asked {
    requests: AtomicU64,
    /// Requests that came from another thread than the one before.
    switches: AtomicU64,
    /// Those that came from neither of the two threads before.
    others: AtomicU64,
    client: AtomicU32,
    /// Who asked before `client` did.
    client_before: AtomicU32,
    /// The mount and the thread that answered last, as one number.
    server: AtomicU64,
}

/// What the companion saw when it last looked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    requests: u64,
    switches: u64,
    others: u64,
}

/// How many threads ask, but for the odd request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Askers {
    One,
    /// Two that take turns, quickly.
    Two,
    /// More, or two that would hold each other up.
    More,
}

impl Asked {
    /// Notes a request of the thread `client` (0: nobody's) that `server` answers.
    /// How many there were before.
    pub(super) fn note(&self, client: u32, server: u64) -> u64 {
        // Of two threads at once the later wins: an exact count would cost each request more.
        let count = self.requests.load(Ordering::Relaxed);
        self.requests
            .store(count.wrapping_add(1), Ordering::Relaxed);
        let last = self.client.load(Ordering::Relaxed);
        if client != 0 && client != last {
            self.client.store(client, Ordering::Relaxed);
            self.switches.fetch_add(1, Ordering::Relaxed);
            if self.client_before.swap(last, Ordering::Relaxed) != client {
                self.others.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.server.store(server, Ordering::Relaxed);
        count
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn client(&self) -> u32 {
        self.client.load(Ordering::Relaxed)
    }

    pub(super) fn server(&self) -> u64 {
        self.server.load(Ordering::Relaxed)
    }

    pub(super) fn look(&self, at: Instant) -> Look {
        Look {
            at,
            requests: self.requests(),
            switches: self.switches.load(Ordering::Relaxed),
            others: self.others.load(Ordering::Relaxed),
        }
    }
}

impl Look {
    pub(super) fn askers_since(&self, then: &Self) -> Askers {
        let requests = self.requests.saturating_sub(then.requests);
        let is_often = |count: u64| count * REQUESTS_PER_STRANGER > requests;
        let is_quick = || {
            let turns = u32::try_from(requests).unwrap_or(u32::MAX);
            self.at - then.at < TURN_MAX * turns
        };
        if !is_often(self.switches - then.switches) {
            Askers::One
        } else if is_often(self.others - then.others) || !is_quick() {
            Askers::More
        } else {
            Askers::Two
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn askers(clients: impl IntoIterator<Item = u32>) -> Askers {
        askers_within(TURN_MAX * 50, clients)
    }

    fn askers_within(time: Duration, clients: impl IntoIterator<Item = u32>) -> Askers {
        let asked = Asked::default();
        let at = Instant::now();
        // Whoever comes first is always another.
        asked.note(1, 0);
        let then = asked.look(at);
        for client in clients {
            asked.note(client, 0);
        }
        asked.look(at + time).askers_since(&then)
    }

    #[test]
    fn askers_are_told_apart_by_who_takes_turns() {
        assert_eq!(askers([1; 100]), Askers::One);
        assert_eq!(askers((0..100).map(|n| n % 2 + 1)), Askers::Two);
        assert_eq!(askers((0..100).map(|n| n % 3 + 1)), Askers::More);
        // Two that ask in bursts of their own are one at a time.
        assert_eq!(askers((0..100).map(|n| n / 20 % 2 + 1)), Askers::One);
    }

    #[test]
    fn the_odd_request_of_another_does_not_count() {
        let odd = |n: u32| if n % 40 == 7 { 9 } else { 1 };
        assert_eq!(askers((0..100).map(odd)), Askers::One);
        let odd = |n: u32| if n % 40 == 7 { 9 } else { n % 2 + 1 };
        assert_eq!(askers((0..100).map(odd)), Askers::Two);
    }

    #[test]
    fn two_of_which_one_waits_long_are_parted() {
        let turns = || (0..100).map(|n| n % 2 + 1);
        assert_eq!(askers_within(TURN_MAX * 99, turns()), Askers::Two);
        assert_eq!(askers_within(TURN_MAX * 101, turns()), Askers::More);
        // One alone may wait as long as it likes.
        assert_eq!(askers_within(TURN_MAX * 1000, [1; 100]), Askers::One);
    }

    #[test]
    fn requests_of_nobody_are_no_switch() {
        assert_eq!(askers((0..100).map(|n| n % 2)), Askers::One);
    }

    /// As it does where two threads count at once.
    #[test]
    fn a_count_that_has_gone_back_is_borne() {
        let asked = Asked::default();
        let at = Instant::now();
        for _ in 0..100 {
            asked.note(1, 0);
        }
        let then = asked.look(at);
        asked.requests.store(10, Ordering::Relaxed);
        let now = asked.look(at + TURN_MAX);
        assert_eq!(now.askers_since(&then), Askers::One);
    }
}
