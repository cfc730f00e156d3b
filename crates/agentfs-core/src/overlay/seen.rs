//! Attributes of lower objects as they were last seen, for callers who tell of every
//! change of the lower layer: a kernel asks again for what only it has doubts about.
//!
//! Bounded, and may be empty at any moment. Must never keep what was seen before a
//! change that has been told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::lower::LowerAttr;
use crate::types::Ino;

/// Objects kept, some five MiB; one more, and all are forgotten.
const KEPT_MAX: usize = 32 * 1024;

/// A moment before the lower layer is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u64);

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Changes told so far.
    changes: AtomicU64,
    attrs: Mutex<HashMap<Ino, LowerAttr, RandomState>>,
}

impl Seen {
    /// Now. To be asked before looking at the lower layer.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.changes.load(Ordering::Acquire))
    }

    pub(super) fn get(&self, ino: Ino) -> Option<LowerAttr> {
        self.attrs.lock().get(&ino).cloned()
    }

    /// Keeps what was seen after `moment`, unless a change was told since. Of an object
    /// with several names nothing is kept: whoever changes it by another name than the
    /// one watched is not told of.
    pub(super) fn put(&self, ino: Ino, attr: &LowerAttr, moment: Moment) {
        let by_one_name = attr.kind.is_dir() || attr.nlink <= 1;
        let mut attrs = self.attrs.lock();
        // Whoever tells of a change counts it before it waits for the lock.
        if !by_one_name || self.moment() != moment {
            attrs.remove(&ino);
            return;
        }
        if attrs.len() >= KEPT_MAX && !attrs.contains_key(&ino) {
            attrs.clear();
        }
        attrs.insert(ino, attr.clone());
    }

    /// These may have changed.
    pub(super) fn changed(&self, inos: &[Ino]) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let mut attrs = self.attrs.lock();
        for ino in inos {
            attrs.remove(ino);
        }
    }

    /// Nobody asks for it any more.
    pub(super) fn forget(&self, ino: Ino) {
        self.attrs.lock().remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::LowerId;
    use crate::types::{FileKind, Timestamp};

    fn attr(size: u64, nlink: u32) -> LowerAttr {
        let time = Timestamp::new(1, 2);
        LowerAttr {
            id: LowerId { dev: 1, ino: 5 },
            kind: FileKind::Regular,
            perm: 0o644,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: 1,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn what_was_seen_before_a_change_is_not_kept_after_it() {
        let seen = Seen::default();
        let before = seen.moment();
        seen.put(Ino(5), &attr(1, 1), before);
        assert_eq!(seen.get(Ino(5)), Some(attr(1, 1)));
        seen.changed(&[Ino(5)]);
        assert_eq!(seen.get(Ino(5)), None);
        // Looked at before, and only now done with it.
        seen.put(Ino(5), &attr(1, 1), before);
        assert_eq!(seen.get(Ino(5)), None);
        seen.put(Ino(5), &attr(2, 1), seen.moment());
        assert_eq!(seen.get(Ino(5)), Some(attr(2, 1)));
        // Another's change: what is here was seen before it, too, but was not told of.
        seen.changed(&[Ino(6)]);
        assert_eq!(seen.get(Ino(5)), Some(attr(2, 1)));
        seen.forget(Ino(5));
        assert_eq!(seen.get(Ino(5)), None);
    }

    #[test]
    fn of_what_has_several_names_nothing_is_kept() {
        let seen = Seen::default();
        seen.put(Ino(5), &attr(1, 1), seen.moment());
        seen.put(Ino(5), &attr(1, 2), seen.moment());
        assert_eq!(seen.get(Ino(5)), None);
    }

    #[test]
    fn there_is_an_end_to_it() {
        let seen = Seen::default();
        for number in 0..3 * KEPT_MAX as u64 {
            seen.put(Ino(number), &attr(number, 1), seen.moment());
            assert_eq!(seen.get(Ino(number)), Some(attr(number, 1)));
            assert!(seen.attrs.lock().len() <= KEPT_MAX);
        }
    }
}
