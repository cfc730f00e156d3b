//! Sessions of agentfs: a server that outlives any terminal, the namespaces in
//! which programs see the view, and the sandbox around them.
//!
//! ```text
//! agentfs run ──fork/exec──▶ server (host namespaces, serves FUSE, owns the database)
//!     │                         │ clone(NEWUSER|NEWNS|NEWPID|NEWIPC)
//!     │ unix socket             ▼
//!     ├───────────────────▶ holder = pid 1 inside: builds the mounts, reaps
//!     └─ setns, drop capabilities, Landlock, seccomp, exec ─▶ the command
//! ```
//!
//! ```
//! use agentfs_session::SessionName;
//!
//! assert!(SessionName::new("feature-x").is_ok());
//! let refusal = SessionName::new("no/slashes").unwrap_err();
//! assert!(refusal.to_string().contains("is not a session name"));
//! ```
//!
//! This crate must never print to the terminal, parse a command line or ask
//! the environment what the command line already said: `agentfs-cli` does.
//! All unsafe code lives in `sys.rs`.

#![cfg(target_os = "linux")]

mod client;
mod db_watch;
mod enter;
mod environment;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod holder;
mod inside;
mod log;
mod mounts;
mod note;
mod onlooker;
mod plan;
mod prepare;
mod protocol;
mod request;
mod runtime;
mod sandbox;
mod seccomp;
mod serve;
mod server;
mod setup;
mod sockets;
mod sys;
mod terminal;

pub use error::SessionError;
pub use note::{Call, Note, NoteError, Noted};
pub use request::{
    BadSessionName, Facts, Limit, RunOutcome, RunRequest, SessionInfo, SessionName, TerminalInfo,
};
pub use setup::raise_open_files;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The hidden subcommand with which the binary re-executes itself as a session
/// server. A front end calls [`server_main`] when its first argument is this.
pub const SERVER_COMMAND: &str = "__server";

/// Runs a command inside a session and waits for it: finds the session's
/// server or starts it, joins its namespaces, confines itself and executes.
///
/// `started` is called once, after the session has been joined and before the
/// command runs: the moment for the banner.
///
/// Call it from a process with one thread (it forks), whose standard
/// descriptors are to be the command's.
///
/// # Errors
/// Everything that prevents the command from being tried; see [`SessionError`].
/// A command that cannot be found or executed is an outcome (127, 126).
pub fn run(req: &RunRequest, started: impl FnOnce(&Facts)) -> Result<RunOutcome, SessionError> {
    client::run(req, started)
}

/// The main function of a session server ([`SERVER_COMMAND`]). It takes no
/// arguments: everything comes over descriptor 3, from [`run`].
#[must_use]
pub fn server_main() -> ExitCode {
    server::main()
}

/// The live sessions of this user, by start time.
///
/// # Errors
/// Only when the runtime directory cannot be read; servers that do not answer
/// are left out.
pub fn list_sessions() -> Result<Vec<SessionInfo>, SessionError> {
    Ok(client::list())
}

/// The live session on this database file, if there is one.
///
/// # Errors
/// As [`list_sessions`].
pub fn find_session(db: &Path) -> Result<Option<SessionInfo>, SessionError> {
    Ok(client::find(db))
}

/// Has the live session on this database commit what programs have done so far,
/// for whoever is about to read the database. `false` when none is live.
///
/// What the kernel still holds of a file that is open for writing is not part of
/// it. When another program holds the database it may return before all is
/// committed.
///
/// # Errors
/// When the session's server does not answer, or is of another version.
pub fn flush(db: &Path) -> Result<bool, SessionError> {
    client::flush(db)
}

/// Has the live session on this database write a [`Note`], and returns when it is on
/// stable storage. `None`, with nothing written, when no session is live that could: it is
/// for the caller to write it then.
///
/// # Errors
/// [`SessionError::NoteRefused`] with the sentence of whoever refused it, and when the
/// session's server does not answer: then it may or may not have been written.
pub fn note(db: &Path, note: &Note) -> Result<Option<Noted>, SessionError> {
    client::note(db, note)
}

/// Ends a session: SIGTERM to everything inside, SIGKILL after `grace`; returns
/// when everything is committed and the server is gone.
///
/// # Errors
/// [`SessionError::NoSession`] when none is live on this database.
pub fn stop(db: &Path, grace: Duration) -> Result<(), SessionError> {
    client::stop(db, grace)
}
