//! Waiting for a command as a shell would: signals passed on, the terminal
//! handed over and taken back, stops and continues mirrored.
//!
//! The command has a process group of its own, so that nothing inside can
//! signal the group of the shell outside. It gets the terminal at once when
//! this `run` alone owns it (no pipeline), and otherwise when it asks: the
//! kernel stops it with SIGTTIN or SIGTTOU, we hand over and continue it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

use crate::sys::{self, RawPid, SignalSet};

/// Passed on to the command.
const FORWARDED: [i32; 7] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];
/// Also taken here: children, job control.
const OWN: [i32; 5] = [
    libc::SIGCHLD,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Signals blocked around a command.
pub(crate) struct Signals {
    set: SignalSet,
    before: SignalSet,
}

impl Signals {
    /// Blocks them in this process (and what it forks).
    pub(crate) fn block() -> io::Result<Self> {
        let all: Vec<i32> = FORWARDED.iter().chain(&OWN).copied().collect();
        let set = SignalSet::new(&all);
        Ok(Self {
            set,
            before: set.block()?,
        })
    }

    /// Back to what was blocked before: for the command, and at the end.
    pub(crate) fn restore(&self) {
        let _ = self.before.set_mask();
    }
}

/// The controlling terminal and who had it.
pub(crate) struct Terminal {
    tty: Option<OwnedFd>,
    own_group: Pid,
    /// All three standard descriptors are terminals and no other process is in
    /// our group: a plain command typed into an interactive shell.
    sole: bool,
    was_foreground: bool,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let tty = rustix::fs::open(
            "/dev/tty",
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        )
        .ok();
        let own_group = rustix::process::getpgrp();
        let was_foreground = tty
            .as_ref()
            .is_some_and(|tty| tcgetpgrp(tty) == Ok(own_group));
        let standard = isatty(rustix::stdio::stdin())
            && isatty(rustix::stdio::stdout())
            && isatty(rustix::stdio::stderr());
        let sole = standard && own_group == rustix::process::getpid();
        Self {
            tty,
            own_group,
            sole,
            was_foreground,
        }
    }

    fn foreground(&self) -> Option<Pid> {
        self.tty
            .as_ref()
            .and_then(|tty| tcgetpgrp(tty.as_fd()).ok())
    }

    fn give(&self, group: Pid) {
        if let Some(tty) = &self.tty {
            // SIGTTOU is blocked, so this works from the background, too.
            let _ = tcsetpgrp(tty.as_fd(), group);
        }
    }

    /// Before the command runs.
    pub(crate) fn hand_over(&self, command: Pid) {
        if self.sole && self.was_foreground {
            self.give(command);
        }
    }

    fn take_back(&self, command: Pid) {
        if self.foreground() == Some(command)
            || (self.was_foreground && self.foreground().is_none())
        {
            self.give(self.own_group);
        }
    }
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(u8),
    Killed(u8),
}

/// Waits for the command, which is a child of ours and leads its group.
pub(crate) fn wait(command: RawPid, signals: &Signals, terminal: &Terminal) -> io::Result<End> {
    let pid = Pid::from_raw(command).ok_or(io::ErrorKind::InvalidInput)?;
    let group = -command;
    let end = loop {
        if let Some(end) = collect(pid, group, terminal)? {
            break end;
        }
        let signal = signals.set.wait()?;
        match signal.number {
            libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU => {}
            // Ctrl-Z while the terminal is ours: the command's group did not
            // see it. Its stop is mirrored in `collect`.
            libc::SIGTSTP => {
                let _ = sys::kill(group, libc::SIGTSTP);
            }
            libc::SIGCONT => resume(pid, group, terminal),
            // From a terminal: meant for the whole job. From a process: for us.
            number if signal.from_kernel => {
                let _ = sys::kill(group, number);
            }
            number => {
                let _ = sys::kill(command, number);
            }
        }
    };
    terminal.take_back(pid);
    Ok(end)
}

/// Looks at what the command does. `Some` when it has ended.
fn collect(pid: Pid, group: RawPid, terminal: &Terminal) -> io::Result<Option<End>> {
    while let Some((_, status)) = waitpid(Some(pid), WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
        if let Some(code) = status.exit_status() {
            return Ok(Some(End::Exited(u8::try_from(code & 0xff).unwrap_or(255))));
        }
        if let Some(signal) = status.terminating_signal() {
            return Ok(Some(End::Killed(u8::try_from(signal).unwrap_or(127))));
        }
        if let Some(signal) = status.stopping_signal() {
            let asks = matches!(signal, libc::SIGTTIN | libc::SIGTTOU);
            if asks && terminal.foreground() == Some(terminal.own_group) {
                terminal.give(pid);
                let _ = sys::kill(group, libc::SIGCONT);
                continue;
            }
            let had_terminal = terminal.foreground() == Some(pid);
            terminal.take_back(pid);
            stop_too(had_terminal && signal == libc::SIGTSTP);
            resume(pid, group, terminal);
        }
    }
    Ok(None)
}

/// Stops with the command, as one job of the shell. SIGTSTP and not SIGSTOP:
/// where no shell could continue us (an orphaned group) the kernel ignores it.
/// After Ctrl-Z on a command that had the terminal, the rest of our pipeline
/// has to be told.
fn stop_too(whole_group: bool) {
    let target = if whole_group {
        0
    } else {
        rustix::process::getpid().as_raw_pid()
    };
    let stop = SignalSet::new(&[libc::SIGTSTP]);
    let _ = sys::kill(target, libc::SIGTSTP);
    // Here we stop, until somebody continues us.
    let _ = stop.unblock();
    let _ = stop.block();
}

/// We were continued: so is the command, with the terminal if we have it.
fn resume(pid: Pid, group: RawPid, terminal: &Terminal) {
    if terminal.sole && terminal.foreground() == Some(terminal.own_group) {
        terminal.give(pid);
    }
    let _ = sys::kill(group, libc::SIGCONT);
}
