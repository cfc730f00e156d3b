//! How long stored chunks are, so that a write into one need not ask SQLite.
//!
//! Kept in groups of neighbours, which one query fills. Bounded, like all that
//! is cached.

use std::num::NonZeroUsize;
use std::ops::Range;

use agentfs_core::Ino;
use foldhash::fast::RandomState;

use super::Lru;
use crate::pending::ChunkDelta;

/// Chunks per group.
const GROUP: u64 = 256;
/// Groups kept: a KiB each.
const GROUPS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_095);

pub(crate) struct ChunkLens {
    /// 0: not stored.
    groups: Lru<(Ino, u64), Box<[u32]>>,
}

impl ChunkLens {
    pub(super) fn new() -> Self {
        Self {
            groups: Lru::with_hasher(GROUPS, RandomState::default()),
        }
    }

    /// The group that a chunk is in.
    pub(crate) fn group(index: u64) -> u64 {
        index / GROUP
    }

    /// The chunks in a group.
    pub(crate) fn indexes(group: u64) -> Range<u64> {
        group * GROUP..group.saturating_add(1).saturating_mul(GROUP)
    }

    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// `Some(None)`: known not to be stored.
    pub(super) fn get(&mut self, ino: Ino, index: u64) -> Option<Option<usize>> {
        let lens = self.groups.get(&(ino, Self::group(index)))?;
        let len = lens.get(place(index)).copied().unwrap_or(0);
        Some((len > 0).then_some(len as usize))
    }

    /// Takes in what SQLite has of a group.
    pub(super) fn put(&mut self, ino: Ino, group: u64, stored: &[(u64, usize)]) {
        let mut lens = vec![0; place(u64::MAX) + 1].into_boxed_slice();
        for (index, len) in stored {
            lens[place(*index)] = u32::try_from(*len).unwrap_or(0);
        }
        self.groups.put((ino, group), lens);
    }

    /// Takes over a change to an inode that has just been committed.
    pub(super) fn apply(&mut self, ino: Ino, delta: &ChunkDelta) {
        if !delta.erased.is_empty() {
            // Rare beside writing: forgotten rather than followed.
            let groups = self.groups.iter().map(|(key, _)| *key);
            let stale: Vec<_> = groups.filter(|(of, _)| *of == ino).collect();
            for key in stale {
                self.groups.pop(&key);
            }
        }
        for (index, put) in &delta.puts {
            if let Some(lens) = self.groups.peek_mut(&(ino, Self::group(*index))) {
                lens[place(*index)] = u32::try_from(put.chunk_len()).unwrap_or(0);
            }
        }
    }
}

/// Where in its group a chunk is.
fn place(index: u64) -> usize {
    usize::try_from(index % GROUP).unwrap_or(0)
}
