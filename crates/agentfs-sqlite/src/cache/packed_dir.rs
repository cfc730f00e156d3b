//! A directory's entries, packed: some ten bytes beside each name's own.
//!
//! Entries lie in blocks, sorted by name; a look-up bisects the blocks and reads
//! one. To change one, it is unpacked.

use std::cmp::Ordering;

use agentfs_core::{Ino, Name};

use super::varint::{self, Bytes};
use crate::pending::Map;

/// Entries per block.
const BLOCK: usize = 8;
/// What one costs beside its entries, roughly.
const COST_BYTES: usize = 160;

/// The entries of one directory.
pub(super) struct PackedDir {
    /// Of each entry the length of its name, the name and the inode's number.
    bytes: Box<[u8]>,
    /// Where the blocks begin.
    blocks: Box<[u32]>,
    len: usize,
}

impl PackedDir {
    /// None when there is too much of it.
    pub(super) fn new(parent: Ino, entries: &Map<Name, Ino>) -> Option<Self> {
        let mut sorted: Vec<_> = entries.iter().collect();
        sorted.sort_unstable();
        let (mut bytes, mut blocks) = (Vec::new(), Vec::new());
        for (number, (name, ino)) in sorted.into_iter().enumerate() {
            if number % BLOCK == 0 {
                blocks.push(u32::try_from(bytes.len()).ok()?);
            }
            bytes.push(u8::try_from(name.as_bytes().len()).ok()?);
            bytes.extend_from_slice(name.as_bytes());
            // Files are mostly made soon after their directory.
            varint::put_signed(&mut bytes, ino.0.wrapping_sub(parent.0).cast_signed());
        }
        Some(Self {
            bytes: bytes.into(),
            blocks: blocks.into(),
            len: entries.len(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn cost_bytes(&self) -> usize {
        COST_BYTES + self.bytes.len() + size_of_val(&*self.blocks)
    }

    pub(super) fn get(&self, parent: Ino, name: &Name) -> Option<Ino> {
        let after = self.blocks.partition_point(|block| {
            let first = entries(self.at(*block), parent).next();
            first.is_some_and(|(first, _)| first <= name.as_bytes())
        });
        let block = self.blocks.get(after.checked_sub(1)?)?;
        for (other, ino) in entries(self.at(*block), parent).take(BLOCK) {
            match other.cmp(name.as_bytes()) {
                Ordering::Less => {}
                Ordering::Equal => return Some(ino),
                Ordering::Greater => break,
            }
        }
        None
    }

    pub(super) fn unpacked(&self, parent: Ino) -> Map<Name, Ino> {
        entries(Bytes(&self.bytes), parent)
            .filter_map(|(name, ino)| Some((Name::new(name).ok()?, ino)))
            .collect()
    }

    fn at(&self, block: u32) -> Bytes<'_> {
        Bytes(self.bytes.get(block as usize..).unwrap_or_default())
    }
}

fn entries(mut bytes: Bytes<'_>, parent: Ino) -> impl Iterator<Item = (&[u8], Ino)> {
    std::iter::from_fn(move || {
        if bytes.0.is_empty() {
            return None;
        }
        let len = usize::from(bytes.byte());
        let name = bytes.take(len);
        let ino = parent.0.wrapping_add(bytes.signed().cast_unsigned());
        Some((name, Ino(ino)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_entry_is_found_and_no_other(
            entries in prop::collection::btree_map("[a-c]{1,4}", 1..u64::MAX, 0..60),
            others in prop::collection::vec("[a-d]{1,4}", 0..20),
            parent in 1..u64::MAX,
        ) {
            let name = |text: &str| Name::new(text.as_bytes()).unwrap();
            let parent = Ino(parent);
            let expected: Map<Name, Ino> =
                entries.iter().map(|(text, ino)| (name(text), Ino(*ino))).collect();
            let packed = PackedDir::new(parent, &expected).unwrap();
            prop_assert_eq!(packed.len(), entries.len());
            for text in others.iter().chain(entries.keys()) {
                let found = packed.get(parent, &name(text));
                prop_assert_eq!(found, entries.get(text).map(|ino| Ino(*ino)));
            }
            prop_assert_eq!(packed.unpacked(parent), expected);
        }
    }

    #[test]
    fn a_thousand_files_take_little() {
        let name = |number: u64| Name::new(number.to_string().as_bytes()).unwrap();
        let entries = (0..1_000).map(|number| (name(number), Ino(1_000 + number)));
        let packed = PackedDir::new(Ino(999), &entries.collect()).unwrap();
        assert!(packed.cost_bytes() < 8_000, "{}", packed.cost_bytes());
        assert_eq!(packed.get(Ino(999), &name(500)), Some(Ino(1_500)));
    }

    #[test]
    fn the_longest_name_has_room() {
        let name = Name::new(&[b'n'; 255]).unwrap();
        let entries: Map<Name, Ino> = [(name.clone(), Ino(7))].into_iter().collect();
        let packed = PackedDir::new(Ino(9), &entries).unwrap();
        assert_eq!(packed.get(Ino(9), &name), Some(Ino(7)));
    }
}
