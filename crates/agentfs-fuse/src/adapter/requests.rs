//! The requests, one by one: each is one operation of the overlay, and its result the
//! answer; whatever more there is to it is in the parent module and those beside this
//! one. The places of arguments are those of `linux/fuse.h`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentfs_core::overlay::{SetAttr, SetTime};
use agentfs_core::{Attr, FsError, Ino, LowerLayer, Storage};

use super::xattrs::{joined, value};
use super::{AgentFs, Reply};
use crate::convert::{new_node, perm, refused, rename_mode, xattr_mode};
use crate::counters::Operation;
use crate::device::Device;
use crate::protocol::{Answer, Errno, Later, Request, valid};

/// `FOPEN_KEEP_CACHE` and `FOPEN_CACHE_DIR`.
const KEEP_CACHE: u32 = 1 << 1;
const CACHE_DIR: u32 = 1 << 3;

impl<S: Storage, L: LowerLayer> AgentFs<S, L> {
    /// Does what is asked for, and writes what there is to tell into `out`.
    pub(super) fn work(
        &self,
        operation: Operation,
        request: &Request<'_>,
        device: &Arc<Device>,
        out: &mut Answer,
    ) -> Result<Reply, Errno> {
        let overlay = &self.overlay;
        let ino = request.ino;
        match operation {
            Operation::Lookup => self.lookup(request, out)?,
            Operation::Forget => {
                self.forget_one(ino, request.u64(0)?);
                return Ok(Reply::Never);
            }
            Operation::BatchForget => {
                self.forget_many(request)?;
                return Ok(Reply::Never);
            }
            Operation::Getattr => self.attr(self.get_attr(ino), out)?,
            Operation::Setattr => self.attr(self.set_attr(ino, &set_attr(request)?), out)?,
            Operation::Readlink => out.bytes(&overlay.readlink(ino).map_err(refused)?),
            Operation::Mknod => self.make(out, ino, || {
                let node = new_node(request.u32(0)?, request.u32(4)?).map_err(refused)?;
                let made = overlay.mknod(ino, &request.name(16)?, node, request.owner());
                made.map_err(refused)
            })?,
            Operation::Mkdir => self.make(out, ino, || {
                let perm = perm(request.u32(0)?);
                let made = overlay.mkdir(ino, &request.name(8)?, perm, request.owner());
                made.map_err(refused)
            })?,
            Operation::Symlink => self.make(out, ino, || {
                let name = request.name(0)?;
                let target = request.string(name.as_bytes().len() + 1)?;
                let made = overlay.symlink(ino, &name, target, request.owner());
                made.map_err(refused)
            })?,
            Operation::Link => self.make(out, ino, || {
                let linked = overlay.link(request.ino_at(0)?, ino, &request.name(8)?);
                linked.map_err(refused)
            })?,
            // Made and opened in one, as there is no name to open it by.
            Operation::Tmpfile => {
                self.make(out, ino, || {
                    let made = overlay.tmpfile(ino, perm(request.u32(4)?), request.owner());
                    made.map_err(refused)
                })?;
                out.opened(KEEP_CACHE);
            }
            Operation::Unlink => overlay.unlink(ino, &request.name(0)?).map_err(refused)?,
            Operation::Rmdir => overlay.rmdir(ino, &request.name(0)?).map_err(refused)?,
            Operation::Rename => self.rename(request, 0, 8)?,
            Operation::Rename2 => self.rename(request, request.u32(8)?, 16)?,
            Operation::Open => self.open(self.no_open, KEEP_CACHE, out)?,
            Operation::Opendir => self.open(self.no_opendir, KEEP_CACHE | CACHE_DIR, out)?,
            Operation::Read => {
                self.read_data(ino, request.u64(8)?, request.u32(16)?, out)?;
            }
            Operation::Write => {
                let (offset, flags) = (request.u64(8)?, request.u32(20)?);
                self.write_data(ino, offset, request.rest(40)?, flags, out)?;
            }
            Operation::CopyFileRange => {
                let from = (ino, request.u64(8)?);
                let to = (request.ino_at(16)?, request.u64(32)?);
                self.copy(from, to, request.u64(40)?, out)?;
            }
            Operation::Fallocate => {
                let (offset, len) = (request.u64(8)?, request.u64(16)?);
                self.allocate(ino, offset, len, request.u32(24)?)?;
            }
            Operation::Lseek => {
                let (offset, whence) = (request.u64(8)?, request.u32(16)?);
                self.seek(ino, offset, whence, Later::new(device, request.unique));
                return Ok(Reply::Later);
            }
            Operation::Fsync | Operation::Fsyncdir => {
                self.sync(Later::new(device, request.unique));
                return Ok(Reply::Later);
            }
            Operation::Readdir => {
                let (offset, room) = (request.u64(8)?, request.u32(16)?);
                self.list(ino, offset, room as usize, out)?;
            }
            Operation::Readdirplus => {
                let (offset, room) = (request.u64(8)?, request.u32(16)?);
                self.list_with_attributes(ino, offset, room as usize, out)?;
            }
            Operation::Statfs => out.statistics(&overlay.statfs().map_err(refused)?),
            Operation::Setxattr => self.set_xattr(request)?,
            Operation::Getxattr => {
                let found = overlay.getxattr(ino, request.string(8)?).map_err(refused)?;
                value(&found, request.u32(0)?, out)?;
            }
            Operation::Listxattr => {
                let list = overlay.listxattr(ino).and_then(joined).map_err(refused)?;
                value(&list, request.u32(0)?, out)?;
            }
            Operation::Removexattr => {
                let removed = overlay.removexattr(ino, request.string(0)?);
                removed.map_err(refused)?;
            }
            // Nothing is kept per open file.
            Operation::Release | Operation::Releasedir | Operation::Destroy => {}
            // From the first ENOSYS on the kernel does not ask again: it checks access
            // itself (default_permissions), and makes a file and opens it by MKNOD,
            // which saves the RELEASE.
            Operation::Flush | Operation::Access | Operation::Create => return Err(Errno::NOSYS),
            Operation::Ioctl => return Err(Errno::NOTTY),
        }
        Ok(Reply::Now)
    }

