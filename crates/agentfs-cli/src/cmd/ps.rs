//! `agentfs ps`: the live sessions and who is in.

use std::io::Write as _;
use std::time::SystemTime;

use agentfs_session::{SessionInfo, TerminalInfo, list_sessions};
use anyhow::Result;
use serde::Serialize;

use crate::args::PsArgs;
use crate::output::{self, JsonArray, Out};

pub(crate) fn ps(args: &PsArgs) -> Result<u8> {
    let sessions = list_sessions()?;
    let mut out = Out::new();
    if args.json {
        out.json(&JsonArray(&sessions, Session::new))?;
    } else {
        write!(out, "{}", table(&sessions, SystemTime::now()))?;
    }
    out.finish()?;
    Ok(0)
}

/// One line per terminal; a session without one has a line of its own.
fn table(sessions: &[SessionInfo], now: SystemTime) -> String {
    let mut rows = Vec::new();
    for session in sessions {
        let line = |pid: String, tty: &str, since: SystemTime, command: &str| {
            vec![
                session.name.to_string(),
                pid,
                tty.to_owned(),
                output::ago(now, since),
                output::path(&session.base).into_owned(),
                output::quote(command.as_bytes()).into_owned(),
            ]
        };
        for terminal in &session.terminals {
            let tty = terminal.tty.as_deref().unwrap_or("-");
            let tty = tty.strip_prefix("/dev/").unwrap_or(tty);
            rows.push(line(
                terminal.pid.to_string(),
                tty,
                terminal.since,
                &terminal.command,
            ));
        }
        if session.terminals.is_empty() {
            let inside = match session.processes {
                1 => "(1 process, no terminal)".to_owned(),
                n => format!("({n} processes, no terminal)"),
            };
            rows.push(line("-".to_owned(), "-", session.started, &inside));
        }
    }
    output::table(
        &["SESSION", "PID", "TERMINAL", "SINCE", "BASE", "COMMAND"],
        &rows,
    )
}

#[derive(Serialize)]
struct Session<'a> {
    name: &'a str,
    database: String,
    base: String,
    server_pid: u32,
    /// Unix seconds.
    started: f64,
    log: String,
    processes: u32,
    /// Kept in memory because the kernel holds them.
    inodes: usize,
    terminals: Vec<Terminal<'a>>,
}

#[derive(Serialize)]
struct Terminal<'a> {
    pid: u32,
    tty: Option<&'a str>,
    command: &'a str,
    /// Unix seconds.
    since: f64,
}

impl<'a> Session<'a> {
    fn new(info: &'a SessionInfo) -> Self {
        Self {
            name: info.name.as_str(),
            database: info.db.to_string_lossy().into_owned(),
            base: info.base.to_string_lossy().into_owned(),
            server_pid: info.server_pid,
            started: output::unix_secs(info.started),
            log: info.log.to_string_lossy().into_owned(),
            processes: info.processes,
            inodes: info.inodes,
            terminals: info.terminals.iter().map(Terminal::new).collect(),
        }
    }
}

impl<'a> Terminal<'a> {
    fn new(info: &'a TerminalInfo) -> Self {
        Self {
            pid: info.pid,
            tty: info.tty.as_deref(),
            command: &info.command,
            since: output::unix_secs(info.since),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use agentfs_session::SessionName;

    use super::*;

    #[test]
    fn one_line_per_terminal() {
        let start = SystemTime::UNIX_EPOCH;
        let session = |name: &str, terminals| SessionInfo {
            name: SessionName::new(name).unwrap(),
            db: PathBuf::from("/p/.agentfs/x.db"),
            base: PathBuf::from("/p"),
            server_pid: 1,
            started: start,
            log: PathBuf::from("/run/log"),
            terminals,
            processes: 3,
            inodes: 1,
        };
        let terminal = |pid, tty: Option<&str>| TerminalInfo {
            pid,
            tty: tty.map(str::to_owned),
            command: "bash".to_owned(),
            since: start + Duration::from_secs(60),
        };
        let two = session(
            "two",
            vec![terminal(10, Some("/dev/pts/3")), terminal(11, None)],
        );
        let sessions = [two, session("idle", Vec::new())];
        let now = start + Duration::from_secs(3720);
        assert_eq!(
            table(&sessions, now),
            "SESSION  PID  TERMINAL  SINCE  BASE  COMMAND\n\
             two      10   pts/3     1h01m  /p    bash\n\
             two      11   -         1h01m  /p    bash\n\
             idle     -    -         1h02m  /p    (3 processes, no terminal)\n"
        );
    }
}
