//! The kernel's protocol (`linux/fuse.h`, 7.31 and later): [`Request`]s as they are
//! read from `/dev/fuse`, [`Answer`]s as they are written to it.
//!
//! Numbers at fixed places, in the machine's order. Nothing here knows the overlay's
//! rules, waits, or may panic at what a request says.

mod answer;
mod init;
mod memory;
pub(crate) mod notification;
mod request;

pub(crate) use answer::{Answer, Dirent, Later};
pub(crate) use init::{Offer, flags};
pub(crate) use memory::RequestMemory;
pub(crate) use request::{Request, valid};

/// A refusal, as the program gets it.
pub(crate) use rustix::io::Errno;

/// The major version, the only one there is in use.
const MAJOR: u32 = 7;
/// The minor version whose structures these are; a newer kernel sends them to a server
/// that says so.
const MINOR: u32 = 38;
/// The oldest minor version that has all that is asked for (Linux 5.4).
const MINOR_MIN: u32 = 31;
/// `struct fuse_in_header`.
const HEADER_IN_BYTES: usize = 40;
/// `struct fuse_out_header`.
const HEADER_OUT_BYTES: usize = 16;
/// What the kernel counts pages in, and finds memory of a server by.
const PAGE_BYTES: usize = 4096;
/// The largest write and read request, in bytes.
pub(crate) const REQUEST_MAX_BYTES: u32 = 1024 * 1024;

/// Read-ahead and write-back requests that the kernel may have open at once.
const BACKGROUND_MAX: u16 = 64;
/// With so many the kernel holds read-ahead back.
const CONGESTED_FROM: u16 = BACKGROUND_MAX / 4 * 3;
