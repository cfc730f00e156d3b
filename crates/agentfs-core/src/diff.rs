//! What a session changed: the upper layer compared with the lower.
//!
//! The answer is about what a program sees, not about which rows exist: a file
//! that was copied up and is as it was is no change. Which lower object shows
//! where is decided by the overlay's own rules (`overlay/merge.rs`), never here.
//! Nothing is written, and no lower directory is read that holds no change.
//!
//! Rules:
//! - One entry per path, sorted by the bytes of the path.
//! - Added and deleted directories are listed with everything in them.
//! - A directory is modified only when its own mode, owner or extended
//!   attributes are.
//! - A renamed or moved object is one entry at its new path, whose old path is
//!   not listed as deleted; of a moved directory only what changed inside it
//!   follows. What the new path held before and no longer does is deleted.
//! - A path that changed its kind is modified; its entry tells both kinds.
//! - A changed file with several names in the base is listed under each of them.

mod content;
mod plan;
#[cfg(test)]
mod tests;
mod walk;

use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::ReadTxn;
use crate::types::{FileKind, Name};

/// What happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was nothing of this path.
    Added,
    /// Content, kind, mode, owner or extended attributes changed.
    Modified {
        /// The kind it had, when that changed.
        old_kind: Option<FileKind>,
    },
    /// It was there and is no more.
    Deleted,
    /// It came here from another path.
    Renamed {
        /// Where it was, as [`Entry::path`].
        old_path: Vec<u8>,
        /// Whether it was changed as well.
        modified: bool,
    },
}

impl Change {
    /// The letter of the change: `A`, `M`, `D` or `R`.
    #[must_use]
    pub const fn letter(&self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified { .. } => 'M',
            Self::Deleted => 'D',
            Self::Renamed { .. } => 'R',
        }
    }
}

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened.
    pub change: Change,
    /// The kind it has now, or had when it was deleted.
    pub kind: FileKind,
    /// The path in the view, from the root: `/` and names joined by `/`.
    pub path: Vec<u8>,
}

/// Calls `sink` for every difference between the view and the lower layer, in
/// the order of paths. `hidden` are the names in the root that the view does
/// not show; `chunk_size_bytes` is that of the storage.
///
/// ```
/// use agentfs_core::diff::diff;
/// use agentfs_core::lower::MemoryLower;
/// use agentfs_core::storage::{MemoryStorage, Storage};
/// use agentfs_core::{FsError, LowerPath, Name, Timestamp};
///
/// let base = MemoryLower::new();
/// base.file("old", 0o644, "text")?;
/// let storage = MemoryStorage::new(4096);
/// let name = Name::new(b"old")?;
/// storage.write(|txn| txn.put_whiteout(&LowerPath::root(), &name, Timestamp::default()))?;
/// let mut lines = Vec::new();
/// storage.read(|txn| {
///     diff(txn, &base, &[], storage.chunk_size_bytes(), &mut |entry| {
///         lines.push(format!("{} {}", entry.change.letter(), entry.path.escape_ascii()));
///     })
/// })?;
/// assert_eq!(lines, ["D /old"]);
/// # Ok::<(), FsError>(())
/// ```
///
/// # Errors
/// Those of the two layers; [`crate::StorageError::Corrupt`] when directories
/// of the upper layer form no tree.
pub fn diff<L: LowerLayer>(
    txn: &dyn ReadTxn,
    lower: &L,
    hidden: &[Name],
    chunk_size_bytes: u32,
    sink: &mut dyn FnMut(Entry),
) -> Result<(), FsError> {
    let layers = content::Layers {
        txn,
        lower,
        chunk_size_bytes,
    };
    let plan = plan::Plan::make(&layers, hidden)?;
    walk::walk(&layers, &plan, hidden, sink)
}
