//! The inodes that somebody holds a reference to, and where each lies.
//!
//! A node exists while it is referenced or while a referenced node lies in it.
//! The table knows places and lower identities only; whether an inode has been
//! copied up is told by the storage alone, so that a failed transaction leaves
//! nothing to undo here. Must never call the storage or the lower layer.
//!
//! A kernel with memory to spare holds on to every inode it has seen, so what
//! one node takes counts a million times: nodes lie in one vector, the two
//! indexes hold slots of it, and what few nodes have is boxed.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

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

/// A size in bytes, in seven of them: what is beyond counts as the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size56([u8; 7]);

impl Size56 {
    pub(crate) fn new(bytes: u64) -> Self {
        let [rest @ .., _] = bytes.min((1 << 56) - 1).to_le_bytes();
        Self(rest)
    }

    pub(crate) fn bytes(self) -> u64 {
        let [a, b, c, d, e, f, g] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, 0])
    }
}

/// What is remembered of an inode found in the lower layer while it is referenced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowerNode {
    pub(crate) id: LowerId,
    pub(crate) kind: FileKind,
    /// The size that whoever holds the references was told with the first one, or of a
    /// growth since.
    pub(crate) told_size: Size56,
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
    pub(crate) lower: Option<Box<LowerNode>>,
    /// For a directory: what shows through it.
    pub(crate) lower_dir: LowerDir,
    /// Lower path of a removed inode that is not copied up, and when it was
    /// removed: its change time since.
    pub(crate) detached: Option<Box<(LowerPath, Timestamp)>>,
    /// Whether it has a name.
    pub(crate) linkage: Linkage,
}

impl Node {
    /// Of an inode found in the lower layer that has a name in the view: what it is
    /// there, the directory and the name. It may have been copied up since.
    pub(crate) fn named_lower(&self) -> Option<(&LowerNode, Ino, &Name)> {
        match (&self.lower, &self.place, self.linkage) {
            (Some(lower), Some((dir, name)), Linkage::Linked) => Some((lower, *dir, name)),
            _ => None,
        }
    }
}

/// Where a node lies in the vector.
type Slot = u32;

/// Room for fewer nodes than this is not worth giving back.
const ROOM_MIN: usize = 4096;
/// Room is given back when this part of it is all that is used. Moving that few
/// costs little beside having filled it.
const USED_PART: usize = 8;

/// All referenced inodes.
#[derive(Default)]
pub(crate) struct InodeTable {
    nodes: Vec<(Ino, Node)>,
    /// Slots of `nodes` that hold none now.
    free: Vec<Slot>,
    by_ino: HashTable<Slot>,
    /// Of the nodes that have a place, the latest to come there.
    by_place: HashTable<Slot>,
    hasher: RandomState,
}

impl InodeTable {
    /// A table that holds the root, for ever.
    pub(crate) fn new() -> Self {
        let mut table = Self::default();
        *table.entry(Ino::ROOT) = Node {
            refs: 1,
            lower_dir: LowerDir::At(LowerPath::root()),
            ..Node::default()
        };
        table
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<&Node> {
        self.slot(ino).map(|slot| self.node(slot))
    }

    pub(crate) fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.slot(ino).map(|slot| self.node_mut(slot))
    }

    pub(crate) fn at(&self, parent: Ino, name: &Name) -> Option<Ino> {
        let slot = self.by_place.find(self.hash_place(parent, name), |&slot| {
            is_at(self.node(slot), parent, name)
        })?;
        Some(self.ino(*slot))
    }

