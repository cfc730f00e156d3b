//! INIT: what the kernel offers, and what is taken of it.

use super::{Answer, Errno, PAGE_BYTES, REQUEST_MAX_BYTES, Request};

/// The major version, the only one there is in use.
const MAJOR: u32 = 7;
/// The minor version whose structures these are; a newer kernel sends them to a server
/// that says so.
const MINOR: u32 = 38;
/// The oldest minor version that has all that is asked for (Linux 5.4).
const MINOR_MIN: u32 = 31;
/// Read-ahead and write-back requests that the kernel may have open at once.
const BACKGROUND_MAX: u16 = 64;
/// With so many the kernel holds read-ahead back.
const CONGESTED_FROM: u16 = BACKGROUND_MAX / 4 * 3;

/// What the kernel can do (`FUSE_*` of INIT), those above bit 31 from its second word.
pub(crate) mod flags {
    pub(crate) const ASYNC_READ: u64 = 1;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(super) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const HAS_EXPIRE_ONLY: u64 = 1 << 35;
}

/// What the kernel says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The version it speaks, major and minor.
    pub(crate) version: (u32, u32),
    /// See [`flags`].
    pub(crate) flags: u64,
    read_ahead_bytes: u32,
}

impl Offer {
    /// # Errors
    /// EPROTO for a kernel that is too old, EIO for an INIT that is none.
    pub(crate) fn parse(request: &Request<'_>) -> Result<Self, Errno> {
        let version = (request.u32(0)?, request.u32(4)?);
        if version < (MAJOR, MINOR_MIN) {
            return Err(Errno::PROTO);
        }
        let low = u64::from(request.u32(12)?);
        let high = if low & flags::INIT_EXT == 0 {
            0
        } else {
            u64::from(request.u32(16)?)
        };
        Ok(Self {
            version,
            flags: low | high << 32,
            read_ahead_bytes: request.u32(8)?,
        })
    }

    /// Whether the kernel first has to be told which major version is spoken: it then
    /// offers again.
    pub(crate) fn is_of_another_major(&self) -> bool {
        self.version.0 > MAJOR
    }
}

impl Answer {
    /// Agrees on the protocol with those `wanted` [`flags`] that are offered; none
    /// above bit 31 is ever wanted.
    pub(crate) fn init(&mut self, offer: &Offer, wanted: u64) {
        let taken = u32::try_from(wanted & offer.flags & u64::from(u32::MAX)).unwrap_or(0);
        self.u32s([MAJOR, MINOR, offer.read_ahead_bytes, taken]);
        self.put(BACKGROUND_MAX.to_ne_bytes());
        self.put(CONGESTED_FROM.to_ne_bytes());
        // Times are kept to the nanosecond.
        self.u32s([REQUEST_MAX_BYTES, 1]);
        let pages = REQUEST_MAX_BYTES as usize / PAGE_BYTES;
        self.put(u16::try_from(pages).unwrap_or(u16::MAX).to_ne_bytes());
        self.put([0; 34]);
    }
}
