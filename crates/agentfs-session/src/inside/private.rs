//! The directories that are the session's own: `/proc`, `/dev` and `/run`.
//!
//! Each shows of the host's what is on its list here and nothing else; nothing of
//! the host can be written through them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::{Builder, cover_with_nothing};
use crate::mounts::{
    NO_DEVICES, NO_SETUID, READ_ONLY, Tree, cover_read_only, ensure_mount_point, mount_new,
};
use crate::protocol::PlaceKind;
use crate::request::Limit;

/// Devices every program may have.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What of `/run` name resolution, toolchains and container detection need.
/// No bus, no container engine, no user's directory.
const RUN_KEPT: [&str; 13] = [
    "systemd/resolve",
    "systemd/userdb",
    "resolvconf",
    "NetworkManager",
    "connman",
    "netconfig",
    "nscd",
    "current-system",
    "booted-system",
    "opengl-driver",
    "opengl-driver-32",
    "media",
    ".containerenv",
];

/// Of /proc: shows memory, keys or addresses of the machine as a whole.
const PROC_MASKED: [&str; 12] = [
    "acpi",
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "sched_debug",
    "scsi",
    "timer_list",
    "vmallocinfo",
];

impl Builder<'_, '_> {
    /// A /proc of the new process namespace, of which only the processes' own
    /// files can be written.
    pub(super) fn proc_directory(&mut self) {
        let proc = Path::new("/proc");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        if let Err(error) = mount_new("proc", proc, flags, "") {
            // Masked by a container engine: the old one stays, read-only.
            tracing::warn!("a new /proc was refused: {error}");
            self.limits.push(Limit::SharedProc);
            return;
        }
        let Ok(entries) = fs::read_dir(proc) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Ok(meta) = entry.metadata() else { continue };
            let is_process = name.as_bytes().iter().all(u8::is_ascii_digit);
            if is_process || meta.is_symlink() {
                continue;
            }
            let path = entry.path();
            let result = if PROC_MASKED.iter().any(|m| name == OsStr::new(m)) {
                cover_with_nothing(&path, meta.is_dir())
            } else if meta.is_dir() || meta.mode() & 0o222 != 0 {
                cover_read_only(&path)
            } else {
                Ok(())
            };
            if let Err(error) = result {
                self.not_mounted(&path, error);
            }
        }
    }

    /// A /dev with the harmless devices, terminals of its own and shared memory.
    pub(super) fn dev_directory(&mut self) -> io::Result<OwnedFd> {
        let dev = Path::new("/dev");
        let mut devices = Vec::new();
        for name in DEVICES {
            if let Ok(tree) = Tree::copy_of(&dev.join(name)) {
                devices.push((name, tree));
            }
        }
        // The lower of two mounts of one tmpfs stays writable for the holder,
        // who reaches it by descriptor; the upper one is what is seen.
        let writable = Tree::tmpfs("0755", "1m")?.attach(dev)?;
        let fd_path = |name: &str| dev.join(name);
        for name in ["pts", "shm"] {
            fs::create_dir(fd_path(name))?;
        }
        for (name, _) in &devices {
            fs::File::create_new(fd_path(name))?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "fd/0"),
            ("stdout", "fd/1"),
            ("stderr", "fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            symlink(target, fd_path(name))?;
        }
        Tree::copy_of(dev)?
            .restrict(READ_ONLY | libc::MOUNT_ATTR_NOEXEC)?
            .attach(dev)?;
        for (name, tree) in devices {
            tree.attach(&fd_path(name))?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount_new(
            "devpts",
            &fd_path("pts"),
            flags,
            "newinstance,ptmxmode=0666,mode=0620",
        )?;
        Tree::tmpfs("1777", "50%")?.attach(&fd_path("shm"))?;
        self.writable(dev, PlaceKind::Temporary);
        Ok(writable)
    }

    /// A /run of memory, with what is kept of the host's.
    pub(super) fn run_directory(&mut self, kept: Vec<(PathBuf, bool, Tree)>) -> io::Result<()> {
        let run = Path::new("/run");
        if !run.is_dir() {
            return Ok(());
        }
        Tree::tmpfs("0755", "10%")?.attach(run)?;
        let uid = rustix::process::geteuid().as_raw();
        let own = run.join(format!("user/{uid}"));
        fs::create_dir_all(&own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700))?;
        fs::create_dir(run.join("lock"))?;
        fs::set_permissions(run.join("lock"), fs::Permissions::from_mode(0o1777))?;
        for (path, is_dir, tree) in kept {
            let shown = ensure_mount_point(&path, is_dir)
                .and_then(|()| tree.restrict(READ_ONLY | NO_SETUID | NO_DEVICES))
                .and_then(|tree| tree.attach(&path));
            if let Err(error) = shown {
                tracing::warn!("{} is not shown inside: {error}", path.display());
            }
        }
        self.writable(run, PlaceKind::Temporary);
        Ok(())
    }
}

/// What of the host's /run is shown again.
pub(super) fn take_run() -> Vec<(PathBuf, bool, Tree)> {
    RUN_KEPT
        .iter()
        .filter_map(|name| {
            let path = Path::new("/run").join(name);
            let meta = fs::symlink_metadata(&path).ok()?;
            if meta.is_symlink() {
                return None;
            }
            Some((path.clone(), meta.is_dir(), Tree::copy_of(&path).ok()?))
        })
        .collect()
}
