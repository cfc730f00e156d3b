//! [`Device`]: `/dev/fuse` as one mount has it: requests come from it, answers and
//! notifications go to it, each in one system call.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The descriptor. Any number of threads may use it at once.
pub(crate) struct Device {
    fd: OwnedFd,
}

impl Device {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A descriptor that no mount has yet.
    ///
    /// # Errors
    /// The host's: there is none, or it is closed to this user.
    pub(crate) fn open() -> io::Result<OwnedFd> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        device.map(OwnedFd::from)
    }

    /// Waits for a request and puts it into `memory`, where it has so many bytes; `None`
    /// when the mount has ended.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn receive(&self, memory: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.fd, &mut *memory) {
                Ok(len) => return Ok(Some(len)),
                Err(Errno::NODEV) => return Ok(None),
                // ENOENT: whoever asked has taken it back.
                Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives an answer, or drops it where nobody waits for it any more.
    pub(crate) fn answer(&self, answer: &[u8]) {
        match rustix::io::write(&self.fd, answer) {
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => tracing::error!(%error, "the kernel takes an answer for none"),
        }
    }

    /// Sends a notification, which the kernel takes as a whole.
    ///
    /// # Errors
    /// ENOENT where the kernel does not know what it is about, or another refusal.
    pub(crate) fn notify(&self, message: &[u8]) -> Result<(), Errno> {
        rustix::io::write(&self.fd, message).map(drop)
    }

    /// Whether the mount is still there, somewhere.
    pub(crate) fn is_connected(&self) -> bool {
        let mut look = [PollFd::new(&self.fd, PollFlags::empty())];
        let looked = poll(&mut look, Some(&Timespec::default()));
        looked.is_ok() && !look[0].revents().contains(PollFlags::ERR)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
