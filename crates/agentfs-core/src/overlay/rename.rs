//! Renaming, replacing and exchanging names. One transaction whatever lies
//! beneath: a moved directory takes its origin along, nothing in it is touched.

use super::Overlay;
use super::copy_up::as_read;
use super::lookup::Child;
use super::request::RenameMode;
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{InodeRow, Origin, Storage, WriteTxn};
use crate::types::{Ino, LowerPath, Name, Timestamp};

/// An inode about to get another name: it has a row, and for a directory it is
/// settled what shows through it wherever it goes.
struct Lifted {
    ino: Ino,
    row: InodeRow,
    shows: Option<LowerPath>,
}

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Gives an inode the name `new_name` in `new_parent` instead of `name` in
    /// `parent`. Two names of one inode are left as they are (POSIX).
    ///
    /// # Errors
    /// Those of rename(2): [`FsError::NotFound`], [`FsError::Exists`],
    /// [`FsError::NotADirectory`], [`FsError::IsADirectory`],
    /// [`FsError::NotEmpty`], [`FsError::InvalidArgument`] for a directory into
    /// itself, [`FsError::NotPermitted`] for a hidden name; and those of the
    /// layers.
    pub fn rename(
        &self,
        parent: Ino,
        name: &Name,
        new_parent: Ino,
        new_name: &Name,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let _namespace = self.namespace.write();
        match mode {
            RenameMode::Exchange => self.exchange((parent, name), (new_parent, new_name)),
            RenameMode::Replace | RenameMode::NoReplace => {
                self.replace((parent, name), (new_parent, new_name), mode)
            }
        }
    }

    fn replace(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let now = self.config.clock.now();
        let done = self.storage.write(|txn| {
            let source = self.require_child(txn, from.0, from.1)?;
            let target = self.child(as_read(txn), to.0, to.1)?;
            if target.is_some() && mode == RenameMode::NoReplace {
                return Err(FsError::Exists);
            }
            self.require_no_loop(&source, to.0)?;
            if self.is_hidden(to.0, to.1) {
                return Err(FsError::NotPermitted);
            }
            let mut dropped = None;
            if let Some(target) = target {
                if target.ino() == source.ino() {
                    return Ok(None);
                }
                if self.table.lock().is_ancestor(target.ino(), from.0) {
                    return Err(FsError::NotEmpty);
                }
                match (source.kind().is_dir(), target.kind().is_dir()) {
                    (true, false) => return Err(FsError::NotADirectory),
                    (false, true) => return Err(FsError::IsADirectory),
                    _ => {}
                }
                dropped = Some(self.drop_link(txn, to.0, to.1, target, now)?);
            }
            let moved = i32::from(source.kind().is_dir());
            self.touch_dir(txn, from.0, -moved, now)?;
            // What it replaces there is of the same sort.
            let more = if dropped.is_some() { 0 } else { moved };
            self.touch_dir(txn, to.0, more, now)?;
            let source = self.lift(txn, from.0, from.1, source)?;
            self.hide_name(txn, from.0, from.1)?;
            self.land(txn, to, &source, now)?;
            Ok(Some((source, dropped)))
        })?;
        let Some((source, dropped)) = done else {
            return Ok(());
        };
        if let Some(dropped) = dropped {
            self.settle_dropped(to.0, to.1, dropped);
        }
        let mut table = self.table.lock();
        table.set_place(source.ino, Some((to.0, to.1.clone())));
        let mut lists = self.lists.lock();
        lists.delete(from.0, from.1);
        lists.delete(to.0, to.1);
        lists.insert(to.0, to.1, source.ino, source.row.kind);
        Ok(())
    }

    fn exchange(&self, a: (Ino, &Name), b: (Ino, &Name)) -> Result<(), FsError> {
        let now = self.config.clock.now();
        let done = self.storage.write(|txn| {
            let at_a = self.require_child(txn, a.0, a.1)?;
            let at_b = self.require_child(txn, b.0, b.1)?;
            if at_a.ino() == at_b.ino() {
                return Ok(None);
            }
            self.require_no_loop(&at_a, b.0)?;
            self.require_no_loop(&at_b, a.0)?;
            let more_in_b = i32::from(at_a.kind().is_dir()) - i32::from(at_b.kind().is_dir());
            self.touch_dir(txn, a.0, -more_in_b, now)?;
            self.touch_dir(txn, b.0, more_in_b, now)?;
            let from_a = self.lift(txn, a.0, a.1, at_a)?;
            let from_b = self.lift(txn, b.0, b.1, at_b)?;
            self.land(txn, b, &from_a, now)?;
            self.land(txn, a, &from_b, now)?;
            Ok::<_, FsError>(Some((from_a, from_b)))
        })?;
        let Some((from_a, from_b)) = done else {
            return Ok(());
        };
        let mut table = self.table.lock();
        table.set_place(from_a.ino, Some((b.0, b.1.clone())));
        table.set_place(from_b.ino, Some((a.0, a.1.clone())));
        let mut lists = self.lists.lock();
        for ((parent, name), lifted) in [(b, &from_a), (a, &from_b)] {
            lists.delete(parent, name);
            lists.insert(parent, name, lifted.ino, lifted.row.kind);
        }
        Ok(())
    }

    /// Refuses to put a directory into itself.
    fn require_no_loop(&self, moved: &Child, into: Ino) -> Result<(), FsError> {
        if moved.kind().is_dir() && self.table.lock().is_ancestor(moved.ino(), into) {
            return Err(FsError::InvalidArgument);
        }
        Ok(())
    }

    /// Precondition: the directory it lies in has a row.
    fn lift(
        &self,
        txn: &mut dyn WriteTxn,
        parent: Ino,
        name: &Name,
        child: Child,
    ) -> Result<Lifted, FsError> {
        match child {
            Child::Lower { ino, path, attr } => {
                let shows = attr.kind.is_dir().then(|| path.clone());
                let row = self.copy_up_inode(txn, ino, path, &attr)?;
                Ok(Lifted { ino, row, shows })
            }
            Child::Upper { ino, mut row } if row.kind.is_dir() => {
                let shows = self.child_lower_dir(txn, parent, name, ino, &row)?;
                // Made by another writer of the format, it merged by its place
                // alone, which is about to change.
                if row.origin.is_none()
                    && let Some(path) = &shows
                    && let Some(attr) = self.lower.stat(path)?
                {
                    row.nlink = 1;
                    row.origin = Some(Origin {
                        path: path.clone(),
                        fingerprint: attr.fingerprint(),
                        data_len_bytes: 0,
                    });
                }
                Ok(Lifted { ino, row, shows })
            }
            Child::Upper { ino, row } => Ok(Lifted {
                ino,
                row,
                shows: None,
            }),
        }
    }

    /// Puts a lifted inode at a name, and settles the whiteout there: it must
    /// hide a lower object of that name from a directory that is not merged
    /// with it, and is needed nowhere else.
    fn land(
        &self,
        txn: &mut dyn WriteTxn,
        (parent, name): (Ino, &Name),
        lifted: &Lifted,
        now: Timestamp,
    ) -> Result<(), FsError> {
        let mut row = lifted.row.clone();
        row.ctime = now;
        txn.put_inode(lifted.ino, &row)?;
        txn.put_dentry(parent, name, lifted.ino)?;
        let Some(dir) = self.lower_dir_of(as_read(txn), parent)? else {
            return Ok(());
        };
        let path = dir.join(name);
        let hidden = txn.whiteout(&dir, name)?;
        let hide = row.kind.is_dir()
            && lifted.shows.as_ref() != Some(&path)
            && (hidden || self.lower.stat(&path)?.is_some());
        if hide && !hidden {
            txn.put_whiteout(&dir, name, now)?;
        } else if hidden && !hide {
            txn.delete_whiteout(&dir, name)?;
        }
        Ok(())
    }
}
