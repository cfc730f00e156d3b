//! The content of a regular file in memory. Knows nothing of names or times.

use std::collections::BTreeMap;

use crate::error::FsError;

const BLOCK_BYTES: u64 = 4096;

/// The content of a regular file: runs of data, zeroes between them.
#[derive(Clone, Default)]
pub(super) struct Extents {
    pub(super) size: u64,
    /// By offset; neither overlapping nor touching; none reaches past `size`.
    pub(super) runs: BTreeMap<u64, Vec<u8>>,
}

impl Extents {
    pub(super) fn blocks(&self) -> u64 {
        self.runs
            .values()
            .map(|run| (run.len() as u64).div_ceil(BLOCK_BYTES) * 8)
            .sum()
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(FsError::FileTooLarge)?;
        if end > crate::types::FILE_MAX_BYTES {
            return Err(FsError::FileTooLarge);
        }
        self.size = self.size.max(end);
        if data.is_empty() {
            return Ok(());
        }
        // Join every run that overlaps or touches the new one into one.
        let joined: Vec<u64> = self
            .runs
            .range(..=end)
            .rev()
            .take_while(|(at, run)| *at + run.len() as u64 >= offset)
            .map(|(at, _)| *at)
            .collect();
        let start = joined.last().map_or(offset, |&first| first.min(offset));
        let mut run = Vec::new();
        for at in joined.into_iter().rev() {
            if let Some(old) = self.runs.remove(&at) {
                place(&mut run, at - start, &old);
            }
        }
        place(&mut run, offset - start, data);
        self.runs.insert(start, run);
        Ok(())
    }

    pub(super) fn truncate(&mut self, size: u64) {
        self.size = size;
        self.runs.split_off(&size);
        if let Some((at, run)) = self.runs.range_mut(..size).next_back() {
            run.truncate(usize::try_from(size - at).unwrap_or(usize::MAX));
        }
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = self.size.saturating_sub(offset).min(buf.len() as u64);
        let end = offset + len;
        let len = usize::try_from(len).unwrap_or(buf.len());
        buf[..len].fill(0);
        for (&at, run) in self.runs.range(..end).rev() {
            let run_end = at + run.len() as u64;
            if run_end <= offset {
                break;
            }
            let (from, to) = (at.max(offset), run_end.min(end));
            // Both ends lie within `buf` and within `run`, which are in memory.
            let index = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
            buf[index(from - offset)..index(to - offset)]
                .copy_from_slice(&run[index(from - at)..index(to - at)]);
        }
        len
    }

    pub(super) fn seek(&self, offset: u64, hole: bool) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        let inside = self
            .runs
            .range(..=offset)
            .next_back()
            .map(|(at, run)| at + run.len() as u64)
            .filter(|&run_end| run_end > offset);
        match (hole, inside) {
            (true, Some(run_end)) => Some(run_end.min(self.size)),
            (true, None) | (false, Some(_)) => Some(offset),
            (false, None) => self.runs.range(offset..).next().map(|(&at, _)| at),
        }
    }
}

/// Copies `data` into `run` at `at`, growing it.
fn place(run: &mut Vec<u8>, at: u64, data: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let end = at.saturating_add(data.len());
    if run.len() < end {
        run.resize(end, 0);
    }
    run[at..end].copy_from_slice(data);
}
