//! From the host's structures to those of core. Pure functions only.

use agentfs_core::lower::LowerAttr;
use agentfs_core::storage::LowerId;
use agentfs_core::{FileKind, Timestamp};
use rustix::fs::{FileType, Stat};

/// A device number in the form the kernel sends to file systems
/// (`new_encode_dev`): 12 bits of major, 20 bits of minor.
pub(crate) fn encode_dev(dev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The attributes in a `struct stat`; `None` for a file type Linux does not have.
pub(crate) fn lower_attr(stat: &Stat) -> Option<LowerAttr> {
    let kind = FileKind::from_mode(stat.st_mode)?;
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    Some(LowerAttr {
        id: LowerId {
            dev: stat.st_dev,
            ino: stat.st_ino,
        },
        kind,
        perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: if is_device {
            encode_dev(stat.st_rdev)
        } else {
            0
        },
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: timestamp(stat.st_atime, stat.st_atime_nsec),
        mtime: timestamp(stat.st_mtime, stat.st_mtime_nsec),
        ctime: timestamp(stat.st_ctime, stat.st_ctime_nsec),
    })
}

fn timestamp(secs: i64, nanos: impl TryInto<u32>) -> Timestamp {
    Timestamp::new(secs, nanos.try_into().unwrap_or(0))
}

/// The kind that `d_type` names; `None` when the host's file system does not tell.
pub(crate) fn dirent_kind(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegularFile => FileKind::Regular,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_take_the_kernels_form() {
        let encode = |major, minor| encode_dev(rustix::fs::makedev(major, minor));
        assert_eq!(encode(1, 3), 0x0103);
        assert_eq!(encode(259, 0x12345), (0x123 << 20) | (259 << 8) | 0x45);
    }
}
