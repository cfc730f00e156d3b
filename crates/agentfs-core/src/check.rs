//! Whether the rows of an upper layer make sense, alone and over its lower layer.
//!
//! Reads everything and changes nothing. It knows what every operation of the
//! overlay keeps to (the property tests hold them to it) and what other writers
//! of the format may do. What SQLite itself can check is not done here.
//!
//! Takes memory for a number per inode, never for names or content.

#[cfg(test)]
mod tests;
mod violation;

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

pub use violation::{Severity, Violation};

use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::overlay::merge;
use crate::storage::{InodeRow, ReadTxn};
use crate::types::{FILE_MAX_BYTES, FileKind, Ino, LowerPath, Name, SYMLINK_MAX_BYTES};

/// So many errors are listed, and so many notices; then [`Violation::More`] and
/// [`Violation::MoreNotices`] end the list.
pub const VIOLATIONS_MAX: usize = 10_000;

/// Checks an upper layer over its lower layer; `chunk_size_bytes` is that of the
/// storage.
///
/// ```
/// use agentfs_core::{check::check, lower::MemoryLower, storage::{MemoryStorage, Storage}};
/// use agentfs_core::{Ino, Name};
///
/// let storage = MemoryStorage::new(4096);
/// let name = Name::new(b"lost")?;
/// storage.write(|txn| txn.put_dentry(Ino::ROOT, &name, Ino(99)))?;
/// let violations = storage.read(|txn| check(txn, &MemoryLower::new(), 4096))?;
/// let sentences: Vec<String> = violations.iter().map(ToString::to_string).collect();
/// assert_eq!(sentences[1], "entry \"lost\" of directory 1 leads to inode 99, which is missing");
/// # Ok::<(), agentfs_core::FsError>(())
/// ```
///
/// # Errors
/// Those of the two layers: what cannot be read cannot be checked.
pub fn check<L: LowerLayer>(
    txn: &dyn ReadTxn,
    lower: &L,
    chunk_size_bytes: u32,
) -> Result<Vec<Violation>, FsError> {
    let mut checker = Checker {
        txn,
        lower,
        chunk_size: u64::from(chunk_size_bytes.max(1)),
        names: HashMap::default(),
        reached: HashSet::default(),
        merged: HashSet::default(),
        found: Vec::new(),
        said: [0; 2],
    };
    checker.tree()?;
    checker.inodes()?;
    checker.whiteouts()?;
    let [notices, errors] = checker.said;
    if notices > VIOLATIONS_MAX {
        checker.found.push(Violation::MoreNotices);
    }
    if errors > VIOLATIONS_MAX {
        checker.found.push(Violation::More);
    }
    Ok(checker.found)
}

struct Checker<'a, L> {
    txn: &'a dyn ReadTxn,
    lower: &'a L,
    chunk_size: u64,
    /// Upper entries that lead to an inode.
    names: HashMap<Ino, u32, RandomState>,
    /// Directories that hang together with the root.
    reached: HashSet<Ino, RandomState>,
    /// Lower directories that show through some directory.
    merged: HashSet<LowerPath, RandomState>,
    found: Vec<Violation>,
    /// Notices and errors so far: those not listed count, too.
    said: [usize; 2],
}

