//! Changing attributes: mode, owner, size, times. Copies no data.

use super::Overlay;
use super::lookup::{Inode, upper_attr};
use super::request::{SetAttr, SetTime};
use crate::error::FsError;
use crate::lower::{LowerAttr, LowerLayer};
use crate::storage::Storage;
use crate::types::{Attr, FILE_MAX_BYTES, FileKind, Ino, Timestamp};

const S_ISUID: u16 = 0o4000;
const S_ISGID: u16 = 0o2000;
const S_IXGRP: u16 = 0o0010;

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Changes attributes and returns all of them. What a lower inode has
    /// already is no change: it is not copied up for that.
    ///
    /// # Errors
    /// For a size: [`FsError::IsADirectory`], [`FsError::InvalidArgument`] for
    /// other kinds, [`FsError::FileTooLarge`]. [`FsError::StaleInode`], and
    /// those of the layers.
    pub fn setattr(&self, ino: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        if set.size.is_some_and(|size| size > FILE_MAX_BYTES) {
            return Err(FsError::FileTooLarge);
        }
        let namespace = self.namespace.write();
        let now = self.config.clock.now();
        let row = self.storage.write(|txn| {
            let kind = match self.inode(super::copy_up::as_read(txn), ino)? {
                Inode::Upper(row) => row.kind,
                Inode::Lower { attr, .. } if !changes(set, &attr) => return Ok(None),
                Inode::Lower { attr, .. } => attr.kind,
            };
            match (set.size, kind) {
                (None, _) | (Some(_), FileKind::Regular) => {}
                (Some(_), FileKind::Directory) => return Err(FsError::IsADirectory),
                (Some(_), _) => return Err(FsError::InvalidArgument),
            }
            let mut row = self.copy_up(txn, ino)?;
            if let Some(size) = set.size {
                self.resize(txn, ino, &mut row, size)?;
                row.mtime = now;
            }
            if let Some(perm) = set.perm {
                row.perm = perm & 0o7777;
            }
            if set.kill_suid_sgid && !kind.is_dir() {
                row.perm = without_suid_sgid(row.perm);
            }
            row.uid = set.uid.unwrap_or(row.uid);
            row.gid = set.gid.unwrap_or(row.gid);
            row.atime = set.atime.map_or(row.atime, |time| resolve(time, now));
            row.mtime = set.mtime.map_or(row.mtime, |time| resolve(time, now));
            row.ctime = set.ctime.unwrap_or(now);
            txn.put_inode(ino, &row)?;
            Ok(Some(row))
        })?;
        drop(namespace);
        match row {
            Some(row) => Ok(upper_attr(ino, &row)),
            None => self.getattr(ino),
        }
    }
}

/// The mode after a write by someone without privilege: set-user-ID goes, and
/// set-group-ID where it means that (`file_remove_privs()`; without group
/// execution the bit once meant mandatory locking).
pub(super) fn without_suid_sgid(perm: u16) -> u16 {
    let mut perm = perm & !S_ISUID;
    if perm & S_IXGRP != 0 {
        perm &= !S_ISGID;
    }
    perm
}

fn resolve(time: SetTime, now: Timestamp) -> Timestamp {
    match time {
        SetTime::Now => now,
        SetTime::At(time) => time,
    }
}

/// Whether anything asked for differs from what a lower inode has. The change
/// time alone is no change.
fn changes(set: &SetAttr, attr: &LowerAttr) -> bool {
    let time =
        |set: Option<SetTime>, has: Timestamp| set.is_some_and(|set| set != SetTime::At(has));
    set.perm.is_some_and(|perm| perm & 0o7777 != attr.perm)
        || set.kill_suid_sgid && !attr.kind.is_dir() && without_suid_sgid(attr.perm) != attr.perm
        || set.uid.is_some_and(|uid| uid != attr.uid)
        || set.gid.is_some_and(|gid| gid != attr.gid)
        || set
            .size
            .is_some_and(|size| attr.kind != FileKind::Regular || size != attr.size)
        || time(set.atime, attr.atime)
        || time(set.mtime, attr.mtime)
}
