//! Extended attributes as answers, where two requests are answered alike.

use agentfs_core::FsError;

use crate::protocol::{Answer, Errno};

/// Linux `XATTR_LIST_MAX`.
const XATTR_LIST_MAX_BYTES: usize = 65_536;

/// Answers a request for a value by its size (`size` 0), or with the value.
pub(super) fn value(value: &[u8], size: u32, out: &mut Answer) -> Result<(), Errno> {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => out.size(len),
        Ok(len) if len <= size => out.bytes(value),
        Ok(_) | Err(_) => return Err(Errno::RANGE),
    }
    Ok(())
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
