//! Directories whose entries are all known.
//!
//! Those that change lie open, as many entries of them as [`OPEN_ENTRIES`]; what
//! was not used for long is packed, up to [`PACKED_BYTES`]. A directory is here
//! whole, once, or not at all, so that a name that is missing is known to be
//! absent.

use std::num::NonZeroUsize;

use agentfs_core::{Ino, Name};
use foldhash::fast::RandomState;
use lru::LruCache;

use super::Lru;
use super::packed_dir::PackedDir;
use crate::pending::Map;

const DIRS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8_191);
/// Entries over all directories that lie open.
const OPEN_ENTRIES: usize = 262_144;
/// What all packed directories may take.
const PACKED_BYTES: usize = 24 << 20;
/// A packed directory that changes is opened, unless it has more entries than
/// this: then it is forgotten, so that a batch never takes many of them apart.
const REOPENED_ENTRIES_MAX: usize = 8_192;
/// Entries up to which one directory is kept whole.
pub(crate) const DIR_ENTRIES_MAX: usize = 131_072;
/// Entries that the first miss in a directory may cost; the next such attempt
/// may cost twice as many, after twice as many misses. So a small directory is
/// loaded at once, and one look into a large one does not read all of it.
const DIR_ATTEMPT_ENTRIES: usize = 128;

/// A change to one entry; `None`: there is none any more.
pub(super) type Change<'a> = (&'a Name, Option<Ino>);

pub(super) struct Dirs {
    open: Lru<Ino, Map<Name, Ino>>,
    open_entries: usize,
    packed: Lru<Ino, PackedDir>,
    packed_bytes: usize,
    /// How often an entry was looked for in directories that are not here.
    misses: Lru<Ino, u32>,
}

impl Dirs {
    pub(super) fn new() -> Self {
        Self {
            open: LruCache::unbounded_with_hasher(RandomState::default()),
            open_entries: 0,
            packed: LruCache::unbounded_with_hasher(RandomState::default()),
            packed_bytes: 0,
            misses: LruCache::with_hasher(DIRS, RandomState::default()),
        }
    }

    /// `Some(None)`: known to be absent.
    pub(super) fn entry(&mut self, parent: Ino, name: &Name) -> Option<Option<Ino>> {
        if let Some(dir) = self.open.get(&parent) {
            return Some(dir.get(name).copied());
        }
        let dir = self.packed.get(&parent)?;
        Some(dir.get(parent, name))
    }

    pub(super) fn get(&mut self, parent: Ino) -> Option<Map<Name, Ino>> {
        if let Some(dir) = self.open.get(&parent) {
            return Some(dir.clone());
        }
        Some(self.packed.get(&parent)?.unpacked(parent))
    }

    pub(super) fn put(&mut self, parent: Ino, entries: Map<Name, Ino>) {
        self.misses.pop(&parent);
        self.take_packed(parent);
        self.open_entries += cost(&entries);
        if let Some(before) = self.open.put(parent, entries) {
            self.open_entries -= cost(&before);
        }
        self.shrink();
    }

