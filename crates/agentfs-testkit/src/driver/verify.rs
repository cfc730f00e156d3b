//! Compares the whole view with the model: names, numbers, attributes, bytes,
//! link targets, extended attributes. It must never write.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use agentfs_core::check::{Violation, check};
use agentfs_core::overlay::SeekWhence;
use agentfs_core::storage::Storage;
use agentfs_core::types::{Attr, FileKind, Ino, Name};

use super::run::{read_over, same_bytes};
use super::{Checked, Divergence, Driver, World, diverged, show};
use crate::model::{Body, NodeId, ROOT, SparseBytes};
use crate::op::name_pool;

/// Files up to this size are read whole.
const READ_WHOLE_BYTES: u64 = 16 << 10;
/// More pieces than that of one file are not looked at.
const MOST_PIECES: usize = 64;

impl<W: World> Driver<W> {
    /// Compares everything.
    ///
    /// # Errors
    /// [`Divergence`]: the first there is.
    pub fn verify(&mut self) -> Checked {
        let before = self.storage_faults.tally();
        self.verify_dir(ROOT, Ino::ROOT, "")?;
        let handles: Vec<(NodeId, Ino)> = self.handles.iter().map(|h| (h.node, h.ino)).collect();
        for (node, ino) in handles {
            self.verify_object(node, ino)
                .map_err(|Divergence(what)| Divergence(format!("handle on {node:?}: {what}")))?;
        }
        let written = self.storage_faults.tally() - before;
        if written.write_transactions > 0 {
            diverged!("looking at the view wrote: {written:?}");
        }
        self.verify_rows()
    }

    /// The rows are sound by themselves; inodes without a name are there only
    /// for what is held open.
    fn verify_rows(&self) -> Checked {
        let overlay = self.overlay();
        let chunk_size_bytes = overlay.storage().chunk_size_bytes();
        let storage = overlay.storage().inner();
        let lower = overlay.lower().inner();
        let found = match storage.read(|txn| check(txn, lower, chunk_size_bytes)) {
            Ok(found) => found,
            Err(e) => diverged!("check: {e}"),
        };
        let held = self
            .handles
            .iter()
            .filter(|h| self.model.node(h.node).nlink == 0)
            .count();
        let (unlinked, wrong): (Vec<_>, Vec<_>) = found
            .iter()
            .partition(|v| matches!(v, Violation::Unlinked { .. }));
        if let Some(violation) = wrong.first() {
            diverged!("check: {violation} ({} in all)", wrong.len());
        }
        if unlinked.len() > held && !self.orphans_may_stay {
            diverged!(
                "check: {} unlinked inodes are stored, {held} held",
                unlinked.len()
            );
        }
        Ok(())
    }

    fn verify_dir(&mut self, dir: NodeId, ino: Ino, path: &str) -> Checked {
        let at = |Divergence(what)| Divergence(format!("/{path}: {what}"));
        self.verify_object(dir, ino).map_err(at)?;
        self.verify_listing(dir, ino).map_err(at)?;
        self.verify_absent(dir, ino).map_err(at)?;
        for (name, child) in self.model.entries(dir).clone() {
            let attr = self.overlay().lookup(ino, &name);
            let attr =
                attr.map_err(|e| at(Divergence(format!("lookup of {}: {e}", show(&name)))))?;
            let child_path = format!("{path}/{}", show(&name));
            let compared = self.same_attr(child, &attr).and_then(|()| {
                self.expect_ino(child, attr.ino)?;
                if attr.kind.is_dir() {
                    match self.overlay().parent(attr.ino) {
                        Ok(parent) if parent == ino => {}
                        other => diverged!("its parent is {other:?}, not {ino}"),
                    }
                    self.verify_dir(child, attr.ino, &child_path)
                } else {
                    self.verify_object(child, attr.ino)
                }
            });
            self.overlay().forget(attr.ino, 1);
            compared.map_err(|Divergence(what)| {
                let known = what.starts_with('/');
                Divergence(if known {
                    what
                } else {
                    format!("{child_path}: {what}")
                })
            })?;
        }
        Ok(())
    }

