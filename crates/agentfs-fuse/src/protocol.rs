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
#[cfg(test)]
pub(crate) use request::tests::request as request_bytes;
pub(crate) use request::{Request, valid};

/// A refusal, as the program gets it.
pub(crate) use rustix::io::Errno;

/// `struct fuse_in_header`.
const HEADER_IN_BYTES: usize = 40;
/// `struct fuse_out_header`.
const HEADER_OUT_BYTES: usize = 16;
/// What the kernel counts pages in, and finds memory of a server by.
const PAGE_BYTES: usize = 4096;
/// The largest write and read request, in bytes.
pub(crate) const REQUEST_MAX_BYTES: u32 = 1024 * 1024;

/// `struct fuse_out_header` of a message of `whole` bytes: the answer to `unique`, with 0
/// or minus an errno, or to nothing (0), with the code of a notification.
fn header(unique: u64, error: i32, whole: usize) -> [u8; HEADER_OUT_BYTES] {
    let mut header = [0; HEADER_OUT_BYTES];
    // A message is far below 4 GiB.
    let whole = u32::try_from(whole).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&whole.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}
