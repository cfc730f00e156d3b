//! Does an action as system calls below one directory.
//!
//! Objects with a handle are sometimes used through it, sometimes by name; data
//! goes through `pwrite`, `O_APPEND` or a mapping. It must not retry or correct
//! anything: results are compared as they come.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentfs_core::overlay::{Fallocate, RenameMode, SetAttr, SetTime, XattrMode};
use agentfs_core::types::FileKind;
use agentfs_testkit::model::{Errno, Given, Model, NodeId};
use agentfs_testkit::op::Action;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno as Sys;

use super::sys;

/// One of the trees that have to do the same.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) root: PathBuf,
    root_fd: OwnedFd,
    handles: Vec<(NodeId, Arc<OwnedFd>)>,
}

/// Where a name is looked up: a directory descriptor and a path below it.
struct Place {
    dir: Arc<OwnedFd>,
    path: Vec<u8>,
}

type Real = Result<Given, Errno>;

impl Side {
    pub(super) fn new(name: &'static str, root: &Path) -> Self {
        rustix::process::umask(Mode::empty());
        Self {
            name,
            root: root.to_owned(),
            root_fd: open_dir(root),
            handles: Vec::new(),
        }
    }

    /// The path of an object that has a name.
    pub(super) fn path(&self, model: &Model, node: NodeId) -> Option<PathBuf> {
        let names = model.path(node)?;
        let mut path = self.root.clone();
        path.extend(names.iter().map(|name| OsStr::from_bytes(name.as_bytes())));
        Some(path)
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (NodeId, BorrowedFd<'_>)> {
        self.handles.iter().map(|(node, fd)| (*node, fd.as_fd()))
    }

    fn handle(&self, node: NodeId) -> Option<Arc<OwnedFd>> {
        self.handles
            .iter()
            .find(|(held, _)| *held == node)
            .map(|(_, fd)| Arc::clone(fd))
    }

    /// How an object is named in a call.
    fn place(&self, model: &Model, node: NodeId) -> Result<Place, Arc<OwnedFd>> {
        let Some(names) = model.path(node) else {
            return Err(self.handle(node).expect("an object has a name or a handle"));
        };
        let names: Vec<&[u8]> = names.iter().map(agentfs_core::Name::as_bytes).collect();
        let path = if names.is_empty() {
            b".".to_vec()
        } else {
            names.join(&b'/')
        };
        let dir = Arc::new(self.root_fd.try_clone().expect("a descriptor"));
        Ok(Place { dir, path })
    }

    fn entry(&self, model: &Model, dir: NodeId, name: &agentfs_core::Name) -> Place {
        match self.place(model, dir) {
            Ok(mut place) => {
                place.path.push(b'/');
                place.path.extend_from_slice(name.as_bytes());
                place
            }
            Err(handle) => Place {
                dir: handle,
                path: name.as_bytes().to_vec(),
            },
        }
    }

    /// A descriptor for the bytes of a file: the handle on even turns.
    fn file(
        &self,
        model: &Model,
        node: NodeId,
        turn: u32,
        flags: OFlags,
    ) -> Result<Arc<OwnedFd>, Sys> {
        let handle = self.handle(node);
        match (self.place(model, node), handle) {
            (Err(handle), _) => Ok(handle),
            (Ok(_), Some(handle)) if turn.is_multiple_of(2) => Ok(handle),
            (Ok(place), _) => {
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(
                    &place.dir,
                    OsStr::from_bytes(&place.path),
                    flags,
                    Mode::empty(),
                )?;
                Ok(Arc::new(fd))
            }
        }
    }

    /// Does an action on the state that `model` describes. Two threads take
    /// turns.
    pub(super) fn run(&mut self, model: &Model, action: &Action, turn: u32) -> Real {
        match action {
            Action::Hold { node } => {
                let Ok(place) = self.place(model, *node) else {
                    return self.hold_again(*node);
                };
                let access = match model.node(*node).kind {
                    FileKind::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
                    _ => OFlags::RDWR,
                };
                let path = OsStr::from_bytes(&place.path);
                let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd =
                    rustix::fs::openat(&place.dir, path, flags, Mode::empty()).map_err(errno)?;
                self.handles.push((*node, Arc::new(fd)));
                Ok(Given::Unit)
            }
            Action::Release { handle } => {
                self.handles.swap_remove(*handle);
                Ok(Given::Unit)
            }
            _ if turn.is_multiple_of(3) => std::thread::scope(|scope| {
                scope
                    .spawn(|| self.call(model, action, turn))
                    .join()
                    .expect("the other terminal")
            }),
            _ => self.call(model, action, turn),
        }
        .map_err(|e: Errno| e)
    }

    fn hold_again(&mut self, node: NodeId) -> Real {
        let fd = self.handle(node).expect("an object has a name or a handle");
        self.handles.push((node, fd));
        Ok(Given::Unit)
    }

    fn call(&self, model: &Model, action: &Action, turn: u32) -> Real {
        self.names(model, action, turn)
            .or_else(|| self.object(model, action, turn))
            .expect("adapted")
            .map_err(errno)
    }

    fn names(&self, model: &Model, action: &Action, turn: u32) -> Option<Result<Given, Sys>> {
        let done = |result: Result<(), Sys>| Some(result.map(|()| Given::Unit));
        match action {
            Action::Mknod {
                dir, name, node, ..
            } => {
                let place = self.entry(model, *dir, name);
                let path = OsStr::from_bytes(&place.path);
                let mode = Mode::from_raw_mode(node.perm.into());
                if node.kind == FileKind::Regular && turn.is_multiple_of(2) {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                    return done(rustix::fs::openat(&place.dir, path, flags, mode).map(drop));
                }
                let kind = FileType::from_raw_mode(node.kind.mode_bits());
                let device = rustix::fs::makedev(node.rdev >> 8 & 0xfff, node.rdev & 0xff);
                done(rustix::fs::mknodat(&place.dir, path, kind, mode, device))
            }
            Action::Mkdir {
                dir, name, perm, ..
            } => {
                let place = self.entry(model, *dir, name);
                let mode = Mode::from_raw_mode((*perm).into());
                done(rustix::fs::mkdirat(
                    &place.dir,
                    OsStr::from_bytes(&place.path),
                    mode,
                ))
            }
            Action::Symlink {
                dir, name, target, ..
            } => {
                let place = self.entry(model, *dir, name);
                let target = OsStr::from_bytes(target);
                done(rustix::fs::symlinkat(
                    target,
                    &place.dir,
                    OsStr::from_bytes(&place.path),
                ))
            }
            Action::Link { node, dir, name } => {
                let to = self.entry(model, *dir, name);
                let new = OsStr::from_bytes(&to.path);
                done(match self.place(model, *node) {
                    Ok(from) => {
                        let old = OsStr::from_bytes(&from.path);
                        rustix::fs::linkat(&from.dir, old, &to.dir, new, AtFlags::empty())
                    }
                    Err(fd) => rustix::fs::linkat(&fd, "", &to.dir, new, AtFlags::EMPTY_PATH),
                })
            }
            Action::Unlink { dir, name } => {
                let place = self.entry(model, *dir, name);
                let path = OsStr::from_bytes(&place.path);
                done(rustix::fs::unlinkat(&place.dir, path, AtFlags::empty()))
            }
            Action::Rmdir { dir, name } => {
                let place = self.entry(model, *dir, name);
                let path = OsStr::from_bytes(&place.path);
                done(rustix::fs::unlinkat(&place.dir, path, AtFlags::REMOVEDIR))
            }
            Action::Rename {
                dir,
                name,
                new_dir,
                new_name,
                mode,
            } => {
                let (from, to) = (
                    self.entry(model, *dir, name),
                    self.entry(model, *new_dir, new_name),
                );
                let flags = match mode {
                    RenameMode::Replace => RenameFlags::empty(),
                    RenameMode::NoReplace => RenameFlags::NOREPLACE,
                    RenameMode::Exchange => RenameFlags::EXCHANGE,
                };
                let (old, new) = (OsStr::from_bytes(&from.path), OsStr::from_bytes(&to.path));
                done(rustix::fs::renameat_with(
                    &from.dir, old, &to.dir, new, flags,
                ))
            }
            _ => None,
        }
    }

    fn object(&self, model: &Model, action: &Action, turn: u32) -> Option<Result<Given, Sys>> {
        let done = |result: Result<(), Sys>| result.map(|()| Given::Unit);
        let open = |node: &NodeId| self.file(model, *node, turn, OFlags::RDWR);
        Some(match action {
            Action::SetAttr { node, set } => done(self.set_attr(model, *node, set, turn)),
            Action::Read { node, offset, len } => open(node).and_then(|fd| {
                let mut buf = vec![0; *len];
                let mut read = 0;
                while read < *len {
                    match rustix::io::pread(&fd, &mut buf[read..], offset + read as u64)? {
                        0 => break,
                        n => read += n,
                    }
                }
                buf.truncate(read);
                Ok(Given::Bytes(buf))
            }),
            Action::Write {
                node, offset, data, ..
            } => done(self.write(model, *node, *offset, data, turn)),
            Action::Fallocate {
                node,
                mode,
                offset,
                len,
            } => open(node).and_then(|fd| {
                let flags = match mode {
                    Fallocate::Allocate => FallocateFlags::empty(),
                    Fallocate::KeepSize => FallocateFlags::KEEP_SIZE,
                    Fallocate::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    Fallocate::ZeroRange { keep_size: false } => FallocateFlags::ZERO_RANGE,
                    Fallocate::ZeroRange { keep_size: true } => {
                        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE
                    }
                };
                done(rustix::fs::fallocate(&fd, flags, *offset, *len))
            }),
            Action::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                let copy = || {
                    let (from, to) = (open(from)?, open(to)?);
                    let (mut at, mut to_at, mut copied) = (*from_offset, *to_offset, 0);
                    loop {
                        let rest = usize::try_from(len - copied).expect("small");
                        let n = rustix::fs::copy_file_range(
                            &from,
                            Some(&mut at),
                            &to,
                            Some(&mut to_at),
                            rest,
                        )?;
                        copied += n as u64;
                        // Within one file, going on could meet what was copied.
                        if n == 0 || copied == *len || model_same(action) {
                            return Ok(Given::Count(copied));
                        }
                    }
                };
                copy()
            }
            Action::SetXattr {
                node,
                name,
                value,
                mode,
            } => {
                let flags = match mode {
                    XattrMode::Set => XattrFlags::empty(),
                    XattrMode::Create => XattrFlags::CREATE,
                    XattrMode::Replace => XattrFlags::REPLACE,
                };
                let name = OsStr::from_bytes(name);
                done(match self.path(model, *node) {
                    Some(path) => rustix::fs::lsetxattr(&path, name, value, flags),
                    None => self.handle(*node).map_or(Err(Sys::BADF), |fd| {
                        rustix::fs::fsetxattr(&fd, name, value, flags)
                    }),
                })
            }
            Action::RemoveXattr { node, name } => {
                let name = OsStr::from_bytes(name);
                done(match self.path(model, *node) {
                    Some(path) => rustix::fs::lremovexattr(&path, name),
                    None => self
                        .handle(*node)
                        .map_or(Err(Sys::BADF), |fd| rustix::fs::fremovexattr(&fd, name)),
                })
            }
            Action::Fsync { node } => match model.node(*node).kind {
                FileKind::Regular => done(open(node).and_then(rustix::fs::fsync)),
                FileKind::Directory => done(
                    self.file(model, *node, turn, OFlags::DIRECTORY)
                        .and_then(rustix::fs::fsync),
                ),
                _ => Ok(Given::Unit),
            },
            _ => return None,
        })
    }

