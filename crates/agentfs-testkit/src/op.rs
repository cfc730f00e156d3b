//! Generated operations.
//!
//! An [`Op`] names its targets by index into whatever is there when it runs,
//! wrapping, so that an op stays valid when ops before it are removed in
//! shrinking. [`Op::resolve`] turns it into an [`Action`] on objects of the
//! model. Neither must ever hold an inode number or a path of a real system.

mod action;
mod strategy;

use std::sync::OnceLock;

use agentfs_core::overlay::{Fallocate, NewNode, RenameMode, SetAttr, XattrMode};
use agentfs_core::types::{FileKind, Name, Owner};

use crate::base::pattern;
use crate::model::{Model, NodeId};

pub use action::Action;
pub use strategy::{Weights, op, ops};

/// Which object: an index into those of a class, wrapping.
#[derive(Clone, Copy, Debug)]
pub enum Pick {
    /// Anything with a name or a handle.
    Any(usize),
    /// A regular file with a name or a handle.
    File(usize),
    /// A directory, removed ones with a handle included.
    Dir(usize),
}

/// A place for a name: a directory and a name in it.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Which directory.
    pub dir: usize,
    /// Which name.
    pub name: NamePick,
}

/// Which name in a directory.
#[derive(Clone, Copy, Debug)]
pub enum NamePick {
    /// Of the pool, whether it exists or not.
    Pool(usize),
    /// Of those that exist there, or of the pool where there are none.
    Existing(usize),
}

/// A position in a file, around a chunk boundary.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Whole chunks.
    pub chunks: u64,
    /// Bytes more or less.
    pub delta: i64,
}

impl Position {
    /// In bytes.
    #[must_use]
    pub fn bytes(self, chunk: u64) -> u64 {
        (self.chunks * chunk).saturating_add_signed(self.delta)
    }
}

/// One operation, of which the targets are not decided yet.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the operation of that name"
)]
pub enum Op {
    Mknod {
        at: At,
        node: NewNode,
        owner: Owner,
    },
    Mkdir {
        at: At,
        perm: u16,
        owner: Owner,
    },
    Symlink {
        at: At,
        target: Vec<u8>,
        owner: Owner,
    },
    Tmpfile {
        dir: usize,
        perm: u16,
        owner: Owner,
    },
    Link {
        from: Pick,
        at: At,
    },
    Unlink {
        at: At,
    },
    Rmdir {
        at: At,
    },
    Rename {
        from: At,
        to: At,
        mode: RenameMode,
    },
    SetAttr {
        target: Pick,
        set: SetAttr,
    },
    Truncate {
        target: Pick,
        size: Position,
        kill_suid_sgid: bool,
    },
    Read {
        target: Pick,
        offset: Position,
        len: u16,
    },
    Write {
        target: Pick,
        offset: Position,
        len: u16,
        seed: u64,
        kill_suid_sgid: bool,
    },
    Fallocate {
        target: Pick,
        mode: Fallocate,
        offset: Position,
        len: Position,
    },
    CopyRange {
        from: Pick,
        from_offset: Position,
        to: Pick,
        to_offset: Position,
        len: Position,
    },
    SetXattr {
        target: Pick,
        name: usize,
        value: Vec<u8>,
        mode: XattrMode,
    },
    RemoveXattr {
        target: Pick,
        name: usize,
    },
    /// Looks an object up and keeps the reference: an open file.
    Hold {
        target: Pick,
    },
    /// Closes a handle.
    Release {
        handle: usize,
    },
    /// Makes what was changed durable.
    Fsync {
        target: Pick,
    },
    /// Starts to list a directory.
    StreamOpen {
        dir: usize,
    },
    /// Goes on listing.
    StreamStep {
        stream: usize,
        entries: usize,
    },
    /// Gives back all references that are no handles.
    ForgetAll,
    /// Says that layers changed, which they did not.
    Invalidate {
        dir: usize,
    },
    /// Ends and starts again on the same storage, all handles lost.
    Reopen,
}

