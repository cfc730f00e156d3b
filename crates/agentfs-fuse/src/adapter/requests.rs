//! The requests, one by one. Each handler turns a request into one operation of
//! the overlay and its result into the reply; whatever more there is to it is in
//! the parent module.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use agentfs_core::overlay::{DirEntry, NewNode, SeekWhence, SetAttr};
use agentfs_core::{Attr, FileKind, FsError, LowerLayer, Owner, Storage};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{empty, joined, value};
use super::{AgentFs, DOT_DOT_COOKIE, GENERATION, REQUEST_MAX_BYTES};
use crate::convert::{
    errno, fallocate_mode, file_type, ino, name, negative_entry, perm, rename_mode, request_time,
    set_time, xattr_mode,
};
use crate::counters::Operation;

impl<S: Storage, L: LowerLayer> Filesystem for AgentFs<S, L> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEntry) {
        self.serve(request, Operation::Lookup, || {
            let parent = ino(parent);
            let ttl = self.enter(parent);
            match name(entry).and_then(|name| self.overlay.lookup(parent, &name)) {
                Err(FsError::NotFound) => {
                    let shortly = self.directories.shortly();
                    // Lasts only if it can be taken back.
                    let lasts = self.abilities.expire_all.load(Ordering::Relaxed);
                    let ttl = if lasts { ttl } else { ttl.min(shortly) };
                    reply.entry(&ttl, &negative_entry(), GENERATION);
                }
                result => self.entry(ttl, result, reply),
            }
        });
    }

    fn forget(&self, request: &Request, number: INodeNo, count: u64) {
        self.serve(request, Operation::Forget, || {
            self.forget_one(ino(number), count);
        });
    }

    fn getattr(&self, request: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(request, Operation::Getattr, || {
            self.attr(self.overlay.getattr(ino(number)), reply);
        });
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.serve(request, Operation::Setattr, || {
            let number = ino(number);
            let owner = uid.is_some() || gid.is_some();
            let set = SetAttr {
                perm: mode.map(perm),
                uid,
                gid,
                size,
                atime: atime.map(set_time),
                mtime: mtime.map(set_time),
                ctime: ctime.map(request_time),
                kill_suid_sgid: self.kills_suid_sgid(number, request.uid(), owner, size.is_some()),
            };
            self.attr(self.overlay.setattr(number, &set), reply);
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        self.serve(request, Operation::Readlink, || {
            match self.overlay.readlink(ino(number)) {
                Ok(target) => reply.data(&target),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.serve(request, Operation::Mknod, || {
            let parent = ino(parent);
            let ttl = self.enter(parent);
            // mknod(2) takes a mode without a type for a regular file.
            let kind = if mode & libc::S_IFMT == 0 {
                Some(FileKind::Regular)
            } else {
                FileKind::from_mode(mode)
            };
            let result = kind.ok_or(FsError::InvalidArgument).and_then(|kind| {
                let node = NewNode {
                    kind,
                    perm: perm(mode),
                    rdev,
                };
                self.overlay
                    .mknod(parent, &name(entry)?, node, owner(request))
            });
            self.entry(ttl, result, reply);
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.serve(request, Operation::Mkdir, || {
            let parent = ino(parent);
            let ttl = self.enter(parent);
            let result = name(entry).and_then(|name| {
                self.overlay
                    .mkdir(parent, &name, perm(mode), owner(request))
            });
            self.entry(ttl, result, reply);
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        self.serve(request, Operation::Unlink, || {
            let result = name(entry).and_then(|name| self.overlay.unlink(ino(parent), &name));
            empty(result, reply);
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        self.serve(request, Operation::Rmdir, || {
            let result = name(entry).and_then(|name| self.overlay.rmdir(ino(parent), &name));
            empty(result, reply);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.serve(request, Operation::Symlink, || {
            let parent = ino(parent);
            let ttl = self.enter(parent);
            let target = target.as_os_str().as_bytes();
            let result = name(entry)
                .and_then(|name| self.overlay.symlink(parent, &name, target, owner(request)));
            self.entry(ttl, result, reply);
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        new_parent: INodeNo,
        new_entry: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Rename, || {
            let mode = match rename_mode(flags) {
                Ok(mode) => mode,
                Err(refused) => return reply.error(refused),
            };
            let result = name(entry).and_then(|name| Ok((name, self::name(new_entry)?)));
            let result = result.and_then(|(name, new_name)| {
                self.overlay
                    .rename(ino(parent), &name, ino(new_parent), &new_name, mode)
            });
            empty(result, reply);
        });
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        new_parent: INodeNo,
        new_entry: &OsStr,
        reply: ReplyEntry,
    ) {
        self.serve(request, Operation::Link, || {
            let new_parent = ino(new_parent);
            let ttl = self.enter(new_parent);
            let result =
                name(new_entry).and_then(|name| self.overlay.link(ino(number), new_parent, &name));
            self.entry(ttl, result, reply);
        });
    }

    fn open(&self, request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.serve(request, Operation::Open, || {
            if self.no_open {
                reply.error(Errno::ENOSYS);
            } else {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(request, Operation::Read, || {
            match self.overlay.read(ino(number), offset, size as usize) {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.serve(request, Operation::Write, || {
            let kill = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            // Of what it has cached the kernel owns the times. It sends them when
            // they differ from those it has sent, which a time of ours would not.
            let written = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                self.overlay.write_cached(ino(number), offset, data)
            } else {
                self.overlay.write(ino(number), offset, data, kill)
            };
            match written {
                // A request is far below 4 GiB.
                Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(&self, request: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is kept per open file; the kernel need not ask again.
        self.serve(request, Operation::Flush, || reply.error(Errno::ENOSYS));
    }

    fn release(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Release, || reply.ok());
    }

    fn fsync(&self, request: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(request, Operation::Fsync, || {
            self.sync(ino(number), reply);
        });
    }

    fn opendir(&self, request: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.serve(request, Operation::Opendir, || {
            if self.no_opendir {
                reply.error(Errno::ENOSYS);
            } else {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                reply.opened(FileHandle(0), flags);
            }
        });
    }

    fn readdir(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.serve(request, Operation::Readdir, || {
            let dir = ino(number);
            self.enter(dir);
            for (ino, cookie, name) in self.dot_entries(dir, offset) {
                if reply.add(INodeNo(ino.0), cookie, fuser::FileType::Directory, name) {
                    return reply.ok();
                }
            }
            let result = self
                .overlay
                .read_dir(dir, overlay_cookie(offset), &mut |entry| {
                    let name = OsStr::from_bytes(entry.name.as_bytes());
                    if reply.add(
                        INodeNo(entry.ino.0),
                        entry.cookie,
                        file_type(entry.kind),
                        name,
                    ) {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
            match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.serve(request, Operation::Readdirplus, || {
            let dir = ino(number);
            let ttl = self.enter(dir);
            for (ino, cookie, name) in self.dot_entries(dir, offset) {
                // The kernel takes no reference on these.
                let mut attr = negative_entry();
                (attr.ino, attr.kind) = (INodeNo(ino.0), fuser::FileType::Directory);
                if reply.add(attr.ino, cookie, name, &Duration::ZERO, &attr, GENERATION) {
                    return reply.ok();
                }
            }
            let mut add = |entry: &DirEntry, attr: &Attr| {
                let name = OsStr::from_bytes(entry.name.as_bytes());
                let ttl = self.attr_ttl(attr, ttl);
                self.compare(attr, ttl);
                let (number, attr) = (INodeNo(attr.ino.0), self.shown(attr));
                if reply.add(number, entry.cookie, name, &ttl, &attr, GENERATION) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            match self
                .overlay
                .read_dir_plus(dir, overlay_cookie(offset), &mut add)
            {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Releasedir, || reply.ok());
    }

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Fsyncdir, || {
            self.sync(ino(number), reply);
        });
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.serve(request, Operation::Statfs, || match self.overlay.statfs() {
            Ok(stats) => reply.statfs(
                stats.blocks,
                stats.blocks_free,
                stats.blocks_available,
                stats.files,
                stats.files_free,
                stats.block_size_bytes,
                u32::try_from(agentfs_core::types::NAME_MAX_BYTES).unwrap_or(0),
                stats.block_size_bytes,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        attribute: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Setxattr, || match xattr_mode(flags) {
            Ok(mode) => {
                let attribute = attribute.as_bytes();
                empty(
                    self.overlay.setxattr(ino(number), attribute, value, mode),
                    reply,
                );
            }
            Err(refused) => reply.error(refused),
        });
    }

    fn getxattr(
        &self,
        request: &Request,
        number: INodeNo,
        attribute: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.serve(request, Operation::Getxattr, || {
            value(
                self.overlay.getxattr(ino(number), attribute.as_bytes()),
                size,
                reply,
            );
        });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(request, Operation::Listxattr, || {
            let list = self.overlay.listxattr(ino(number)).and_then(joined);
            value(list, size, reply);
        });
    }

    fn removexattr(
        &self,
        request: &Request,
        number: INodeNo,
        attribute: &OsStr,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Removexattr, || {
            empty(
                self.overlay.removexattr(ino(number), attribute.as_bytes()),
                reply,
            );
        });
    }

    fn access(&self, request: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        // Checked by the kernel (default_permissions).
        self.serve(request, Operation::Access, || reply.error(Errno::ENOSYS));
    }

    fn create(
        &self,
        request: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: fuser::ReplyCreate,
    ) {
        // The kernel then makes the node and opens it without asking, which
        // saves the RELEASE. It does so from the first ENOSYS on.
        self.serve(request, Operation::Create, || reply.error(Errno::ENOSYS));
    }

    fn ioctl(
        &self,
        request: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.serve(request, Operation::Ioctl, || reply.error(Errno::ENOTTY));
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve(request, Operation::Fallocate, || {
            match fallocate_mode(mode) {
                Ok(mode) => {
                    let (number, times) = (ino(number), self.times());
                    let overlay = &self.overlay;
                    empty(
                        overlay.fallocate(number, mode, offset, length, times),
                        reply,
                    );
                }
                Err(refused) => reply.error(refused),
            }
        });
    }

    fn lseek(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.serve(request, Operation::Lseek, || {
            let whence = match whence {
                libc::SEEK_DATA => SeekWhence::Data,
                libc::SEEK_HOLE => SeekWhence::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else {
                return reply.error(Errno::ENXIO);
            };
            let (number, overlay) = (ino(number), Arc::clone(&self.overlay));
            let seek = move || match overlay.lseek(number, offset, whence) {
                Ok(found) => match i64::try_from(found) {
                    Ok(found) => reply.offset(found),
                    Err(_) => reply.error(Errno::EOVERFLOW),
                },
                Err(error) => reply.error(errno(&error)),
            };
            if self.writeback {
                // The kernel does not write back first, so it is asked to.
                self.notifier.write_back(number, Box::new(seek));
            } else {
                seek();
            }
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.serve(request, Operation::CopyFileRange, || {
            // The answer has 32 bits; the kernel asks again for the rest.
            let len = len.min(u64::from(REQUEST_MAX_BYTES) * 64);
            let (from, to) = (ino(from), ino(to));
            let overlay = &self.overlay;
            let times = self.times();
            match overlay.copy_file_range(from, from_offset, to, to_offset, len, times) {
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}

/// Where to go on after `offset` in the entries of the overlay.
fn overlay_cookie(offset: u64) -> u64 {
    if offset <= DOT_DOT_COOKIE { 0 } else { offset }
}

fn owner(request: &Request) -> Owner {
    Owner {
        uid: request.uid(),
        gid: request.gid(),
    }
}
