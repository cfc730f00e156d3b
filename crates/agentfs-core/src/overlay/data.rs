//! The bytes of an upper regular file: chunks over the lower file's bytes over
//! zeros. Inside a transaction only.
//!
//! Invariants: a stored chunk is as long as its part of the file (full, but for
//! the last); nothing is stored past the size; `origin.data_len_bytes` never
//! grows.

use super::Overlay;
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{Chunk, InodeRow, ReadTxn, Storage, WriteTxn};
use crate::types::{FILE_MAX_BYTES, Ino};

/// Bytes of the lower file that one call may hide behind chunks of zeros, which
/// are stored: a base file can be sparse and of any size, or a database say so.
const HIDDEN_MAX_BYTES: u64 = 256 << 20;

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    pub(super) fn chunk_size(&self) -> u64 {
        u64::from(self.storage.chunk_size_bytes())
    }

    /// Bytes of the lower file that still count.
    pub(super) fn lower_len(row: &InodeRow) -> u64 {
        row.origin
            .as_ref()
            .map_or(0, |origin| origin.data_len_bytes.min(row.size))
    }

    /// Writes `data` at `offset` and sets the size in `row`; the caller writes
    /// the row.
    pub(super) fn write_range(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FsError> {
        self.make_room(txn, ino, row, offset, data.len() as u64)?;
        let chunk_size = self.chunk_size();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let room = usize_of(chunk_size - at % chunk_size);
            let part = &data[done..data.len().min(done + room)];
            self.write_part(txn, ino, row, at, part)?;
            done += part.len();
        }
        self.settle_origin(txn, ino, row)
    }

    /// As [`Self::write_range`] of all that `chunks` hold, one after the other. `offset`
    /// is where a chunk begins, and all of them but the last are full. How many bytes
    /// that were.
    pub(super) fn write_chunks(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
        offset: u64,
        chunks: Vec<Chunk>,
    ) -> Result<u64, FsError> {
        let len = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.make_room(txn, ino, row, offset, len)?;
        let mut at = offset;
        for chunk in chunks {
            self.write_part(txn, ino, row, at, chunk)?;
            at += self.chunk_size();
        }
        self.settle_origin(txn, ino, row)?;
        Ok(len)
    }

    /// Lets the file reach to the end of what is about to be written.
    fn make_room(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= FILE_MAX_BYTES)
            .ok_or(FsError::FileTooLarge)?;
        let chunk_size = self.chunk_size();
        if end > row.size {
            if offset / chunk_size > row.size / chunk_size {
                self.grow(txn, ino, row, end)?;
            }
            // Else the last chunk is written by the caller anyway.
            row.size = end;
        }
        Ok(())
    }

    /// How long the chunk `index`, which lies within the size, is when it is whole.
    pub(super) fn chunk_len(&self, row: &InodeRow, index: u64) -> usize {
        usize_of((row.size - index * self.chunk_size()).min(self.chunk_size()))
    }

    /// Writes a part of one chunk. What is the whole of it is taken as it is.
    fn write_part(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &InodeRow,
        offset: u64,
        part: impl AsRef<[u8]> + Into<Chunk>,
    ) -> Result<(), FsError> {
        let index = offset / self.chunk_size();
        let start = usize_of(offset % self.chunk_size());
        let whole = self.chunk_len(row, index);
        if part.as_ref().len() == whole {
            return Ok(txn.put_chunk(ino, index, part.into())?);
        }
        let part = part.as_ref();
        if !txn.patch_chunk(ino, index, whole, start, part)? {
            let mut bytes = self.chunk_bytes(txn, ino, row, index)?;
            bytes.resize(whole, 0);
            bytes[start..start + part.len()].copy_from_slice(part);
            txn.put_chunk(ino, index, bytes.into())?;
        }
        Ok(())
    }

    /// Makes `[offset, end)` read as zeros, within the size. The caller writes
    /// the row.
    pub(super) fn zero_range(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
        offset: u64,
        end: u64,
    ) -> Result<(), FsError> {
        let end = end.min(row.size);
        if offset >= end {
            return Ok(());
        }
        let chunk_size = self.chunk_size();
        // A hole that reaches the end of the lower bytes needs no chunks to
        // cover them; whole chunks before it do.
        if let Some(origin) = &mut row.origin
            && origin.data_len_bytes <= end
        {
            let covered = offset.div_ceil(chunk_size) * chunk_size;
            origin.data_len_bytes = origin.data_len_bytes.min(covered);
        }
        let lower_len = Self::lower_len(row);
        let first_whole = offset.div_ceil(chunk_size);
        let past_whole = if end == row.size {
            end.div_ceil(chunk_size)
        } else {
            end / chunk_size
        };
        let hidden_to = (past_whole * chunk_size).min(lower_len);
        if hidden_to.saturating_sub(first_whole * chunk_size) > HIDDEN_MAX_BYTES {
            return Err(FsError::NotSupported);
        }
        if first_whole < past_whole {
            txn.delete_chunks(ino, first_whole, past_whole)?;
            let mut index = first_whole;
            while index < past_whole && index * chunk_size < lower_len {
                let len = self.chunk_len(row, index);
                txn.put_chunk(ino, index, vec![0; len].into())?;
                index += 1;
            }
        }
        for index in [offset / chunk_size, (end - 1) / chunk_size] {
            let start = index * chunk_size;
            let (from, to) = (offset.max(start), end.min(start + chunk_size));
            let is_whole = first_whole <= index && index < past_whole;
            let stored = txn.chunk(ino, index)?.is_some() || start < lower_len;
            if from < to && !is_whole && stored {
                let mut bytes = self.chunk_bytes(txn, ino, row, index)?;
                bytes.resize(self.chunk_len(row, index), 0);
                bytes[usize_of(from - start)..usize_of(to - start)].fill(0);
                txn.put_chunk(ino, index, bytes.into())?;
            }
        }
        self.settle_origin(txn, ino, row)
    }

    /// Sets the size in `row`; the caller writes the row.
    pub(super) fn resize(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
        size: u64,
    ) -> Result<(), FsError> {
        if size > FILE_MAX_BYTES {
            return Err(FsError::FileTooLarge);
        }
        if size > row.size {
            return self.grow(txn, ino, row, size);
        }
        if size < row.size {
            let chunk_size = self.chunk_size();
            txn.delete_chunks(ino, size.div_ceil(chunk_size), u64::MAX)?;
            let (index, keep) = (size / chunk_size, usize_of(size % chunk_size));
            if keep > 0
                && let Some(chunk) = txn.chunk(ino, index)?
                && chunk.len() > keep
            {
                txn.put_chunk(ino, index, chunk[..keep].into())?;
            }
            row.size = size;
            if let Some(origin) = &mut row.origin {
                origin.data_len_bytes = origin.data_len_bytes.min(size);
            }
        }
        Ok(())
    }

    /// What a chunk holds now; what it lacks to its length is zeros.
    fn chunk_bytes(
        &self,
        txn: &dyn WriteTxn,
        ino: Ino,
        row: &InodeRow,
        index: u64,
    ) -> Result<Vec<u8>, FsError> {
        if let Some(chunk) = txn.chunk(ino, index)? {
            return Ok(chunk.to_vec());
        }
        let start = index * self.chunk_size();
        let lower_end = Self::lower_len(row).min(start + self.chunk_size());
        if start >= lower_end {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; usize_of(lower_end - start)];
        self.read_origin(ino, row, start, &mut bytes)?;
        Ok(bytes)
    }

    /// Makes the file larger. The last chunk is filled up: other readers of
    /// the format rely on full chunks before the last.
    fn grow(
        &self,
        txn: &mut dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
        size: u64,
    ) -> Result<(), FsError> {
        let chunk_size = self.chunk_size();
        if !row.size.is_multiple_of(chunk_size) {
            let index = row.size / chunk_size;
            if let Some(chunk) = txn.chunk(ino, index)? {
                let mut bytes = chunk.to_vec();
                bytes.resize(usize_of((size - index * chunk_size).min(chunk_size)), 0);
                txn.put_chunk(ino, index, bytes.into())?;
            }
        }
        row.size = size;
        Ok(())
    }

    /// A file of one chunk that has the chunk needs its base file no longer.
    fn settle_origin(
        &self,
        txn: &dyn WriteTxn,
        ino: Ino,
        row: &mut InodeRow,
    ) -> Result<(), FsError> {
        let one_chunk = (1..=self.chunk_size()).contains(&Self::lower_len(row));
        if one_chunk
            && txn.chunk(ino, 0)?.is_some()
            && let Some(origin) = &mut row.origin
        {
            origin.data_len_bytes = 0;
        }
        Ok(())
    }

    /// Splits `[offset, offset + buf.len())` of an upper file into what chunks
    /// hold, copied into `buf`, holes, which become zeros there, and the ranges of
    /// the lower file that are returned as (start, length), ascending and joined.
    pub(super) fn read_chunks(
        &self,
        txn: &dyn ReadTxn,
        ino: Ino,
        row: &InodeRow,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<Vec<(u64, u64)>, FsError> {
        let chunk_size = self.chunk_size();
        let lower_len = Self::lower_len(row);
        let end = offset + buf.len() as u64;
        let mut lower: Vec<(u64, u64)> = Vec::new();
        let mut index = offset / chunk_size;
        // Where what is known of the range ends; what is skipped from there is a hole.
        let mut known = 0;
        while index * chunk_size < end {
            let start = index * chunk_size;
            let (from, to) = (offset.max(start), end.min(start + chunk_size));
            let place = usize_of(from - offset);
            let part = &mut buf[place..usize_of(to - offset)];
            if txn.read_chunk(ino, index, usize_of(from - start), part)? {
                buf[known..place].fill(0);
                known = usize_of(to - offset);
            } else if from < lower_len {
                let to = to.min(lower_len);
                match lower.last_mut() {
                    Some((at, len)) if *at + *len == from => *len += to - from,
                    _ => lower.push((from, to - from)),
                }
                buf[known..place].fill(0);
                known = usize_of(to - offset);
            } else if let Some(next) = txn.next_chunk(ino, index)? {
                index = next;
                continue;
            } else {
                break;
            }
            index += 1;
        }
        buf[known..].fill(0);
        Ok(lower)
    }
}

