//! Why a session could not be started or joined: one variant per refusal, one
//! sentence each that says what is wrong and what to do.
//!
//! Errors cross from the server to the `run` that started it, so all of them
//! are plain data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A refusal of the session layer.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SessionError {
    /// `/dev/fuse` does not exist.
    #[error(
        "/dev/fuse does not exist: load the kernel module (modprobe fuse), or give the container the device (--device /dev/fuse)"
    )]
    FuseMissing,
    /// `/dev/fuse` may not be opened.
    #[error(
        "/dev/fuse may not be opened by this user: its mode should be 0666 (chmod 666 /dev/fuse as root, or the distribution's udev rule)"
    )]
    FuseNotPermitted,
    /// The FUSE mount was refused.
    #[error("the kernel refused the FUSE mount in a user namespace ({reason}); Linux 5.10 or newer is needed, see {}", .log.display())]
    FuseMount {
        /// What the kernel said.
        reason: String,
        /// The server's log.
        log: PathBuf,
    },
    /// `user.max_user_namespaces` is 0 (or used up).
    #[error(
        "user namespaces are used up or switched off (/proc/sys/user/max_user_namespaces is {max}): raise it with sysctl user.max_user_namespaces=15000 as root"
    )]
    NamespacesExhausted {
        /// The present value.
        max: u64,
    },
    /// Debian's switch.
    #[error(
        "user namespaces are switched off for ordinary users: sysctl kernel.unprivileged_userns_clone=1 as root switches them on"
    )]
    NamespacesDisabled,
    /// Ubuntu's restriction by `AppArmor`.
    #[error(
        "AppArmor keeps this program from using user namespaces: give agentfs an AppArmor profile with 'userns,', or sysctl kernel.apparmor_restrict_unprivileged_userns=0 as root"
    )]
    NamespacesAppArmor,
    /// Namespaces refused for another reason (a container's seccomp filter).
    #[error("the kernel refused new namespaces ({reason}); in a container, allow unshare and mount (for Docker: --security-opt seccomp=unconfined), see {}", .log.display())]
    NamespacesRefused {
        /// What the kernel said.
        reason: String,
        /// The server's log.
        log: PathBuf,
    },
    /// `run` inside a session.
    #[error("this is already inside session {session}: leave it before running another one")]
    AlreadyInside {
        /// Its name.
        session: String,
    },
    /// A base that cannot be covered.
    #[error("{} cannot be the base of a session: choose a project directory (--base DIR)", .base.display())]
    BaseUnsuitable {
        /// The directory.
        base: PathBuf,
    },
    /// The base is not there, or is no directory.
    #[error("the base directory {} cannot be opened ({reason}): restore it, or name another with --base DIR", .base.display())]
    BaseGone {
        /// The directory.
        base: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// An `--allow` path that does not exist.
    #[error("--allow {}: {reason}", .path.display())]
    AllowUnsuitable {
        /// The path.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// The database was refused by the storage layer.
    #[error("{reason}")]
    DatabaseRefused {
        /// The storage layer's sentence, which names the file.
        reason: String,
    },
    /// The database file cannot be opened or made.
    #[error("the session database {} cannot be opened ({reason}): check the directory and its permissions", .db.display())]
    DatabaseUnreachable {
        /// The file.
        db: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// Somebody else holds the database's lock.
    #[error("the session database {} is in use by another program (a session of another user, 'agentfs mount' or 'agentfs check'): wait for it or end it", .db.display())]
    DatabaseInUse {
        /// The file.
        db: PathBuf,
    },
    /// A limit of the user or the container.
    #[error(
        "a session needs {needed} open files, and this user may have {limit}: raise the limit (ulimit -Hn, LimitNOFILE= of a service, --ulimit nofile= of a container)"
    )]
    OpenFiles {
        /// The hard limit.
        limit: u64,
        /// What there must be.
        needed: u64,
    },
    /// The runtime directory is not safe to use.
    #[error("the runtime directory {} is not usable ({reason}): it must be a directory of yours with mode 0700; remove it", .path.display())]
    RuntimeDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The server ended before it was ready.
    #[error("the session server ended while starting ({reason}); its log is {}", .log.display())]
    ServerDied {
        /// What is known.
        reason: String,
        /// The server's log.
        log: PathBuf,
    },
    /// A key or a tool call was refused.
    #[error("{reason}")]
    NoteRefused {
        /// The sentence of the store or the log.
        reason: String,
    },
    /// The server does not speak this version.
    #[error(
        "the session is served by another version of agentfs (protocol {theirs}, this is {ours}): leave it in all terminals first"
    )]
    ProtocolMismatch {
        /// Theirs.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The live session covers another base.
    #[error("the session is live on {}, not on {}: leave it in all terminals first", .live.display(), .asked.display())]
    OtherBase {
        /// The base it covers.
        live: PathBuf,
        /// The base that was asked for.
        asked: PathBuf,
    },
    /// The conversation with the server failed.
    #[error("the session server does not answer as it should ({reason}); its log is {}", .log.display())]
    Server {
        /// What went wrong.
        reason: String,
        /// The server's log.
        log: PathBuf,
    },
    /// The namespaces could not be entered.
    #[error("the session could not be entered ({step}: {reason}); the server's log is {}", .log.display())]
    Enter {
        /// Which step.
        step: String,
        /// What the kernel said.
        reason: String,
        /// The server's log.
        log: PathBuf,
    },
    /// No live session on a database.
    #[error("no session is live on {}", .db.display())]
    NoSession {
        /// The file.
        db: PathBuf,
    },
    /// A plain failure of the operating system on this side.
    #[error("{step}: {reason}")]
    Os {
        /// What was tried.
        step: String,
        /// What the kernel said.
        reason: String,
    },
}
