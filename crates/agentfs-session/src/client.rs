//! The side of the `agentfs` commands: finding, starting, joining and ending
//! sessions.

use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::enter::{self, Entry, Failure};
use crate::environment;
use crate::error::SessionError;
use crate::note::{Note, Noted};
use crate::prepare::{
    checked_allows, checked_base, home, make_temps, open_database, real_database_path,
    remove_unused,
};
use crate::protocol::{
    Channel, Inside, PlaceKind, Reply, Request, StartConfig, StartReply, VERSION,
};
use crate::request::{Facts, RunOutcome, RunRequest, SessionInfo};
use crate::runtime::{self, DbId, StartLock};
use crate::sandbox;
use crate::sys::{self, Detached};
use crate::terminal::{End, Signals, Terminal, wait};

/// How long a server may take to start (it may wait for the one before it to
/// finish committing) or to answer.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest note that fits into a message whatever is in it: JSON takes up to six bytes
/// for one.
const NOTE_MAX_BYTES: usize = 128 << 10;
/// How often starting is tried again when the server found ends just then.
const ATTEMPTS: u32 = 5;

fn os(step: &str) -> impl FnOnce(io::Error) -> SessionError {
    let step = step.to_owned();
    move |error| SessionError::Os {
        step,
        reason: error.to_string(),
    }
}

/// A connection to a session's server.
struct Connection {
    channel: Channel,
    log: PathBuf,
}

impl Connection {
    fn new(directory: &Path, socket: OwnedFd) -> Self {
        Self {
            channel: Channel::new(socket, true),
            log: directory.join(runtime::LOG),
        }
    }

