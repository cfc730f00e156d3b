//! [`HostClock`]: the time as the host's own file systems stamp it. Must never
//! show a time that the kernel would not give a file now.

use agentfs_core::Timestamp;
use agentfs_core::types::Clock;
use rustix::time::{ClockId, clock_gettime};

/// The host's clock, in the kernel's ticks (`CLOCK_REALTIME_COARSE`,
/// `clock_gettime(2)`; 1 to 10 ms).
///
/// The kernel stamps files with this clock. A FUSE file that is made and written
/// within a tick therefore needs no second message for the time of the write:
/// it is the one that the server gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Timestamp::new(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// What the clock says before and after a file is made encloses its time.
    #[test]
    fn it_is_the_clock_that_files_are_stamped_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let before = HostClock.now();
        std::fs::write(&path, "").unwrap();
        let made = std::fs::metadata(&path).unwrap();
        let after = HostClock.now();
        let made = Timestamp::new(made.mtime(), u32::try_from(made.mtime_nsec()).unwrap());
        // A file system with finer stamps may be up to a tick ahead of it.
        assert!(before <= made, "{before:?} {made:?} {after:?}");
        assert!(made.secs <= after.secs + 1, "{made:?} {after:?}");
    }
}
