//! Between the numbers of requests and the types of core. Pure functions only.

use agentfs_core::overlay::{Fallocate, NewNode, RenameMode, XattrMode};
use agentfs_core::{FileKind, FsError};

use crate::protocol::Errno;

/// What a program gets for an error of core; what is no mere refusal is logged here, as
/// this is the last place that sees the whole error.
#[allow(clippy::needless_pass_by_value)] // for map_err
pub(crate) fn refused(error: FsError) -> Errno {
    match error {
        FsError::Storage(_) | FsError::LowerChanged(_) => tracing::warn!(%error, "request failed"),
        FsError::Lower(_) => tracing::debug!(%error, "request failed"),
        _ => {}
    }
    Errno::from_raw_os_error(error.errno())
}

/// What to make, by `mknod(2)`, which takes a mode without a type for a regular file.
pub(crate) fn new_node(mode: u32, rdev: u32) -> Result<NewNode, FsError> {
    let kind = if mode & libc::S_IFMT == 0 {
        Some(FileKind::Regular)
    } else {
        FileKind::from_mode(mode)
    };
    Ok(NewNode {
        kind: kind.ok_or(FsError::InvalidArgument)?,
        perm: perm(mode),
        rdev,
    })
}

/// `st_mode & 07777`.
pub(crate) fn perm(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

pub(crate) fn rename_mode(flags: u32) -> Result<RenameMode, Errno> {
    match flags {
        0 => Ok(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::INVAL),
    }
}

pub(crate) fn fallocate_mode(mode: u32) -> Result<Fallocate, Errno> {
    const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE.cast_unsigned();
    const PUNCH_AND_KEEP: u32 = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned() | KEEP;
    const ZERO: u32 = libc::FALLOC_FL_ZERO_RANGE.cast_unsigned();
    const ZERO_AND_KEEP: u32 = ZERO | KEEP;
    match mode {
        0 => Ok(Fallocate::Allocate),
        KEEP => Ok(Fallocate::KeepSize),
        PUNCH_AND_KEEP => Ok(Fallocate::PunchHole),
        ZERO => Ok(Fallocate::ZeroRange { keep_size: false }),
        ZERO_AND_KEEP => Ok(Fallocate::ZeroRange { keep_size: true }),
        _ => Err(Errno::OPNOTSUPP),
    }
}

pub(crate) fn xattr_mode(flags: u32) -> Result<XattrMode, Errno> {
    match flags.cast_signed() {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_modes_are_refused() {
        let mode = |mode: i32| fallocate_mode(mode.cast_unsigned());
        assert_eq!(mode(libc::FALLOC_FL_COLLAPSE_RANGE), Err(Errno::OPNOTSUPP));
        assert_eq!(mode(libc::FALLOC_FL_PUNCH_HOLE), Err(Errno::OPNOTSUPP));
        let both = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), Err(Errno::INVAL));
        assert_eq!(rename_mode(libc::RENAME_WHITEOUT), Err(Errno::INVAL));
        assert_eq!(xattr_mode(3), Err(Errno::INVAL));
    }
}
