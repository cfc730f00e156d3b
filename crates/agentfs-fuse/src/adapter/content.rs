//! The content of files, where there is more to a request than one operation of the
//! overlay. What a write or an allocation does to times and modes is the overlay's.
//!
//! Must never wait for the kernel: what needs its cached pages first is handed on.

use std::cell::RefCell;
use std::sync::Arc;

use agentfs_core::overlay::SeekWhence;
use agentfs_core::{Ino, LowerLayer, Storage};
use fuser::{Errno, ReplyData, ReplyEmpty, ReplyLseek, ReplyWrite, WriteFlags};

use super::answer::empty;
use super::{AgentFs, REQUEST_MAX_BYTES};
use crate::convert::{errno, fallocate_mode};

thread_local! {
    /// What an answering thread reads into. A new one for each request would be a
    /// page fault for each of its pages, and never in the processor's cache.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Storage, L: LowerLayer> AgentFs<S, L> {
    /// `pread(2)`, or what the cache of the kernel wants to have.
    pub(super) fn read_data(&self, number: Ino, offset: u64, size: u32, reply: ReplyData) {
        let size = size as usize;
        READ_BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.overlay.read_into(number, offset, &mut buffer[..size]) {
                Ok(read) => reply.data(&buffer[..read]),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    /// Bytes of a program, or of the cache of the kernel.
    pub(super) fn write_data(
        &self,
        number: Ino,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        reply: ReplyWrite,
    ) {
        let kill = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // Of what it has cached the kernel owns the times. It sends them when
        // they differ from those it has sent, which a time of ours would not.
        let written = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            self.overlay.write_cached(number, offset, data)
        } else {
            self.overlay.write(number, offset, data, kill)
        };
        match written {
            // A request is far below 4 GiB.
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// `fallocate(2)`.
    pub(super) fn allocate(
        &self,
        number: Ino,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match fallocate_mode(mode) {
            Ok(mode) => {
                let times = self.times();
                let overlay = &self.overlay;
                empty(
                    overlay.fallocate(number, mode, offset, length, times),
                    reply,
                );
            }
            Err(refused) => reply.error(refused),
        }
    }

    /// `SEEK_DATA` and `SEEK_HOLE`; the rest is done by the kernel.
    pub(super) fn seek(&self, number: Ino, offset: i64, whence: i32, reply: ReplyLseek) {
        let whence = match whence {
            libc::SEEK_DATA => SeekWhence::Data,
            libc::SEEK_HOLE => SeekWhence::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        let overlay = Arc::clone(&self.overlay);
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
    }

    /// `copy_file_range(2)`, from and to a file and an offset in it.
    pub(super) fn copy(
        &self,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits; the kernel asks again for the rest.
        let len = len.min(u64::from(REQUEST_MAX_BYTES) * 64);
        let overlay = &self.overlay;
        let times = self.times();
        match overlay.copy_file_range(from, from_offset, to, to_offset, len, times) {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }
}