impl<L: LowerLayer> Checker<'_, L> {
    fn say(&mut self, violation: Violation) {
        // Apart, so that no number of notices keeps an error from being listed.
        let said = &mut self.said[usize::from(violation.severity() == Severity::Error)];
        *said += 1;
        if *said <= VIOLATIONS_MAX {
            self.found.push(violation);
        }
    }

    /// Everything that can be reached from the root.
    fn tree(&mut self) -> Result<(), FsError> {
        match self.txn.inode(Ino::ROOT)? {
            // It is made when the view is opened first.
            None if self.is_empty()? => {}
            None => self.say(Violation::NoRoot),
            Some(row) if !row.kind.is_dir() => self.say(Violation::RootNotADirectory),
            Some(_) => {}
        }
        self.reached.insert(Ino::ROOT);
        let mut dirs = vec![(Ino::ROOT, Some(LowerPath::root()))];
        while let Some((dir, shows)) = dirs.pop() {
            if let Some(path) = &shows
                && !self.merged.insert(path.clone())
            {
                self.say(Violation::ShownTwice { path: path.clone() });
            }
            for (name, ino) in self.entries(dir)? {
                let Some(row) = self.named(dir, &name, ino)? else {
                    continue;
                };
                if row.kind.is_dir() {
                    if !self.reached.insert(ino) {
                        self.say(Violation::DirectoryTwice { dir, name, ino });
                        continue;
                    }
                    let beneath = merge::lower_dir_beneath(
                        self.txn,
                        self.lower,
                        shows.as_ref(),
                        &name,
                        &row,
                    )?;
                    dirs.push((ino, beneath));
                } else if let Some(path) = &shows
                    && self.txn.whiteout(path, &name)?
                {
                    self.say(Violation::HiddenAndCovered {
                        path: path.join(&name),
                    });
                }
            }
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, FsError> {
        let mut empty = self.entries(Ino::ROOT)?.is_empty();
        self.txn.inodes(Ino(0), &mut |_| empty = false)?;
        Ok(empty)
    }

    /// Every inode by itself, with the number of its names.
    fn inodes(&mut self) -> Result<(), FsError> {
        let mut inos = Vec::new();
        self.txn.inodes(Ino(0), &mut |ino| inos.push(ino))?;
        // The names in directories that the tree does not reach count as well.
        for &ino in &inos {
            if self.reached.contains(&ino) {
                continue;
            }
            let is_dir = self.txn.inode(ino)?.is_some_and(|row| row.kind.is_dir());
            for (name, child) in self.entries(ino)? {
                if is_dir {
                    self.named(ino, &name, child)?;
                } else {
                    self.say(Violation::EntryInNonDirectory { dir: ino, name });
                }
            }
        }
        for ino in inos {
            let Some(row) = self.txn.inode(ino)? else {
                continue;
            };
            if ino.0 == 0 || ino > Ino::MAX {
                self.say(Violation::BadNumber { ino });
            }
            self.links(ino, &row);
            self.origin(ino, &row)?;
            self.content(ino, &row)?;
        }
        Ok(())
    }

    fn links(&mut self, ino: Ino, row: &InodeRow) {
        if ino == Ino::ROOT {
            return;
        }
        let names = self.names.get(&ino).copied().unwrap_or(0);
        if row.nlink == 0 {
            self.say(if names == 0 {
                Violation::Unlinked { ino }
            } else {
                Violation::WrongLinkCount {
                    ino,
                    nlink: 0,
                    names,
                }
            });
            return;
        }
        if row.kind.is_dir() {
            // Programs that count subdirectories as links write other numbers.
            if !self.reached.contains(&ino) {
                self.say(Violation::Unreachable { ino });
            }
            return;
        }
        // Other names of a base file count without an entry of their own.
        let more = match &row.origin {
            Some(origin) if origin.fingerprint.nlink > 1 => origin.fingerprint.nlink,
            _ => 0,
        };
        if row.nlink < names || row.nlink > names.saturating_add(more) {
            self.say(Violation::WrongLinkCount {
                ino,
                nlink: row.nlink,
                names,
            });
        }
    }

    fn origin(&mut self, ino: Ino, row: &InodeRow) -> Result<(), FsError> {
        let Some(origin) = &row.origin else {
            return Ok(());
        };
        let len = origin.data_len_bytes;
        if len > 0 && row.kind != FileKind::Regular {
            self.say(Violation::OriginDataOfNonFile { ino });
        } else if len > row.size || len > origin.fingerprint.size {
            self.say(Violation::OriginDataTooLong {
                ino,
                len,
                size: row.size,
            });
        }
        if len > 0 {
            let same = match self.lower.stat(&origin.path)? {
                Some(attr) => {
                    attr.kind == row.kind && merge::same_content(&origin.fingerprint, &attr)
                }
                None => false,
            };
            if !same {
                self.say(Violation::BaseChanged {
                    ino,
                    path: origin.path.clone(),
                });
            }
        }
        Ok(())
    }

    fn content(&mut self, ino: Ino, row: &InodeRow) -> Result<(), FsError> {
        let target = self.txn.symlink(ino)?;
        match (row.kind, &target) {
            (FileKind::Symlink, None) => self.say(Violation::NoTarget { ino }),
            (FileKind::Symlink, Some(target)) => {
                let len = target.len();
                if len == 0 || len > SYMLINK_MAX_BYTES || target.contains(&0) {
                    self.say(Violation::BadTarget { ino });
                } else if row.size != len as u64 {
                    self.say(Violation::WrongTargetSize {
                        ino,
                        size: row.size,
                        len: len as u64,
                    });
                }
            }
            (_, Some(_)) => self.say(Violation::TargetOfNonLink { ino }),
            (_, None) => {}
        }
        if row.size > FILE_MAX_BYTES {
            self.say(Violation::TooLarge {
                ino,
                size: row.size,
            });
            return Ok(());
        }
        let mut from = 0;
        while let Some(index) = self.txn.next_chunk(ino, from)? {
            if row.kind != FileKind::Regular {
                self.say(Violation::ChunkOfNonFile { ino, index });
                break;
            }
            self.chunk(ino, row, index)?;
            let Some(next) = index.checked_add(1) else {
                break;
            };
            from = next;
        }
        Ok(())
    }

    /// A chunk holds exactly its part of the file: readers of the format take
    /// the chunks one after the other.
    fn chunk(&mut self, ino: Ino, row: &InodeRow, index: u64) -> Result<(), FsError> {
        let part = match index.checked_mul(self.chunk_size) {
            Some(start) if start < row.size => (row.size - start).min(self.chunk_size),
            _ => {
                self.say(Violation::ChunkPastEnd {
                    ino,
                    index,
                    size: row.size,
                });
                return Ok(());
            }
        };
        let len = self
            .txn
            .chunk(ino, index)?
            .map_or(0, |chunk| chunk.len() as u64);
        if len != part {
            self.say(Violation::WrongChunkLength {
                ino,
                index,
                len,
                want: part,
            });
        }
        Ok(())
    }

    fn whiteouts(&mut self) -> Result<(), FsError> {
        let mut dirs = Vec::new();
        self.txn.whiteout_dirs(&mut |dir| dirs.push(dir))?;
        for dir in dirs {
            let mut names = Vec::new();
            self.txn.whiteouts(&dir, &mut |name| names.push(name))?;
            for name in names {
                let path = dir.join(&name);
                if self.lower.stat(&path)?.is_none() {
                    self.say(Violation::HidesNothing { path });
                }
            }
        }
        Ok(())
    }

    fn entries(&self, dir: Ino) -> Result<Vec<(Name, Ino)>, FsError> {
        let mut entries = Vec::new();
        self.txn
            .dentries(dir, &mut |name, ino| entries.push((name, ino)))?;
        entries.sort();
        Ok(entries)
    }

    /// Counts a name; the row it leads to.
    fn named(&mut self, dir: Ino, name: &Name, ino: Ino) -> Result<Option<InodeRow>, FsError> {
        let row = self.txn.inode(ino)?;
        if row.is_none() {
            self.say(Violation::DanglingEntry {
                dir,
                name: name.clone(),
                ino,
            });
        }
        let names = self.names.entry(ino).or_default();
        *names = names.saturating_add(1);
        Ok(row)
    }
}
