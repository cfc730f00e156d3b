//! The requests, one by one. Each handler turns a request into one operation of
//! the overlay and its result into the reply; whatever more there is to it is in
//! the parent module and those beside this one.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use agentfs_core::overlay::SetAttr;
use agentfs_core::{FsError, LowerLayer, Storage};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{bytes, empty, joined, statistics, value};
use super::{AgentFs, GENERATION, kills_suid_sgid};
use crate::convert::{
    ino, name, negative_entry, new_node, owner, perm, rename_mode, request_time, set_time,
    xattr_mode,
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
            self.attr(self.get_attr(ino(number)), reply);
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
                kill_suid_sgid: kills_suid_sgid(request.uid(), owner, size.is_some()),
            };
            self.attr(self.set_attr(number, &set), reply);
        });
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        self.serve(request, Operation::Readlink, || {
            bytes(self.overlay.readlink(ino(number)), reply);
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
            let result = new_node(mode, rdev).and_then(|node| {
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
        self.serve_content(request, Operation::Read, size as usize, || {
            self.read_data(ino(number), offset, size, reply);
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
        self.serve_content(request, Operation::Write, data.len(), || {
            self.write_data(ino(number), offset, data, flags, reply);
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

    fn fsync(&self, request: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(request, Operation::Fsync, || {
            self.sync(reply);
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
        reply: ReplyDirectory,
    ) {
        self.serve(request, Operation::Readdir, || {
            self.list(ino(number), offset, reply);
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.serve(request, Operation::Readdirplus, || {
            self.list_with_attributes(ino(number), offset, reply);
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

    fn fsyncdir(&self, request: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(request, Operation::Fsyncdir, || {
            self.sync(reply);
        });
    }

    fn statfs(&self, request: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.serve(request, Operation::Statfs, || {
            statistics(self.overlay.statfs(), reply);
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
            self.allocate(ino(number), offset, length, mode, reply);
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
            self.seek(ino(number), offset, whence, reply);
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
            self.copy((ino(from), from_offset), (ino(to), to_offset), len, reply);
        });
    }
}