    fn write(
        &self,
        model: &Model,
        node: NodeId,
        offset: u64,
        data: &[u8],
        turn: u32,
    ) -> Result<(), Sys> {
        let size = model.node(node).size();
        let end = offset + data.len() as u64;
        if !data.is_empty() && end <= size && size < 1 << 32 && turn.is_multiple_of(5) {
            let fd = self.file(model, node, turn, OFlags::RDWR)?;
            return sys::write(&fd, offset, data);
        }
        let append = offset == size && model.path(node).is_some();
        let flags = if append {
            OFlags::WRONLY | OFlags::APPEND
        } else {
            OFlags::WRONLY
        };
        // A handle is not opened for appending.
        let fd = self.file(model, node, if append { 1 } else { turn }, flags)?;
        let mut written = 0;
        while written < data.len() {
            written += if append {
                rustix::io::write(&fd, &data[written..])?
            } else {
                rustix::io::pwrite(&fd, &data[written..], offset + written as u64)?
            };
        }
        Ok(())
    }

    fn set_attr(&self, model: &Model, node: NodeId, set: &SetAttr, turn: u32) -> Result<(), Sys> {
        if let Some(size) = set.size {
            let fd = self.file(model, node, turn, OFlags::WRONLY)?;
            return match rustix::fs::ftruncate(&fd, size) {
                // A directory is open for reading.
                Err(Sys::INVAL) if model.node(node).kind.is_dir() => Err(Sys::ISDIR),
                other => other,
            };
        }
        let owner = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
        let time = |time: Option<SetTime>| match time {
            None => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            Some(SetTime::Now) => Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            },
            Some(SetTime::At(t)) => Timespec {
                tv_sec: t.secs,
                tv_nsec: t.nanos.into(),
            },
        };
        let times = Timestamps {
            last_access: time(set.atime),
            last_modification: time(set.mtime),
        };
        let sets_times = set.atime.is_some() || set.mtime.is_some();
        let mode = set.perm.map(|perm| Mode::from_raw_mode(perm.into()));
        match self.place(model, node) {
            Ok(Place { dir, path }) => {
                let (path, flags) = (OsStr::from_bytes(&path), AtFlags::SYMLINK_NOFOLLOW);
                if let Some(mode) = mode {
                    rustix::fs::chmodat(&dir, path, mode, AtFlags::empty())?;
                }
                if owner != (None, None) {
                    rustix::fs::chownat(&dir, path, owner.0, owner.1, flags)?;
                }
                if sets_times {
                    rustix::fs::utimensat(&dir, path, &times, flags)?;
                }
            }
            Err(fd) => {
                if let Some(mode) = mode {
                    rustix::fs::fchmod(&fd, mode)?;
                }
                if owner != (None, None) {
                    rustix::fs::fchown(&fd, owner.0, owner.1)?;
                }
                if sets_times {
                    rustix::fs::futimens(&fd, &times)?;
                }
            }
        }
        Ok(())
    }
}

fn model_same(action: &Action) -> bool {
    matches!(action, Action::CopyRange { from, to, .. } if from == to)
}

fn errno(e: Sys) -> Errno {
    e.raw_os_error()
}

fn open_dir(path: &Path) -> OwnedFd {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).expect("the root of a side")
}

/// Compares what two successes gave. Which object was made shows in the tree.
pub(super) fn same(real: &Given, expected: &Given) -> Result<(), String> {
    match (real, expected) {
        (_, Given::Unit | Given::Node(_)) => Ok(()),
        (real, expected) if real == expected => Ok(()),
        (Given::Bytes(real), Given::Bytes(expected)) => {
            let at = real.iter().zip(expected).position(|(a, b)| a != b);
            Err(format!(
                "{} bytes, not {}; first difference at {at:?}",
                real.len(),
                expected.len()
            ))
        }
        _ => Err(format!("gave {real:?}, not {expected:?}")),
    }
}
