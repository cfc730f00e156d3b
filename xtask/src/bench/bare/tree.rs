//! Names and bytes in memory, for `bare`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::{SystemTime, UNIX_EPOCH};

use super::wire::{Answer, Request, opcode};

/// `S_IFDIR`.
pub(super) const DIRECTORY: u32 = 0o040_000;
/// `S_IFLNK`, with the permissions that links have.
const LINK: u32 = 0o120_777;
const ROOT: u64 = 1;
/// What a SETATTR is to set (`FATTR_*`).
const SET_MODE: u32 = 1;
const SET_UID: u32 = 1 << 1;
const SET_GID: u32 = 1 << 2;
const SET_SIZE: u32 = 1 << 3;
const SET_MTIME: u32 = 1 << 5;

/// A refusal.
pub(super) struct Errno(pub(super) i32);

impl Errno {
    const NOENT: Self = Self(2);
    pub(super) const NOSYS: Self = Self(38);
    const NOTEMPTY: Self = Self(39);
    pub(super) const NODATA: Self = Self(61);
}

/// The one time that a node has.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) seconds: u64,
    pub(super) nanos: u32,
}

impl Times {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.unwrap_or_default();
        Self {
            seconds: since.as_secs(),
            nanos: since.subsec_nanos(),
        }
    }
}

pub(super) struct Node {
    pub(super) ino: u64,
    pub(super) mode: u32,
    pub(super) nlink: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) times: Times,
    /// Of a file or a link.
    pub(super) data: Vec<u8>,
    /// Of a directory, by the cookie that a listing goes on behind.
    names: BTreeMap<u64, (Vec<u8>, u64)>,
}

impl Node {
    fn new(ino: u64, mode: u32, uid: u32, gid: u32) -> Self {
        Self {
            ino,
            mode,
            nlink: 1,
            uid,
            gid,
            times: Times::now(),
            data: Vec::new(),
            names: BTreeMap::new(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.data.len() as u64
    }
}

pub(super) struct Tree {
    nodes: HashMap<u64, Node>,
    /// By directory and name: the node, and the name's cookie.
    names: HashMap<(u64, Vec<u8>), (u64, u64)>,
    /// The next number, of a node or a cookie.
    next: u64,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::new(ROOT, DIRECTORY | 0o755, 0, 0);
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            names: HashMap::new(),
            next: ROOT + 1,
        }
    }

    pub(super) fn node(&self, ino: u64) -> Result<&Node, Errno> {
        self.nodes.get(&ino).ok_or(Errno::NOENT)
    }

    fn node_mut(&mut self, ino: u64) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    pub(super) fn find(&self, dir: u64, name: &[u8]) -> Result<Option<&Node>, Errno> {
        match self.names.get(&(dir, name.to_vec())) {
            Some((ino, _)) => self.node(*ino).map(Some),
            None => Ok(None),
        }
    }

    fn enter(&mut self, dir: u64, name: &[u8], ino: u64) -> Result<(), Errno> {
        let cookie = self.next;
        self.next += 1;
        let parent = self.node_mut(dir)?;
        parent.names.insert(cookie, (name.to_vec(), ino));
        self.names.insert((dir, name.to_vec()), (ino, cookie));
        Ok(())
    }

    fn take(&mut self, dir: u64, name: &[u8]) -> Result<u64, Errno> {
        let found = self.names.remove(&(dir, name.to_vec()));
        let (ino, cookie) = found.ok_or(Errno::NOENT)?;
        self.node_mut(dir)?.names.remove(&cookie);
        Ok(ino)
    }

    /// Makes what a request names behind `len` bytes of its own.
    pub(super) fn make(
        &mut self,
        request: &Request<'_>,
        mode: u32,
        len: usize,
    ) -> Result<&Node, Errno> {
        let ino = self.next;
        self.next += 1;
        let node = Node::new(ino, mode, request.uid, request.gid);
        self.nodes.insert(ino, node);
        self.enter(request.node, request.name(len), ino)?;
        self.node(ino)
    }

