//! `agentfs mount` and `umount`: the view of a session on a directory of the
//! host, served by a process of its own. No sandbox.
//!
//! The serving process never touches the mount: the database and the base are
//! opened before, and must not lie beneath it.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentfs_core::{Ino, LowerPath, Overlay};
use agentfs_fuse::{DirInterest, FuseConfig, MountOptions, Pairing, Server};
use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;

use crate::args::{MountArgs, UmountArgs};
use crate::locate::{self, Located};
use crate::output::{self, say};
use crate::store::{self, Store};
use crate::{base, signals};

/// Type and source of our mounts in `/proc/self/mountinfo`: the helper of
/// ordinary users joins the two.
const KINDS: [(&[u8], &[u8]); 2] = [(b"fuse", b"agentfs"), (b"fuse.agentfs", b"agentfs")];
/// How long a mount may take to appear or to go.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// How long a server whose mount has just gone may take to commit and close.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);
/// How soon writes of others to the database are noticed.
const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
const MOUNTS: &str = "/proc/self/mountinfo";
const NO_MOUNTS: &str = "the list of mounts cannot be read";

pub(crate) fn mount(args: &MountArgs) -> Result<u8> {
    let located = locate::existing(&args.name)?;
    let dir = args
        .dir
        .canonicalize()
        .with_context(|| format!("cannot mount on {}", output::path(&args.dir)))?;
    if is_mounted(&dir)? {
        bail!(
            "something of agentfs is mounted on {} already",
            output::path(&dir)
        );
    }
    if args.foreground {
        serve(&located, &dir, args)
    } else {
        start(args, &dir)
    }
}

pub(crate) fn umount(args: &UmountArgs) -> Result<u8> {
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("{} cannot be found", output::path(&args.dir)))?;
    // The directory itself is not asked: its server may hang.
    let dir = match (dir.parent().map(Path::canonicalize), dir.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => dir,
    };
    if !is_mounted(&dir)? {
        bail!("nothing of agentfs is mounted on {}", output::path(&dir));
    }
    if rustix::process::geteuid().is_root() {
        rustix::mount::unmount(&dir, UnmountFlags::NOFOLLOW)
            .with_context(|| format!("{} cannot be unmounted", output::path(&dir)))?;
        return Ok(0);
    }
    let status = Command::new("fusermount3").arg("-u").arg(&dir).status();
    match status {
        Ok(status) if status.success() => Ok(0),
        Ok(_) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("unmounting as an ordinary user needs fusermount3: install the package fuse3")
        }
        Err(error) => Err(error).context("fusermount3 cannot be run"),
    }
}

/// Serves until unmounted.
fn serve(located: &Located, dir: &Path, args: &MountArgs) -> Result<u8> {
    agentfs_session::raise_open_files()?;
    let store = Store::write(located)?;
    let base = base::of(located, &store.database)?;
    for inside in [located.db.as_path(), &base] {
        if inside.starts_with(dir) {
            bail!(
                "{} would cover {}, which the session needs: mount it elsewhere",
                output::path(dir),
                output::path(inside)
            );
        }
    }
    let started = Instant::now();
    while !store.database.lock_exclusive()? {
        if started.elapsed() > ENDING_PATIENCE {
            bail!(
                "session {} is in use (running, or mounted elsewhere): its view is there",
                located.name
            );
        }
        std::thread::sleep(POLL);
    }
    let lower = store::lower(located, &base)?;
    let overlay = Overlay::open(store.storage.clone(), lower, store::config())?;
    let options = MountOptions {
        allow_other: args.allow_other,
    };
    let mut config = FuseConfig::new(Arc::new(Unwatched));
    config.pairing = Pairing::start();
    if let (Some(pairing), Ok(proc)) = (&config.pairing, File::open("/proc")) {
        pairing.set_processes(proc.into());
        if let Some(committer) = store.database.committer_thread() {
            pairing.add_worker(committer);
        }
    }
    let server = agentfs_fuse::mount(Arc::new(overlay), dir, &options, config)?;
    let notifier = server.notifier();
    store
        .database
        .set_external_change_hook(move || notifier.invalidate_all());
    let server = Arc::new(server);
    let ending = Arc::clone(&server);
    let busy = dir.to_owned();
    signals::on_end(move || {
        if let Err(error) = ending.unmount() {
            say(format_args!(
                "{} cannot be unmounted ({error})",
                output::path(&busy)
            ));
        }
    })?;
    wait(dir, &server, &store)?;
    drop(server);
    store.close()?;
    Ok(0)
}

