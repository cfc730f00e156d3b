//! [`Waits`]: where in a file the disk has been waited for more than once, and when it
//! pays to read what lies around with it.
//!
//! The host reads ahead of whoever reads forwards. Of what is read here and there, or from
//! the end to the beginning (SQLite hands out pages that were freed in the order last
//! freed first, so that a large file can lie the wrong way round), each page is a wait of
//! its own. Must never cost more than has been waited, nor do anything where the host has
//! all in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What is read at once: on a disk of today about as long as three to eight waits.
pub(super) const REGION_BYTES: u64 = 1 << 20;
/// So many waits in one region, and it is read.
const WAITS_MIN: u8 = 2;
/// A page of the host's that is in memory is handed over in a tenth of this.
const WAIT_MIN: Duration = Duration::from_micros(30);
/// What reading a region is taken to cost before one was read.
const PRICE: Duration = Duration::from_micros(500);
/// With none for so long, what was read may have left the host's memory.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1);
/// Regions remembered; a file of 16 GiB.
const REGIONS_MAX: usize = 16 << 10;

#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Waits in each region; [`WAITS_MIN`] where it was read.
    regions: HashMap<u64, u8>,
    count: u32,
    waited: Duration,
    /// What reading regions took, less what later reads of them did not wait.
    spent: Duration,
    /// What reading a region took last.
    price: Option<Duration>,
    last: Option<Instant>,
}

impl Waits {
    /// Whether a read is of interest: it has waited.
    pub(super) fn is_one(took: Duration) -> bool {
        took >= WAIT_MIN
    }

    /// Whether regions have been read that have not paid yet: then every read is of
    /// interest.
    pub(super) fn are_in_debt(&self) -> bool {
        !self.spent.is_zero()
    }

    /// Notes that the read at `offset`, which ended `now`, `took` so long. The region to
    /// read, of which then [`Self::spend`] is told.
    pub(super) fn note(&mut self, offset: u64, took: Duration, now: Instant) -> Option<Range<u64>> {
        let region = offset / REGION_BYTES;
        if !Self::is_one(took) {
            if self.regions.get(&region) == Some(&WAITS_MIN) && self.count > 0 {
                self.spent = self.spent.saturating_sub(self.waited / self.count);
            }
            return None;
        }
        let is_long_ago = |last| now.duration_since(last) > FORGOTTEN_AFTER;
        if self.last.is_some_and(is_long_ago) || self.regions.len() >= REGIONS_MAX {
            *self = Self::default();
        }
        self.last = Some(now);
        self.count = self.count.saturating_add(1);
        self.waited += took;
        let waits = self.regions.entry(region).or_default();
        if *waits == WAITS_MIN {
            return None;
        }
        // Once more while there is not enough to spend.
        let price = self.price.unwrap_or(PRICE);
        if *waits + 1 == WAITS_MIN && self.spent + price > self.waited {
            return None;
        }
        *waits += 1;
        (*waits == WAITS_MIN).then(|| {
            let start = region * REGION_BYTES;
            start..start.saturating_add(REGION_BYTES)
        })
    }

    /// Notes what reading a region took.
    pub(super) fn spend(&mut self, took: Duration) {
        self.spent += took;
        self.price = Some(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 8192;
    const WAIT: Duration = Duration::from_micros(60);
    const NO_WAIT: Duration = Duration::from_micros(1);
    const REGION: Duration = Duration::from_micros(400);

    /// A file on a disk, whose pages the host has once they were read.
    struct Disk {
        waits: Waits,
        cached: std::collections::HashSet<u64>,
        now: Instant,
        waited: u32,
        regions: Vec<u64>,
    }

    impl Disk {
        fn new() -> Self {
            Self {
                waits: Waits::default(),
                cached: std::collections::HashSet::new(),
                now: Instant::now(),
                waited: 0,
                regions: Vec::new(),
            }
        }

        fn read(&mut self, page: u64) {
            let is_cached = !self.cached.insert(page);
            let took = if is_cached { NO_WAIT } else { WAIT };
            self.waited += u32::from(!is_cached);
            self.now += took;
            if let Some(region) = self.waits.note(page * PAGE, took, self.now) {
                assert!(region.contains(&(page * PAGE)));
                self.regions.push(region.start / REGION_BYTES);
                self.cached.extend(region.start / PAGE..region.end / PAGE);
                self.now += REGION;
                self.waits.spend(REGION);
            }
        }
    }

    fn scattered(pages: u64, reads: u64) -> impl Iterator<Item = u64> {
        (0..reads).scan(1_u64, move |state, _| {
            *state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Some((*state >> 33) % pages)
        })
    }

    #[test]
    fn what_is_read_backwards_is_read_by_the_region() {
        let mut disk = Disk::new();
        (0..128 * 64).rev().for_each(|page| disk.read(page));
        assert_eq!(disk.regions, (0..64).rev().collect::<Vec<_>>());
        assert!(
            disk.waited < 64 * u32::from(WAITS_MIN) + 10,
            "{}",
            disk.waited
        );
    }

    #[test]
    fn what_is_read_here_and_there_is_read_by_the_region_where_it_is_dense() {
        let mut disk = Disk::new();
        scattered(128 * 64, 8000).for_each(|page| disk.read(page));
        let mut regions = disk.regions.clone();
        regions.sort_unstable();
        assert_eq!(regions, (0..64).collect::<Vec<_>>(), "each once");
        assert!(disk.waited < 800, "{}", disk.waited);
    }

    #[test]
    fn no_more_is_spent_than_was_waited() {
        let mut disk = Disk::new();
        let begun = disk.now;
        // About three in each region, hardly one twice.
        scattered(128 * 4000, 12_000).for_each(|page| disk.read(page));
        assert!(!disk.regions.is_empty());
        assert!(disk.now - begun < WAIT * 12_000 * 2);
    }

    #[test]
    fn a_few_waits_are_none() {
        let mut disk = Disk::new();
        (0..8).rev().for_each(|page| disk.read(page));
        assert!(disk.regions.is_empty());
    }

    #[test]
    fn nothing_is_read_where_nothing_is_waited_for() {
        let mut disk = Disk::new();
        disk.cached.extend(0..8192);
        scattered(8192, 8000).for_each(|page| disk.read(page));
        assert!(disk.regions.is_empty());
    }

    #[test]
    fn after_a_pause_a_region_is_read_again() {
        let mut disk = Disk::new();
        (0..128).rev().for_each(|page| disk.read(page));
        assert_eq!(disk.regions, [0]);
        disk.cached.clear();
        (0..128).rev().for_each(|page| disk.read(page));
        assert_eq!(disk.regions, [0], "once");
        disk.cached.clear();
        disk.now += FORGOTTEN_AFTER * 2;
        (0..128).rev().for_each(|page| disk.read(page));
        assert_eq!(disk.regions, [0, 0]);
    }
}
