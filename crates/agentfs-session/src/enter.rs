//! Joining a session: from the `run` outside to the command inside.
//!
//! A middle process enters the namespaces and clones the command as its
//! sibling, so that the command is inside and still a child of the `run`.
//! Everything after the first fork runs in copies of this process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, set_dumpable_behavior,
    set_parent_process_death_signal, waitpid,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::protocol::Place;
use crate::sandbox;
use crate::sys::{self, RawPid};
use crate::terminal::Signals;

/// A command as it is to run inside.
pub(crate) struct Entry<'a> {
    /// User, mount, pid and IPC namespace.
    pub(crate) namespaces: [OwnedFd; 4],
    pub(crate) places: &'a [Place],
    pub(crate) cwd: PathBuf,
    pub(crate) base: PathBuf,
    pub(crate) command: &'a [OsString],
    /// Changes of the environment; `None` removes.
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) signals: &'a Signals,
}

/// What went wrong on the way, as told through a pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// Before the command: the session could not be entered.
    Enter { step: String, reason: String },
    /// The command could not be executed.
    Execute { errno: i32 },
}

/// A command that has been cloned and waits for [`Entered::go`].
pub(crate) struct Entered {
    pub(crate) pid: RawPid,
    go: OwnedFd,
    failure: OwnedFd,
}

impl Entered {
    /// Lets the command run.
    pub(crate) fn go(&self) {
        // If it has failed already, [`Self::failure`] will tell.
        let _ = rustix::io::write(&self.go, b"g");
    }

    /// After the end of the command: what kept it from running, if anything did.
    pub(crate) fn failure(self) -> Option<Failure> {
        read_failure(self.failure)
    }
}

