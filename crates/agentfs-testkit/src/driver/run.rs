//! One operation on the overlay, and what its result has to be.

use agentfs_core::error::FsError;
use agentfs_core::overlay::Times;
use agentfs_core::types::{Attr, Ino};

use super::refs::Handle;
use super::{Checked, Divergence, Driver, View, World, diverged};
use crate::faults::Tally;
use crate::model::{Given, NodeId, Outcome};
use crate::op::Action;

/// What the overlay gave.
pub(super) enum Got {
    Unit,
    /// With one reference.
    Attr(Attr),
    /// Without one.
    Peek(Attr),
    Bytes(Vec<u8>),
    Count(u64),
}

/// `pread(2)` into a buffer that has seen other bytes, none of which may show.
pub(super) fn read_over<W: World>(
    overlay: &View<W>,
    ino: Ino,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, FsError> {
    let mut buf = vec![0xA5; len];
    let read = overlay.read_into(ino, offset, &mut buf)?;
    buf.truncate(read);
    Ok(buf)
}

impl<W: World> Driver<W> {
    /// Takes the references that an action needs: the numbers of its objects, in
    /// the order in which it names them.
    pub(super) fn prepare(&mut self, action: &Action) -> Result<Vec<Ino>, Divergence> {
        let nodes: Vec<NodeId> = match action {
            Action::Mknod { dir, .. }
            | Action::Mkdir { dir, .. }
            | Action::Symlink { dir, .. }
            | Action::Tmpfile { dir, .. }
            | Action::Unlink { dir, .. }
            | Action::Rmdir { dir, .. } => vec![*dir],
            Action::Link { node, dir, .. } => vec![*node, *dir],
            Action::Rename { dir, new_dir, .. } => vec![*dir, *new_dir],
            Action::SetAttr { node, .. }
            | Action::Read { node, .. }
            | Action::Write { node, .. }
            | Action::Fallocate { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. }
            | Action::Fsync { node } => vec![*node],
            Action::CopyRange { from, to, .. } => vec![*from, *to],
            Action::Hold { .. }
            | Action::Release { .. }
            | Action::StreamOpen { .. }
            | Action::StreamStep { .. }
            | Action::ForgetAll
            | Action::Invalidate { .. }
            | Action::Reopen => Vec::new(),
        };
        nodes.into_iter().map(|node| self.ino_of(node)).collect()
    }

    /// Runs an action on the overlay alone.
    pub(super) fn perform(&self, action: &Action, inos: &[Ino]) -> Result<Got, FsError> {
        let overlay = self.overlay();
        let unit = |()| Got::Unit;
        match action {
            Action::Mknod {
                name, node, owner, ..
            } => overlay.mknod(inos[0], name, *node, *owner).map(Got::Attr),
            Action::Mkdir {
                name, perm, owner, ..
            } => overlay.mkdir(inos[0], name, *perm, *owner).map(Got::Attr),
            Action::Symlink {
                name,
                target,
                owner,
                ..
            } => overlay
                .symlink(inos[0], name, target, *owner)
                .map(Got::Attr),
            Action::Tmpfile { perm, owner, .. } => {
                overlay.tmpfile(inos[0], *perm, *owner).map(Got::Attr)
            }
            Action::Link { name, .. } => overlay.link(inos[0], inos[1], name).map(Got::Attr),
            Action::Unlink { name, .. } => overlay.unlink(inos[0], name).map(unit),
            Action::Rmdir { name, .. } => overlay.rmdir(inos[0], name).map(unit),
            Action::Rename {
                name,
                new_name,
                mode,
                ..
            } => overlay
                .rename(inos[0], name, inos[1], new_name, *mode)
                .map(unit),
            Action::SetAttr { set, .. } => overlay.setattr(inos[0], set).map(Got::Peek),
            Action::Read { offset, len, .. } => {
                read_over::<W>(overlay, inos[0], *offset, *len).map(Got::Bytes)
            }
            Action::Write {
                offset,
                data,
                kill_suid_sgid,
                ..
            } => overlay
                .write(inos[0], *offset, data, *kill_suid_sgid)
                .map(unit),
            Action::Fallocate {
                mode, offset, len, ..
            } => overlay
                .fallocate(inos[0], *mode, *offset, *len, Times::Now)
                .map(unit),
            Action::CopyRange {
                from_offset,
                to_offset,
                len,
                ..
            } => overlay
                .copy_file_range(inos[0], *from_offset, inos[1], *to_offset, *len, Times::Now)
                .map(Got::Count),
            Action::SetXattr {
                name, value, mode, ..
            } => overlay.setxattr(inos[0], name, value, *mode).map(unit),
            Action::RemoveXattr { name, .. } => overlay.removexattr(inos[0], name).map(unit),
            Action::Fsync { .. } => {
                let (sender, receiver) = std::sync::mpsc::channel();
                overlay.sync(Box::new(move |result| {
                    let _ = sender.send(result);
                }));
                receiver.recv().expect("done is called")?;
                Ok(Got::Unit)
            }
            Action::Hold { .. }
            | Action::Release { .. }
            | Action::StreamOpen { .. }
            | Action::StreamStep { .. }
            | Action::ForgetAll
            | Action::Invalidate { .. }
            | Action::Reopen => Ok(Got::Unit),
        }
    }

    /// Compares a result with the model's and keeps the reference it came with.
    pub(super) fn settle(
        &mut self,
        action: &Action,
        real: Result<Got, FsError>,
        expected: Outcome,
    ) -> Checked {
        match (real, expected) {
            (Err(e), Err(errno)) if e.errno() == errno => Ok(()),
            (Err(e), Err(errno)) => {
                diverged!(
                    "refused with {e:?} (errno {}), not errno {errno}",
                    e.errno()
                )
            }
            (Err(e), Ok(_)) => diverged!("refused with {e:?}, should succeed"),
            (Ok(_), Err(errno)) => diverged!("succeeded, should be refused with errno {errno}"),
            (Ok(Got::Unit), Ok(Given::Unit)) => Ok(()),
            (Ok(Got::Count(real)), Ok(Given::Count(count))) if real == count => Ok(()),
            (Ok(Got::Count(real)), Ok(Given::Count(count))) => {
                diverged!("gave {real}, not {count}")
            }
            (Ok(Got::Bytes(real)), Ok(Given::Bytes(bytes))) => same_bytes(0, &real, &bytes),
            (Ok(Got::Peek(attr)), Ok(Given::Unit)) => {
                let Action::SetAttr { node, .. } = action else {
                    diverged!("attributes of what?");
                };
                if let Some((node, mtime, ctime)) = self.idle_change
                    && (attr.mtime, attr.ctime) == (mtime, ctime)
                {
                    self.model.set_times_back(node, mtime, ctime);
                }
                self.same_attr(*node, &attr)
            }
            (Ok(Got::Attr(attr)), Ok(Given::Node(node))) => {
                if matches!(action, Action::Tmpfile { .. }) {
                    self.handles.push(Handle {
                        node,
                        ino: attr.ino,
                    });
                } else {
                    self.keep_ref(node, attr.ino);
                }
                self.expect_ino(node, attr.ino)?;
                if self.model.node(node).lower_id.is_none() && attr.ino < Ino::FIRST_UPPER {
                    diverged!("a new inode got the number {}", attr.ino);
                }
                self.same_attr(node, &attr)
            }
            (Ok(_), Ok(given)) => diverged!("another kind of result than {given:?}"),
        }
    }

    /// What an action may have written to the storage.
    pub(super) fn check_written(&self, action: &Action, written: Tally) -> Checked {
        if action.is_read_only() && written.write_transactions > 0 {
            diverged!("a read-only operation wrote: {written:?}");
        }
        let most_chunks = match action {
            // Those written, and the one that was last, when it has to be filled.
            Action::Write { data, .. } => data.len() as u64 / self.chunk + 3,
            // Bytes of the base are hidden by chunks of zeros.
            Action::Fallocate { len, .. } => len / self.chunk + 3,
            Action::SetAttr { set, .. } if set.size.is_some() => 1,
            Action::CopyRange { len, .. } => len / self.chunk + 3,
            _ => 0,
        };
        if written.chunks_put > most_chunks {
            diverged!(
                "{} chunks were stored, at most {most_chunks} need be",
                written.chunks_put
            );
        }
        Ok(())
    }
}

/// Compares bytes that begin at `offset`.
pub(super) fn same_bytes(offset: u64, real: &[u8], expected: &[u8]) -> Checked {
    if real.len() != expected.len() {
        diverged!("{} bytes at {offset}, not {}", real.len(), expected.len());
    }
    if let Some(at) = real.iter().zip(expected).position(|(a, b)| a != b) {
        diverged!(
            "byte {} is {:#04x}, not {:#04x}",
            offset + at as u64,
            real[at],
            expected[at]
        );
    }
    Ok(())
}
