//! What can be wrong, and how bad it is.

use thiserror::Error;

use crate::types::{Ino, LowerPath, Name};

/// How bad a violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Harmless, and brought about by normal events: a file unlinked while it is
    /// open, a base that has changed.
    Notice,
    /// The rows contradict each other.
    Error,
}

/// One thing that is wrong; its text names the object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[allow(missing_docs)] // The fields are what the sentences say.
pub enum Violation {
    /// Nothing can be reached.
    #[error("the root directory (inode 1) is missing")]
    NoRoot,
    /// As it says.
    #[error("inode 1 is not a directory")]
    RootNotADirectory,
    /// An entry without its inode.
    #[error("entry {name:?} of directory {dir} leads to inode {ino}, which is missing")]
    DanglingEntry { dir: Ino, name: Name, ino: Ino },
    /// A directory with two parents, or its own ancestor.
    #[error("entry {name:?} of directory {dir} leads to directory {ino}, which has another place")]
    DirectoryTwice { dir: Ino, name: Name, ino: Ino },
    /// A directory that no path leads to.
    #[error("directory {ino} cannot be reached from the root")]
    Unreachable { ino: Ino },
    /// Entries whose parent is a file.
    #[error("entry {name:?} is in inode {dir}, which is not a directory")]
    EntryInNonDirectory { dir: Ino, name: Name },
    /// A number that the format does not have.
    #[error("{ino} is not a valid inode number")]
    BadNumber { ino: Ino },
    /// The link count and the names differ.
    #[error("inode {ino} has {names} names, but a link count of {nlink}")]
    WrongLinkCount { ino: Ino, nlink: u32, names: u32 },
    /// Unlinked while open; goes when it is closed, or at the next start.
    #[error(
        "inode {ino} has no name any more; it goes when it is closed or the session starts again"
    )]
    Unlinked { ino: Ino },
    /// Two directories through which one lower directory shows.
    #[error("the base directory {path} shows at two places")]
    ShownTwice { path: LowerPath },
    /// A whiteout under an entry that is no directory.
    #[error("the base name {path} is marked as deleted, and has an entry as well")]
    HiddenAndCovered { path: LowerPath },
    /// A whiteout that no base name needs: the base has lost it, too.
    #[error("the base name {path} is marked as deleted, but the base has no such name (any more)")]
    HidesNothing { path: LowerPath },
    /// Bytes of the base in what has no bytes.
    #[error("inode {ino} is not a regular file, but takes bytes from the base")]
    OriginDataOfNonFile { ino: Ino },
    /// More bytes of the base than there are.
    #[error("inode {ino} of {size} bytes takes {len} bytes from the base, more than there are")]
    OriginDataTooLong { ino: Ino, len: u64, size: u64 },
    /// The base file of a partly copied file is another now.
    #[error(
        "inode {ino} takes bytes from the base file {path}, which has changed: they cannot be read"
    )]
    BaseChanged { ino: Ino, path: LowerPath },
    /// A symbolic link without a target.
    #[error("symbolic link {ino} has no target")]
    NoTarget { ino: Ino },
    /// A target that no program could have set.
    #[error("symbolic link {ino} has a target that is empty, too long or holds NUL")]
    BadTarget { ino: Ino },
    /// The size of a symbolic link is that of its target.
    #[error("symbolic link {ino} has a size of {size}, but a target of {len} bytes")]
    WrongTargetSize { ino: Ino, size: u64, len: u64 },
    /// A target without a symbolic link.
    #[error("inode {ino} is not a symbolic link, but has a target")]
    TargetOfNonLink { ino: Ino },
    /// Over the largest size.
    #[error("inode {ino} has a size of {size} bytes, more than a file can have")]
    TooLarge { ino: Ino, size: u64 },
    /// Content of what has none.
    #[error("inode {ino} is not a regular file, but has content (chunk {index})")]
    ChunkOfNonFile { ino: Ino, index: u64 },
    /// Content after the end.
    #[error("chunk {index} of inode {ino} lies past its size of {size} bytes")]
    ChunkPastEnd { ino: Ino, index: u64, size: u64 },
    /// A chunk that is longer or shorter than its part of the file.
    #[error("chunk {index} of inode {ino} holds {len} bytes instead of {want}")]
    WrongChunkLength {
        ino: Ino,
        index: u64,
        len: u64,
        want: u64,
    },
    /// The list of errors was cut off.
    #[error("there are more errors than are listed")]
    More,
    /// The list of notices was cut off.
    #[error("there are more notices than are listed")]
    MoreNotices,
}

impl Violation {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Unlinked { .. }
            | Self::HidesNothing { .. }
            | Self::BaseChanged { .. }
            | Self::MoreNotices => Severity::Notice,
            _ => Severity::Error,
        }
    }

    /// A word for programs, in kebab case; does not change between versions.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoRoot => "no-root",
            Self::RootNotADirectory => "root-not-a-directory",
            Self::DanglingEntry { .. } => "dangling-entry",
            Self::DirectoryTwice { .. } => "directory-twice",
            Self::Unreachable { .. } => "unreachable-directory",
            Self::EntryInNonDirectory { .. } => "entry-in-non-directory",
            Self::BadNumber { .. } => "bad-inode-number",
            Self::WrongLinkCount { .. } => "wrong-link-count",
            Self::Unlinked { .. } => "unlinked",
            Self::ShownTwice { .. } => "base-shown-twice",
            Self::HiddenAndCovered { .. } => "hidden-and-covered",
            Self::HidesNothing { .. } => "hides-nothing",
            Self::OriginDataOfNonFile { .. } => "base-bytes-of-non-file",
            Self::OriginDataTooLong { .. } => "base-bytes-too-long",
            Self::BaseChanged { .. } => "base-changed",
            Self::NoTarget { .. } => "no-target",
            Self::BadTarget { .. } => "bad-target",
            Self::WrongTargetSize { .. } => "wrong-target-size",
            Self::TargetOfNonLink { .. } => "target-of-non-link",
            Self::TooLarge { .. } => "too-large",
            Self::ChunkOfNonFile { .. } => "chunk-of-non-file",
            Self::ChunkPastEnd { .. } => "chunk-past-end",
            Self::WrongChunkLength { .. } => "wrong-chunk-length",
            Self::More => "more",
            Self::MoreNotices => "more-notices",
        }
    }
}