    pub(crate) fn inos(&self) -> Vec<Ino> {
        self.by_ino.iter().map(|&slot| self.ino(slot)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_ino.len()
    }

    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = (Ino, &mut Node)> {
        // Free slots hold nodes that nobody asks for.
        self.nodes.iter_mut().map(|(ino, node)| (*ino, node))
    }

    /// Takes one reference, creating the node when need be.
    pub(crate) fn reference(&mut self, ino: Ino) -> &mut Node {
        let node = self.entry(ino);
        node.refs += 1;
        node
    }

    /// Records where an inode lies now.
    pub(crate) fn set_place(&mut self, ino: Ino, place: Option<(Ino, Name)>) {
        if ino == Ino::ROOT {
            return;
        }
        let Some(slot) = self.slot(ino).filter(|&s| self.node(s).place != place) else {
            return;
        };
        if let Some((parent, _)) = &place {
            self.entry(*parent).children += 1;
        }
        // An index finds a slot by what the node says: out before the change,
        // in after it.
        self.unindex_place(slot);
        let old = std::mem::replace(&mut self.node_mut(slot).place, place);
        self.index_place(slot);
        if let Some((parent, _)) = old {
            self.lose_child(parent);
            // A directory that was kept by this child alone. It still has a name
            // (only empty directories lose theirs), so nothing is left to clean.
            self.collect(parent, &mut Vec::new());
        }
    }

    /// Gives back references. Returns the nodes that went, the inode's own
    /// first, so that the caller can remove what they kept alive.
    pub(crate) fn release(&mut self, ino: Ino, count: u64) -> Vec<(Ino, Node)> {
        let Some(node) = self.get_mut(ino) else {
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
        for _ in 0..=self.len() {
            if at == ancestor {
                return true;
            }
            match self.get(at).and_then(|node| node.place.as_ref()) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
        true
    }

    fn lose_child(&mut self, parent: Ino) {
        if let Some(node) = self.get_mut(parent) {
            node.children = node.children.saturating_sub(1);
        }
    }

    fn collect(&mut self, ino: Ino, gone: &mut Vec<(Ino, Node)>) {
        let mut next = Some(ino);
        while let Some(ino) = next.take() {
            let idle = self
                .get(ino)
                .is_some_and(|n| n.refs == 0 && n.children == 0);
            if !idle {
                return;
            }
            let Some(node) = self.remove(ino) else {
                return;
            };
            if let Some((parent, _)) = &node.place {
                self.lose_child(*parent);
                next = Some(*parent);
            }
            gone.push((ino, node));
        }
    }

    fn ino(&self, slot: Slot) -> Ino {
        self.nodes[slot as usize].0
    }

    fn node(&self, slot: Slot) -> &Node {
        &self.nodes[slot as usize].1
    }

    fn node_mut(&mut self, slot: Slot) -> &mut Node {
        &mut self.nodes[slot as usize].1
    }

    fn hash_place(&self, parent: Ino, name: &Name) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    fn slot(&self, ino: Ino) -> Option<Slot> {
        let hash = self.hasher.hash_one(ino);
        self.by_ino
            .find(hash, |&slot| self.ino(slot) == ino)
            .copied()
    }

    fn entry(&mut self, ino: Ino) -> &mut Node {
        let slot = self.slot(ino).unwrap_or_else(|| self.insert(ino));
        self.node_mut(slot)
    }

    fn insert(&mut self, ino: Ino) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.nodes.push((ino, Node::default()));
            // 4 billion nodes would not fit into memory.
            Slot::try_from(self.nodes.len() - 1).unwrap_or(Slot::MAX)
        });
        self.nodes[slot as usize].0 = ino;
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.by_ino
            .insert_unique(hasher.hash_one(ino), slot, |&slot| {
                hasher.hash_one(nodes[slot as usize].0)
            });
        slot
    }

    fn remove(&mut self, ino: Ino) -> Option<Node> {
        let slot = self.slot(ino)?;
        self.unindex_place(slot);
        let hash = self.hasher.hash_one(ino);
        if let Ok(entry) = self.by_ino.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        self.free.push(slot);
        let node = std::mem::take(self.node_mut(slot));
        self.give_room_back();
        Some(node)
    }

    /// Moves the nodes together when most have gone, as they do when the kernel
    /// drops what it has cached.
    fn give_room_back(&mut self) {
        let room = self.nodes.len();
        if room < ROOM_MIN || self.len() > room / USED_PART {
            return;
        }
        let mut old = std::mem::take(&mut self.nodes);
        let mut moved_to: Vec<Slot> = vec![0; room];
        self.free = Vec::new();
        self.nodes.reserve_exact(self.by_ino.len());
        for slot in &mut self.by_ino {
            let from = *slot as usize;
            let (ino, node) = &mut old[from];
            // Fits: there are fewer than before.
            *slot = Slot::try_from(self.nodes.len()).unwrap_or(Slot::MAX);
            moved_to[from] = *slot;
            self.nodes.push((*ino, std::mem::take(node)));
        }
        for slot in &mut self.by_place {
            *slot = moved_to[*slot as usize];
        }
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.by_ino
            .shrink_to_fit(|&slot| hasher.hash_one(nodes[slot as usize].0));
        self.by_place.shrink_to_fit(|&slot| {
            let place = nodes[slot as usize].1.place.as_ref();
            place.map_or(0, |(parent, name)| hasher.hash_one((parent, name)))
        });
    }

