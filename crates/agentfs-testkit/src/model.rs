//! The reference: one flat in-memory POSIX tree that starts as a copy of the base.
//!
//! It has its own, deliberately simple implementation of every operation, with
//! the results and errno of ext4 for a privileged caller, and must never share
//! code with the overlay: an error made in both would be seen in neither.
//! Permissions are the kernel's business and are not modelled; reading does not
//! change `atime`; directories have one link.

mod bytes;
mod file;
mod names;

use std::collections::{BTreeMap, HashMap};

use agentfs_core::lower::{LowerAttr, LowerLayer};
use agentfs_core::storage::LowerId;
use agentfs_core::types::{FileKind, LowerPath, Name, Owner, Timestamp};

pub use bytes::SparseBytes;

use crate::op::Action;

/// A Linux errno.
pub type Errno = i32;

/// An object of the model. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// The root directory of every model.
pub const ROOT: NodeId = NodeId(0);

/// What an object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The bytes of a regular file.
    File(SparseBytes),
    /// The entries of a directory and where `..` leads.
    Directory {
        /// Names and what they lead to.
        entries: BTreeMap<Name, NodeId>,
        /// `..`
        parent: NodeId,
    },
    /// The target of a symbolic link.
    Symlink(Vec<u8>),
    /// A fifo, socket or device.
    Special,
}

/// One object: an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Type.
    pub kind: FileKind,
    /// `st_mode & 07777`.
    pub perm: u16,
    /// Names; for a directory 1, or 2 when it shows its subdirectories as links
    /// (see [`Model::links`]); 0: unlinked.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Content.
    pub body: Body,
    /// The host identity of an object that came from the base.
    pub lower_id: Option<LowerId>,
    /// Open handles: an unlinked object lives as long as it has one.
    pub holds: u32,
    /// Made by `O_TMPFILE` and never linked: may get its first name.
    pub is_tmpfile: bool,
}

