//! Directories whose entries are all known.
//!
//! Bounded by entries. A directory is here whole or not at all, so that a name
//! that is missing is known to be absent.

use std::num::NonZeroUsize;

use agentfs_core::{Ino, Name};
use foldhash::fast::RandomState;
use lru::LruCache;

use super::Lru;
use crate::pending::Map;

const DIRS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8_191);
/// Entries over all directories that are kept whole.
const DIR_ENTRIES: usize = 262_144;
/// Entries up to which one directory is kept whole.
pub(crate) const DIR_ENTRIES_MAX: usize = 131_072;
/// Entries that the first miss in a directory may cost; the next such attempt
/// may cost twice as many, after twice as many misses. So a small directory is
/// loaded at once, and one look into a large one does not read all of it.
const DIR_ATTEMPT_ENTRIES: usize = 128;

pub(super) struct Dirs {
    lru: Lru<Ino, Map<Name, Ino>>,
    entries: usize,
    /// How often an entry was looked for in directories that are not kept.
    misses: Lru<Ino, u32>,
}

impl Dirs {
    pub(super) fn new() -> Self {
        Self {
            lru: LruCache::with_hasher(DIRS, RandomState::default()),
            entries: 0,
            misses: LruCache::with_hasher(DIRS, RandomState::default()),
        }
    }

    pub(super) fn put(&mut self, parent: Ino, entries: Map<Name, Ino>) {
        self.misses.pop(&parent);
        // A directory costs something even when it is empty.
        self.entries += entries.len() + 1;
        if let Some((_, before)) = self.lru.push(parent, entries) {
            self.entries -= before.len() + 1;
        }
        self.shrink();
    }

    /// Changes a directory that is kept whole; `false` when it is not.
    pub(super) fn update(&mut self, parent: Ino, changes: &Map<Name, Option<Ino>>) -> bool {
        let Some(dir) = self.lru.get_mut(&parent) else {
            return false;
        };
        let before = dir.len();
        for (name, ino) in changes {
            match ino {
                Some(ino) => dir.insert(name.clone(), *ino),
                None => dir.remove(name),
            };
        }
        self.entries = self.entries + dir.len() - before;
        if dir.len() > DIR_ENTRIES_MAX
            && let Some(dir) = self.lru.pop(&parent)
        {
            self.entries -= dir.len() + 1;
            return false;
        }
        self.shrink();
        true
    }

    fn shrink(&mut self) {
        while self.entries > DIR_ENTRIES {
            let Some((_, dir)) = self.lru.pop_lru() else {
                break;
            };
            self.entries -= dir.len() + 1;
        }
    }

    /// `Some(None)`: known to be absent.
    pub(super) fn entry(&mut self, parent: Ino, name: &Name) -> Option<Option<Ino>> {
        let dir = self.lru.get(&parent)?;
        Some(dir.get(name).copied())
    }

    pub(super) fn get(&mut self, parent: Ino) -> Option<Map<Name, Ino>> {
        self.lru.get(&parent).cloned()
    }

    /// See [`super::Cache::note_miss`].
    pub(super) fn note_miss(&mut self, parent: Ino) -> Option<usize> {
        let misses = self.misses.get_or_insert_mut(parent, || 0);
        *misses = misses.saturating_add(1);
        let entries = DIR_ATTEMPT_ENTRIES.saturating_mul(*misses as usize);
        (misses.is_power_of_two() && entries <= DIR_ENTRIES_MAX).then_some(entries)
    }
}