    fn broken(&self, error: &io::Error) -> SessionError {
        SessionError::Server {
            reason: error.to_string(),
            log: self.log.clone(),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, io::Error> {
        self.channel.set_timeout(Some(ANSWER_TIMEOUT))?;
        self.channel.send(request, &[])?;
        self.channel.receive()
    }

    /// As [`Self::ask`]; a refusal, and no answer, are errors.
    fn answer(&mut self, request: &Request) -> Result<Reply, SessionError> {
        match self.ask(request) {
            Ok(Reply::Refused(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn unexpected(&self, reply: &Reply) -> SessionError {
        self.broken(&io::Error::other(format!("unexpected answer {reply:?}")))
    }
}

/// See [`crate::run`].
pub(crate) fn run(
    req: &RunRequest,
    started: impl FnOnce(&Facts),
) -> Result<RunOutcome, SessionError> {
    if let Some(session) = std::env::var_os("AGENTFS_SESSION") {
        return Err(SessionError::AlreadyInside {
            session: session.to_string_lossy().into_owned(),
        });
    }
    let base = checked_base(&req.base)?;
    let db = real_database_path(&req.db)?;
    let allow = checked_allows(&req.allow, &base, &db)?;
    let (id, created) = open_database(&db)?;
    let mut start = Start {
        req,
        id,
        base: &base,
        db: &db,
        allow: &allow,
    };
    let joined = start.join();
    if joined.is_err() && created {
        remove_unused(id, &db);
    }
    let (mut connection, inside, namespaces, started_session) = joined?;

    let facts = facts(&inside, &allow, started_session, &connection.log);
    if facts.base != base {
        return Err(SessionError::OtherBase {
            live: facts.base,
            asked: base,
        });
    }
    let signals = Signals::block().map_err(os("signals"))?;
    let terminal = Terminal::new();
    let log = connection.log.clone();
    let entry = Entry {
        namespaces,
        places: &inside.places,
        cwd: req.cwd.clone(),
        base,
        command: &req.command,
        env: environment::changes(&req.session, &inside),
        signals: &signals,
    };
    let not_entered = |failure: Failure| match failure {
        Failure::Enter { step, reason } => SessionError::Enter {
            step,
            reason,
            log: log.clone(),
        },
        Failure::Execute { errno } => {
            let reason = io::Error::from_raw_os_error(errno).to_string();
            SessionError::Enter {
                step: "exec".into(),
                reason,
                log: log.clone(),
            }
        }
    };
    let entered = enter::enter(&entry).map_err(|failure| {
        signals.restore();
        not_entered(failure)
    })?;
    // The mount namespace ends with its last user; that must not be us.
    drop(entry);
    if let Some(pid) = rustix::process::Pid::from_raw(entered.pid) {
        terminal.hand_over(pid);
    }
    started(&facts);
    entered.go();
    let end = wait(entered.pid, &signals, &terminal).map_err(os("waiting for the command"))?;
    signals.restore();
    let exec_error = match entered.failure() {
        None => None,
        Some(Failure::Execute { errno }) => {
            let program = req
                .command
                .first()
                .map(|c| c.to_string_lossy().into_owned())
                .unwrap_or_default();
            Some(format!("{program}: {}", plain_reason(errno)))
        }
        Some(failure) => return Err(not_entered(failure)),
    };
    let exit_code = match end {
        End::Exited(code) => code,
        End::Killed(signal) => 128_u8.saturating_add(signal),
    };
    let (session_continues, server_lost) = leave(&mut connection);
    Ok(RunOutcome {
        exit_code,
        exec_error,
        server_lost,
        session_continues,
    })
}

fn plain_reason(errno: i32) -> String {
    match errno {
        libc::ENOENT => "command not found".to_owned(),
        _ => io::Error::from_raw_os_error(errno)
            .to_string()
            .split(" (os error")
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

/// Says goodbye. As the last one, waits until everything is committed.
fn leave(connection: &mut Connection) -> (bool, Option<String>) {
    let lost = |log: &Path| {
        Some(format!(
            "the session server ended before the command did; what was written last may be missing, its log is {}",
            log.display()
        ))
    };
    match connection.ask(&Request::Leave) {
        Ok(Reply::Left { last: false }) => (true, None),
        Ok(Reply::Left { last: true }) => {
            let _ = connection.channel.set_timeout(Some(START_TIMEOUT));
            match connection.channel.receive::<Reply>() {
                Ok(Reply::Refused(error)) => (false, Some(error.to_string())),
                _ => (false, None),
            }
        }
        Ok(Reply::Stopping) => (false, None),
        Ok(_) | Err(_) => (false, lost(&connection.log)),
    }
}

struct Start<'a> {
    req: &'a RunRequest,
    id: DbId,
    base: &'a Path,
    db: &'a Path,
    allow: &'a [PathBuf],
}

impl Start<'_> {
    /// Joins the live session, or starts one and joins that.
    fn join(&mut self) -> Result<(Connection, Inside, [OwnedFd; 4], bool), SessionError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (mut connection, started) = self.connect()?;
            let tty = rustix::termios::ttyname(rustix::stdio::stdin(), Vec::new())
                .or_else(|_| rustix::termios::ttyname(rustix::stdio::stderr(), Vec::new()))
                .ok()
                .and_then(|name| name.into_string().ok());
            let request = Request::Join {
                version: VERSION,
                pid: rustix::process::getpid().as_raw_pid().unsigned_abs(),
                tty,
                command: short(&self.req.command),
            };
            match connection.ask(&request) {
                Ok(Reply::Joined(inside)) => {
                    let fds = connection.channel.take_fds();
                    let namespaces = enter::namespaces(fds).map_err(|e| connection.broken(&e))?;
                    return Ok((connection, *inside, namespaces, started));
                }
                Ok(Reply::Refused(error)) => return Err(error),
                Ok(other) => {
                    let error = io::Error::other(format!("unexpected answer {other:?}"));
                    return Err(connection.broken(&error));
                }
                // It ended between our connecting and its looking: again.
                Err(error) => last = Some(connection.broken(&error)),
            }
        }
        Err(last.unwrap_or(SessionError::NoSession {
            db: self.db.to_owned(),
        }))
    }

    fn connect(&mut self) -> Result<(Connection, bool), SessionError> {
        if let Some((directory, socket)) = runtime::find(self.id) {
            return Ok((Connection::new(&directory, socket), false));
        }
        let lock = StartLock::take(self.id)?;
        if let Some((directory, socket)) = runtime::find(self.id) {
            return Ok((Connection::new(&directory, socket), false));
        }
        Ok((self.start(&lock)?, true))
    }

    fn start(&mut self, lock: &StartLock) -> Result<Connection, SessionError> {
        let log_path = lock.directory.join(runtime::LOG);
        let died = |reason: String| SessionError::ServerDied {
            reason,
            log: log_path.clone(),
        };
        let _ = fs::remove_file(lock.directory.join(runtime::SOCKET));
        let log = runtime::open_log(&lock.directory).map_err(|e| died(e.to_string()))?;
        // The locks go over to the server, which takes its own, when it is ready.
        let (temp, _locks) = make_temps(self.base)?;
        let config = StartConfig {
            version: VERSION,
            session: self.req.session.clone(),
            db: self.db.to_owned().into(),
            base: self.base.to_owned().into(),
            home: home().map(Into::into),
            runtime: lock.directory.clone().into(),
            temp,
            allow: self.allow.iter().cloned().map(Into::into).collect(),
            default_allows: self.req.default_allows,
        };
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|e| os("socket pair")(e.into()))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| os("/dev/null")(e.into()))?;
        let args = [
            c"agentfs".to_owned(),
            CString::new(crate::SERVER_COMMAND).unwrap_or_default(),
        ];
        sys::spawn_detached(&Detached {
            program: c"/proc/self/exe",
            args: &args,
            env: &server_environment(),
            null: null.as_fd(),
            log: log.as_fd(),
            control: theirs.as_fd(),
        })
        .map_err(|e| died(e.to_string()))?;
        drop(theirs);
        let mut connection = Connection::new(&lock.directory, ours);
        connection
            .channel
            .set_timeout(Some(START_TIMEOUT))
            .map_err(|e| died(e.to_string()))?;
        connection
            .channel
            .send(&config, &[])
            .map_err(|e| died(e.to_string()))?;
        match connection.channel.receive() {
            Ok(StartReply::Ready) => Ok(connection),
            Ok(StartReply::Failed(error)) => Err(error),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(died("it gave no reason".into()))
            }
            Err(error) => Err(died(error.to_string())),
        }
    }
}

/// Settings of glibc for a server (`ld.so --list-tunables`). No restartable sequences (rseq(2)),
/// which none of its threads uses: else the kernel writes to each of them whenever it comes
/// back to it, with every request. And two heaps in place of one a thread: what one thread
/// takes another gives back here, and what lies free in one heap is of no use to the others.
const GLIBC_TUNABLES: &CStr = c"GLIBC_TUNABLES=glibc.pthread.rseq=0:glibc.malloc.arena_max=2";

/// The environment of a server: what of ours concerns it.
fn server_environment() -> Vec<CString> {
    let ours = ["AGENTFS_LOG", "RUST_BACKTRACE"].iter().filter_map(|key| {
        let mut entry = OsString::from(key);
        entry.push("=");
        entry.push(std::env::var_os(key)?);
        CString::new(entry.into_vec()).ok()
    });
    ours.chain([GLIBC_TUNABLES.to_owned()]).collect()
}

fn short(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    words
        .join(" ")
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

fn facts(inside: &Inside, allow: &[PathBuf], started_session: bool, log: &Path) -> Facts {
    let of_kind = |wanted: &[PlaceKind]| -> Vec<PathBuf> {
        let kept = inside
            .places
            .iter()
            .filter(|place| wanted.contains(&place.kind));
        kept.map(|place| PathBuf::from(place.path.clone()))
            .collect()
    };
    let writable = of_kind(&[PlaceKind::Real]);
    let mut limits = inside.limits.clone();
    limits.extend(sandbox::limits());
    Facts {
        base: inside.base.clone().into(),
        started_session,
        not_allowed: allow
            .iter()
            .filter(|path| !writable.iter().any(|place| path.starts_with(place)))
            .cloned()
            .collect(),
        writable,
        private: of_kind(&[PlaceKind::View, PlaceKind::Cache, PlaceKind::Temporary]),
        limits,
        log: log.to_owned(),
    }
}

/// See [`crate::list_sessions`].
pub(crate) fn list() -> Vec<SessionInfo> {
    let mut sessions: Vec<_> = runtime::session_directories()
        .iter()
        .filter_map(|directory| info(directory).ok())
        .collect();
    sessions.sort_by_key(|session| session.started);
    sessions
}

fn info(directory: &Path) -> io::Result<SessionInfo> {
    let mut connection = Connection::new(directory, runtime::connect(directory)?);
    match connection.ask(&Request::Info { version: VERSION })? {
        Reply::Info(info) => Ok(*info),
        other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
    }
}

fn live(db: &Path) -> Option<(PathBuf, OwnedFd)> {
    runtime::db_id(db).ok().and_then(runtime::find)
}

/// See [`crate::find_session`].
pub(crate) fn find(db: &Path) -> Option<SessionInfo> {
    live(db).and_then(|(directory, _)| info(&directory).ok())
}

/// See [`crate::flush`].
pub(crate) fn flush(db: &Path) -> Result<bool, SessionError> {
    let Some((directory, socket)) = live(db) else {
        return Ok(false);
    };
    let mut connection = Connection::new(&directory, socket);
    match connection.answer(&Request::Flush { version: VERSION })? {
        Reply::Flushed => Ok(true),
        other => Err(connection.unexpected(&other)),
    }
}

/// See [`crate::note`].
pub(crate) fn note(db: &Path, note: &Note) -> Result<Option<Noted>, SessionError> {
    if note.len_bytes() > NOTE_MAX_BYTES {
        return Ok(None);
    }
    let Some((directory, socket)) = live(db) else {
        return Ok(None);
    };
    let mut connection = Connection::new(&directory, socket);
    // Other versions understand this, and refuse it.
    let understood = connection.answer(&Request::Flush { version: VERSION });
    if !matches!(understood, Ok(Reply::Flushed)) {
        return Ok(None);
    }
    let request = Request::Note {
        version: VERSION,
        note: note.clone(),
    };
    match connection.answer(&request)? {
        Reply::Noted(noted) => Ok(Some(noted)),
        Reply::NotNow => Ok(None),
        other => Err(connection.unexpected(&other)),
    }
}

/// See [`crate::stop`].
pub(crate) fn stop(db: &Path, grace: Duration) -> Result<(), SessionError> {
    let (directory, socket) =
        live(db).ok_or_else(|| SessionError::NoSession { db: db.to_owned() })?;
    let mut connection = Connection::new(&directory, socket);
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Stop {
        version: VERSION,
        grace_ms,
    };
    match connection.answer(&request)? {
        Reply::Stopping => {}
        other => return Err(connection.unexpected(&other)),
    }
    connection
        .channel
        .set_timeout(Some(START_TIMEOUT + grace))
        .map_err(os("socket"))?;
    loop {
        match connection.channel.receive::<Reply>() {
            Ok(Reply::Refused(error)) => return Err(error),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(connection.broken(&error)),
        }
    }
}
