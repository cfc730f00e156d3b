//! References: how an object of the model is found in the overlay, and who gives
//! the reference back.

use agentfs_core::types::{Ino, Name};

use super::{Checked, Divergence, Driver, World, diverged, show};
use crate::model::{NodeId, ROOT};

/// An object that is kept open.
pub(super) struct Handle {
    pub(super) node: NodeId,
    pub(super) ino: Ino,
}

impl<W: World> Driver<W> {
    /// The number every object of the base has to have.
    pub(super) fn expect_lower_numbers(&mut self) {
        self.inos.insert(ROOT, Ino::ROOT);
        let root_id = self.model.node(ROOT).lower_id;
        for (_, _, node) in self.model.names() {
            let Some(id) = self.model.node(node).lower_id else {
                continue;
            };
            let own_device = root_id.is_some_and(|root| root.dev == id.dev);
            if own_device && id.ino > 1 && id.ino < Ino::FIRST_UPPER.0 {
                self.inos.insert(node, Ino(id.ino));
            }
        }
    }

    /// Compares the number of an object with what it was the first time.
    pub(super) fn expect_ino(&mut self, node: NodeId, ino: Ino) -> Checked {
        if let Some(known) = self.inos.get(&node) {
            if *known != ino {
                diverged!("inode number of {node:?} is {ino}, was {known}");
            }
            return Ok(());
        }
        if let Some((other, _)) = self.inos.iter().find(|(_, known)| **known == ino) {
            diverged!("inode number {ino} of {node:?} is that of {other:?}");
        }
        self.inos.insert(node, ino);
        Ok(())
    }

    /// Where an object is found: a directory and a name in it.
    pub(super) fn one_name(&self, node: NodeId) -> Option<(NodeId, Name)> {
        let names = self.model.names();
        names
            .into_iter()
            .find(|(_, _, id)| *id == node)
            .map(|(dir, name, _)| (dir, name))
    }

    /// The number of a live object, with a reference on it held by `refs` or a
    /// handle.
    pub(super) fn ino_of(&mut self, node: NodeId) -> Result<Ino, Divergence> {
        if node == ROOT {
            return Ok(Ino::ROOT);
        }
        if let Some((ino, _)) = self.refs.get(&node) {
            return Ok(*ino);
        }
        if let Some(handle) = self.handles.iter().find(|h| h.node == node) {
            return Ok(handle.ino);
        }
        let Some((dir, name)) = self.one_name(node) else {
            diverged!("{node:?} has neither name nor handle");
        };
        let parent = self.ino_of(dir)?;
        let attr = match self.overlay().lookup(parent, &name) {
            Ok(attr) => attr,
            Err(e) => diverged!("lookup of {} in {dir:?}: {e}", show(&name)),
        };
        self.keep_ref(node, attr.ino);
        self.expect_ino(node, attr.ino)?;
        Ok(attr.ino)
    }

    /// Notes a reference that the overlay gave.
    pub(super) fn keep_ref(&mut self, node: NodeId, ino: Ino) {
        self.refs.entry(node).or_insert((ino, 0)).1 += 1;
    }

    /// Gives back what lookups took.
    pub(super) fn forget_refs(&mut self) {
        for (_, (ino, count)) in std::mem::take(&mut self.refs) {
            self.overlay().forget(ino, count);
        }
    }

    /// Gives back references on what has neither name nor handle any more, as a
    /// kernel does at once.
    pub(super) fn forget_dead_refs(&mut self) {
        let model = &self.model;
        let dead: Vec<NodeId> = self
            .refs
            .keys()
            .copied()
            .filter(|&node| !model.is_live(node))
            .collect();
        for node in dead {
            if let Some((ino, count)) = self.refs.remove(&node) {
                self.overlay().forget(ino, count);
            }
        }
    }

    pub(super) fn hold(&mut self, node: NodeId) -> Checked {
        let Some((dir, name)) = self.one_name(node) else {
            return Ok(());
        };
        let parent = self.ino_of(dir)?;
        match self.overlay().lookup(parent, &name) {
            Ok(attr) => {
                self.handles.push(Handle {
                    node,
                    ino: attr.ino,
                });
                self.model.hold(node);
                self.expect_ino(node, attr.ino)
            }
            Err(e) => diverged!("lookup of {} in {dir:?}: {e}", show(&name)),
        }
    }

    pub(super) fn release(&mut self, handle: usize) {
        let handle = self.handles.swap_remove(handle);
        self.overlay().forget(handle.ino, 1);
        self.model.release(handle.node);
    }
}
