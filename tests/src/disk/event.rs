//! What a [`super::Disk`] records.
//!
//! Data only: nothing here knows how it comes about or what follows from it.

use std::ffi::OsString;

/// Something that happened to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A name came to be, of a new and empty file.
    Create {
        /// The name.
        name: OsString,
        /// The file.
        file: u64,
    },
    /// A name went.
    Unlink {
        /// The name.
        name: OsString,
    },
    /// A name became another, which is gone.
    Rename {
        /// The name before.
        from: OsString,
        /// The name since.
        to: OsString,
    },
    /// Bytes were written.
    Write {
        /// The file.
        file: u64,
        /// Where, in bytes.
        offset: u64,
        /// What.
        data: Vec<u8>,
    },
    /// The size was set.
    Resize {
        /// The file.
        file: u64,
        /// In bytes.
        size: u64,
    },
    /// A file was synced: its bytes and size, not its name.
    Sync {
        /// The file.
        file: u64,
    },
    /// A sync of a file failed: what was not synced of it never will be.
    Lost {
        /// The file.
        file: u64,
    },
    /// The directory was synced: the names.
    SyncNames,
    /// What was written to [`MARKS`].
    Mark(Mark),
}

/// How far whoever uses the disk has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Operation so many, counted from 1, is about to be done.
    Begun(usize),
    /// All up to this one have been promised to be durable.
    Promised(usize),
}

/// The file that marks are written to, each with one call. It holds nothing.
pub const MARKS: &str = "marks";

impl Mark {
    /// What to write for it.
    #[must_use]
    pub fn to_line(self) -> String {
        match self {
            Self::Begun(operation) => format!("begun {operation}\n"),
            Self::Promised(operation) => format!("promised {operation}\n"),
        }
    }

    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let (word, number) = std::str::from_utf8(line).ok()?.trim().split_once(' ')?;
        let number = number.parse().ok()?;
        match word {
            "begun" => Some(Self::Begun(number)),
            "promised" => Some(Self::Promised(number)),
            _ => None,
        }
    }
}
