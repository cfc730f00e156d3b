//! [`Place`]: a directory that a view is mounted on, by `mount(2)` where that is
//! allowed, else through fusermount3(1).

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{getgid, getuid};

use crate::device::Device;
use crate::mount::MountError;

/// The setuid helper that distributions have (package fuse3).
const HELPER: &str = "fusermount3";
/// Where the helper is told the number of the socket that it sends the device to.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// Where something is mounted, and the device to serve it by.
pub(crate) struct Place {
    at: PathBuf,
    by_helper: bool,
    device: Arc<Device>,
}

/// Mounts on a directory.
///
/// # Errors
/// As [`MountError`] lists.
pub(crate) fn mount(at: &Path, allow_other: bool) -> Result<Place, MountError> {
    let refused = |source| MountError::Refused {
        path: at.display().to_string(),
        source,
    };
    let device = Device::open().map_err(MountError::Device)?;
    let at = at.canonicalize().map_err(refused)?;
    let mounted = |by_helper, device| Place {
        at: at.clone(),
        by_helper,
        device: Arc::new(Device::new(device)),
    };
    match mount_directly(&at, &device, allow_other) {
        Ok(()) => Ok(mounted(false, device)),
        Err(Errno::PERM) => {
            drop(device);
            let device = mount_by_helper(&at, allow_other).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => MountError::NoHelper,
                _ => refused(error),
            })?;
            Ok(mounted(true, device))
        }
        Err(error) => Err(refused(error.into())),
    }
}

fn mount_directly(at: &Path, device: &OwnedFd, allow_other: bool) -> Result<(), Errno> {
    let data = data(device, getuid().as_raw(), getgid().as_raw(), allow_other);
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("agentfs", at, "fuse.agentfs", flags, data.as_c_str())
}

/// The data argument of `mount(2)`.
pub(crate) fn data(device: &impl AsRawFd, user: u32, group: u32, allow_other: bool) -> String {
    let (fd, access) = (device.as_raw_fd(), access(allow_other));
    format!("fd={fd},rootmode=40000,user_id={user},group_id={group},{access}")
}

/// The kernel checks permissions; of all users, or of the mounting one alone.
fn access(allow_other: bool) -> &'static str {
    if allow_other {
        "default_permissions,allow_other"
    } else {
        "default_permissions"
    }
}

/// The helper's protocol (fusermount3(1)): it mounts, and sends the device through a
/// socket, which it has as its input here.
fn mount_by_helper(at: &Path, allow_other: bool) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let options = format!("fsname=agentfs,subtype=agentfs,{}", access(allow_other));
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
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Unmounts it, if that has not been done yet.
    ///
    /// # Errors
    /// The host's: EBUSY when files are open.
    pub(crate) fn unmount(&self) -> io::Result<()> {
        // Something else may be mounted there by now.
        if !self.device.is_connected() {
            return Ok(());
        }
        if self.by_helper {
            let mut helper = Command::new(HELPER);
            return succeeded(&helper.args(["-u", "--"]).arg(&self.at).output()?);
        }
        Ok(rustix::mount::unmount(&self.at, UnmountFlags::NOFOLLOW)?)
    }
}
