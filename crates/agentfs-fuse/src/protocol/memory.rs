//! Memory for requests and answers that begins on a page. The kernel has to find
//! each page of it for every message (0.3 µs in a virtual machine), so that a small
//! message lies on one page, and the bytes of a file on pages of their own.

use super::{PAGE_BYTES, REQUEST_MAX_BYTES};

/// Zeroed bytes, and the place in them where a page begins, with at least `before`
/// bytes before it and `len` from there on.
pub(super) fn aligned(before: usize, len: usize) -> (Vec<u8>, usize) {
    let bytes = vec![0; before + PAGE_BYTES + len];
    let start = bytes[before..].as_ptr().align_offset(PAGE_BYTES);
    // Memory that cannot be aligned is as good, only slower.
    let start = if start < PAGE_BYTES { start } else { 0 };
    (bytes, before + start)
}

/// Where one thread receives requests.
pub(crate) struct RequestMemory {
    bytes: Vec<u8>,
    start: usize,
}

impl RequestMemory {
    /// Room for the largest request, and a page for what comes before its bytes: the
    /// kernel refuses to give any to less.
    pub(crate) fn new() -> Self {
        let (bytes, start) = aligned(0, PAGE_BYTES + REQUEST_MAX_BYTES as usize);
        Self { bytes, start }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}
