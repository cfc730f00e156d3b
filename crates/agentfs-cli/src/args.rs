//! The command line: what can be said, and its help.
//!
//! Declarations only. Nothing here looks at the file system or knows what a
//! command does; names and times are checked where they are used, so that a
//! refusal is a sentence of ours.

use std::ffi::OsString;
use std::path::PathBuf;

use agentfs_core::audit::Status;
use clap::{Args, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "Run programs on a copy-on-write view of a directory, kept in one SQLite file";

const AFTER_HELP: &str = "\
NAME is letters, digits, '-', '_' and '.', and is looked for in .agentfs of the \
current directory, then of its parents. What ends in .db is the path of a database \
file itself.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage. 'agentfs run' exits as \
CMD does: its own code, 128+n when signal n ended it, 126 when it cannot be \
executed, 127 when it is not found, and 125 when agentfs itself failed.

A session is one file: 'rm .agentfs/NAME.db' throws it away, 'cp' copies it when \
nobody is in it, 'agentfs export' at any time.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "agentfs", version, about = ABOUT, after_help = AFTER_HELP)]
#[command(max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a program in a session, or join one that is running
    Run(RunArgs),
    /// Show what a session changed
    Diff(DiffArgs),
    /// List directories and print files of a session
    Fs(FsArgs),
    /// Show the sessions that are running
    Ps(PsArgs),
    /// Create a session without running anything
    Init(InitArgs),
    /// Mount the view of a session on a directory
    Mount(MountArgs),
    /// Unmount what 'agentfs mount' mounted
    #[command(alias = "unmount")]
    Umount(UmountArgs),
    /// Check a session's database for inconsistencies
    Check(CheckArgs),
    /// Copy a session's database, running or not, to a file
    Export(ExportArgs),
    /// Read and write the key-value store of a session
    Kv(KvArgs),
    /// Record calls of tools in the audit log of a session
    Tool(ToolArgs),
    /// Show the audit log of a session, newest first
    Timeline(TimelineArgs),
    /// End a running session and every process in it
    Stop(StopArgs),
    /// Serve a session (started by 'agentfs run')
    #[command(name = "__server", hide = true)]
    Server(ServerArgs),
}

/// `agentfs run`
#[derive(Debug, Args)]
#[command(after_help = "\
Without CMD, $SHELL is run, else bash. Without --session, a new session with a \
fresh name is started.

Exit codes: CMD's own; 128+n when signal n ended it; 126 when it cannot be \
executed; 127 when it is not found; 125 when agentfs itself failed; 2 for wrong \
usage.")]
pub(crate) struct RunArgs {
    /// The session to start, resume or join
    #[arg(short, long, value_name = "NAME")]
    pub(crate) session: Option<OsString>,
    /// The directory to show [default: the one that holds .agentfs]
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Let the session write to PATH for real; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(crate) allow: Vec<PathBuf>,
    /// Make nothing outside the view writable but what --allow names
    #[arg(long)]
    pub(crate) no_default_allows: bool,
    /// Print no banner
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// The program to run and its arguments
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) command: Vec<OsString>,
}

/// `agentfs diff`
#[derive(Debug, Args)]
#[command(after_help = "\
One line per object, sorted by path: A (added), M (modified), D (deleted) or \
R (renamed or moved; the path is the new one), the kind before a path: f file, \
d directory, l symbolic link, ? other. Contents, permissions, owners and extended \
attributes count; times do not. A path with control characters or bytes that are \
not UTF-8 is quoted as C does.

Exit codes: 0 whether or not there are changes, 1 when it failed.")]
pub(crate) struct DiffArgs {
    /// The session
    pub(crate) name: OsString,
    /// Print a JSON array of objects: change, kind, path and what else there is to say
    #[arg(long)]
    pub(crate) json: bool,
}

/// `agentfs fs`
#[derive(Debug, Args)]
#[command(
    override_usage = "agentfs fs ls [-R] [--json] NAME [PATH]\n       agentfs fs cat NAME PATH\n       \
                      agentfs fs NAME ls|cat [PATH]",
    after_help = "\
ls prints one line per entry: its kind (f file, d directory, l symbolic link, \
? other) and its name. The base shows through where it is there."
)]
pub(crate) struct FsArgs {
    /// ls or cat (or the session: the two may be swapped)
    #[arg(value_name = "ls|cat")]
    pub(crate) first: OsString,
    /// The session
    #[arg(value_name = "NAME")]
    pub(crate) second: OsString,
    /// The path in the session [default for ls: /]
    pub(crate) path: Option<OsString>,
    /// List directories beneath too, with their paths
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Print a JSON array (ls)
    #[arg(long)]
    pub(crate) json: bool,
}

/// `agentfs ps`
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// `agentfs init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The session [default: a fresh name, printed]
    pub(crate) name: Option<OsString>,
    /// The directory to show [default: the one that holds .agentfs]
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Replace a session of that name, whose changes are lost
    #[arg(long)]
    pub(crate) force: bool,
}

