//! The content of files, where there is more to a request than one operation of the
//! overlay. What a write or an allocation does to times and modes is the overlay's.
//!
//! Must never wait for the kernel: what needs its cached pages first is handed on.

use std::sync::Arc;

use agentfs_core::overlay::SeekWhence;
use agentfs_core::{Ino, LowerLayer, Storage};

use super::AgentFs;
use crate::convert::{fallocate_mode, refused};
use crate::protocol::{Answer, Errno, Later, REQUEST_MAX_BYTES};

/// `FUSE_WRITE_CACHE`: not a program's write but what the kernel had cached of some.
const WRITE_CACHE: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;

impl<S: Storage, L: LowerLayer> AgentFs<S, L> {
    /// `pread(2)`, or what the cache of the kernel wants to have.
    pub(super) fn read_data(
        &self,
        ino: Ino,
        offset: u64,
        size: u32,
        out: &mut Answer,
    ) -> Result<(), Errno> {
        let read = |bytes: &mut [u8]| self.overlay.read_into(ino, offset, bytes);
        out.content(size.min(REQUEST_MAX_BYTES) as usize, read)
            .map_err(refused)
    }

    /// Bytes of a program, or of the cache of the kernel.
    pub(super) fn write_data(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        flags: u32,
        out: &mut Answer,
    ) -> Result<(), Errno> {
        // Of what it has cached the kernel owns the times. It sends them when
        // they differ from those it has sent, which a time of ours would not.
        let written = if flags & WRITE_CACHE == 0 {
            let kill = flags & WRITE_KILL_SUIDGID != 0;
            self.overlay.write(ino, offset, data, kill)
        } else {
            self.overlay.write_cached(ino, offset, data)
        };
        written.map_err(refused)?;
        // A request is far below 4 GiB.
        out.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// `fallocate(2)`.
    pub(super) fn allocate(&self, ino: Ino, offset: u64, len: u64, mode: u32) -> Result<(), Errno> {
        let mode = fallocate_mode(mode)?;
        let allocated = self.overlay.fallocate(ino, mode, offset, len, self.times());
        allocated.map_err(refused)
    }

    /// `SEEK_DATA` and `SEEK_HOLE`; the rest is done by the kernel.
    pub(super) fn seek(&self, ino: Ino, offset: u64, whence: u32, later: Later) {
        let whence = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekWhence::Data,
            Ok(libc::SEEK_HOLE) => SeekWhence::Hole,
            _ => return later.offset(Err(Errno::INVAL)),
        };
        // An offset is signed; below zero there is nothing.
        if i64::try_from(offset).is_err() {
            return later.offset(Err(Errno::NXIO));
        }
        let overlay = Arc::clone(&self.overlay);
        let seek = move || {
            let found = overlay.lseek(ino, offset, whence).map_err(refused);
            later.offset(found.and_then(|at| match i64::try_from(at) {
                Ok(_) => Ok(at),
                Err(_) => Err(Errno::OVERFLOW),
            }));
        };
        if self.writeback {
            // The kernel does not write back first, so it is asked to.
            self.notifier.write_back(ino, Box::new(seek));
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
        out: &mut Answer,
    ) -> Result<(), Errno> {
        // The answer has 32 bits; the kernel asks again for the rest.
        let len = len.min(u64::from(REQUEST_MAX_BYTES) * 64);
        let (overlay, times) = (&self.overlay, self.times());
        let copied = overlay.copy_file_range(from, from_offset, to, to_offset, len, times);
        let copied = copied.map_err(refused)?;
        out.written(u32::try_from(copied).unwrap_or(u32::MAX));
        Ok(())
    }
}
