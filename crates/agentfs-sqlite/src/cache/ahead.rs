//! [`Ahead`]: chunks of the file that is being read in order, read before they are
//! asked for.
//!
//! As bounded and as droppable as the rest of the cache. Which chunks are wanted is all
//! it knows; `read_ahead` reads them.

use std::collections::BTreeMap;
use std::ops::Range;

use agentfs_core::Ino;
use agentfs_core::storage::Chunk;

/// So many chunks asked for in order are a file that will be read on.
const RUN_MIN: u32 = 16;
/// Of requests that are answered at once one may be so many chunks before the other. Where
/// it is more they are large, and whoever answers them already has both processors.
const DISORDER: u64 = 8;
/// Chunks that lie ready beyond the last that was asked for.
const AHEAD_MAX: u64 = 64;
/// Read in one go, while nobody can write.
const PIECE: u64 = 8;

#[derive(Default)]
pub(super) struct Ahead {
    file: Option<Reading>,
}

/// A file that is being read.
struct Reading {
    ino: Ino,
    /// Behind the last chunk that was asked for.
    end: u64,
    run: u32,
    /// What lies ready.
    chunks: BTreeMap<u64, Chunk>,
    /// What is being read, in this order.
    coming: Range<u64>,
    /// Somebody goes from piece to piece.
    is_read_ahead: bool,
    /// There is nothing more to read ahead.
    has_ended: bool,
}

impl Ahead {
    /// Notes that a chunk is asked for. Whether it is time to read ahead: whoever is told so
    /// has that done, until [`Self::piece`] has none.
    pub(super) fn ask(&mut self, ino: Ino, index: u64) -> bool {
        let is_in_order =
            |file: &&mut Reading| file.ino == ino && index.abs_diff(file.end) <= DISORDER;
        let Some(file) = self.file.as_mut().filter(is_in_order) else {
            self.file = Some(Reading::new(ino, index + 1));
            return false;
        };
        file.end = file.end.max(index + 1);
        file.run = file.run.saturating_add(1);
        let passed = file.end.saturating_sub(DISORDER);
        file.chunks = file.chunks.split_off(&passed);
        let is_low = file.coming.end < file.end + AHEAD_MAX / 2;
        let begins = is_low && file.run >= RUN_MIN && !file.is_read_ahead && !file.has_ended;
        file.is_read_ahead |= begins;
        begins
    }

    /// A chunk that lies ready, which then no longer does.
    pub(super) fn take(&mut self, ino: Ino, index: u64) -> Option<Chunk> {
        let file = self.file.as_mut().filter(|file| file.ino == ino)?;
        file.chunks.remove(&index)
    }

    /// Whether a chunk is just being read.
    pub(super) fn is_coming(&self, ino: Ino, index: u64) -> bool {
        let file = self.file.as_ref().filter(|file| file.ino == ino);
        file.is_some_and(|file| file.coming.contains(&index))
    }

    /// The chunks to read next, each of which is then [`Self::put`]; `None` when enough lie
    /// ready, or nobody reads on.
    pub(super) fn piece(&mut self) -> Option<(Ino, Range<u64>)> {
        let file = self.file.as_mut()?;
        let from = file.coming.end.max(file.end);
        if !file.is_read_ahead || file.has_ended || from >= file.end + AHEAD_MAX {
            file.is_read_ahead = false;
            return None;
        }
        file.coming = from..from + PIECE;
        Some((file.ino, file.coming.clone()))
    }

    /// Takes the next chunk of a piece, or that there is none to be kept. Whether the rest
    /// of the piece is still wanted.
    pub(super) fn put(&mut self, ino: Ino, index: u64, chunk: Option<Chunk>) -> bool {
        let is_wanted = |file: &&mut Reading| file.ino == ino && file.coming.start == index;
        let Some(file) = self.file.as_mut().filter(is_wanted) else {
            return false;
        };
        match chunk {
            Some(chunk) => {
                file.chunks.insert(index, chunk);
                file.coming.start = index + 1;
            }
            None => {
                file.coming = index..index;
                file.has_ended = true;
            }
        }
        !file.has_ended
    }

