//! Directories as answers: the entries of the overlay, and `.` and `..` before them.
//!
//! Keeps nothing between two requests: where to go on is in the offset alone.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use agentfs_core::overlay::DirEntry;
use agentfs_core::{Attr, Ino, LowerLayer, Storage};
use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::{AgentFs, DOT_DOT_COOKIE, GENERATION};
use crate::convert::{errno, file_type, negative_entry};

impl<S: Storage, L: LowerLayer> AgentFs<S, L> {
    /// Names and kinds, from a position on, as many as the reply takes.
    pub(super) fn list(&self, dir: Ino, offset: u64, mut reply: ReplyDirectory) {
        self.enter(dir);
        for (ino, cookie, name) in self.dot_entries(dir, offset) {
            if reply.add(INodeNo(ino.0), cookie, fuser::FileType::Directory, name) {
                return reply.ok();
            }
        }
        let result = self
            .overlay
            .read_dir(dir, overlay_cookie(offset), &mut |entry| {
                let name = OsStr::from_bytes(entry.name.as_bytes());
                if reply.add(
                    INodeNo(entry.ino.0),
                    entry.cookie,
                    file_type(entry.kind),
                    name,
                ) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// The same with attributes: each entry is looked up with it.
    pub(super) fn list_with_attributes(
        &self,
        dir: Ino,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ttl = self.enter(dir);
        for (ino, cookie, name) in self.dot_entries(dir, offset) {
            // The kernel takes no reference on these.
            let mut attr = negative_entry();
            (attr.ino, attr.kind) = (INodeNo(ino.0), fuser::FileType::Directory);
            if reply.add(attr.ino, cookie, name, &Duration::ZERO, &attr, GENERATION) {
                return reply.ok();
            }
        }
        let mut changed = Vec::new();
        let mut add = |entry: &DirEntry, attr: &Attr| {
            let name = OsStr::from_bytes(entry.name.as_bytes());
            let ttl = self.attr_ttl(attr, ttl);
            if self.looks_changed(attr, ttl) {
                changed.push((attr.ino, attr.kind));
            }
            let (number, attr) = (INodeNo(attr.ino.0), self.shown(attr));
            if reply.add(number, entry.cookie, name, &ttl, &attr, GENERATION) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
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
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

/// Where to go on after `offset` in the entries of the overlay.
fn overlay_cookie(offset: u64) -> u64 {
    if offset <= DOT_DOT_COOKIE { 0 } else { offset }
}
