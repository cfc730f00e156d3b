//! The bytes of a file, sparse, so that offsets over 4 GiB cost nothing.
//!
//! Pages of a size that no chunk has, so that boundaries differ from the
//! overlay's.

use std::collections::BTreeMap;

const PAGE: u64 = 96;

/// A sequence of bytes of which most may be zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseBytes {
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl SparseBytes {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Truncates or extends with zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    /// Up to `len` bytes from `offset`, short at the end.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(len as u64));
        let mut out = Vec::new();
        let mut at = offset;
        while at < end {
            let (page, within) = (at / PAGE, at % PAGE);
            let step = (PAGE - within).min(end - at);
            match self.pages.get(&page) {
                Some(bytes) => out.extend_from_slice(&bytes[ix(within)..ix(within + step)]),
                None => out.resize(out.len() + ix(step), 0),
            }
            at += step;
        }
        out
    }

    /// Writes `data` at `offset`, extending as needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let (page, within) = (at / PAGE, at % PAGE);
            let step = ix(PAGE - within).min(rest.len());
            let bytes = self.pages.entry(page).or_insert_with(|| vec![0; ix(PAGE)]);
            bytes[ix(within)..ix(within) + step].copy_from_slice(&rest[..step]);
            rest = &rest[step..];
            at += step as u64;
        }
        if !data.is_empty() {
            self.len = self.len.max(at);
        }
    }

    /// Zeroes a range; the length stays.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let (first, last) = (offset / PAGE, end.div_ceil(PAGE));
        let touched: Vec<u64> = self
            .pages
            .range(first..last)
            .map(|(&page, _)| page)
            .collect();
        for page in touched {
            let start = page * PAGE;
            let from = offset.max(start) - start;
            let to = end.min(start + PAGE) - start;
            let bytes = self.pages.get_mut(&page).expect("listed above");
            bytes[ix(from)..ix(to)].fill(0);
            if bytes.iter().all(|&b| b == 0) {
                self.pages.remove(&page);
            }
        }
    }

    /// Whether all bytes of the range are zero (or past the end).
    #[must_use]
    pub fn is_zero(&self, from: u64, to: u64) -> bool {
        if from >= to {
            return true;
        }
        self.pages
            .range(from / PAGE..to.div_ceil(PAGE))
            .all(|(&page, bytes)| {
                let start = page * PAGE;
                let lo = from.max(start) - start;
                let hi = to.min(start + PAGE) - start;
                bytes[ix(lo)..ix(hi)].iter().all(|&b| b == 0)
            })
    }

    /// Where bytes that are not zero may lie: disjoint ranges, ascending.
    #[must_use]
    pub fn data_ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &page in self.pages.keys() {
            let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.len));
            match ranges.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => ranges.push((from, to)),
            }
        }
        ranges
    }
}

fn ix(n: u64) -> usize {
    usize::try_from(n).expect("within a page")
}
