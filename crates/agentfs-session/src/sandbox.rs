//! Confines the calling process for good: Landlock, capabilities, system calls.
//! Called after joining the namespaces and right before a program is executed.
//!
//! Each wall stands without the others; what a kernel lacks is reported by
//! [`limits`], never silently done without.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::protocol::{Place, PlaceKind};
use crate::request::Limit;
use crate::seccomp;

/// The Landlock version whose rights are used (device ioctl).
const WANTED: ABI = ABI::V5;
/// The first version that can wall off abstract Unix sockets.
const SCOPES_ABI: u32 = 6;

/// What root keeps inside: what package managers, `su` and `chroot` need on
/// files and processes of the session. Nothing that mounts, traces, loads,
/// configures, or writes file capabilities (which would hold outside as well).
const ROOT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT);

/// The version of Landlock this kernel has; 0 for none.
pub(crate) fn landlock_abi() -> u32 {
    landlock_version()
        .and_then(|v| u32::try_from(v).ok())
        .unwrap_or(0)
}

fn landlock_version() -> Option<i64> {
    crate::sys::landlock_version().ok()
}

/// What this kernel cannot enforce.
pub(crate) fn limits() -> Vec<Limit> {
    let abi = landlock_abi();
    let mut limits = Vec::new();
    if abi < 5 {
        limits.push(Limit::Landlock { abi });
    }
    if abi < SCOPES_ABI {
        limits.push(Limit::AbstractSockets);
    }
    limits
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn other(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}

/// Write access beneath the places only; reading and executing everywhere.
fn landlock(places: &[Place]) -> io::Result<()> {
    let everything = AccessFs::from_all(WANTED);
    let reading = AccessFs::from_read(WANTED);
    // Device nodes are of no use inside and none may be left for outside.
    let writing = everything & !(AccessFs::MakeBlock | AccessFs::MakeChar);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(everything)
        .map_err(other)?
        .scope(Scope::AbstractUnixSocket)
        .map_err(other)?
        .create()
        .map_err(other)?;
    let mut allow = |path: PathBuf, rights: BitFlags<AccessFs>| -> io::Result<()> {
        let Ok(fd) = open_place(&path) else {
            return Ok(());
        };
        let is_dir = FileType::from_raw_mode(fstat(&fd)?.st_mode).is_dir();
        let rights = if is_dir {
            rights
        } else {
            rights & AccessFs::from_file(WANTED)
        };
        (&mut ruleset)
            .add_rule(PathBeneath::new(fd, rights))
            .map_err(other)?;
        Ok(())
    };
    allow("/".into(), reading)?;
    // Processes set their own name, id maps and OOM score there; what is
    // global in it is on read-only mounts.
    allow(
        "/proc".into(),
        reading | AccessFs::WriteFile | AccessFs::Truncate,
    )?;
    for place in places {
        let mut rights = writing;
        let path = PathBuf::from(place.path.clone());
        if place.kind == PlaceKind::Real && !path.starts_with("/dev") {
            rights &= !BitFlags::from_flag(AccessFs::IoctlDev);
        }
        allow(path, rights)?;
    }
    ruleset.restrict_self().map_err(other)?;
    Ok(())
}

/// A place as it was when the session started: by a path without links. What
/// lies under the private `/tmp` could have been moved away by a program inside
/// and a link out been put there, for the next terminal to follow.
fn open_place(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let links = ResolveFlags::NO_SYMLINKS;
    Ok(openat2(CWD, path, flags, Mode::empty(), links)?)
}

fn drop_capabilities(keep: CapabilitySet) -> io::Result<()> {
    for bit in 0..64_u32 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last capability of this kernel.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// Confines this process. There is no way back. `real_files`: it has descriptors
/// by which it writes to files outside.
///
/// # Errors
/// When a wall that this kernel has could not be put up; the program must then
/// not be run.
pub(crate) fn confine(places: &[Place], root: bool, real_files: bool) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    landlock(places)?;
    drop_capabilities(if root {
        ROOT_CAPABILITIES
    } else {
        CapabilitySet::empty()
    })?;
    let real_places = places.iter().any(|place| place.kind == PlaceKind::Real);
    seccomp::install(seccomp::Filter {
        real_files: real_files || real_places,
        root,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both walls are to stand alone, so Landlock is tried without the other.
    #[test]
    fn a_place_that_has_become_a_link_gives_no_rights() {
        if landlock_abi() == 0 {
            return; // The banner says so.
        }
        let dir = tempfile::tempdir().unwrap();
        let (outside, kept) = (dir.path().join("outside"), dir.path().join("kept"));
        let moved = dir.path().join("moved");
        for made in [&outside, &kept] {
            std::fs::create_dir_all(made.join("place")).unwrap();
        }
        std::os::unix::fs::symlink(&outside, &moved).unwrap();
        let places = [&moved, &kept].map(|parent| Place {
            path: parent.join("place").into(),
            kind: PlaceKind::Temporary,
        });
        // It confines the thread it is called in.
        let tried = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            landlock(&places).unwrap();
            [&outside, &kept].map(|parent| std::fs::write(parent.join("place/file"), "").is_ok())
        });
        assert_eq!(tried.join().unwrap(), [false, true]);
    }
}
