//! Open regular files of the base. Read only; never anything but `S_IFREG`.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::lower::{LowerAttr, LowerFile};
use agentfs_core::{LowerError, LowerPath};
use parking_lot::Mutex;
use rustix::fs::{Advice, FileType, Mode, OFlags, SeekFrom, Stat, fadvise, openat};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::convert::lower_attr;
use crate::dir::error;
use crate::read_ahead;

/// What is read around a first read within a file: a chunk of our databases.
const AROUND_BYTES: u64 = 32 << 10;

/// Of a file that is read in large pieces so much is read one piece after the other: the
/// kernel reads further and further ahead of who reads in order, and begins anew where two do
/// at once. Later it is ahead of both.
const BEGINNING_BYTES: u64 = 16 << 20;
const LARGE_BYTES: usize = 64 << 10;

/// Opens for reading without leaving a trace in the access time, where the
/// host lets us (our own files, or privileged).
pub(crate) fn open_noatime(
    dir: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        result => result,
    }
}

/// Opens a regular file; EINVAL for anything else. `O_NONBLOCK` keeps a fifo
/// that took its place from blocking us.
pub(crate) fn open_regular(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(OwnedFd, Stat), Errno> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match open_noatime(dir, name, flags) {
        // A symbolic link; a socket or a device without driver.
        Err(Errno::LOOP | Errno::NXIO) => return Err(Errno::INVAL),
        result => result?,
    };
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((fd, stat)),
        _ => Err(Errno::INVAL),
    }
}

/// An open regular file; `path` is for messages and reading ahead only.
pub(crate) struct HostFile {
    fd: OwnedFd,
    path: LowerPath,
    ahead: Option<Arc<read_ahead::Shared>>,
    was_read: AtomicBool,
    /// Held by who reads the beginning of a large file.
    beginning: Mutex<()>,
}

impl HostFile {
    pub(crate) fn new(
        fd: OwnedFd,
        path: LowerPath,
        ahead: Option<Arc<read_ahead::Shared>>,
    ) -> Self {
        Self {
            fd,
            path,
            ahead,
            was_read: AtomicBool::new(false),
            beginning: Mutex::new(()),
        }
    }

    /// The first read: what of it is in the kernel's caches, telling whether it is.
    fn read_first(&self, ahead: &read_ahead::Shared, buf: &mut [u8], offset: u64) -> usize {
        let into = &mut [IoSliceMut::new(buf)];
        let cached = preadv2(&self.fd, into, offset, ReadWriteFlags::NOWAIT);
        let is_cold = cached == Err(Errno::AGAIN);
        if is_cold && offset > 0 {
            // What changes a little of a file reads a page first, and has the chunk
            // around it copied up next; the kernel reads just what is asked for.
            let start = offset & !(AROUND_BYTES - 1);
            let around = NonZeroU64::new(AROUND_BYTES);
            // Whatever is wrong shows again.
            let _ = fadvise(&self.fd, start, around, Advice::WillNeed);
        }
        ahead.read_first(&self.path, is_cold);
        // Whatever else is wrong shows again.
        cached.unwrap_or(0)
    }
}

impl LowerFile for HostFile {
    fn attr(&self) -> Result<LowerAttr, LowerError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|errno| error(&self.path, errno))?;
        lower_attr(&stat).ok_or_else(|| error(&self.path, Errno::INVAL))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, LowerError> {
        let is_beginning = offset < BEGINNING_BYTES && buf.len() >= LARGE_BYTES;
        let _in_turn = is_beginning.then(|| self.beginning.lock());
        let mut done = match &self.ahead {
            Some(ahead) if !self.was_read.swap(true, Ordering::Relaxed) => {
                self.read_first(ahead, buf, offset)
            }
            _ => 0,
        };
        while done < buf.len() {
            match rustix::io::pread(&self.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(error(&self.path, errno)),
            }
        }
        Ok(done)
    }

    fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>, LowerError> {
        // The file position is ours alone and nothing else uses it.
        let from = if hole {
            SeekFrom::Hole(offset)
        } else {
            SeekFrom::Data(offset)
        };
        match rustix::fs::seek(&self.fd, from) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(error(&self.path, errno)),
        }
    }
}
