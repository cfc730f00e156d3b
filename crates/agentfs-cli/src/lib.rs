//! The `agentfs` command line: reads it, does one command, says one sentence
//! when that fails.
//!
//! Results go to standard output, everything said to people to standard error.
//! What a command does is in `cmd`; nothing else here may print. A library only
//! so that what reads the command line can be tested without a process:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     agentfs_cli::main()
//! }
//! ```

mod args;
mod base;
mod cmd;
#[doc(hidden)]
pub mod fuzz;
mod locate;
mod output;
mod signals;
mod store;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

/// `agentfs run` itself failed; as with `env`, `nohup` and `timeout`.
const RUN_FAILED: u8 = 125;
/// What a shell shows for a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;

/// Reads the command line of this process, does what it says, and gives the code
/// to exit with.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else: the server is a process of its own.
    let mut words = std::env::args_os();
    if words
        .nth(1)
        .is_some_and(|word| word == agentfs_session::SERVER_COMMAND)
    {
        return agentfs_session::server_main();
    }
    let cli = Cli::parse();
    let failed = if matches!(cli.command, Command::Run(_)) {
        RUN_FAILED
    } else {
        1
    };
    match cmd::dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            output::complain(&error);
            ExitCode::from(failed)
        }
    }
}
