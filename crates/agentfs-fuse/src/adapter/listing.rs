//! Directories as answers: the entries of the overlay, and `.` and `..` before them.
//!
//! Keeps nothing between two requests: where to go on is in the offset alone.

use std::ops::ControlFlow;

use agentfs_core::overlay::DirEntry;
use agentfs_core::{Attr, FileKind, Ino, LowerLayer, Storage};

use super::AgentFs;
use crate::convert::refused;
use crate::protocol::{Answer, Dirent, Errno};

/// Cookies of `.` and `..`; those of the overlay are greater.
const DOT_COOKIE: u64 = 1;
const DOT_DOT_COOKIE: u64 = 2;

impl<S: Storage, L: LowerLayer> AgentFs<S, L> {
    /// Names and kinds, from a position on, as many as fit into `room` bytes.
    pub(super) fn list(
        &self,
        dir: Ino,
        offset: u64,
        room: usize,
        out: &mut Answer,
    ) -> Result<(), Errno> {
        self.enter(dir);
        for entry in self.dot_entries(dir, offset) {
            if !out.dirent(&entry, room) {
                return Ok(());
            }
        }
        let mut add = |entry: &DirEntry| go_on(out.dirent(&dirent(entry), room));
        let listed = self.overlay.read_dir(dir, overlay_cookie(offset), &mut add);
        listed.map_err(refused)
    }

    /// The same with attributes: each entry is looked up with it.
    pub(super) fn list_with_attributes(
        &self,
        dir: Ino,
        offset: u64,
        room: usize,
        out: &mut Answer,
    ) -> Result<(), Errno> {
        let ttl = self.enter(dir);
        for entry in self.dot_entries(dir, offset) {
            if !out.dirent_plus(&entry, None, room) {
                return Ok(());
            }
        }
        let mut changed = Vec::new();
        let mut add = |entry: &DirEntry, attr: &Attr| {
            let attr_ttl = self.attr_ttl(attr, ttl);
            if self.looks_changed(attr, attr_ttl) {
                changed.push((attr.ino, attr.kind));
            }
            let shown = self.shown(attr);
            let entry = Dirent {
                ino: attr.ino,
                kind: attr.kind,
                ..dirent(entry)
            };
            go_on(out.dirent_plus(&entry, Some((&shown, attr_ttl, ttl)), room))
        };
        let is_told = |kind, ino| self.is_told(ino, kind, dir);
        let from = overlay_cookie(offset);
        let listed = self
            .overlay
            .read_dir_plus_as_seen(dir, from, &is_told, &mut add);
        // Not while it is being listed, see there.
        for (ino, kind) in changed {
            self.tell_changed(ino, kind);
        }
        listed.map_err(refused)
    }

    /// `.` and `..`, those of them that come after `offset`.
    fn dot_entries(&self, dir: Ino, offset: u64) -> Vec<Dirent<'static>> {
        let entry = |ino, cookie, name| Dirent {
            ino,
            cookie,
            kind: FileKind::Directory,
            name,
        };
        let mut entries = Vec::new();
        if offset < DOT_COOKIE {
            entries.push(entry(dir, DOT_COOKIE, b".".as_slice()));
        }
        if offset < DOT_DOT_COOKIE {
            let parent = self.overlay.parent(dir).unwrap_or(dir);
            entries.push(entry(parent, DOT_DOT_COOKIE, b"..".as_slice()));
        }
        entries
    }
}

fn dirent(entry: &DirEntry) -> Dirent<'_> {
    Dirent {
        ino: entry.ino,
        cookie: entry.cookie,
        kind: entry.kind,
        name: entry.name.as_bytes(),
    }
}

fn go_on(has_room: bool) -> ControlFlow<()> {
    if has_room {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}

/// Where to go on after `offset` in the entries of the overlay.
fn overlay_cookie(offset: u64) -> u64 {
    if offset <= DOT_DOT_COOKIE { 0 } else { offset }
}
