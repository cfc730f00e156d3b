//! The one definition of how the two layers meet: which lower directory shows
//! through an upper one, and which number a lower object has in the view.
//!
//! Used by every operation, and by diff and check. Must never write.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::error::FsError;
use crate::lower::{LowerAttr, LowerLayer};
use crate::storage::{Fingerprint, InodeRow, LowerId, ReadTxn};
use crate::types::{FileKind, Ino, LowerPath, Name};

/// The lower directory that shows through the upper directory `row`, found as
/// `name` in a directory through which `parent_lower` shows.
///
/// A copied-up directory carries the answer in its origin, wherever it was
/// moved since. One without an origin (made by another program that writes the
/// format) merges with the lower directory at the same place, unless a whiteout
/// there says that it replaced it: then it is opaque.
pub(crate) fn lower_dir_beneath(
    txn: &dyn ReadTxn,
    lower: &impl LowerLayer,
    parent_lower: Option<&LowerPath>,
    name: &Name,
    row: &InodeRow,
) -> Result<Option<LowerPath>, FsError> {
    if let Some(origin) = &row.origin {
        return Ok(Some(origin.path.clone()));
    }
    let Some(parent_lower) = parent_lower else {
        return Ok(None);
    };
    if txn.whiteout(parent_lower, name)? {
        return Ok(None);
    }
    let path = parent_lower.join(name);
    let shows = lower.stat(&path)?.is_some_and(|attr| attr.kind.is_dir());
    Ok(shows.then_some(path))
}

/// Whether `attr` is still the content that was recorded at copy-up. As make,
/// rsync and git do, by size and modification time: inode numbers and change
/// times do not survive moving a project to another disk.
pub(crate) fn same_content(recorded: &Fingerprint, attr: &LowerAttr) -> bool {
    recorded.size == attr.size && recorded.mtime == attr.mtime
}

/// Whether the lower name with attributes `attr` is another name of the inode
/// copied up as `row`: hard links of one base inode stay one inode.
pub(crate) fn is_hard_link_of(row: &InodeRow, attr: &LowerAttr) -> bool {
    let Some(origin) = &row.origin else {
        return false;
    };
    attr.kind != FileKind::Directory
        && row.kind == attr.kind
        && origin.fingerprint.nlink > 1
        && attr.nlink > 1
        && origin.fingerprint.id.ino == attr.id.ino
        && same_content(&origin.fingerprint, attr)
}

/// The numbers a lower object may have in the view, best first: its own when
/// it lies on the device of the base and in the plain range, then numbers
/// derived from its identity.
pub(crate) fn candidate_inos(base_dev: u64, id: LowerId) -> impl Iterator<Item = Ino> {
    let plain = id.dev == base_dev && id.ino > Ino::ROOT.0 && id.ino < Ino::FIRST_UPPER.0;
    let range = Ino::MAX.0 - Ino::FIRST_MAPPED.0;
    let start = FixedState::with_seed(0x6167_656e).hash_one((id.dev, id.ino)) % range;
    let mapped = (0..range).map(move |step| Ino(Ino::FIRST_MAPPED.0 + (start + step) % range));
    plain.then_some(Ino(id.ino)).into_iter().chain(mapped)
}