    /// Changes a directory that is here; `false` when it is not, or not any more.
    pub(super) fn update(&mut self, parent: Ino, changes: &[Change<'_>]) -> bool {
        if let Some(packed) = self.take_packed(parent) {
            if packed.len() > REOPENED_ENTRIES_MAX {
                return false;
            }
            self.put(parent, packed.unpacked(parent));
        }
        let Some(dir) = self.open.get_mut(&parent) else {
            return false;
        };
        let before = dir.len();
        for (name, ino) in changes {
            match ino {
                Some(ino) => dir.insert((*name).clone(), *ino),
                None => dir.remove(*name),
            };
        }
        self.open_entries = self.open_entries + dir.len() - before;
        if dir.len() > DIR_ENTRIES_MAX
            && let Some(dir) = self.open.pop(&parent)
        {
            self.open_entries -= cost(&dir);
            return false;
        }
        self.shrink();
        true
    }

    fn take_packed(&mut self, parent: Ino) -> Option<PackedDir> {
        let packed = self.packed.pop(&parent)?;
        self.packed_bytes -= packed.cost_bytes();
        Some(packed)
    }

    /// Packs, then forgets, what was not used for long.
    fn shrink(&mut self) {
        while self.open_entries > OPEN_ENTRIES || self.open.len() > DIRS.get() {
            let Some((parent, dir)) = self.open.pop_lru() else {
                break;
            };
            self.open_entries -= cost(&dir);
            if let Some(packed) = PackedDir::new(parent, &dir) {
                self.packed_bytes += packed.cost_bytes();
                self.packed.put(parent, packed);
            }
        }
        while self.packed_bytes > PACKED_BYTES {
            let Some((_, packed)) = self.packed.pop_lru() else {
                break;
            };
            self.packed_bytes -= packed.cost_bytes();
        }
    }

    /// See [`super::Cache::note_miss`].
    pub(super) fn note_miss(&mut self, parent: Ino) -> Option<usize> {
        let misses = self.misses.get_or_insert_mut(parent, || 0);
        *misses = misses.saturating_add(1);
        let entries = DIR_ATTEMPT_ENTRIES.saturating_mul(*misses as usize);
        (misses.is_power_of_two() && entries <= DIR_ENTRIES_MAX).then_some(entries)
    }
}

/// What a directory counts for: something even when it is empty.
fn cost(dir: &Map<Name, Ino>) -> usize {
    dir.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRIES: u64 = 1_000;

    fn name(number: u64) -> Name {
        Name::new(number.to_string().as_bytes()).unwrap()
    }

    fn filled(dirs: u64) -> Dirs {
        let mut filled = Dirs::new();
        for dir in 1..=dirs {
            let entries = (0..ENTRIES).map(|number| (name(number), Ino(dir * ENTRIES + number)));
            filled.put(Ino(dir), entries.collect());
        }
        filled
    }

    fn check_counts(dirs: &Dirs) {
        let open: usize = dirs.open.iter().map(|(_, dir)| cost(dir)).sum();
        let packed: usize = dirs.packed.iter().map(|(_, dir)| dir.cost_bytes()).sum();
        assert_eq!((dirs.open_entries, dirs.packed_bytes), (open, packed));
        assert!(open <= OPEN_ENTRIES && packed <= PACKED_BYTES);
    }

    #[test]
    fn a_million_entries_fit_and_change_whether_packed_or_not() {
        let mut dirs = filled(1_000);
        check_counts(&dirs);
        assert!(dirs.open.len() < 300);
        for dir in 1..=1_000 {
            let (parent, last) = (Ino(dir), ENTRIES - 1);
            let found = dirs.entry(parent, &name(last));
            assert_eq!(found, Some(Some(Ino(dir * ENTRIES + last))));
            assert_eq!(dirs.entry(parent, &name(ENTRIES)), Some(None));
            let (first, new) = (name(0), name(ENTRIES));
            assert!(dirs.update(parent, &[(&first, None), (&new, Some(Ino(7)))]));
        }
        check_counts(&dirs);
        for dir in 1..=1_000 {
            assert_eq!(dirs.entry(Ino(dir), &name(0)), Some(None));
            assert_eq!(dirs.entry(Ino(dir), &name(ENTRIES)), Some(Some(Ino(7))));
            let all = dirs.get(Ino(dir)).unwrap();
            assert_eq!(all.len(), 1_000);
        }
        assert!(!dirs.update(Ino(1_001), &[]));
    }

    #[test]
    fn what_replaces_a_packed_directory_is_all_that_is_left_of_it() {
        let mut dirs = filled(400);
        assert!(dirs.packed.contains(&Ino(1)));
        dirs.put(Ino(1), Map::default());
        assert_eq!(dirs.entry(Ino(1), &name(1)), Some(None));
        assert!(!dirs.packed.contains(&Ino(1)));
        check_counts(&dirs);
    }

    #[test]
    fn there_is_an_end_to_packed_directories() {
        let dirs = filled(5_000);
        assert!(dirs.packed.len() > 1_000);
        check_counts(&dirs);
    }

    #[test]
    fn a_large_packed_directory_that_changes_is_forgotten() {
        let mut dirs = Dirs::new();
        let many = REOPENED_ENTRIES_MAX as u64 + 1;
        let entries = (0..many).map(|number| (name(number), Ino(many + number)));
        dirs.put(Ino(1), entries.collect());
        for dir in 2..400 {
            let entries = (0..ENTRIES).map(|number| (name(number), Ino(number + 1)));
            dirs.put(Ino(dir), entries.collect());
        }
        assert_eq!(dirs.entry(Ino(1), &name(5)), Some(Some(Ino(many + 5))));
        assert!(!dirs.update(Ino(1), &[(&name(5), None)]));
        assert_eq!(dirs.entry(Ino(1), &name(5)), None);
        check_counts(&dirs);
    }
}
