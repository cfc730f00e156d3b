//! Results of the overlay as answers, where several requests are answered alike.

use agentfs_core::FsError;
use agentfs_core::types::FsStats;
use fuser::{Errno, ReplyData, ReplyEmpty, ReplyStatfs, ReplyXattr};

use crate::convert::errno;

/// Linux `XATTR_LIST_MAX`.
const XATTR_LIST_MAX_BYTES: usize = 65_536;

pub(super) fn empty(result: Result<(), FsError>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn bytes(result: Result<Vec<u8>, FsError>, reply: ReplyData) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn statistics(result: Result<FsStats, FsError>, reply: ReplyStatfs) {
    match result {
        Ok(stats) => reply.statfs(
            stats.blocks,
            stats.blocks_free,
            stats.blocks_available,
            stats.files,
            stats.files_free,
            stats.block_size_bytes,
            u32::try_from(agentfs_core::types::NAME_MAX_BYTES).unwrap_or(0),
            stats.block_size_bytes,
        ),
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