/// The name that the tests hide in the root.
#[must_use]
pub fn hidden_name() -> Name {
    Name::new(b".agentfs").unwrap()
}

/// The names that operations use: few, so that they meet.
#[must_use]
pub fn name_pool() -> &'static [Name] {
    static POOL: OnceLock<Vec<Name>> = OnceLock::new();
    POOL.get_or_init(|| {
        let long = [b'n'; 255];
        let names: [&[u8]; 8] = [
            b"a",
            b"b",
            b"c",
            b"d",
            b"\xff\xfe",
            &long,
            b"with space",
            b".agentfs",
        ];
        names.iter().map(|name| Name::new(name).unwrap()).collect()
    })
}

/// The extended attributes that operations use.
pub const XATTR_POOL: [&[u8]; 3] = [b"user.a", b"user.b", b"trusted.c"];

fn wrap<T: Clone>(all: &[T], index: usize) -> Option<T> {
    if all.is_empty() {
        None
    } else {
        Some(all[index % all.len()].clone())
    }
}

/// What an op's indices wrap around.
struct Scene<'a> {
    model: &'a Model,
    handles: &'a [NodeId],
}

impl Scene<'_> {
    fn dir(&self, index: usize) -> NodeId {
        let mut dirs = self.model.directories();
        let held = self.handles.iter().copied();
        dirs.extend(
            held.filter(|&id| self.model.node(id).kind.is_dir() && self.model.node(id).nlink == 0),
        );
        dirs[index % dirs.len()]
    }

    fn at(&self, at: At) -> (NodeId, Name) {
        let dir = self.dir(at.dir);
        let pool = name_pool();
        let name = match at.name {
            NamePick::Pool(index) => pool[index % pool.len()].clone(),
            NamePick::Existing(index) => {
                let existing: Vec<Name> = self.model.entries(dir).keys().cloned().collect();
                wrap(&existing, index).unwrap_or_else(|| pool[index % pool.len()].clone())
            }
        };
        (dir, name)
    }

    fn pick(&self, pick: Pick) -> Option<NodeId> {
        let (index, keep): (_, fn(FileKind) -> bool) = match pick {
            Pick::Any(index) => (index, |_| true),
            Pick::File(index) => (index, |kind| kind == FileKind::Regular),
            Pick::Dir(index) => return Some(self.dir(index)),
        };
        let mut all: Vec<NodeId> = self
            .model
            .names()
            .into_iter()
            .map(|(_, _, id)| id)
            .collect();
        all.extend(self.handles);
        all.retain(|&id| keep(self.model.node(id).kind));
        wrap(&all, index)
    }
}

