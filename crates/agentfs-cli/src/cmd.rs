//! The commands, one module each. A command returns its exit code.

mod check;
mod diff;
mod export;
mod fs;
mod init;
mod kv;
mod mount;
mod ps;
mod run;
mod stop;
mod timeline;
pub(crate) mod tool;

use anyhow::Result;

use crate::args::Command;

/// Does what the command line asks.
pub(crate) fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Diff(args) => diff::diff(&args),
        Command::Fs(args) => fs::fs(&args),
        Command::Ps(args) => ps::ps(&args),
        Command::Init(args) => init::init(&args),
        Command::Mount(args) => mount::mount(&args),
        Command::Umount(args) => mount::umount(&args),
        Command::Check(args) => check::check(&args),
        Command::Export(args) => export::export(&args),
        Command::Kv(args) => kv::kv(&args),
        Command::Tool(args) => tool::tool(&args),
        Command::Timeline(args) => timeline::timeline(&args),
        Command::Stop(args) => stop::stop(&args),
        // Taken before the command line is read.
        Command::Server(_) => anyhow::bail!("this command is for agentfs itself"),
    }
}