/// Returns when the view is no longer mounted anywhere here.
///
/// Running sessions and containers keep copies of every mount there was when
/// they started, and the kernel ends a connection with its last copy. What they
/// have is not waited for: nothing can be open through it once it could be
/// unmounted, and what was written was sent when it was closed.
fn wait(dir: &Path, server: &Server, store: &Store) -> Result<()> {
    let table = File::open(MOUNTS).context(NO_MOUNTS)?;
    let device = mounts_on(dir, &mount_table()?)
        .next()
        .map(|mount| mount.device.to_vec());
    loop {
        // The kernel says POLLPRI when the table has changed.
        let mut changed = [PollFd::new(&table, PollFlags::PRI)];
        match poll(&mut changed, Some(&LOOK_AGAIN)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(NO_MOUNTS),
        }
        let now = mount_table()?;
        let mut devices = now.split(|&b| b == b'\n').filter_map(Mount::parse);
        if server.is_finished() || !devices.any(|mount| Some(mount.device) == device.as_deref()) {
            return Ok(());
        }
        store.database.check_external_change();
    }
}

/// Starts a process that serves, and returns when the mount is there.
fn start(args: &MountArgs, dir: &Path) -> Result<u8> {
    let program = std::env::current_exe().context("agentfs cannot find itself")?;
    let mut command = Command::new(program);
    command.arg("mount").arg("--foreground");
    if args.allow_other {
        command.arg("--allow-other");
    }
    command.arg("--").arg(&args.name).arg(dir);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // Ctrl-C in this terminal is not meant for it.
    let mut child = command
        .process_group(0)
        .spawn()
        .context("the server cannot be started")?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if is_mounted(dir)? {
            return Ok(0);
        }
        if let Some(code) = ended(&mut child)? {
            return Ok(code);
        }
        std::thread::sleep(POLL);
    }
    // Ours, and of no use.
    let _ = child.kill();
    bail!(
        "the mount did not appear within {} seconds",
        PATIENCE.as_secs()
    )
}

/// The exit code of a server that has ended, whose last words are passed on.
fn ended(child: &mut Child) -> Result<Option<u8>> {
    let Some(status) = child.try_wait()? else {
        return Ok(None);
    };
    let mut words = String::new();
    if let Some(stderr) = &mut child.stderr {
        stderr.take(1 << 16).read_to_string(&mut words)?;
    }
    output::tell(&words);
    if words.is_empty() {
        bail!("the server ended at once ({status})");
    }
    Ok(Some(1))
}

/// Whether a view of ours is the topmost mount on a directory.
fn is_mounted(dir: &Path) -> Result<bool> {
    let table = mount_table()?;
    let topmost = mounts_on(dir, &table).next();
    Ok(topmost.is_some_and(|mount| KINDS.contains(&mount.kind)))
}

fn mount_table() -> Result<Vec<u8>> {
    std::fs::read(MOUNTS).context(NO_MOUNTS)
}

/// The mounts on a directory, topmost first.
fn mounts_on<'a>(dir: &Path, table: &'a [u8]) -> impl Iterator<Item = Mount<'a>> {
    // Space, tab, line break and backslash are written as three octal digits.
    let mut point = Vec::with_capacity(dir.as_os_str().len());
    for &byte in dir.as_os_str().as_bytes() {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
            point.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            point.push(byte);
        }
    }
    let lines = table.rsplit(|&b| b == b'\n').filter_map(Mount::parse);
    lines.filter(move |mount| mount.point == point)
}

/// One line of `/proc/self/mountinfo` (proc(5)).
struct Mount<'a> {
    /// `MAJOR:MINOR`, one for all mounts of a file system.
    device: &'a [u8],
    /// Escaped.
    point: &'a [u8],
    /// Type and source.
    kind: (&'a [u8], &'a [u8]),
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&b| b == b' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
        let kind = (rest.next()?, rest.next()?);
        Some(Self {
            device,
            point,
            kind,
        })
    }
}

/// Nobody tells of changes of the base here: the kernel asks again every second.
struct Unwatched;

impl DirInterest for Unwatched {
    fn looked_up(&self, _: Ino, _: &LowerPath) -> bool {
        false
    }
    fn forgotten(&self, _: Ino) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_directory() {
        let line = br"36 35 98:0 / /mnt/a\040b\134c rw,noatime master:1 - fuse.agentfs agentfs rw";
        let on = |dir: &str, line| mounts_on(Path::new(dir), line).next().map(|m| m.kind);
        assert_eq!(on("/mnt/a b\\c", line), Some(KINDS[1]));
        assert_eq!(on("/mnt/a", line), None);
        assert_eq!(on("nonsense", b"nonsense"), None);
        assert_eq!(Mount::parse(line).map(|m| m.device), Some(&b"98:0"[..]));
    }
}
