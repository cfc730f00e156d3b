//! Between the types of core and those of the FUSE library. Pure functions only.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentfs_core::overlay::{Fallocate, NewNode, RenameMode, SetTime, XattrMode};
use agentfs_core::{Attr, FileKind, FsError, Ino, Name, Owner, Timestamp};
use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags, Request, TimeOrNow};

/// What `stat` gives as the preferred size of reads and writes, in bytes.
const BLKSIZE_BYTES: u32 = 4096;

pub(crate) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(crate) fn name(name: &OsStr) -> Result<Name, FsError> {
    Name::new(name.as_bytes())
}

/// The errno a program gets; what is no mere refusal is logged here, as this is
/// the last place that sees the whole error.
pub(crate) fn errno(error: &FsError) -> Errno {
    match error {
        FsError::Storage(_) | FsError::LowerChanged(_) => tracing::warn!(%error, "request failed"),
        FsError::Lower(_) => tracing::debug!(%error, "request failed"),
        _ => {}
    }
    Errno::from_i32(error.errno())
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLKSIZE_BYTES,
        flags: 0,
    }
}

/// An entry that says "there is none" and may be cached: inode number 0.
pub(crate) fn negative_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = if time.secs >= 0 {
        UNIX_EPOCH.checked_add(Duration::from_secs(time.secs.unsigned_abs()))
    } else {
        UNIX_EPOCH.checked_sub(Duration::from_secs(time.secs.unsigned_abs()))
    };
    whole
        .and_then(|whole| whole.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

/// The time that a request carries. fuser 0.18 turns `(secs, nanos)` before the
/// epoch into `epoch - (-secs + nanos)`; this undoes exactly that.
pub(crate) fn request_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp::new(
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            after.subsec_nanos(),
        ),
        Err(error) => {
            let before = error.duration();
            let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            Timestamp::new(secs, before.subsec_nanos())
        }
    }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(request_time(time)),
    }
}

/// To whom belongs what a request makes.
pub(crate) fn owner(request: &Request) -> Owner {
    Owner {
        uid: request.uid(),
        gid: request.gid(),
    }
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

pub(crate) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Errno> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(Errno::EINVAL)
    }
}

pub(crate) fn fallocate_mode(mode: i32) -> Result<Fallocate, Errno> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_AND_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_AND_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
    match mode {
        0 => Ok(Fallocate::Allocate),
        KEEP => Ok(Fallocate::KeepSize),
        PUNCH_AND_KEEP => Ok(Fallocate::PunchHole),
        ZERO => Ok(Fallocate::ZeroRange { keep_size: false }),
        ZERO_AND_KEEP => Ok(Fallocate::ZeroRange { keep_size: true }),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

pub(crate) fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 makes of a time in a request (`time.rs`).
    fn as_fuser_reads(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs.unsigned_abs(), nanos)
        } else {
            UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos)
        }
    }

    #[test]
    fn times_survive_the_library_both_ways() {
        for (secs, nanos) in [
            (0, 0),
            (0, 1),
            (1, 999_999_999),
            (-1, 0),
            (-2, 800_000_000),
            (13_569_465_600, 7),
        ] {
            let time = Timestamp::new(secs, nanos);
            assert_eq!(request_time(as_fuser_reads(secs, nanos)), time);
            let shown = system_time(time);
            let expected = match shown.duration_since(UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
                Err(error) => -i128::try_from(error.duration().as_nanos()).unwrap(),
            };
            assert_eq!(
                expected,
                i128::from(secs) * 1_000_000_000 + i128::from(nanos)
            );
        }
        for secs in [i64::MIN, i64::MAX] {
            let _ = system_time(Timestamp::new(secs, 999_999_999));
        }
    }

    #[test]
    fn unknown_modes_are_refused() {
        assert_eq!(
            fallocate_mode(libc::FALLOC_FL_COLLAPSE_RANGE),
            Err(Errno::EOPNOTSUPP)
        );
        assert_eq!(
            fallocate_mode(libc::FALLOC_FL_PUNCH_HOLE),
            Err(Errno::EOPNOTSUPP)
        );
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), Err(Errno::EINVAL));
        assert_eq!(
            rename_mode(RenameFlags::RENAME_WHITEOUT),
            Err(Errno::EINVAL)
        );
        assert_eq!(xattr_mode(3), Err(Errno::EINVAL));
    }
}
