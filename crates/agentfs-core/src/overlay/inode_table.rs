//! The inodes that somebody holds a reference to, and where each lies.
//!
//! A node exists while it is referenced or while a referenced node lies in it.
//! The table knows places and lower identities only; whether an inode has been
//! copied up is told by the storage alone, so that a failed transaction leaves
//! nothing to undo here. Must never call the storage or the lower layer.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::storage::LowerId;
use crate::types::{FileKind, Ino, LowerPath, Name, Timestamp};

/// Which lower directory shows through a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum LowerDir {
    /// Not asked yet.
    #[default]
    Unknown,
    /// None: born in the upper layer, opaque, or removed.
    None,
    /// This one; never changes while the node lives.
    At(LowerPath),
}

/// Whether an inode still has a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Linkage {
    /// It has, or had when last seen.
    #[default]
    Linked,
    /// Its last name was removed; it lives until forgotten.
    Removed,
    /// Born without a name (`O_TMPFILE`); may still get one.
    Tmpfile,
}

/// One referenced inode.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// References taken and not forgotten.
    pub(crate) refs: u64,
    /// Nodes whose `place` is in this directory.
    children: u32,
    /// A current name. Exact for directories and for inodes that are not copied
    /// up; `None` for the root and where no name is known.
    pub(crate) place: Option<(Ino, Name)>,
    /// Identity in the lower layer, for an inode found there.
    pub(crate) lower: Option<(LowerId, FileKind)>,
    /// For a directory: what shows through it.
    pub(crate) lower_dir: LowerDir,
    /// Lower path of a removed inode that is not copied up, and when it was
    /// removed: its change time since.
    pub(crate) detached: Option<(LowerPath, Timestamp)>,
    /// Whether it has a name.
    pub(crate) linkage: Linkage,
}

/// All referenced inodes.
#[derive(Default)]
pub(crate) struct InodeTable {
    nodes: HashMap<Ino, Node, RandomState>,
    by_place: HashMap<(Ino, Name), Ino, RandomState>,
}

impl InodeTable {
    /// A table that holds the root, for ever.
    pub(crate) fn new() -> Self {
        let mut table = Self::default();
        let root = Node {
            refs: 1,
            lower_dir: LowerDir::At(LowerPath::root()),
            ..Node::default()
        };
        table.nodes.insert(Ino::ROOT, root);
        table
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub(crate) fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    pub(crate) fn at(&self, parent: Ino, name: &Name) -> Option<Ino> {
        self.by_place.get(&(parent, name.clone())).copied()
    }

    pub(crate) fn inos(&self) -> Vec<Ino> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = (&Ino, &mut Node)> {
        self.nodes.iter_mut()
    }

    /// Takes one reference, creating the node when need be.
    pub(crate) fn reference(&mut self, ino: Ino) -> &mut Node {
        let node = self.nodes.entry(ino).or_default();
        node.refs += 1;
        node
    }

    /// Records where an inode lies now.
    pub(crate) fn set_place(&mut self, ino: Ino, place: Option<(Ino, Name)>) {
        if ino == Ino::ROOT || self.nodes.get(&ino).is_none_or(|node| node.place == place) {
            return;
        }
        if let Some(place) = &place {
            self.nodes.entry(place.0).or_default().children += 1;
            self.by_place.insert(place.clone(), ino);
        }
        let old = match self.nodes.get_mut(&ino) {
            Some(node) => std::mem::replace(&mut node.place, place),
            None => None,
        };
        if let Some(old) = old {
            let parent = old.0;
            self.leave(ino, &old);
            // A directory that was kept by this child alone. It still has a name
            // (only empty directories lose theirs), so nothing is left to clean.
            self.collect(parent, &mut Vec::new());
        }
    }

    /// Gives back references. Returns the nodes that went, the inode's own
    /// first, so that the caller can remove what they kept alive.
    pub(crate) fn release(&mut self, ino: Ino, count: u64) -> Vec<(Ino, Node)> {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return Vec::new();
        };
        node.refs = node.refs.saturating_sub(count);
        if ino == Ino::ROOT {
            node.refs = node.refs.max(1);
        }
        let mut gone = Vec::new();
        self.collect(ino, &mut gone);
        gone
    }

    /// Whether `ancestor` is `ino` or a directory above it.
    pub(crate) fn is_ancestor(&self, ancestor: Ino, ino: Ino) -> bool {
        let mut at = ino;
        // A hostile database can hold a cycle of directories.
        for _ in 0..=self.nodes.len() {
            if at == ancestor {
                return true;
            }
            match self.nodes.get(&at).and_then(|node| node.place.as_ref()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
        true
    }

    fn leave(&mut self, ino: Ino, old: &(Ino, Name)) {
        let parent = old.0;
        if self.by_place.get(old) == Some(&ino) {
            self.by_place.remove(old);
        }
        if let Some(parent_node) = self.nodes.get_mut(&parent) {
            parent_node.children = parent_node.children.saturating_sub(1);
        }
    }

    fn collect(&mut self, ino: Ino, gone: &mut Vec<(Ino, Node)>) {
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            let idle = self
                .nodes
                .get(&ino)
                .is_some_and(|n| n.refs == 0 && n.children == 0);
            if !idle {
                return;
            }
            let Some(node) = self.nodes.remove(&ino) else {
                return;
            };
            if let Some(place) = node.place.clone() {
                next = Some(place.0);
                self.leave(ino, &place);
            }
            gone.push((ino, node));
        }
    }
}