/// `agentfs mount`
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The session
    pub(crate) name: OsString,
    /// The directory to mount on
    pub(crate) dir: PathBuf,
    /// Stay in the foreground until unmounted
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Let other users in
    #[arg(long)]
    pub(crate) allow_other: bool,
}

/// `agentfs umount`
#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// The directory it is mounted on
    pub(crate) dir: PathBuf,
}

/// `agentfs check`
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 consistent, 1 violations found or the check failed.")]
pub(crate) struct CheckArgs {
    /// The session
    pub(crate) name: OsString,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `agentfs export`
#[derive(Debug, Args)]
#[command(after_help = "\
The copy is one consistent moment of the session, on stable storage when the \
command returns; nobody has to leave for it. What programs have written to files \
that are still open may be missing. A copy at .agentfs/OTHER.db is a session OTHER \
of the same directory; a copy elsewhere is told its directory once, with \
'agentfs run --session FILE --base DIR'.

Exit codes: 0 copied, 1 refused or failed (FILE is as it was).")]
pub(crate) struct ExportArgs {
    /// The session
    pub(crate) name: OsString,
    /// Where the copy goes
    pub(crate) file: PathBuf,
    /// Replace FILE, whatever it is
    #[arg(long)]
    pub(crate) force: bool,
}

/// `agentfs kv`
#[derive(Debug, Args)]
pub(crate) struct KvArgs {
    #[command(subcommand)]
    pub(crate) command: KvCommand,
}

/// What to do with the key-value store.
#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Print the JSON value of a key; exit code 1 when there is none
    Get {
        /// The session
        name: OsString,
        /// The key
        key: String,
    },
    /// Set a key to a JSON value
    Set {
        /// The session
        name: OsString,
        /// The key
        key: String,
        /// The value, as JSON; '-' reads it from standard input
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Remove a key; exit code 1 when there is none
    #[command(alias = "rm")]
    Delete {
        /// The session
        name: OsString,
        /// The key
        key: String,
    },
    /// List keys and values
    #[command(alias = "ls")]
    List {
        /// The session
        name: OsString,
        /// Only keys that start with this
        prefix: Option<String>,
        /// Print a JSON array with the times too
        #[arg(long)]
        json: bool,
    },
}

/// `agentfs tool`
#[derive(Debug, Args)]
pub(crate) struct ToolArgs {
    #[command(subcommand)]
    pub(crate) command: ToolCommand,
}

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum ToolCommand {
    /// Record one call and print its id
    Record(RecordArgs),
}

/// `agentfs tool record`
#[derive(Debug, Args)]
#[command(after_help = "\
A call with --error failed; one with --result or --completed succeeded; else it is \
pending. T is Unix seconds or a date like 2026-01-31T12:00:00Z.")]
pub(crate) struct RecordArgs {
    /// The session
    pub(crate) name: OsString,
    /// The tool
    pub(crate) tool: String,
    /// Its parameters
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    pub(crate) params: Option<String>,
    /// Its result
    #[arg(
        long,
        value_name = "JSON",
        allow_hyphen_values = true,
        conflicts_with = "error"
    )]
    pub(crate) result: Option<String>,
    /// Why it failed
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) error: Option<String>,
    /// When it started [default: when it completed, else now]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub(crate) started: Option<String>,
    /// When it completed [default: now]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub(crate) completed: Option<String>,
}

/// `agentfs timeline`
#[derive(Debug, Args)]
pub(crate) struct TimelineArgs {
    /// The session
    pub(crate) name: OsString,
    /// Show at most N calls
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: u64,
    /// Show only this tool
    #[arg(long, value_name = "TOOL")]
    pub(crate) filter: Option<String>,
    /// Show only calls that ended so
    #[arg(long, value_enum)]
    pub(crate) status: Option<StatusArg>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// A status of a tool call.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StatusArg {
    Pending,
    Success,
    Error,
}

impl From<StatusArg> for Status {
    fn from(arg: StatusArg) -> Self {
        match arg {
            StatusArg::Pending => Self::Pending,
            StatusArg::Success => Self::Success,
            StatusArg::Error => Self::Error,
        }
    }
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// A JSON array
    Json,
}

/// `agentfs stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The session
    pub(crate) name: OsString,
}

/// `agentfs __server`: what the session crate passes to itself.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declarations_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_program_are_its_own() {
        let cli = Cli::try_parse_from(["agentfs", "run", "-q", "ls", "-s", "--base"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert!(run.quiet && run.session.is_none());
        assert_eq!(run.command, ["ls", "-s", "--base"]);
        let cli = Cli::try_parse_from(["agentfs", "run", "--", "--odd"]).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.command, ["--odd"]);
    }
}