fn read_failure(fd: OwnedFd) -> Option<Failure> {
    let mut text = Vec::new();
    File::from(fd).take(1 << 16).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn tell(pipe: &OwnedFd, failure: &Failure) {
    if let (Ok(text), Ok(pipe)) = (serde_json::to_vec(failure), pipe.try_clone()) {
        let _ = File::from(pipe).write_all(&text);
    }
}

fn failed(step: &str) -> impl FnOnce(io::Error) -> Failure {
    let step = step.to_owned();
    move |error| Failure::Enter {
        step,
        reason: error.to_string(),
    }
}

/// Clones the command into the session.
///
/// # Errors
/// When it could not get there.
pub(crate) fn enter(entry: &Entry<'_>) -> Result<Entered, Failure> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("pipe")(e.into()));
    let (pid_in, pid_out) = pipe()?;
    let (go_in, go) = pipe()?;
    let (failure, failure_out) = pipe()?;
    let middle = sys::fork(|| {
        let result = middle(entry, &go_in, &go, &failure_out).and_then(|pid| {
            let mut pid_out = File::from(pid_out.try_clone().map_err(failed("pipe"))?);
            pid_out
                .write_all(&pid.to_ne_bytes())
                .map_err(failed("pipe"))
        });
        match result {
            Ok(()) => 0,
            Err(error) => {
                tell(&failure_out, &error);
                1
            }
        }
    })
    .map_err(failed("fork"))?;
    drop((pid_out, go_in, failure_out));
    let mut pid = [0; size_of::<RawPid>()];
    let got = File::from(pid_in).read_exact(&mut pid);
    if let Some(middle) = Pid::from_raw(middle) {
        let _ = waitpid(Some(middle), WaitOptions::empty());
    }
    if got.is_err() {
        let lost = || Failure::Enter {
            step: "fork".into(),
            reason: "the process ended early".into(),
        };
        return Err(read_failure(failure).unwrap_or_else(lost));
    }
    let pid = RawPid::from_ne_bytes(pid);
    // Both sides do it, so that it is done before either goes on.
    let _ = sys::set_process_group(pid, pid);
    Ok(Entered { pid, go, failure })
}

fn middle(
    entry: &Entry<'_>,
    go_in: &OwnedFd,
    go: &OwnedFd,
    failure: &OwnedFd,
) -> Result<RawPid, Failure> {
    use LinkNameSpaceType as Kind;
    let [user, mount, pid, ipc] = &entry.namespaces;
    let kinds = [
        (user, Kind::User, "user namespace"),
        (mount, Kind::Mount, "mount namespace"),
        (ipc, Kind::InterProcessCommunication, "IPC namespace"),
        (pid, Kind::ProcessID, "process namespace"),
    ];
    for (fd, kind, name) in kinds {
        move_into_link_name_space(fd.as_fd(), Some(kind)).map_err(|e| failed(name)(e.into()))?;
    }
    sys::clone(libc::CLONE_PARENT, || {
        // The parent may die at any moment; then nobody wants this command.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let Err(error) = command(entry, go_in, go.as_raw_fd());
        let code = match error {
            Failure::Execute {
                errno: libc::ENOENT | libc::ENOTDIR,
            } => 127,
            Failure::Execute { .. } => 126,
            Failure::Enter { .. } => 125,
        };
        tell(failure, &error);
        code
    })
    .map_err(failed("clone"))
}

/// In the process that becomes the command.
fn command(
    entry: &Entry<'_>,
    go_in: &OwnedFd,
    go: RawFd,
) -> Result<std::convert::Infallible, Failure> {
    let _ = sys::set_process_group(0, 0);
    // Until it is what it is to become, it holds more than programs inside may
    // get at: namespaces, and the connection to the server.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed("dumpable")(error.into()))?;
    if std::env::set_current_dir(&entry.cwd).is_err() {
        std::env::set_current_dir(&entry.base).map_err(failed("the base inside"))?;
    }
    let real_files = close_what_reaches_out().map_err(failed("descriptors"))?;
    let root = rustix::process::geteuid().is_root();
    sandbox::confine(entry.places, root, real_files).map_err(failed("sandbox"))?;
    // Our copy of the writing end would keep us waiting for a dead parent.
    sys::close(go);
    let mut byte = [0];
    if rustix::io::read(go_in, &mut byte) != Ok(1) {
        return Err(Failure::Enter {
            step: "start".into(),
            reason: "agentfs ended".into(),
        });
    }
    let (program, args) = entry.command.split_first().ok_or_else(|| Failure::Enter {
        step: "start".into(),
        reason: "no command".into(),
    })?;
    let mut command = Command::new(program);
    command.args(args);
    for (key, value) in &entry.env {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    for signal in [libc::SIGPIPE, libc::SIGCHLD] {
        sys::set_signal_default(signal);
    }
    entry.signals.restore();
    let errno = command.exec().raw_os_error().unwrap_or(libc::EINVAL);
    // execvp(3) also says so of a PATH directory that may not be searched.
    let nowhere = errno == libc::EACCES && !in_path(program, &entry.env);
    Err(Failure::Execute {
        errno: if nowhere { libc::ENOENT } else { errno },
    })
}

/// Whether a command is a path, or a file of that name is in `PATH`.
fn in_path(program: &OsStr, env: &[(OsString, Option<OsString>)]) -> bool {
    let changed = env
        .iter()
        .find(|(key, _)| key == "PATH")
        .and_then(|(_, value)| value.clone());
    let path = changed
        .or_else(|| std::env::var_os("PATH"))
        .unwrap_or_default();
    program.as_bytes().contains(&b'/')
        || std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Closes what the shell passed on and what is no plain input or output: by a
/// directory, an `O_PATH` or a socket of outside one gets past the mounts.
/// Standard input and its like become `/dev/null` instead of a directory.
/// Whether a file is kept that is written to for real.
fn close_what_reaches_out() -> io::Result<bool> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        // Without a list nothing but the standard three is kept.
        sys::close_on_exec_from(3)?;
        return keep_standard();
    };
    let numbers: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|n| *n > 2)
        .collect();
    let mut real_files = keep_standard()?;
    for number in numbers {
        let Some(fd) = sys::describe_fd(number) else {
            continue; // Of the listing itself.
        };
        if fd.is_path || !matches!(fd.kind, libc::S_IFREG | libc::S_IFIFO) {
            // Ours have the flag already.
            sys::set_close_on_exec(number);
        } else {
            real_files |= fd.is_real_output();
        }
    }
    Ok(real_files)
}

/// The standard three are passed on as they are, but for directories and
/// `O_PATH`. Whether one is a file that is written to for real.
fn keep_standard() -> io::Result<bool> {
    let mut real_files = false;
    for number in 0..=2 {
        let Some(fd) = sys::describe_fd(number) else {
            continue; // Closed, and stays so.
        };
        if fd.is_path || fd.kind == libc::S_IFDIR {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
            match number {
                0 => rustix::stdio::dup2_stdin(&null)?,
                1 => rustix::stdio::dup2_stdout(&null)?,
                _ => rustix::stdio::dup2_stderr(&null)?,
            }
        }
        real_files |= fd.is_real_output();
    }
    Ok(real_files)
}

/// Takes exactly the four namespaces out of a list of descriptors.
pub(crate) fn namespaces(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; 4]> {
    fds.try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not four namespaces"))
}