impl Node {
    /// The size `stat` shows; 0 for a directory, whose size means nothing.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(bytes) => bytes.len(),
            Body::Symlink(target) => target.len() as u64,
            Body::Directory { .. } | Body::Special => 0,
        }
    }

    /// Whether it is a symbolic link that came from the base.
    #[must_use]
    pub fn is_base_link(&self) -> bool {
        self.kind == FileKind::Symlink && self.lower_id.is_some()
    }

    /// The bytes of a regular file.
    #[must_use]
    pub fn bytes(&self) -> Option<&SparseBytes> {
        match &self.body {
            Body::File(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    nodes: BTreeMap<NodeId, Node>,
    next_id: u32,
    /// The time of the next change.
    pub now: Timestamp,
    hidden: Vec<Name>,
}

/// What a successful operation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nothing.
    Unit,
    /// An object (found or made).
    Node(NodeId),
    /// Bytes read.
    Bytes(Vec<u8>),
    /// Bytes copied.
    Count(u64),
}

/// The result of an operation on the model.
pub type Outcome = Result<Given, Errno>;

impl Model {
    /// A model that starts as a copy of what `lower` shows, less the `hidden`
    /// names of its root.
    ///
    /// # Panics
    /// When the lower layer answers with an error: the base of a test is sound.
    #[must_use]
    pub fn from_lower<L: LowerLayer>(lower: &L, hidden: &[Name]) -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            next_id: 0,
            now: Timestamp::default(),
            hidden: hidden.to_vec(),
        };
        let attr = lower.stat(&LowerPath::root()).expect("stat of the base");
        let attr = attr.expect("the base has a root");
        let mut linked = HashMap::new();
        model.copy_in(lower, &LowerPath::root(), &attr, ROOT, &mut linked);
        model
    }

    fn copy_in<L: LowerLayer>(
        &mut self,
        lower: &L,
        path: &LowerPath,
        attr: &LowerAttr,
        parent: NodeId,
        linked: &mut HashMap<LowerId, NodeId>,
    ) -> NodeId {
        if let Some(&known) = linked.get(&attr.id) {
            return known;
        }
        let body = match attr.kind {
            FileKind::Regular => Body::File(read_lower(lower, path, attr.size)),
            FileKind::Directory => Body::Directory {
                entries: BTreeMap::new(),
                parent,
            },
            FileKind::Symlink => Body::Symlink(lower.read_link(path).expect("readlink")),
            _ => Body::Special,
        };
        let id = self.insert(Node {
            kind: attr.kind,
            perm: attr.perm,
            nlink: if attr.kind.is_dir() { 1 } else { attr.nlink },
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            // Reading a link on the host changes its access time.
            atime: if attr.kind == FileKind::Symlink {
                attr.mtime
            } else {
                attr.atime
            },
            mtime: attr.mtime,
            ctime: attr.ctime,
            xattrs: lower
                .xattrs(path)
                .expect("xattrs of the base")
                .into_iter()
                .collect(),
            body,
            lower_id: Some(attr.id),
            holds: 0,
            is_tmpfile: false,
        });
        if attr.kind.is_dir() {
            let mut entries = lower.read_dir(path).expect("readdir of the base");
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            for entry in entries {
                if path.is_root() && self.hidden.contains(&entry.name) {
                    continue;
                }
                let child_path = path.join(&entry.name);
                let child = lower
                    .stat(&child_path)
                    .expect("stat")
                    .expect("a listed entry exists");
                let child = self.copy_in(lower, &child_path, &child, id, linked);
                self.entries_mut(id).insert(entry.name, child);
            }
        } else {
            linked.insert(attr.id, id);
        }
        id
    }

    fn insert(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next_id);
        self.next_id += 1;
        self.nodes.insert(id, node);
        id
    }

    /// An object that is in the tree or held open.
    ///
    /// # Panics
    /// When it is neither.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a live node")
    }

    /// Whether the object is in the tree or held open.
    #[must_use]
    pub fn is_live(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// The entries of a directory.
    ///
    /// # Panics
    /// When it is no directory.
    #[must_use]
    pub fn entries(&self, dir: NodeId) -> &BTreeMap<Name, NodeId> {
        match &self.node(dir).body {
            Body::Directory { entries, .. } => entries,
            _ => panic!("{dir:?} is no directory"),
        }
    }

    fn entries_mut(&mut self, dir: NodeId) -> &mut BTreeMap<Name, NodeId> {
        match &mut self.node_mut(dir).body {
            Body::Directory { entries, .. } => entries,
            _ => panic!("{dir:?} is no directory"),
        }
    }

    /// Where `..` of a directory leads.
    ///
    /// # Panics
    /// When it is no directory.
    #[must_use]
    pub fn parent(&self, dir: NodeId) -> NodeId {
        match &self.node(dir).body {
            Body::Directory { parent, .. } => *parent,
            _ => panic!("{dir:?} is no directory"),
        }
    }

    /// Every directory that can be reached, the root first, parents before
    /// children.
    #[must_use]
    pub fn directories(&self) -> Vec<NodeId> {
        let mut found = vec![ROOT];
        let mut at = 0;
        while at < found.len() {
            let children = self.entries(found[at]).values().copied();
            found.extend(children.filter(|&id| self.node(id).kind.is_dir()));
            at += 1;
        }
        found
    }

    /// Every name that can be reached: directory, name, object.
    #[must_use]
    pub fn names(&self) -> Vec<(NodeId, Name, NodeId)> {
        let mut found = Vec::new();
        for dir in self.directories() {
            found.extend(
                self.entries(dir)
                    .iter()
                    .map(|(name, &id)| (dir, name.clone(), id)),
            );
        }
        found
    }

    /// One path from the root to an object, or `None` when it has no name.
    #[must_use]
    pub fn path(&self, id: NodeId) -> Option<Vec<Name>> {
        if id == ROOT {
            return Some(Vec::new());
        }
        let names = self.names();
        let mut path = Vec::new();
        let mut at = id;
        while at != ROOT {
            let (dir, name, _) = names.iter().find(|(_, _, child)| *child == at)?;
            path.push(name.clone());
            at = *dir;
        }
        path.reverse();
        Some(path)
    }

    /// Lets a directory of the base be one that another program has put in the
    /// same place, which merges with it.
    pub fn remake_directory(&mut self, dir: NodeId, perm: u16, time: Timestamp) {
        let node = self.node_mut(dir);
        node.perm = perm;
        node.nlink = 1;
        (node.uid, node.gid) = (0, 0);
        (node.atime, node.mtime, node.ctime) = (time, time, time);
        node.xattrs.clear();
        node.lower_id = None;
    }

    /// Whether the name cannot exist in this directory.
    #[must_use]
    pub fn is_hidden(&self, dir: NodeId, name: &Name) -> bool {
        dir == ROOT && self.hidden.contains(name)
    }

    /// Does an action, all but what is about handles and listings.
    ///
    /// # Errors
    /// The errno of the operation.
    pub fn apply(&mut self, action: &Action) -> Outcome {
        match action {
            Action::Mknod {
                dir,
                name,
                node,
                owner,
            } => self.mknod(*dir, name, *node, *owner),
            Action::Mkdir {
                dir,
                name,
                perm,
                owner,
            } => self.mkdir(*dir, name, *perm, *owner),
            Action::Symlink {
                dir,
                name,
                target,
                owner,
            } => self.symlink(*dir, name, target, *owner),
            Action::Tmpfile { dir, perm, owner } => self.tmpfile(*dir, *perm, *owner),
            Action::Link { node, dir, name } => self.link(*node, *dir, name),
            Action::Unlink { dir, name } => self.unlink(*dir, name),
            Action::Rmdir { dir, name } => self.rmdir(*dir, name),
            Action::Rename {
                dir,
                name,
                new_dir,
                new_name,
                mode,
            } => self.rename(*dir, name, *new_dir, new_name, *mode),
            Action::SetAttr { node, set } => self.setattr(*node, set),
            Action::Read { node, offset, len } => self.read(*node, *offset, *len),
            Action::Write {
                node,
                offset,
                data,
                kill_suid_sgid,
            } => self.write(*node, *offset, data, *kill_suid_sgid),
            Action::Fallocate {
                node,
                mode,
                offset,
                len,
            } => self.fallocate(*node, *mode, *offset, *len),
            Action::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => self.copy_file_range(*from, *from_offset, *to, *to_offset, *len),
            Action::SetXattr {
                node,
                name,
                value,
                mode,
            } => self.setxattr(*node, name, value, *mode),
            Action::RemoveXattr { node, name } => self.removexattr(*node, name),
            Action::Fsync { .. }
            | Action::Hold { .. }
            | Action::Release { .. }
            | Action::StreamOpen { .. }
            | Action::StreamStep { .. }
            | Action::ForgetAll
            | Action::Invalidate { .. }
            | Action::Reopen => Ok(Given::Unit),
        }
    }

    /// Opens a handle: the object outlives its last name.
    pub fn hold(&mut self, id: NodeId) {
        self.node_mut(id).holds += 1;
    }

    /// Closes a handle.
    pub fn release(&mut self, id: NodeId) {
        self.node_mut(id).holds -= 1;
        self.collect(id);
    }

    fn collect(&mut self, id: NodeId) {
        if self.node(id).nlink == 0 && self.node(id).holds == 0 {
            self.nodes.remove(&id);
        }
    }

    fn directory(&self, id: NodeId) -> Result<&BTreeMap<Name, NodeId>, Errno> {
        match &self.node(id).body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn new_node(&self, kind: FileKind, perm: u16, owner: Owner, dir: NodeId, body: Body) -> Node {
        let dir = self.node(dir);
        let inherits = dir.perm & 0o2000 != 0;
        Node {
            kind,
            perm: if inherits && kind.is_dir() {
                perm | 0o2000
            } else {
                perm
            },
            nlink: 1 + u32::from(kind.is_dir()),
            uid: owner.uid,
            gid: if inherits { dir.gid } else { owner.gid },
            rdev: 0,
            atime: self.now,
            mtime: self.now,
            ctime: self.now,
            xattrs: BTreeMap::new(),
            body,
            lower_id: None,
            holds: 0,
            is_tmpfile: false,
        }
    }
}

fn read_lower<L: LowerLayer>(lower: &L, path: &LowerPath, size: u64) -> SparseBytes {
    const STEP: u64 = 1 << 20;
    let file = lower.open(path).expect("open of a base file");
    let mut bytes = SparseBytes::default();
    bytes.set_len(size);
    let mut at = 0;
    while let Some(data) = file.seek(at, false).expect("SEEK_DATA") {
        let end = file.seek(data, true).expect("SEEK_HOLE").unwrap_or(size);
        at = data;
        while at < end {
            let step = usize::try_from(STEP.min(end - at)).expect("small");
            let mut buf = vec![0; step];
            let got = file.read_at(&mut buf, at).expect("read of a base file");
            assert_eq!(got, step, "a lower read is short only at the end");
            bytes.write(at, &buf);
            at += step as u64;
        }
    }
    bytes
}
