//! How long the kernel may keep an answer: for good where every change of the
//! base is told to us, shortly where it is not.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::{Attr, Ino, LowerPath, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;

use crate::notify::Notifier;

/// Who watches the base for changes made by others.
///
/// Called from request handlers: must neither wait for a request to the mount
/// nor take long.
pub trait DirInterest: Send + Sync + 'static {
    /// Called once, before the first request is answered: where to tell changes.
    fn attached(&self, _notifier: &Notifier) {}
    /// The entries of `dir`, which shows the lower directory `lower`, are about
    /// to be answered. Returns whether from now on every change in `lower` will
    /// be told to the [`crate::Notifier`].
    fn looked_up(&self, dir: Ino, lower: &LowerPath) -> bool;
    /// The kernel has forgotten `dir`: its changes are of no interest any more.
    fn forgotten(&self, dir: Ino);
}

/// For a base that never changes, or only as the embedder tells the
/// [`crate::Notifier`] itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchanging;

impl DirInterest for Unchanging {
    fn looked_up(&self, _: Ino, _: &LowerPath) -> bool {
        true
    }

    fn forgotten(&self, _: Ino) {}
}

/// For good: about a hundred years. The kernel adds it to its clock.
pub(crate) const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What is known of a directory that the kernel has looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Changes of the base are told, or nothing of the base shows in it.
    ForGood,
    /// Changes of the base are not told.
    Shortly,
}

/// Base objects in unwatched directories whose state is remembered, at most.
const SEEN_MAX: std::num::NonZeroUsize = std::num::NonZeroUsize::new(16 * 1024).unwrap();

/// The directories that the kernel has looked into.
pub(crate) struct Directories {
    interest: Arc<dyn DirInterest>,
    shortly: Duration,
    known: Mutex<HashMap<Ino, Known>>,
    /// What was last said of objects whose changes nobody tells. The kernel
    /// keeps their pages, so that it has to be told by us when it asks again.
    seen: Mutex<LruCache<Ino, (u64, Timestamp, Timestamp)>>,
}

impl Directories {
    pub(crate) fn new(interest: Arc<dyn DirInterest>, shortly: Duration) -> Self {
        let seen = Mutex::new(LruCache::new(SEEN_MAX));
        Self {
            interest,
            shortly,
            known: Mutex::default(),
            seen,
        }
    }

    /// How long answers about the entries of `dir` hold. Call it before the
    /// entries are read; `lower_dir` is asked the first time only.
    pub(crate) fn enter(
        &self,
        dir: Ino,
        lower_dir: impl FnOnce() -> Option<LowerPath>,
    ) -> Duration {
        if let Some(known) = self.known.lock().get(&dir) {
            return self.ttl(*known);
        }
        let told = lower_dir().is_none_or(|lower| self.interest.looked_up(dir, &lower));
        let known = if told { Known::ForGood } else { Known::Shortly };
        self.known.lock().insert(dir, known);
        self.ttl(known)
    }

    /// How long the attributes of a directory hold. They change with what is in
    /// it, which is told only once it has been entered.
    pub(crate) fn own_ttl(&self, dir: Ino) -> Duration {
        match self.known.lock().get(&dir) {
            Some(known) => self.ttl(*known),
            // Nobody changes it but us.
            None if dir.is_born() => FOR_GOOD,
            None => self.shortly,
        }
    }

    /// The kernel has forgotten an inode, which may be a directory.
    pub(crate) fn forget(&self, ino: Ino) {
        if ino != Ino::ROOT && self.known.lock().remove(&ino).is_some() {
            self.interest.forgotten(ino);
        }
    }

    /// What shows where may have changed: asks anew.
    pub(crate) fn forget_all(&self) {
        self.known.lock().clear();
    }

    /// Whether an object whose changes nobody tells has changed since its
    /// attributes were last given to the kernel.
    pub(crate) fn has_changed(&self, attr: &Attr) -> bool {
        let now = (attr.size, attr.mtime, attr.ctime);
        self.seen
            .lock()
            .put(attr.ino, now)
            .is_some_and(|before| before != now)
    }

    pub(crate) fn contains(&self, dir: Ino) -> bool {
        self.known.lock().contains_key(&dir)
    }

    pub(crate) fn shortly(&self) -> Duration {
        self.shortly
    }

    fn ttl(&self, known: Known) -> Duration {
        match known {
            Known::ForGood => FOR_GOOD,
            Known::Shortly => self.shortly,
        }
    }
}
