//! [`Place`]: a directory that a view is mounted on, by `mount(2)` where that is
//! allowed, else through fusermount3(1).

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{getgid, getuid};

use crate::device::Device;
use crate::mount::{MountError, mount_data};

/// The setuid helper that distributions have (package fuse3).
const HELPER: &str = "fusermount3";
/// Where the helper is told the number of the socket that it sends the device to.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";
/// What [`mount_data`] ends with: other users may use the mount.
const ALLOW_OTHER: &str = ",allow_other";

/// A place that something has just been mounted on.
pub(crate) struct Mounted {
    at: PathBuf,
    by_helper: bool,
}

/// The place of a mount that is served.
pub(crate) struct Place {
    mounted: Mounted,
    device: Arc<Device>,
}

impl Mounted {
    pub(crate) fn of(self, device: &Arc<Device>) -> Place {
        Place {
            mounted: self,
            device: Arc::clone(device),
        }
    }
}

/// Mounts on a directory: the descriptor to serve it by, and where it is.
///
/// # Errors
/// As [`MountError`] lists.
pub(crate) fn mount(at: &Path, allow_other: bool) -> Result<(OwnedFd, Mounted), MountError> {
    let refused = |source| MountError::Refused {
        path: at.display().to_string(),
        source,
    };
    let device = Device::open().map_err(MountError::Device)?;
    let at = at.canonicalize().map_err(refused)?;
    let mounted = |by_helper| Mounted {
        at: at.clone(),
        by_helper,
    };
    match mount_directly(&at, &device, allow_other) {
        Ok(()) => Ok((device, mounted(false))),
        Err(Errno::PERM) => {
            drop(device);
            let device = mount_by_helper(&at, allow_other).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => MountError::NoHelper,
                _ => refused(error),
            })?;
            Ok((device, mounted(true)))
        }
        Err(error) => Err(refused(error.into())),
    }
}

fn mount_directly(at: &Path, device: &OwnedFd, allow_other: bool) -> Result<(), Errno> {
    let data = mount_data(device, getuid().as_raw(), getgid().as_raw());
    let data = if allow_other {
        data.as_str()
    } else {
        data.trim_end_matches(ALLOW_OTHER)
    };
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("agentfs", at, "fuse.agentfs", flags, data.as_c_str())
}

/// The helper's protocol (fusermount3(1)): it mounts, and sends the device through a
/// socket, which it has as its input here.
fn mount_by_helper(at: &Path, allow_other: bool) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut options = "fsname=agentfs,subtype=agentfs,default_permissions".to_owned();
    if allow_other {
        options.push_str(ALLOW_OTHER);
    }
    let mut helper = Command::new(HELPER);
    helper.args(["-o", &options, "--"]).arg(at);
    helper.env(HELPER_SOCKET, "0").stdin(OwnedFd::from(theirs));
    succeeded(&helper.stdout(Stdio::null()).output()?)?;
    // So that nothing is waited for if it has sent nothing.
    drop(helper);
    receive_descriptor(&ours)
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let sent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    sent.ok_or_else(|| io::Error::other(format!("{HELPER} has sent no device")))
}

/// An error with what the helper says, where it has failed.
fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().to_owned()))
}

impl Place {
    /// Unmounts it, if that has not been done yet.
    ///
    /// # Errors
    /// The host's: EBUSY when files are open.
    pub(crate) fn unmount(&self) -> io::Result<()> {
        // Something else may be mounted there by now.
        if !self.device.is_connected() {
            return Ok(());
        }
        let Mounted { at, by_helper } = &self.mounted;
        if *by_helper {
            let mut helper = Command::new(HELPER);
            return succeeded(&helper.args(["-u", "--"]).arg(at).output()?);
        }
        Ok(rustix::mount::unmount(at, UnmountFlags::NOFOLLOW)?)
    }
}