    /// Makes a node the one found at its place.
    fn index_place(&mut self, slot: Slot) {
        let Some((parent, name)) = self.nodes[slot as usize].1.place.clone() else {
            return;
        };
        let hash = self.hash_place(parent, &name);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let place_of = |slot: &Slot| nodes[*slot as usize].1.place.as_ref();
        let entry = self.by_place.entry(
            hash,
            |&other| is_at(&nodes[other as usize].1, parent, &name),
            |slot| place_of(slot).map_or(0, |(parent, name)| hasher.hash_one((parent, name))),
        );
        *entry.or_insert(slot).get_mut() = slot;
    }

    /// Lets a node no longer be found at its place.
    fn unindex_place(&mut self, slot: Slot) {
        let Some((parent, name)) = &self.node(slot).place else {
            return;
        };
        let hash = self.hash_place(*parent, name);
        if let Ok(entry) = self.by_place.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }
}

fn is_at(node: &Node, parent: Ino, name: &Name) -> bool {
    node.place
        .as_ref()
        .is_some_and(|(dir, own)| *dir == parent && own == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).expect("a name")
    }

    #[test]
    fn a_size_takes_no_room_and_is_never_taken_for_a_larger() {
        assert_eq!(size_of::<LowerNode>(), size_of::<LowerId>() + 8);
        for bytes in [0, 1, 255, 1 << 40, (1 << 56) - 1] {
            assert_eq!(Size56::new(bytes).bytes(), bytes);
        }
        assert_eq!(Size56::new(u64::MAX).bytes(), (1 << 56) - 1);
    }

    #[test]
    fn a_node_takes_little_memory() {
        // docs/benchmarks/README.md has the sum per million inodes.
        assert!(
            size_of::<(Ino, Node)>() <= 88,
            "{}",
            size_of::<(Ino, Node)>()
        );
    }

    #[test]
    fn a_place_is_the_last_comers_until_it_leaves() {
        let mut table = InodeTable::new();
        for ino in [Ino(10), Ino(11)] {
            table.reference(ino);
            table.set_place(ino, Some((Ino::ROOT, name("same"))));
        }
        assert_eq!(table.at(Ino::ROOT, &name("same")), Some(Ino(11)));
        table.set_place(Ino(10), None);
        assert_eq!(table.at(Ino::ROOT, &name("same")), Some(Ino(11)));
        table.set_place(Ino(11), Some((Ino::ROOT, name("other"))));
        assert_eq!(table.at(Ino::ROOT, &name("same")), None);
        assert_eq!(table.at(Ino::ROOT, &name("other")), Some(Ino(11)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many nodes for Miri")]
    fn memory_of_forgotten_nodes_is_given_back() {
        const MANY: u64 = 100_000;
        let mut table = InodeTable::new();
        for number in 2..MANY {
            table.reference(Ino(number));
            let name = name(&number.to_string());
            table.set_place(Ino(number), Some((Ino::ROOT, name)));
        }
        // The last to come stay: wherever they lie in the vector.
        let kept = MANY - 100..MANY;
        for number in 2..kept.start {
            table.release(Ino(number), 1);
        }
        let room = [
            table.nodes.capacity(),
            table.free.capacity(),
            table.by_ino.capacity(),
            table.by_place.capacity(),
        ];
        assert!(room.iter().all(|&slots| slots < 10_000), "{room:?}");
        assert_eq!(table.len(), 101);
        for number in kept {
            let name = name(&number.to_string());
            assert_eq!(table.at(Ino::ROOT, &name), Some(Ino(number)));
            assert!(table.get(Ino(number)).is_some());
        }
        assert_eq!(table.at(Ino::ROOT, &name("2")), None);
        table.reference(Ino(2));
        assert_eq!(table.get(Ino(2)).map(|node| node.refs), Some(1));
    }

    #[test]
    fn slots_are_used_again_and_indexes_follow() {
        let mut table = InodeTable::new();
        for round in 0..3_u64 {
            let inos = || (0..1_000).map(|n| Ino(10 + round * 500 + n));
            for ino in inos() {
                table.reference(ino);
                table.set_place(ino, Some((Ino::ROOT, name(&ino.to_string()))));
            }
            assert_eq!(table.len(), 1_001);
            for ino in inos() {
                assert_eq!(table.at(Ino::ROOT, &name(&ino.to_string())), Some(ino));
                assert_eq!(table.release(ino, 1).len(), 1);
            }
            assert_eq!(table.inos(), [Ino::ROOT]);
        }
        assert_eq!(table.nodes.len(), 1_001);
    }
}
