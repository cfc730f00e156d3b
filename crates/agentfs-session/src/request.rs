//! What a front end asks of a session and what it is told. Plain data.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest session name, in bytes: `NAME.db-wal` must stay a file name.
const SESSION_NAME_MAX_BYTES: usize = 200;

/// The name of a session: letters, digits, `-`, `_` and `.`; neither `.` nor
/// `..`, no leading `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionName(String);

/// A name that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is not a session name: use letters, digits, '-', '_' and '.', at most 200 of them, and no leading '-'"
)]
pub struct BadSessionName(pub String);

impl SessionName {
    /// Validates a name.
    ///
    /// # Errors
    /// [`BadSessionName`], whose text says what a name is.
    pub fn new(name: &str) -> Result<Self, BadSessionName> {
        let chars_ok = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let reserved = matches!(name, "" | "." | "..") || name.starts_with('-');
        if !chars_ok || reserved || name.len() > SESSION_NAME_MAX_BYTES {
            return Err(BadSessionName(name.chars().take(64).collect()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SessionName {
    type Error = BadSessionName;
    fn try_from(name: String) -> Result<Self, BadSessionName> {
        Self::new(&name)
    }
}

impl From<SessionName> for String {
    fn from(name: SessionName) -> String {
        name.0
    }
}

/// A command to run in a session.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// Shown to the command as `AGENTFS_SESSION`.
    pub session: SessionName,
    /// The session's database. It is created when missing; its directory must
    /// exist.
    pub db: PathBuf,
    /// The directory the view covers, absolute. Used by the first `run` only:
    /// later ones join what there is.
    pub base: PathBuf,
    /// Working directory of the command, absolute. When it does not exist
    /// inside, the base is taken.
    pub cwd: PathBuf,
    /// Paths writable for real (`--allow`), as the user gave them, made absolute.
    pub allow: Vec<PathBuf>,
    /// Whether the defaults apply: agents' own state under `$HOME` writable for
    /// real, caches on a layer private to the session.
    pub default_allows: bool,
    /// The command and its arguments; never empty. Looked up in `PATH` inside.
    pub command: Vec<OsString>,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// The exit code to pass on: the command's own, 128 + n when signal n
    /// killed it, 127 when it was not found, 126 when it could not be executed.
    pub exit_code: u8,
    /// A sentence about how starting the command failed, with 126 and 127.
    pub exec_error: Option<String>,
    /// Set when the server had gone before the command ended: a sentence that
    /// names the server's log.
    pub server_lost: Option<String>,
    /// Whether other terminals or processes are still in the session.
    pub session_continues: bool,
}

/// What holds inside a session: for the banner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The directory the view covers.
    pub base: PathBuf,
    /// Whether this `run` started the session (else it joined).
    pub started_session: bool,
    /// Paths whose changes reach the host.
    pub writable: Vec<PathBuf>,
    /// Paths that can be written and whose changes stay in the session.
    pub private: Vec<PathBuf>,
    /// `--allow` paths of this `run` that the live session does not have: they
    /// can only be given when it starts.
    pub not_allowed: Vec<PathBuf>,
    /// What the kernel could not enforce.
    pub limits: Vec<Limit>,
    /// The server's log.
    pub log: PathBuf,
}

/// A protection that this machine cannot give; [`fmt::Display`] says it in a
/// sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Limit {
    /// No Landlock, or a version that lacks a right that is wanted.
    Landlock {
        /// The version the kernel has; 0 when it has none.
        abi: u32,
    },
    /// Abstract Unix sockets outside can be connected to (Landlock below 6).
    AbstractSockets,
    /// A fresh /proc could not be mounted; the existing one is shown read-only.
    SharedProc,
    /// A path could not be made available inside.
    NotMounted {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Landlock { abi: 0 } => {
                f.write_str("this kernel has no Landlock: the sandbox rests on namespaces and seccomp alone")
            }
            Self::Landlock { abi } => {
                write!(f, "this kernel has Landlock version {abi}: some rights it could restrict later are left to namespaces")
            }
            Self::AbstractSockets => f.write_str(
                "this kernel cannot keep programs inside from connecting to abstract Unix sockets outside (Linux 6.12 can)",
            ),
            Self::SharedProc => f.write_str(
                "a fresh /proc is not permitted here: programs inside see the processes outside, but cannot touch them",
            ),
            Self::NotMounted { path, reason } => write!(f, "{} is not writable inside: {reason}", path.display()),
        }
    }
}

/// A live session: for `agentfs ps`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Name given by the `run` that started it.
    pub name: SessionName,
    /// Database file.
    pub db: PathBuf,
    /// The directory the view covers.
    pub base: PathBuf,
    /// The server's process.
    pub server_pid: u32,
    /// When it started.
    pub started: SystemTime,
    /// The server's log.
    pub log: PathBuf,
    /// Who is in.
    pub terminals: Vec<TerminalInfo>,
    /// Processes inside, the holder not counted.
    pub processes: u32,
    /// Inodes that the server keeps in memory because the kernel holds them.
    pub inodes: usize,
}

/// One `agentfs run` that is in a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TerminalInfo {
    /// Process of the `agentfs run`, on the host.
    pub pid: u32,
    /// Its terminal (`/dev/pts/3`), if it has one.
    pub tty: Option<String>,
    /// Its command, joined by spaces, shortened.
    pub command: String,
    /// When it joined.
    pub since: SystemTime,
}
