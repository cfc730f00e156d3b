//! What a delta puts in the place of one chunk: all of it, or parts over what
//! the older state has, so that a small write costs no reading of a large chunk.
//!
//! Applying a patch twice is applying it once. Knows one chunk; nothing of
//! inodes, layers or SQL.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentfs_core::storage::Chunk;

/// What one part costs in memory beside its bytes, roughly, in bytes.
const PART_COST_BYTES: usize = 64;

/// A change to one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The chunk is this.
    Whole(Chunk),
    /// The chunk is the older state's, but for these parts.
    Patch(Patch),
}

/// Parts of a chunk that the older state has: within it, apart from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    len_bytes: usize,
    covered_bytes: usize,
    parts: BTreeMap<usize, Chunk>,
}

impl Put {
    /// The length of the chunk that results.
    pub(crate) fn chunk_len(&self) -> usize {
        match self {
            Self::Whole(chunk) => chunk.len(),
            Self::Patch(patch) => patch.len_bytes,
        }
    }

    /// Roughly what it takes in memory.
    pub(crate) fn cost_bytes(&self) -> usize {
        match self {
            Self::Whole(chunk) => chunk.len(),
            Self::Patch(patch) => patch.covered_bytes + patch.parts.len() * PART_COST_BYTES,
        }
    }

    /// Puts `part` over the chunk from `start` on.
    pub(crate) fn overwrite(&mut self, start: usize, part: Chunk) {
        match self {
            Self::Whole(chunk) => {
                let room = Arc::make_mut(chunk).get_mut(start..start + part.len());
                debug_assert!(room.is_some(), "a part lies within its chunk");
                if let Some(room) = room {
                    room.copy_from_slice(&part);
                }
            }
            Self::Patch(patch) => {
                patch.add(start, part);
                if patch.covered_bytes == patch.len_bytes {
                    *self = Self::Whole(patch.applied_to(&[]));
                }
            }
        }
    }
}

impl Patch {
    pub(crate) fn new(len_bytes: usize) -> Self {
        Self {
            len_bytes,
            covered_bytes: 0,
            parts: BTreeMap::new(),
        }
    }

    /// The length of the chunk that the parts lie in.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The parts, ascending.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, &Chunk)> {
        self.parts.iter().map(|(start, part)| (*start, part))
    }

    pub(crate) fn into_parts(self) -> impl Iterator<Item = (usize, Chunk)> {
        self.parts.into_iter()
    }

    /// The chunk, over what it was; what that lacks to its length is zeros.
    pub(crate) fn applied_to(&self, before: &[u8]) -> Chunk {
        let mut chunk: Chunk = match before.get(..self.len_bytes) {
            Some(before) => before.into(),
            None => {
                let mut bytes = before.to_vec();
                bytes.resize(self.len_bytes, 0);
                bytes.into()
            }
        };
        self.write_into(Arc::make_mut(&mut chunk));
        chunk
    }

    /// Makes what the chunk was into what it is: in place, where nobody else has it.
    pub(crate) fn apply_to(&self, chunk: &mut Chunk) {
        match Arc::get_mut(chunk) {
            Some(bytes) if bytes.len() == self.len_bytes => self.write_into(bytes),
            _ => *chunk = self.applied_to(chunk),
        }
    }

    /// `bytes` has the chunk's length.
    fn write_into(&self, bytes: &mut [u8]) {
        for (start, part) in &self.parts {
            bytes[*start..start + part.len()].copy_from_slice(part);
        }
    }

    fn add(&mut self, start: usize, part: Chunk) {
        let end = start + part.len();
        debug_assert!(end <= self.len_bytes, "a part lies within its chunk");
        // Parts are apart, so only the last one before can reach in from there.
        let reaching_in = self.parts.range(..start).next_back();
        let first = reaching_in
            .filter(|(at, before)| **at + before.len() > start)
            .map_or(start, |(at, _)| *at);
        while let Some((&at, _)) = self.parts.range(first..end).next() {
            let Some(before) = self.parts.remove(&at) else {
                break;
            };
            self.covered_bytes -= before.len();
            if at < start {
                self.insert(at, before[..start - at].into());
            }
            if at + before.len() > end {
                self.insert(end, before[end - at..].into());
            }
            if at < start {
                // What is left of it lies before `start`: go on behind it.
                return self.add(start, part);
            }
        }
        self.insert(start, part);
    }

    fn insert(&mut self, start: usize, part: Chunk) {
        self.covered_bytes += part.len();
        self.parts.insert(start, part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_over_parts_are_what_writing_them_one_by_one_is() {
        const LEN: usize = 24;
        let mut seed = 1_u64;
        let mut roll = |sides: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % sides
        };
        for _ in 0..500 {
            let before = [9; LEN];
            let mut expected = before;
            let mut put = Put::Patch(Patch::new(LEN));
            for byte in 10..20 {
                let start = roll(LEN);
                let len = 1 + roll(LEN - start);
                expected[start..start + len].fill(byte);
                put.overwrite(start, vec![byte; len].into());
                let (covered, actual) = match &put {
                    Put::Whole(chunk) => (LEN, chunk.clone()),
                    Put::Patch(patch) => {
                        let sum = patch.parts().map(|(_, part)| part.len()).sum();
                        assert_eq!(patch.covered_bytes, sum);
                        let mut alone = Chunk::from(before);
                        patch.apply_to(&mut alone);
                        let mut shared = Chunk::from(before);
                        let other = Arc::clone(&shared);
                        patch.apply_to(&mut shared);
                        assert_eq!((alone, &other[..]), (shared, &before[..]));
                        (sum, patch.applied_to(&before))
                    }
                };
                assert_eq!(actual[..], expected);
                let overwritten = expected.iter().filter(|byte| **byte != 9).count();
                assert_eq!(covered, overwritten);
                assert_eq!(put.chunk_len(), LEN);
            }
        }
    }

    #[test]
    fn what_is_missing_before_is_zeros() {
        let mut put = Put::Patch(Patch::new(4));
        put.overwrite(1, vec![7].into());
        let Put::Patch(patch) = put else {
            panic!("one byte of four is no whole chunk")
        };
        assert_eq!(patch.applied_to(&[5])[..], [5, 7, 0, 0]);
        for before in [&[5][..], &[5, 6, 0, 0, 9]] {
            let mut chunk = Chunk::from(before);
            patch.apply_to(&mut chunk);
            assert_eq!(chunk[..], [5, 7, 0, 0]);
        }
    }
}