/// A length that is known to fit: at most one chunk or one request.
pub(super) fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::lower::MemoryLower;
    use crate::storage::{MemoryStorage, Storage};
    use crate::types::{ManualClock, Name, Timestamp};
    use crate::{Ino, Overlay, OverlayConfig, Owner};

    /// As it can only be in a database that others have written: what is missing
    /// from a chunk is zeros, not what the buffer held before.
    #[test]
    fn a_chunk_that_is_too_short_ends_in_zeros() {
        const CHUNK_BYTES: usize = 512;
        let storage = Arc::new(MemoryStorage::new(512));
        let base = MemoryLower::new();
        base.file("file", 0o644, [1; 3 * CHUNK_BYTES]).unwrap();
        let config = OverlayConfig {
            clock: Arc::new(ManualClock::new(Timestamp::new(1_700_000_000, 0))),
            hidden: Vec::new(),
            root_owner: Owner::default(),
        };
        let view = Overlay::open(Arc::clone(&storage), base, config).unwrap();
        let file = view
            .lookup(Ino::ROOT, &Name::new(b"file").unwrap())
            .unwrap();
        view.write(file.ino, CHUNK_BYTES as u64, b"x", false)
            .unwrap();
        storage
            .write(|txn| txn.put_chunk(file.ino, 1, vec![2; 3].into()))
            .unwrap();

        let mut buf = [9; 4 * CHUNK_BYTES];
        let read = view.read_into(file.ino, 0, &mut buf).unwrap();

        let mut expected = [1; 3 * CHUNK_BYTES];
        expected[CHUNK_BYTES..2 * CHUNK_BYTES].fill(0);
        expected[CHUNK_BYTES..][..3].fill(2);
        assert_eq!(&buf[..read], &expected);
        assert!(buf[read..].iter().all(|&byte| byte == 9));
    }
}
