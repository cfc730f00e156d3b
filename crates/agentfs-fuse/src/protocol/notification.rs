//! What the kernel is told unasked (`enum fuse_notify_code`): whole messages.

use agentfs_core::{Ino, Name};

use super::{HEADER_OUT_BYTES, header};

const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
const STORE: i32 = 4;
const INC_EPOCH: i32 = 8;
/// `FUSE_EXPIRE_ONLY`.
const EXPIRE_ONLY: u32 = 1;

/// Attributes and all pages of an inode are dropped.
pub(crate) fn invalidate_inode(ino: Ino) -> Vec<u8> {
    let (offset, len) = (0_u64, 0_u64);
    let body = [ino.0.to_ne_bytes(), offset.to_ne_bytes(), len.to_ne_bytes()];
    message(INVAL_INODE, &[body.as_flattened()])
}

/// A name is dropped, or with `keep` asked for again.
pub(crate) fn invalidate_entry(dir: Ino, name: &Name, keep: bool) -> Vec<u8> {
    let name = name.as_bytes();
    // A name is far below 4 GiB.
    let len = u32::try_from(name.len()).unwrap_or(0).to_ne_bytes();
    let flags = if keep { EXPIRE_ONLY } else { 0 }.to_ne_bytes();
    message(
        INVAL_ENTRY,
        &[&dir.0.to_ne_bytes(), &len, &flags, name, &[0]],
    )
}

/// Bytes of a file for the page cache.
pub(crate) fn store(ino: Ino, offset: u64, data: &[u8]) -> Vec<u8> {
    let place = [ino.0.to_ne_bytes(), offset.to_ne_bytes()];
    let len = u32::try_from(data.len()).unwrap_or(0).to_ne_bytes();
    message(STORE, &[place.as_flattened(), &len, &[0; 4], data])
}

/// All names are asked for again.
pub(crate) fn next_epoch() -> Vec<u8> {
    message(INC_EPOCH, &[])
}

/// A notification is an answer to nothing, with the code in place of the error.
fn message(code: i32, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let header = header(0, code, HEADER_OUT_BYTES + body.len());
    [&header, &*body].concat()
}