impl Op {
    /// Decides the targets; `None` when there is nothing to do it to. `handles`
    /// are the open ones, `streams` the number of open listings.
    #[must_use]
    pub fn resolve(
        &self,
        model: &Model,
        handles: &[NodeId],
        streams: usize,
        chunk: u64,
    ) -> Option<Action> {
        let scene = Scene { model, handles };
        Some(match self.clone() {
            Op::Mknod { at, node, owner } => {
                let (dir, name) = scene.at(at);
                Action::Mknod {
                    dir,
                    name,
                    node,
                    owner,
                }
            }
            Op::Mkdir { at, perm, owner } => {
                let (dir, name) = scene.at(at);
                Action::Mkdir {
                    dir,
                    name,
                    perm,
                    owner,
                }
            }
            Op::Symlink { at, target, owner } => {
                let (dir, name) = scene.at(at);
                Action::Symlink {
                    dir,
                    name,
                    target,
                    owner,
                }
            }
            Op::Tmpfile { dir, perm, owner } => Action::Tmpfile {
                dir: scene.dir(dir),
                perm,
                owner,
            },
            Op::Link { from, at } => {
                let (dir, name) = scene.at(at);
                Action::Link {
                    node: scene.pick(from)?,
                    dir,
                    name,
                }
            }
            Op::Unlink { at } => {
                let (dir, name) = scene.at(at);
                Action::Unlink { dir, name }
            }
            Op::Rmdir { at } => {
                let (dir, name) = scene.at(at);
                Action::Rmdir { dir, name }
            }
            Op::Rename { from, to, mode } => {
                let (dir, name) = scene.at(from);
                let (new_dir, new_name) = scene.at(to);
                Action::Rename {
                    dir,
                    name,
                    new_dir,
                    new_name,
                    mode,
                }
            }
            Op::SetAttr { target, set } => {
                let node = scene.pick(target)?;
                let is_link = model.node(node).kind == FileKind::Symlink;
                // The kernel refuses to change the mode of a symbolic link.
                let perm = set.perm.filter(|_| !is_link);
                let set = SetAttr { perm, ..set };
                if set == SetAttr::default() {
                    return None;
                }
                Action::SetAttr { node, set }
            }
            Op::Truncate {
                target,
                size,
                kill_suid_sgid,
            } => {
                let size = Some(size.bytes(chunk));
                let set = SetAttr {
                    size,
                    kill_suid_sgid,
                    ..SetAttr::default()
                };
                Action::SetAttr {
                    node: scene.pick(target)?,
                    set,
                }
            }
            Op::Read {
                target,
                offset,
                len,
            } => Action::Read {
                node: scene.pick(target)?,
                offset: offset.bytes(chunk),
                len: len.into(),
            },
            Op::Write {
                target,
                offset,
                len,
                seed,
                kill_suid_sgid,
            } => {
                let offset = offset.bytes(chunk);
                let data = pattern(seed, offset, len.into());
                Action::Write {
                    node: scene.pick(target)?,
                    offset,
                    data,
                    kill_suid_sgid,
                }
            }
            Op::Fallocate {
                target,
                mode,
                offset,
                len,
            } => Action::Fallocate {
                node: scene.pick(target)?,
                mode,
                offset: offset.bytes(chunk),
                len: len.bytes(chunk),
            },
            Op::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => Action::CopyRange {
                from: scene.pick(from)?,
                from_offset: from_offset.bytes(chunk),
                to: scene.pick(to)?,
                to_offset: to_offset.bytes(chunk),
                len: len.bytes(chunk),
            },
            Op::SetXattr {
                target,
                name,
                value,
                mode,
            } => {
                let node = scene.pick(target)?;
                let name = xattr_name(model.node(node).kind, name);
                Action::SetXattr {
                    node,
                    name,
                    value,
                    mode,
                }
            }
            Op::RemoveXattr { target, name } => {
                let node = scene.pick(target)?;
                Action::RemoveXattr {
                    node,
                    name: xattr_name(model.node(node).kind, name),
                }
            }
            Op::Hold { target } => Action::Hold {
                node: scene.pick(target)?,
            },
            Op::Release { .. } if handles.is_empty() => return None,
            Op::Release { handle } => Action::Release {
                handle: handle % handles.len(),
            },
            Op::Fsync { target } => Action::Fsync {
                node: scene.pick(target)?,
            },
            Op::StreamOpen { dir } => Action::StreamOpen {
                dir: scene.dir(dir),
            },
            Op::StreamStep { .. } if streams == 0 => return None,
            Op::StreamStep { stream, entries } => Action::StreamStep {
                stream: stream % streams,
                entries,
            },
            Op::ForgetAll => Action::ForgetAll,
            Op::Invalidate { dir } => Action::Invalidate {
                dir: scene.dir(dir),
            },
            Op::Reopen => Action::Reopen,
        })
    }
}

/// The kernel lets only files and directories have `user.*` attributes.
fn xattr_name(kind: FileKind, index: usize) -> Vec<u8> {
    match kind {
        FileKind::Regular | FileKind::Directory => XATTR_POOL[index % XATTR_POOL.len()].to_vec(),
        _ => b"trusted.c".to_vec(),
    }
}
