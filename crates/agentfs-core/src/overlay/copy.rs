//! Copying from file to file within a view: `copy_file_range(2)`.
//!
//! Chunks that lie alike in both files are shared, as they are in memory; all else
//! is read and written. Must never share what one of the files has only a part of.

use super::Overlay;
use super::data::usize_of;
use super::file::require_regular;
use super::request::Times;
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{Chunk, Storage};
use crate::types::Ino;

/// Bytes moved by one step.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes moved by one call; it may always move less.
const CALL_BYTES: u64 = 64 << 20;

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Copies bytes between files. Returns the bytes copied: less than `len`
    /// at the end of the source, and after 64 MiB.
    ///
    /// # Errors
    /// Those of [`Self::read`] and [`Self::write`];
    /// [`FsError::InvalidArgument`] for overlapping ranges of one file.
    pub fn copy_file_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
        times: Times,
    ) -> Result<u64, FsError> {
        // What the source has now: it may grow by the copying itself.
        let source = self.getattr(from)?;
        require_regular(source.kind)?;
        let rest = source.size.saturating_sub(from_offset);
        let len = len.min(rest).min(CALL_BYTES);
        if from == to && from_offset.abs_diff(to_offset) < len {
            return Err(FsError::InvalidArgument);
        }
        let mut copied = 0;
        while copied < len {
            let step = (len - copied).min(STEP_BYTES);
            let source = (from, from_offset + copied);
            let target = (to, to_offset.saturating_add(copied));
            match self.copy_step(source, target, step, times) {
                Ok(0) => break,
                Ok(moved) => copied += moved,
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    /// Copies some of `len` bytes; 0 where the source has ended.
    fn copy_step(
        &self,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        times: Times,
    ) -> Result<u64, FsError> {
        let begins_a_chunk = |offset: u64| offset.is_multiple_of(self.chunk_size());
        if begins_a_chunk(from_offset) && begins_a_chunk(to_offset) {
            let chunks = self.whole_chunks(from, from_offset, len)?;
            if !chunks.is_empty() {
                return self.modify(to, |txn, row| {
                    let written = self.write_chunks(txn, to, row, to_offset, chunks)?;
                    self.stamp(row, times);
                    Ok(written)
                });
            }
        }
        let data = self.read(from, from_offset, usize_of(len))?;
        if !data.is_empty() {
            self.write_with(to, to_offset, &data, false, times)?;
        }
        Ok(data.len() as u64)
    }

    /// The stored chunks of a file, from the one that begins at `offset`, that
    /// lie within `len` bytes as a whole; up to the first that does not.
    fn whole_chunks(&self, ino: Ino, offset: u64, len: u64) -> Result<Vec<Chunk>, FsError> {
        let mut chunks = Vec::new();
        let _namespace = self.namespace.read();
        self.storage.read(|txn| {
            let Some(row) = txn.inode(ino)? else {
                return Ok(chunks);
            };
            self.node(ino)?;
            let end = row.size.min(offset.saturating_add(len));
            let mut at = offset;
            while at < end {
                let index = at / self.chunk_size();
                let whole = self.chunk_len(&row, index);
                at += whole as u64;
                if at > end {
                    break;
                }
                match txn.chunk(ino, index)? {
                    Some(chunk) if chunk.len() == whole => chunks.push(chunk),
                    _ => break,
                }
            }
            Ok(chunks)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{STEP_BYTES, usize_of};
    use crate::lower::MemoryLower;
    use crate::overlay::{Fallocate, NewNode, Times};
    use crate::storage::{Chunk, MemoryStorage, Storage};
    use crate::types::{Attr, FileKind, ManualClock, Name, Timestamp};
    use crate::{Ino, Overlay, OverlayConfig, Owner};

    const CHUNK_BYTES: u64 = 512;

    struct Place {
        storage: Arc<MemoryStorage>,
        view: Overlay<Arc<MemoryStorage>, MemoryLower>,
    }

    impl Place {
        fn new() -> Self {
            let storage = Arc::new(MemoryStorage::new(512));
            let config = OverlayConfig {
                clock: Arc::new(ManualClock::new(Timestamp::new(1_700_000_000, 0))),
                hidden: Vec::new(),
                root_owner: Owner::default(),
            };
            let view = Overlay::open(Arc::clone(&storage), MemoryLower::new(), config).unwrap();
            Self { storage, view }
        }

        fn file(&self, name: &str, bytes: &[u8]) -> Ino {
            let node = NewNode {
                kind: FileKind::Regular,
                perm: 0o644,
                rdev: 0,
            };
            let name = Name::new(name.as_bytes()).unwrap();
            let made: Attr = self
                .view
                .mknod(Ino::ROOT, &name, node, Owner::default())
                .unwrap();
            self.view.write(made.ino, 0, bytes, false).unwrap();
            made.ino
        }

        fn content(&self, ino: Ino) -> Vec<u8> {
            self.view.read(ino, 0, 1 << 22).unwrap()
        }

        fn chunk(&self, ino: Ino, index: u64) -> Option<Chunk> {
            self.storage.read(|txn| txn.chunk(ino, index)).unwrap()
        }

        fn copy(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> u64 {
            self.view
                .copy_file_range(from.0, from.1, to.0, to.1, len, Times::Now)
                .unwrap()
        }
    }

    /// Bytes that differ from those of every other place near by.
    fn bytes(len: u64) -> Vec<u8> {
        (0..len)
            .map(|at| u8::try_from(at * 7 % 251).unwrap())
            .collect()
    }

    #[test]
    fn a_copy_of_a_whole_file_has_the_very_chunks() {
        let place = Place::new();
        // More than a step, and a last chunk that is not full.
        let len = STEP_BYTES + 3 * CHUNK_BYTES + 100;
        let from = place.file("from", &bytes(len));
        let to = place.file("to", b"");
        assert_eq!(place.copy((from, 0), (to, 0), u64::MAX), len);
        assert_eq!(place.content(to), bytes(len));
        for index in 0..=len / CHUNK_BYTES {
            let (one, other) = (place.chunk(from, index), place.chunk(to, index));
            assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()), "chunk {index}");
        }
        // What is then written to one is not in the other.
        place.view.write(from, 3, b"???", false).unwrap();
        assert_eq!(place.content(to), bytes(len));
    }

    /// Over what is there, at other chunks, past the end, and where the source has
    /// holes: all must be as if bytes had been moved.
    #[test]
    fn what_does_not_lie_alike_is_copied() {
        let size = 4 * CHUNK_BYTES + 60;
        for (from_offset, to_offset, len, target) in [
            (0, 0, size, 9 * CHUNK_BYTES),
            (CHUNK_BYTES, 0, size, 2 * CHUNK_BYTES + 1),
            (0, 2 * CHUNK_BYTES, size, 10),
            (0, 7 * CHUNK_BYTES, size, 10),
            (4 * CHUNK_BYTES, CHUNK_BYTES, 60, 3 * CHUNK_BYTES),
            (0, 0, CHUNK_BYTES + 5, 0),
            (5, 0, size, CHUNK_BYTES),
            (0, 5, size, CHUNK_BYTES),
        ] {
            let place = Place::new();
            let from = place.file("from", &bytes(size));
            // A hole where the second chunk was.
            place
                .view
                .fallocate(
                    from,
                    Fallocate::PunchHole,
                    CHUNK_BYTES,
                    CHUNK_BYTES,
                    Times::Now,
                )
                .unwrap();
            let to = place.file("to", &vec![0xee; usize_of(target)]);
            let mut expected = place.content(to);
            let source = place.content(from);
            let part = usize_of(from_offset)..usize_of(size.min(from_offset + len));
            let part = &source[part];
            let start = usize_of(to_offset);
            let end = start + part.len();
            if expected.len() < end {
                expected.resize(end, 0);
            }
            expected[start..end].copy_from_slice(part);

            let copied = place.copy((from, from_offset), (to, to_offset), len);
            let case = (from_offset, to_offset, len, target);
            assert_eq!(copied, part.len() as u64, "{case:?}");
            assert!(place.content(to) == expected, "{case:?}");
            assert!(place.content(from) == source, "{case:?}");
        }
    }
}
