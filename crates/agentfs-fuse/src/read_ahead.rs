//! [`extend`]: has the kernel read further ahead in a view than its 128 KiB.
//!
//! The kernel takes no more than that from a FUSE server; the rest is a setting
//! of the mount, which is root's (`sysfs-class-bdi`). Must never fail: everything
//! works without, a cold large file is read half as fast.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Read-ahead of a view in KiB: two of the largest requests.
const READ_AHEAD_KIB: u32 = 2048;
/// How `/proc/PID/fdinfo` of `/dev/fuse` names the minor device number of its
/// mount (Linux 6.15).
const CONNECTION: &str = "fuse_connection:";

/// Sets the read-ahead of the mount that `device` serves, once the kernel has
/// agreed on the protocol (which sets it back).
pub(crate) fn extend(device: &impl AsFd) {
    let outcome = (|| {
        let fd = device.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let minor = connection(&info).ok_or(io::ErrorKind::Unsupported)?;
        // FUSE mounts are no block devices: their major number is 0.
        let setting = format!("/sys/class/bdi/0:{minor}/read_ahead_kb");
        fs::write(setting, READ_AHEAD_KIB.to_string())
    })();
    if let Err(error) = outcome {
        tracing::debug!(%error, "the read-ahead stays as it is");
    }
}

fn connection(info: &str) -> Option<u32> {
    let line = info.lines().find_map(|line| line.strip_prefix(CONNECTION));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_mount_is_found() {
        let info = "pos:\t0\nflags:\t02100002\nino:\t90\nfuse_connection:\t46\n";
        assert_eq!(connection(info), Some(46));
        assert_eq!(connection("pos:\t0\nfuse_connection:\t\n"), None);
        assert_eq!(connection("pos:\t0\n"), None);
    }
}
