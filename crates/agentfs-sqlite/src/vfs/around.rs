//! [`Around`]: the reads of a connection, with what [`Waits`] says is worth having beside
//! them. All connections to a file wait for the same disk, and know of one another's waits.
//!
//! What is read beside is thrown away: that the host then has it in memory is all. Must
//! never change what a read gives, nor have one wait for another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::waits::Waits;

/// A read so far behind the last goes on forwards: the host reads ahead of that by itself.
const FORWARDS_MAX_BYTES: u64 = 64 << 10;

/// What is known of one file, by all connections to it.
#[derive(Debug, Default)]
struct Known {
    state: Mutex<State>,
    /// Regions have been read, and whether that was worth it is not known.
    is_curious: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waits: Waits,
    unused: Vec<u8>,
}

impl Known {
    /// Of the file of this name, for as long as anybody has it.
    fn of(name: &[u8]) -> Arc<Self> {
        static ALL: Mutex<Vec<(Vec<u8>, Weak<Known>)>> = Mutex::new(Vec::new());
        let mut all = ALL.lock();
        all.retain(|(_, known)| known.strong_count() > 0);
        let there = all.iter().find(|(of, _)| of == name);
        there
            .and_then(|(_, known)| known.upgrade())
            .unwrap_or_else(|| {
                let known = Arc::default();
                all.push((name.to_vec(), Arc::downgrade(&known)));
                known
            })
    }
}

/// The reads of one connection.
#[derive(Debug)]
pub(super) struct Around {
    known: Arc<Known>,
    /// Where the last ended.
    end: u64,
}

impl Around {
    /// Of the file of this name.
    pub(super) fn new(name: &[u8]) -> Self {
        Self {
            known: Known::of(name),
            end: 0,
        }
    }

    /// Reads `len` bytes at an offset, by `read`, and a region around them, by
    /// `read_region`, where that pays.
    pub(super) fn read<T>(
        &mut self,
        offset: u64,
        len: u64,
        read: impl FnOnce() -> T,
        read_region: impl FnOnce(&mut [u8], u64),
    ) -> T {
        let forwards = offset.checked_sub(self.end);
        self.end = offset.saturating_add(len);
        if forwards.is_some_and(|gap| gap <= FORWARDS_MAX_BYTES) {
            return read();
        }
        let begun = Instant::now();
        let result = read();
        let now = Instant::now();
        let took = now - begun;
        if (Waits::is_one(took) || self.known.is_curious.load(Ordering::Relaxed))
            && let Some(mut state) = self.known.state.try_lock()
        {
            let State { waits, unused } = &mut *state;
            if let Some(region) = waits.note(offset, took, now)
                && let Ok(len) = usize::try_from(region.end - region.start)
            {
                unused.resize(len, 0);
                read_region(unused, region.start);
                waits.spend(now.elapsed());
            }
            let is_curious = waits.are_in_debt();
            self.known.is_curious.store(is_curious, Ordering::Relaxed);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::waits::REGION_BYTES;
    use super::*;

    const PAGE: u64 = 8192;

    /// Reads pages of a file in which each costs a wait, until a region is read.
    fn first_region(around: &mut Around, pages: impl IntoIterator<Item = u64>) -> Option<u64> {
        let mut region = None;
        for page in pages {
            let given = around.read(
                page * PAGE,
                PAGE,
                || {
                    std::thread::sleep(Duration::from_millis(1));
                    page
                },
                |unused, from| {
                    assert_eq!(unused.len() as u64, REGION_BYTES);
                    region = Some(from / REGION_BYTES);
                },
            );
            assert_eq!(given, page, "what was asked for");
            if region.is_some() {
                break;
            }
        }
        region
    }

    #[test]
    fn a_region_that_is_waited_for_is_read_beside() {
        let mut around = Around::new(b"one");
        assert_eq!(first_region(&mut around, (500..600).rev()), Some(4));
    }

    #[test]
    fn what_is_read_forwards_is_left_to_the_host() {
        let mut around = Around::new(b"two");
        assert_eq!(first_region(&mut around, 0..100), None);
    }

    #[test]
    fn all_connections_to_a_file_know_of_one_anothers_waits() {
        let mut one = Around::new(b"three");
        assert_eq!(first_region(&mut one, [9]), None);
        let mut another = Around::new(b"four");
        assert_eq!(first_region(&mut another, [9]), None, "of that file");
        let mut same = Around::new(b"three");
        assert_eq!(first_region(&mut same, [120]), Some(0));
        drop((one, same));
        let known = Around::new(b"three").known;
        assert!(
            !known.state.lock().waits.are_in_debt(),
            "gone with the last"
        );
    }
}
