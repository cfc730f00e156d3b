//! Removing names: unlink, rmdir, and what rename does to its target.
//!
//! A lower name is hidden by a whiteout; an inode whose last name goes lives on
//! with a link count of 0 while it is referenced.

use super::copy_up::as_read;
use super::inode_table::{Linkage, LowerDir};
use super::lookup::Child;
use super::{Overlay, merge};
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{InodeRow, ReadTxn, Storage, WriteTxn};
use crate::types::{Ino, LowerPath, Name, Timestamp};

/// What became of an inode that lost a name; applied to the table once the
/// transaction is.
pub(super) struct Dropped {
    ino: Ino,
    /// It was its last name.
    last: bool,
    /// Where its bytes stay when it was never copied up.
    detached: Option<(LowerPath, Timestamp)>,
    /// Its row was kept for those who held a reference.
    kept: bool,
}

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsADirectory`], and those of lookup.
    pub fn unlink(&self, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.remove(parent, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`],
    /// [`FsError::NotEmpty`], and those of lookup.
    pub fn rmdir(&self, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.remove(parent, name, true)
    }

    fn remove(&self, parent: Ino, name: &Name, directory: bool) -> Result<(), FsError> {
        let _namespace = self.namespace.write();
        let now = self.config.clock.now();
        let dropped = self.storage.write(|txn| {
            let child = self.require_child(txn, parent, name)?;
            match (child.kind().is_dir(), directory) {
                (true, false) => return Err(FsError::IsADirectory),
                (false, true) => return Err(FsError::NotADirectory),
                _ => {}
            }
            self.touch_dir(txn, parent, -i32::from(directory), now)?;
            let dropped = self.drop_link(txn, parent, name, child, now)?;
            self.hide_name(txn, parent, name)?;
            Ok::<_, FsError>(dropped)
        })?;
        self.lists.lock().delete(parent, name);
        self.settle_dropped(parent, name, dropped);
        Ok(())
    }

    /// Takes a name away: the upper entry goes, and a lower one of that name
    /// stops showing through. Precondition: `parent` has a row.
    pub(super) fn hide_name(
        &self,
        txn: &mut dyn WriteTxn,
        parent: Ino,
        name: &Name,
    ) -> Result<(), FsError> {
        txn.delete_dentry(parent, name)?;
        let Some(dir) = self.lower_dir_of(as_read(txn), parent)? else {
            return Ok(());
        };
        if !txn.whiteout(&dir, name)? && self.lower.stat(&dir.join(name))?.is_some() {
            txn.put_whiteout(&dir, name, self.config.clock.now())?;
        }
        Ok(())
    }

    /// Takes one link off the child `name` of `parent`, whose name the caller
    /// hides or replaces afterwards. Refuses a directory that is not empty.
    pub(super) fn drop_link(
        &self,
        txn: &mut dyn WriteTxn,
        parent: Ino,
        name: &Name,
        child: Child,
        now: Timestamp,
    ) -> Result<Dropped, FsError> {
        match child {
            Child::Upper { ino, row } if row.kind.is_dir() => {
                let shows = self.child_lower_dir(txn, parent, name, ino, &row)?;
                self.require_empty(as_read(txn), ino, shows.as_ref())?;
                let kept = self.drop_row(
                    txn,
                    ino,
                    &InodeRow {
                        nlink: 0,
                        ctime: now,
                        ..row
                    },
                )?;
                forget_whiteouts(txn, shows.as_ref())?;
                Ok(Dropped {
                    ino,
                    last: true,
                    detached: None,
                    kept,
                })
            }
            Child::Upper { ino, row } => {
                let nlink = row.nlink.saturating_sub(1);
                let kept = self.drop_row(
                    txn,
                    ino,
                    &InodeRow {
                        nlink,
                        ctime: now,
                        ..row
                    },
                )?;
                Ok(Dropped {
                    ino,
                    last: nlink == 0,
                    detached: None,
                    kept,
                })
            }
            Child::Lower { ino, path, attr } if attr.kind.is_dir() => {
                self.require_empty(as_read(txn), ino, Some(&path))?;
                forget_whiteouts(txn, Some(&path))?;
                Ok(Dropped {
                    ino,
                    last: true,
                    detached: Some((path, now)),
                    kept: false,
                })
            }
            // The other names must show one link less.
            Child::Lower { ino, path, attr } if attr.nlink > 1 => {
                let row = self.copy_up_inode(txn, ino, path, &attr)?;
                let nlink = row.nlink - 1;
                txn.put_inode(
                    ino,
                    &InodeRow {
                        nlink,
                        ctime: now,
                        ..row
                    },
                )?;
                Ok(Dropped {
                    ino,
                    last: false,
                    detached: None,
                    kept: false,
                })
            }
            Child::Lower { ino, path, .. } => Ok(Dropped {
                ino,
                last: true,
                detached: Some((path, now)),
                kept: false,
            }),
        }
    }

    /// Brings the table in line with an applied [`Self::drop_link`].
    pub(super) fn settle_dropped(&self, parent: Ino, name: &Name, dropped: Dropped) {
        let mut table = self.table.lock();
        let was_here = table.at(parent, name) == Some(dropped.ino);
        if was_here || dropped.last {
            table.set_place(dropped.ino, None);
        }
        let Some(node) = table.get_mut(dropped.ino) else {
            drop(table);
            // Forgotten since the transaction saw it referenced.
            if dropped.last && dropped.kept {
                self.remove_orphans(&[dropped.ino]);
            }
            return;
        };
        if dropped.last {
            node.linkage = Linkage::Removed;
            node.lower_dir = LowerDir::None;
            node.detached = dropped.detached.map(Box::new);
        }
    }

    /// What shows through a child directory, referenced or not.
    pub(super) fn child_lower_dir(
        &self,
        txn: &dyn WriteTxn,
        parent: Ino,
        name: &Name,
        ino: Ino,
        row: &InodeRow,
    ) -> Result<Option<LowerPath>, FsError> {
        let txn = as_read(txn);
        if self
            .table
            .lock()
            .get(ino)
            .is_some_and(|node| node.place.is_some())
        {
            return self.lower_dir_of(txn, ino);
        }
        let parent_lower = self.lower_dir_of(txn, parent)?;
        merge::lower_dir_beneath(txn, &self.lower, parent_lower.as_ref(), name, row)
    }

    fn require_empty(
        &self,
        txn: &dyn ReadTxn,
        ino: Ino,
        shows: Option<&LowerPath>,
    ) -> Result<(), FsError> {
        let mut empty = true;
        txn.dentries(ino, &mut |_, _| empty = false)?;
        if empty && let Some(dir) = shows {
            for entry in self.lower.read_dir(dir)? {
                empty &= txn.whiteout(dir, &entry.name)?;
            }
        }
        if empty {
            Ok(())
        } else {
            Err(FsError::NotEmpty)
        }
    }

    /// Writes the row of an inode that lost a name; removes it when that was
    /// the last and nobody holds a reference. Tells whether there still is one.
    fn drop_row(&self, txn: &mut dyn WriteTxn, ino: Ino, row: &InodeRow) -> Result<bool, FsError> {
        let kept = row.nlink > 0 || self.table.lock().get(ino).is_some();
        if kept {
            txn.put_inode(ino, row)?;
        } else {
            txn.delete_inode(ino)?;
        }
        Ok(kept)
    }
}

/// The whiteouts in a lower directory that is hidden itself say nothing more.
fn forget_whiteouts(txn: &mut dyn WriteTxn, dir: Option<&LowerPath>) -> Result<(), FsError> {
    let Some(dir) = dir else { return Ok(()) };
    let mut names = Vec::new();
    txn.whiteouts(dir, &mut |name| names.push(name))?;
    for name in names {
        txn.delete_whiteout(dir, &name)?;
    }
    Ok(())
}
