//! Results of the overlay as answers, where several requests are answered alike.

use agentfs_core::FsError;
use fuser::{Errno, ReplyEmpty, ReplyXattr};

use crate::convert::errno;

/// Linux `XATTR_LIST_MAX`.
const XATTR_LIST_MAX_BYTES: usize = 65_536;

pub(super) fn empty(result: Result<(), FsError>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Answers a request for a value by its size (`size` 0), or with the value.
pub(super) fn value(result: Result<Vec<u8>, FsError>, size: u32, reply: ReplyXattr) {
    match result {
        Err(error) => reply.error(errno(&error)),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            Ok(_) | Err(_) => reply.error(Errno::ERANGE),
        },
    }
}

/// Names as `listxattr(2)` gives them: each ended by a NUL.
pub(super) fn joined(names: Vec<Vec<u8>>) -> Result<Vec<u8>, FsError> {
    let list: Vec<u8> = names
        .into_iter()
        .flat_map(|name| name.into_iter().chain([0]))
        .collect();
    if list.len() > XATTR_LIST_MAX_BYTES {
        return Err(FsError::AttributeTooLarge);
    }
    Ok(list)
}
