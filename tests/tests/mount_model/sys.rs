//! Writing through a shared mapping, and a mount namespace for one thread. The
//! one file here with unsafe code.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

fn last() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// Writes `data` at `offset`, all of it inside the file, through a mapping.
pub(super) fn write(fd: impl AsFd, offset: u64, data: &[u8]) -> Result<(), Errno> {
    const PAGE: u64 = 4096;
    let start = offset / PAGE * PAGE;
    let skip = usize::try_from(offset - start).expect("within a page");
    let len = skip + data.len();
    let start = libc::off_t::try_from(start).expect("inside a file");
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel chooses the address; nothing else uses the mapping,
    // which is unmapped below; only the `len` bytes that were mapped are
    // written, and the caller says that they lie inside the file.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            len,
            protection,
            libc::MAP_SHARED,
            fd,
            start,
        );
        if at == libc::MAP_FAILED {
            return Err(last());
        }
        std::ptr::copy_nonoverlapping(data.as_ptr(), at.cast::<u8>().add(skip), data.len());
        let synced = match libc::msync(at, len, libc::MS_SYNC) {
            0 => Ok(()),
            _ => Err(last()),
        };
        libc::munmap(at, len);
        synced
    }
}

/// As [`write`], which has to succeed.
pub(crate) fn must_write(file: &std::fs::File, offset: u64, data: &[u8]) {
    write(file, offset, data).unwrap();
}

/// Gives this thread, and those it starts, mounts of its own: a session that
/// another test starts would else copy ours and keep it from ending.
pub(crate) fn own_mounts() {
    std::thread_local! {
        static DONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if DONE.replace(true) {
        return;
    }
    // SAFETY: no memory is touched; what changes for this thread is which mounts
    // its paths lead through, and nothing here keeps paths across that.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(unshared, 0, "unshare: {}", last());
    let private = rustix::mount::MountPropagationFlags::PRIVATE;
    let all = rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private | all).expect("private mounts");
}
