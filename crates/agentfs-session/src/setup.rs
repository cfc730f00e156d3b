//! The steps of starting and taking down a session that the server takes:
//! limits, the holder, the id maps, the socket.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, waitpid};

use crate::error::SessionError;
use crate::holder;
use crate::protocol::{Channel, HolderReply, HolderRequest, Place, StartConfig};
use crate::request::Limit;
use crate::runtime;
use crate::serve::View;
use crate::sys::{self, RawPid};

/// Descriptors the server may need: open files of all programs inside.
const OPEN_FILES_WANTED: u64 = 1 << 20;
/// With fewer it might not come by one when it needs it for the database: the files
/// of the base that it keeps open and its clients are some hundreds at most.
const OPEN_FILES_MIN: u64 = 1024;

/// Takes as many descriptors as this process may have, and makes room for those it will
/// use: what every server of a view begins with, before it has a second thread.
///
/// # Errors
/// [`SessionError::OpenFiles`] when these are too few.
pub fn raise_open_files() -> Result<(), SessionError> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(OPEN_FILES_WANTED, |hard| hard.min(OPEN_FILES_WANTED));
    if wanted < OPEN_FILES_MIN {
        return Err(SessionError::OpenFiles {
            limit: wanted,
            needed: OPEN_FILES_MIN,
        });
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    make_room();
    Ok(())
}

/// Makes the kernel's table of descriptors as large as it will be. Where threads share
/// it, each doubling waits for all processors (`synchronize_rcu` in `expand_fdtable`),
/// 5 to 15 ms, and with it whoever opens anything.
fn make_room() {
    let last = i32::try_from(OPEN_FILES_MIN - 1).unwrap_or(0);
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), last) {
        tracing::debug!(%error, "no room was made for descriptors");
    }
}

pub(crate) fn open_base(path: &Path) -> Result<OwnedFd, SessionError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| SessionError::BaseGone {
        base: path.to_owned(),
        reason: error.to_string(),
    })
}

pub(crate) fn fork_holder() -> io::Result<(RawPid, Channel)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
    let pid = sys::clone(flags, || {
        sys::close_all_but(theirs.as_fd());
        match sys::inherited_fd(theirs.as_raw_fd()) {
            Ok(socket) => holder::main(socket),
            Err(_) => 1,
        }
    })?;
    Ok((pid, Channel::new(ours, true)))
}

/// Identity for every id that exists here when we may (root), else for our own.
pub(crate) fn write_id_maps(pid: RawPid) -> io::Result<()> {
    let write = |file: &str, text: &str| fs::write(format!("/proc/{pid}/{file}"), text);
    if rustix::process::geteuid().is_root() {
        let identity = |file: &str| -> io::Result<String> {
            let map = fs::read_to_string(format!("/proc/self/{file}"))?;
            Ok(map
                .lines()
                .filter_map(|line| {
                    let mut columns = line.split_whitespace();
                    let (start, _, count) = (columns.next()?, columns.next()?, columns.next()?);
                    Some(format!("{start} {start} {count}\n"))
                })
                .collect())
        };
        write("uid_map", &identity("uid_map")?)?;
        write("gid_map", &identity("gid_map")?)
    } else {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        write("uid_map", &format!("{uid} {uid} 1\n"))?;
        write("setgroups", "deny")?;
        write("gid_map", &format!("{gid} {gid} 1\n"))
    }
}

pub(crate) fn namespaces_refused(error: &io::Error, log: &Path) -> SessionError {
    let number = |file: &str| {
        fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    let max = number("/proc/sys/user/max_user_namespaces");
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => SessionError::NamespacesExhausted {
            max: max.unwrap_or(0),
        },
        _ if max == Some(0) => SessionError::NamespacesExhausted { max: 0 },
        _ if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) => {
            SessionError::NamespacesDisabled
        }
        _ => SessionError::NamespacesRefused {
            reason: error.to_string(),
            log: log.to_owned(),
        },
    }
}

/// User, mount, pid and IPC.
const NAMESPACES: usize = 4;

pub(crate) type Built = (Vec<OwnedFd>, Vec<Place>, Vec<Limit>);

/// Serves the mounts while the holder builds.
pub(crate) fn serve_build(
    channel: &mut Channel,
    view: &mut View,
    log: &Path,
) -> Result<Built, SessionError> {
    let died = |reason: String| SessionError::ServerDied {
        reason,
        log: log.to_owned(),
    };
    loop {
        match channel
            .receive()
            .map_err(|e| died(format!("holder: {e}")))?
        {
            HolderReply::Mounted(volume) => {
                let [device, onlooker] = <[OwnedFd; 2]>::try_from(channel.take_fds())
                    .map_err(|_| died("no device came".into()))?;
                view.serve(volume, device, onlooker)?;
                channel
                    .send(&HolderRequest::Serving, &[])
                    .map_err(|e| died(format!("holder: {e}")))?;
            }
            HolderReply::Built { places, limits } => {
                let mut namespaces = channel.take_fds();
                if namespaces.len() > NAMESPACES
                    && let Some(proc) = namespaces.pop()
                {
                    view.show_processes(proc);
                }
                return Ok((namespaces, places, limits));
            }
            HolderReply::Failed(error) => return Err(error),
            other => return Err(died(format!("unexpected answer {other:?}"))),
        }
    }
}

pub(crate) fn lock_temps(config: &StartConfig) -> io::Result<Vec<OwnedFd>> {
    let mut locks = Vec::new();
    for (directory, target) in &config.temp {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(PathBuf::from(directory.clone()), flags, Mode::empty())?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared)?;
        // As the host's; nobody gets to it from outside: its parent is ours alone.
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o1777))?;
        tracing::debug!(
            "{} for {:?}",
            PathBuf::from(directory.clone()).display(),
            target
        );
        locks.push(fd);
    }
    Ok(locks)
}

pub(crate) fn listen(runtime: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(runtime.join(runtime::SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(crate) fn kill_holder(pid: RawPid) {
    let _ = sys::kill(pid, libc::SIGKILL);
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}