    fn lookup(&self, request: &Request<'_>, out: &mut Answer) -> Result<(), Errno> {
        let dir = request.ino;
        let ttl = self.enter(dir);
        match self.overlay.lookup(dir, &request.name(0)?) {
            Ok(attr) => self.entry(ttl, &attr, out),
            Err(FsError::NotFound) => {
                let shortly = self.directories.shortly();
                // Lasts only if it can be taken back.
                let lasts = self.abilities.expire_all.load(Ordering::Relaxed);
                out.no_entry(if lasts { ttl } else { ttl.min(shortly) });
            }
            Err(error) => return Err(refused(error)),
        }
        Ok(())
    }

    /// An entry that `make` makes in `dir`.
    fn make(
        &self,
        out: &mut Answer,
        dir: Ino,
        make: impl FnOnce() -> Result<Attr, Errno>,
    ) -> Result<(), Errno> {
        let ttl = self.enter(dir);
        self.entry(ttl, &make()?, out);
        Ok(())
    }

    fn rename(&self, request: &Request<'_>, flags: u32, names_at: usize) -> Result<(), Errno> {
        let mode = rename_mode(flags)?;
        let (old, new) = request.names(names_at)?;
        let to = request.ino_at(0)?;
        let renamed = self.overlay.rename(request.ino, &old, to, &new, mode);
        renamed.map_err(refused)
    }

    fn forget_many(&self, request: &Request<'_>) -> Result<(), Errno> {
        const FORGET_ONE_BYTES: usize = 16;
        for place in 0..request.u32(0)? as usize {
            let at = 8 + place * FORGET_ONE_BYTES;
            self.forget_one(request.ino_at(at)?, request.u64(at + 8)?);
        }
        Ok(())
    }

    fn open(&self, without_asking: bool, flags: u32, out: &mut Answer) -> Result<(), Errno> {
        if without_asking {
            return Err(Errno::NOSYS);
        }
        out.opened(flags);
        Ok(())
    }

    fn set_xattr(&self, request: &Request<'_>) -> Result<(), Errno> {
        let (len, mode) = (request.u32(0)?, xattr_mode(request.u32(4)?)?);
        let name = request.string(8)?;
        let value = request.rest(8 + name.len() + 1)?;
        let value = value.get(..len as usize).ok_or(Errno::IO)?;
        let set = self.overlay.setxattr(request.ino, name, value, mode);
        set.map_err(refused)
    }
}

/// How many bytes of a file a request asks for or brings; 0 where it is about none.
pub(super) fn content_bytes(operation: Operation, request: &Request<'_>) -> usize {
    match operation {
        Operation::Read | Operation::Write => request.u32(16).unwrap_or(0) as usize,
        _ => 0,
    }
}

/// What a SETATTR is to change.
fn set_attr(request: &Request<'_>) -> Result<SetAttr, Errno> {
    let fields = request.u32(0)?;
    let is_set = |field: u32| fields & field != 0;
    let number = |field, at| is_set(field).then(|| request.u32(at)).transpose();
    let time = |field, now, at| {
        if !is_set(field) {
            Ok(None)
        } else if is_set(now) {
            Ok(Some(SetTime::Now))
        } else {
            let (secs_at, nanos_at) = at;
            request.time(secs_at, nanos_at).map(SetTime::At).map(Some)
        }
    };
    let size = is_set(valid::SIZE).then(|| request.u64(16));
    let ctime = is_set(valid::CTIME).then(|| request.time(48, 64));
    Ok(SetAttr {
        perm: number(valid::MODE, 68)?.map(perm),
        uid: number(valid::UID, 76)?,
        gid: number(valid::GID, 80)?,
        size: size.transpose()?,
        atime: time(valid::ATIME, valid::ATIME_NOW, (32, 56))?,
        mtime: time(valid::MTIME, valid::MTIME_NOW, (40, 60))?,
        ctime: ctime.transpose()?,
        kill_suid_sgid: is_set(valid::KILL_SUIDGID),
    })
}