    /// Drops what is of an inode that `has_changed`.
    pub(super) fn forget(&mut self, has_changed: impl FnOnce(Ino) -> bool) {
        if self.file.as_ref().is_some_and(|file| has_changed(file.ino)) {
            self.file = None;
        }
    }
}

impl Reading {
    fn new(ino: Ino, end: u64) -> Self {
        Self {
            ino,
            end,
            run: 1,
            chunks: BTreeMap::new(),
            coming: 0..0,
            is_read_ahead: false,
            has_ended: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(7);

    fn chunk(index: u64) -> Chunk {
        index.to_ne_bytes().as_slice().into()
    }

    /// One that has been told to begin, with `end` asked for.
    fn begun(end: u64) -> Ahead {
        let mut ahead = Ahead::default();
        let told: Vec<u64> = (0..end).filter(|&index| ahead.ask(FILE, index)).collect();
        assert_eq!(told, [u64::from(RUN_MIN) - 1], "once");
        ahead
    }

    #[test]
    fn what_is_read_in_order_is_read_ahead_until_enough_lies_ready() {
        let mut ahead = begun(16);
        let mut read = Vec::new();
        while let Some((ino, piece)) = ahead.piece() {
            for index in piece {
                assert!(ahead.is_coming(ino, index));
                assert!(ahead.put(ino, index, Some(chunk(index))));
                assert!(!ahead.is_coming(ino, index));
                read.push(index);
            }
        }
        assert_eq!(read, (16..16 + AHEAD_MAX).collect::<Vec<_>>());
        for index in 16..16 + AHEAD_MAX / 2 {
            assert!(!ahead.ask(FILE, index), "enough lies ready");
            assert_eq!(ahead.take(FILE, index), Some(chunk(index)));
            assert_eq!(ahead.take(FILE, index), None);
        }
        assert!(ahead.ask(FILE, 16 + AHEAD_MAX / 2));
    }

    #[test]
    fn what_is_read_out_of_order_is_not() {
        let mut ahead = Ahead::default();
        for index in 0..100 {
            assert!(!ahead.ask(FILE, index));
            assert!(!ahead.ask(FILE, index + 32), "two large requests at once");
        }
        let mut ahead = Ahead::default();
        let pairs = (0..100).flat_map(|index| [index + 4, index]);
        assert!(
            pairs.into_iter().any(|index| ahead.ask(FILE, index)),
            "small ones"
        );
    }

    #[test]
    fn another_file_ends_it() {
        let mut ahead = begun(16);
        let (ino, piece) = ahead.piece().unwrap();
        assert!(!ahead.ask(Ino(8), 0));
        assert!(!ahead.put(ino, piece.start, Some(chunk(0))));
        assert_eq!(ahead.piece(), None);
        assert_eq!(ahead.take(ino, piece.start), None);
    }

    #[test]
    fn the_end_of_the_file_ends_it() {
        let mut ahead = begun(16);
        let (ino, piece) = ahead.piece().unwrap();
        assert!(!ahead.put(ino, piece.start, None));
        assert!(!ahead.is_coming(ino, piece.start));
        assert_eq!(ahead.piece(), None);
        assert!(!(16..30).any(|index| ahead.ask(FILE, index)));
    }

    #[test]
    fn what_has_changed_is_forgotten() {
        let mut ahead = begun(16);
        let (ino, piece) = ahead.piece().unwrap();
        assert!(ahead.put(ino, piece.start, Some(chunk(1))));
        ahead.forget(|changed| changed != FILE);
        assert!(ahead.is_coming(FILE, piece.start + 1));
        ahead.forget(|changed| changed == FILE);
        assert!(!ahead.is_coming(FILE, piece.start + 1));
        assert_eq!(ahead.take(FILE, piece.start), None);
        // Read before the change, which it does not know.
        assert!(!ahead.put(ino, piece.start + 1, Some(chunk(2))));
    }
}