    /// Compares attributes, all but what has no fixed meaning: the size of a
    /// directory and the blocks.
    pub(super) fn same_attr(&self, node: NodeId, attr: &Attr) -> Checked {
        if !self.model.is_live(node) {
            return Ok(());
        }
        let expected = self.model.node(node);
        // Reading a link on the host changes its access time, whoever reads.
        let any_atime = expected.is_base_link();
        let same = attr.kind == expected.kind
            && attr.perm == expected.perm
            && attr.nlink == self.model.links(node)
            && (attr.uid, attr.gid, attr.rdev) == (expected.uid, expected.gid, expected.rdev)
            && (attr.kind.is_dir() || attr.size == expected.size())
            && (any_atime || attr.atime == expected.atime)
            && (attr.mtime, attr.ctime) == (expected.mtime, expected.ctime);
        if !same {
            let mut plain = expected.clone();
            if let Body::File(_) | Body::Directory { .. } = plain.body {
                plain.body = Body::Special;
            }
            diverged!(
                "attributes are {attr:?}, should be size {} and {plain:?}",
                expected.size()
            );
        }
        Ok(())
    }

    fn verify_object(&mut self, node: NodeId, ino: Ino) -> Checked {
        let seen = self.overlay().getattr_as_seen(ino, |_, _| true);
        for attr in [seen, self.overlay().getattr(ino)] {
            match attr {
                Ok(attr) if attr.ino == ino => self.same_attr(node, &attr)?,
                Ok(attr) => diverged!("getattr of {ino} gives number {}", attr.ino),
                Err(e) => diverged!("getattr: {e}"),
            }
        }
        let expected = self.model.node(node);
        let names = match self.overlay().listxattr(ino) {
            Ok(names) => names,
            Err(e) => diverged!("listxattr: {e}"),
        };
        if !names.iter().eq(expected.xattrs.keys()) {
            diverged!(
                "extended attributes are {names:?}, should be {:?}",
                expected.xattrs
            );
        }
        for (name, value) in &expected.xattrs {
            match self.overlay().getxattr(ino, name) {
                Ok(real) if real == *value => {}
                other => diverged!("getxattr gives {other:?}, should be {value:?}"),
            }
        }
        match &expected.body {
            Body::Symlink(target) => match self.overlay().readlink(ino) {
                Ok(real) if real == *target => Ok(()),
                other => diverged!("the target is {other:?}, should be {target:?}"),
            },
            Body::File(bytes) => {
                self.verify_bytes(ino, bytes)?;
                self.verify_holes(ino, bytes)
            }
            Body::Directory { .. } | Body::Special => Ok(()),
        }
    }

    fn verify_bytes(&self, ino: Ino, expected: &SparseBytes) -> Checked {
        let mut pieces = vec![(0, READ_WHOLE_BYTES)];
        if expected.len() > READ_WHOLE_BYTES {
            let around = |at: u64| (at.saturating_sub(150), at.saturating_add(150));
            pieces.push(around(expected.len()));
            let ranges = expected.data_ranges();
            let wider = ranges
                .iter()
                .map(|(from, to)| (around(*from).0, around(*to).1));
            pieces.extend(wider.take(MOST_PIECES));
        }
        for (from, to) in pieces {
            let len = usize::try_from(to - from).expect("a small piece");
            match read_over::<W>(self.overlay(), ino, from, len) {
                Ok(real) => same_bytes(from, &real, &expected.read(from, len))?,
                Err(e) => diverged!("read of {len} bytes at {from}: {e:?}"),
            }
        }
        Ok(())
    }

