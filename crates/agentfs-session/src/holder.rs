//! The holder: process 1 inside a session. It builds the inside, keeps it,
//! reaps orphans, answers the server and looks at the view for it; it never runs a program.
//!
//! It outlives a server that was killed for as long as processes are inside,
//! so that they get errors and not a sudden end.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, WaitOptions, set_dumpable_behavior, wait};

use crate::error::SessionError;
use crate::inside::{self, Built};
use crate::mounts::{Tree, open_path};
use crate::onlooker::Looking;
use crate::protocol::{BuildPlan, Channel, HolderReply, HolderRequest, Volume};
use crate::sys;

/// How often a holder without a server looks whether it is alone.
const ORPHANED_POLL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The life of the holder. Returns its exit code.
pub(crate) fn main(socket: OwnedFd) -> i32 {
    let _ = sys::SignalSet::all().block();
    let Ok(signals) = sys::SignalSet::new(&[libc::SIGCHLD]).descriptor() else {
        return 1;
    };
    let mut server = Channel::new(socket, false);
    let built = match server.receive() {
        Ok(HolderRequest::Build(plan)) => start(&plan, &mut server),
        other => {
            tracing::error!("the holder was not told what to build: {other:?}");
            return 1;
        }
    };
    let (built, mut lookings) = match built {
        Ok(started) => started,
        Err(error) => {
            let _ = server.send(&HolderReply::Failed(error), &[]);
            return 1;
        }
    };
    loop {
        let mut fds = vec![
            PollFd::new(&server, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
        ];
        fds.extend((lookings.iter()).map(|looking| PollFd::new(looking, PollFlags::IN)));
        if poll(&mut fds, None).is_err_and(|e| e != rustix::io::Errno::INTR) {
            return 1;
        }
        reap(&signals);
        loop {
            match server.try_receive() {
                Ok(Some(request)) => answer(&server, &built, request),
                Ok(None) => break,
                Err(_) => return outlive(&signals),
            }
        }
        lookings.retain_mut(|looking| looking.go_on().is_ok());
    }
}

fn reap(signals: &OwnedFd) {
    while sys::take_signal(signals).is_some() {}
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// The server is gone: stays until the last process inside has gone too.
fn outlive(signals: &OwnedFd) -> i32 {
    while !alone() {
        let mut fds = [PollFd::new(signals, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&ORPHANED_POLL));
        reap(signals);
    }
    0
}

/// Whether no other process is in this namespace (-1: all but ourselves).
fn alone() -> bool {
    sys::kill(-1, 0).is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH))
}

fn start(plan: &BuildPlan, server: &mut Channel) -> Result<(Built, Vec<Looking>), SessionError> {
    let mut lookings = Vec::new();
    let log = PathBuf::from(plan.log.clone());
    let lost = |step: &str| SessionError::Server {
        reason: step.to_owned(),
        log: log.clone(),
    };
    let mut serve = |volume: Volume, device: OwnedFd, target: &Path| {
        let (onlooker, socket) = UnixStream::pair().map_err(|e| lost(&e.to_string()))?;
        let fds = [device.as_fd(), onlooker.as_fd()];
        server
            .send(&HolderReply::Mounted(volume), &fds)
            .map_err(|e| lost(&e.to_string()))?;
        drop(onlooker);
        // From here on the server alone has the device: when it dies, the
        // mount answers ENOTCONN instead of hanging.
        drop(device);
        match server.receive() {
            Ok(HolderRequest::Serving) => {}
            _ => return Err(lost("the file system was not served")),
        }
        let root = open_path(target).map_err(|e| lost(&e.to_string()))?;
        lookings.push(Looking::new(socket, root).map_err(|e| lost(&e.to_string()))?);
        Ok(())
    };
    let built = inside::build(plan, &mut serve)?;
    let mut descriptors = Vec::new();
    for name in ["user", "mnt", "pid", "ipc"] {
        let file = fs::File::open(Path::new("/proc/self/ns").join(name))
            .map_err(|e| lost(&format!("{name}: {e}")))?;
        descriptors.push(OwnedFd::from(file));
    }
    descriptors.extend(own_proc());
    // Same user, but not for programs inside to look into.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| lost(&e.to_string()))?;
    let fds: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let reply = HolderReply::Built {
        places: built.places.clone(),
        limits: built.limits.clone(),
    };
    server
        .send(&reply, &fds)
        .map_err(|e| lost(&e.to_string()))?;
    Ok((built, lookings))
}

/// `/proc`, if its numbers are those of this namespace.
fn own_proc() -> Option<OwnedFd> {
    let link = fs::read_link("/proc/self").ok()?;
    if link != Path::new("1") {
        return None;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc", flags, Mode::empty()).ok()
}

fn answer(server: &Channel, built: &Built, request: HolderRequest) {
    let reply = match request {
        HolderRequest::Terminal(name) => HolderReply::Terminal(terminal(built, &name)),
        HolderRequest::Count => HolderReply::Count(count()),
        HolderRequest::Signal(signal) => {
            let _ = sys::kill(-1, signal);
            return;
        }
        HolderRequest::Build(_) | HolderRequest::Serving => return,
    };
    if let Err(error) = server.send(&reply, &[]) {
        tracing::warn!("the server takes no answer: {error}");
    }
}

/// Processes inside, zombies included (somebody has yet to wait for them).
fn count() -> u32 {
    if alone() {
        return 0;
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return 1;
    };
    let ours = entries
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .filter(|entry| entry.file_name() != "1")
        .count();
    // With the host's /proc the number means nothing, but "some" is known.
    u32::try_from(ours).unwrap_or(u32::MAX).max(1)
}

/// Shows a terminal of the host as `/dev/NAME`, where `ttyname(3)` finds it.
/// The private /dev/pts belongs to terminals made inside, whose numbers may be
/// the same, so `pts/3` becomes `host-pts3`.
fn terminal(built: &Built, name: &str) -> Option<String> {
    let known = name.len() < 64 && !name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if !known {
        return None;
    }
    let inside = format!("host-{}", name.replace('/', ""));
    let path = Path::new("/dev").join(&inside);
    let result = (|| -> std::io::Result<()> {
        let tree = Tree::copy_at(built.host_dev.as_fd(), Path::new(name))?;
        match rustix::fs::mknodat(
            &built.dev,
            &inside,
            rustix::fs::FileType::RegularFile,
            Mode::empty(),
            0,
        ) {
            // From an earlier terminal of that name, which may be dead.
            Err(rustix::io::Errno::EXIST) => {
                let path = CString::new(path.as_os_str().as_bytes())?;
                let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
            }
            other => other?,
        }
        tree.attach(&path)?;
        Ok(())
    })();
    match result {
        Ok(()) => path.to_str().map(str::to_owned),
        Err(error) => {
            tracing::warn!("terminal {name} has no name inside: {error}");
            None
        }
    }
}

/// Looks whether `/dev/fuse` can be had, for an error before anything is built.
pub(crate) fn probe_fuse() -> Result<(), SessionError> {
    match rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            Err(SessionError::FuseNotPermitted)
        }
        Err(_) => Err(SessionError::FuseMissing),
    }
}