    pub(super) fn link_to(
        &mut self,
        request: &Request<'_>,
        target: Vec<u8>,
    ) -> Result<&Node, Errno> {
        let ino = self.make(request, LINK, 0)?.ino;
        self.node_mut(ino)?.data = target;
        self.node(ino)
    }

    pub(super) fn remove(&mut self, dir: u64, name: &[u8]) -> Result<(), Errno> {
        if self
            .find(dir, name)?
            .is_some_and(|node| !node.names.is_empty())
        {
            return Err(Errno::NOTEMPTY);
        }
        let ino = self.take(dir, name)?;
        // Its bytes stay until the kernel forgets it.
        self.node_mut(ino)?.nlink = 0;
        Ok(())
    }

    pub(super) fn rename(&mut self, request: &Request<'_>, len: usize) -> Result<(), Errno> {
        let (to, old) = (request.u64(0), request.name(len));
        let new = request.name(len + old.len() + 1);
        if self.find(to, new)?.is_some() {
            self.remove(to, new)?;
        }
        let ino = self.take(request.node, old)?;
        self.enter(to, new, ino)
    }

    pub(super) fn set(&mut self, ino: u64, request: &Request<'_>) -> Result<&Node, Errno> {
        let node = self.node_mut(ino)?;
        let is_set = |flag| request.u32(0) & flag != 0;
        if is_set(SET_MODE) {
            node.mode = request.u32(68);
        }
        if is_set(SET_UID) {
            node.uid = request.u32(76);
        }
        if is_set(SET_GID) {
            node.gid = request.u32(80);
        }
        if is_set(SET_SIZE) {
            node.data.resize(index(request.u64(16)), 0);
        }
        if is_set(SET_MTIME) {
            node.times = Times {
                seconds: request.u64(40),
                nanos: request.u32(60),
            };
        }
        Ok(node)
    }

    pub(super) fn write(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let data = &mut self.node_mut(ino)?.data;
        let start = index(offset);
        let end = start + bytes.len();
        if data.len() == start {
            data.extend_from_slice(bytes);
        } else {
            data.resize(data.len().max(end), 0);
            data[start..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    pub(super) fn read(&self, ino: u64, offset: u64, len: u64) -> Result<&[u8], Errno> {
        let data = &self.node(ino)?.data;
        let start = index(offset).min(data.len());
        let end = index(offset.saturating_add(len)).min(data.len());
        Ok(&data[start..end])
    }

    /// How much was copied.
    pub(super) fn copy(&mut self, request: &Request<'_>) -> Result<usize, Errno> {
        let (from, to) = (request.u64(8), request.u64(32));
        let len = request.u64(40).min(u64::from(u32::MAX));
        let bytes = self.read(request.node, from, len)?.to_vec();
        self.write(request.u64(16), to, &bytes)?;
        Ok(bytes.len())
    }

    pub(super) fn list(
        &self,
        ino: u64,
        behind: u64,
        room: u32,
        plus: bool,
        out: &mut Answer,
    ) -> Result<(), Errno> {
        let behind = (Bound::Excluded(behind), Bound::Unbounded);
        for (cookie, (name, child)) in self.node(ino)?.names.range(behind) {
            if !out.dirent(*cookie, name, self.node(*child)?, plus, room) {
                break;
            }
        }
        Ok(())
    }

    /// Drops what has no name any more and that the kernel does not hold either.
    pub(super) fn forget(&mut self, request: &Request<'_>) {
        let forgotten = match request.opcode {
            opcode::FORGET => vec![request.node],
            opcode::BATCH_FORGET => (0..request.u32(0) as usize)
                .map(|place| request.u64(8 + 16 * place))
                .collect(),
            _ => Vec::new(),
        };
        for ino in forgotten {
            if self.nodes.get(&ino).is_some_and(|node| node.nlink == 0) {
                self.nodes.remove(&ino);
            }
        }
    }
}

/// An offset in a file, all of which is in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