    /// What is said to be a hole reads as zeros; holes need not be reported.
    fn verify_holes(&self, ino: Ino, expected: &SparseBytes) -> Checked {
        let size = expected.len();
        let seek = |at, whence| match self.overlay().lseek(ino, at, whence) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.errno() == libc::ENXIO => Ok(None),
            Err(e) => Err(Divergence(format!("lseek({at}, {whence:?}): {e:?}"))),
        };
        if seek(size, SeekWhence::Data)?.is_some() || seek(size, SeekWhence::Hole)?.is_some() {
            diverged!("lseek finds something at the end of the file, {size}");
        }
        let mut at = 0;
        for _ in 0..MOST_PIECES {
            if at >= size {
                break;
            }
            let data = seek(at, SeekWhence::Data)?;
            let zero_to = data.unwrap_or(size);
            if zero_to < at || data.is_some_and(|data| data >= size) {
                diverged!("SEEK_DATA from {at} of {size} gives {data:?}");
            }
            if !expected.is_zero(at, zero_to) {
                diverged!("a hole is reported from {at} to {zero_to}, where there is data");
            }
            let Some(data) = data else { break };
            match seek(data, SeekWhence::Hole)? {
                Some(hole) if hole > data && hole <= size => {
                    if !expected.is_zero(hole, (hole + 1).min(size)) {
                        diverged!("a hole is reported at {hole}, where there is data");
                    }
                    at = hole;
                }
                other => diverged!("SEEK_HOLE from data at {data} of {size} gives {other:?}"),
            }
        }
        Ok(())
    }

    /// Lists twice, with and without attributes, in pages of varying size.
    fn verify_listing(&mut self, dir: NodeId, ino: Ino) -> Checked {
        let expected = self.model.entries(dir).clone();
        let mut plain: BTreeMap<Name, (Ino, FileKind, u64)> = BTreeMap::new();
        let mut cookie = 0;
        let mut page = 1 + self.steps as usize % 3;
        loop {
            let mut listed = 0;
            let mut last = cookie;
            let mut twice = None;
            let result = self.overlay().read_dir(ino, cookie, &mut |entry| {
                listed += 1;
                last = entry.cookie;
                let value = (entry.ino, entry.kind, entry.cookie);
                if plain.insert(entry.name.clone(), value).is_some() {
                    twice = Some(entry.name.clone());
                }
                if listed == page {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if let Err(e) = result {
                diverged!("readdir: {e}");
            }
            if let Some(name) = twice {
                diverged!("readdir lists {} twice", show(&name));
            }
            if listed < page {
                break;
            }
            cookie = last;
            page += 2;
        }
        if !plain.keys().eq(expected.keys()) {
            diverged!(
                "readdir lists {:?}, should be {:?}",
                plain.keys(),
                expected.keys()
            );
        }
        for (name, (ino, kind, cookie)) in &plain {
            let child = expected[name];
            self.expect_ino(child, *ino)?;
            if *kind != self.model.node(child).kind {
                diverged!("readdir says {kind:?} of {}", show(name));
            }
            if *cookie <= 2 || *cookie >= 1 << 63 {
                diverged!("the cookie of {} is {cookie}", show(name));
            }
        }
        self.verify_listing_plus(ino, &plain, &expected)
    }

    fn verify_listing_plus(
        &mut self,
        ino: Ino,
        plain: &BTreeMap<Name, (Ino, FileKind, u64)>,
        expected: &BTreeMap<Name, NodeId>,
    ) -> Checked {
        let most = 1 + self.steps as usize % 4;
        let mut cookie = 0;
        let mut listed = BTreeMap::new();
        loop {
            let mut taken = 0;
            let mut refused = false;
            let mut last = cookie;
            // Whoever runs this tells of every change of the base.
            let is_told = self.steps.is_multiple_of(2);
            let result = self.overlay().read_dir_plus_as_seen(
                ino,
                cookie,
                &|_, _| is_told,
                &mut |entry, attr| {
                    if taken == most {
                        refused = true;
                        return ControlFlow::Break(());
                    }
                    taken += 1;
                    last = entry.cookie;
                    listed.insert(entry.name.clone(), (entry.clone(), attr.clone()));
                    ControlFlow::Continue(())
                },
            );
            if let Err(e) = result {
                diverged!("readdirplus: {e}");
            }
            if !refused {
                break;
            }
            cookie = last;
        }
        for (_, attr) in listed.values() {
            self.overlay().forget(attr.ino, 1);
        }
        if !listed.keys().eq(plain.keys()) {
            diverged!(
                "readdirplus lists {:?}, readdir {:?}",
                listed.keys(),
                plain.keys()
            );
        }
        for (name, (entry, attr)) in &listed {
            if (entry.ino, entry.kind, entry.cookie) != plain[name] || attr.ino != entry.ino {
                diverged!(
                    "readdirplus gives {entry:?} and {attr:?}, readdir {:?}",
                    plain[name]
                );
            }
            self.same_attr(expected[name], attr)?;
        }
        Ok(())
    }

    fn verify_absent(&self, dir: NodeId, ino: Ino) -> Checked {
        for name in name_pool() {
            if self.model.entries(dir).contains_key(name) {
                continue;
            }
            match self.overlay().lookup(ino, name) {
                Err(e) if e.errno() == libc::ENOENT => {}
                Err(e) => diverged!("lookup of {}, which is not there: {e:?}", show(name)),
                Ok(attr) => diverged!("{} should not be there, is {attr:?}", show(name)),
            }
        }
        Ok(())
    }
}
