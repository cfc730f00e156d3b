//! Listings that go on while the directory changes: what is there all the time
//! is listed exactly once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use agentfs_core::types::Name;

use super::{Checked, Driver, World, diverged, show};
use crate::model::NodeId;

/// A listing in progress, on a directory that is kept open.
pub(super) struct Stream {
    dir: NodeId,
    cookie: u64,
    /// There since the start and unchanged.
    must_see: BTreeMap<Name, NodeId>,
    /// Listed, and unchanged since then.
    seen: BTreeMap<Name, NodeId>,
}

impl<W: World> Driver<W> {
    pub(super) fn stream_open(&mut self, dir: NodeId) -> Checked {
        let must_see = self.model.entries(dir).clone();
        self.streams.push(Stream {
            dir,
            cookie: 0,
            must_see,
            seen: BTreeMap::new(),
        });
        Ok(())
    }

    pub(super) fn stream_step(&mut self, index: usize, entries: usize) -> Checked {
        let mut stream = self.streams.swap_remove(index);
        if !self.model.is_live(stream.dir) || self.model.node(stream.dir).nlink == 0 {
            return Ok(());
        }
        let ino = self.ino_of(stream.dir)?;
        let before = self.storage_faults.tally();
        let mut listed = Vec::new();
        let result = self.overlay().read_dir(ino, stream.cookie, &mut |entry| {
            listed.push(entry.clone());
            if listed.len() == entries {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Err(e) = result {
            diverged!("readdir: {e}");
        }
        if self.storage_faults.tally() != before {
            diverged!("readdir wrote");
        }
        let at_end = listed.len() < entries;
        for entry in listed {
            let Some(&node) = self.model.entries(stream.dir).get(&entry.name) else {
                diverged!("readdir lists {}, which is not there", show(&entry.name));
            };
            self.expect_ino(node, entry.ino)?;
            if stream.seen.insert(entry.name.clone(), node).is_some() {
                diverged!("readdir lists {} twice", show(&entry.name));
            }
            stream.cookie = entry.cookie;
        }
        if at_end {
            let missed = stream
                .must_see
                .keys()
                .find(|name| !stream.seen.contains_key(*name));
            if let Some(name) = missed {
                diverged!("readdir left out {}", show(name));
            }
        } else {
            self.streams.push(stream);
        }
        Ok(())
    }

    /// After every operation: notes what is no longer there unchanged.
    pub(super) fn update_streams(&mut self) {
        let model = &self.model;
        for stream in &mut self.streams {
            if !model.is_live(stream.dir) {
                continue;
            }
            let entries = model.entries(stream.dir);
            stream
                .must_see
                .retain(|name, node| entries.get(name) == Some(node));
            stream
                .seen
                .retain(|name, node| entries.get(name) == Some(node));
        }
    }
}
