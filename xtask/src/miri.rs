//! `cargo xtask miri`: the tests of `agentfs-core` under Miri, which sees undefined
//! behaviour in it and in the libraries it stands on.
//!
//! Miri is part of nightly Rust alone, which this repository is not built with: where it
//! is missing, the command says how to get it. Must never install a toolchain by itself.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;
use clap::Args;

/// Arguments of `cargo xtask miri`.
#[derive(Args)]
pub(crate) struct MiriArgs {
    /// Only the tests whose name contains this
    filter: Option<String>,
    /// Fail nothing where Miri is not installed, and say so
    #[arg(long)]
    if_there: bool,
}

/// Runs them.
///
/// # Errors
/// When a test fails, or Miri is not there.
#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(crate) fn run(root: &Path, args: &MiriArgs) -> anyhow::Result<()> {
    if !is_there(root) {
        let how =
            "Miri is not installed: rustup toolchain install nightly --component miri,rust-src";
        if !args.if_there {
            bail!("{how}");
        }
        println!("not run: {how}");
        return Ok(());
    }
    let mut test = miri(root);
    test.args(["test", "--package", "agentfs-core", "--lib", "--"]);
    test.args(&args.filter);
    // Tests of times compare with the clock, tracing reads its environment.
    test.env("MIRIFLAGS", "-Zmiri-disable-isolation");
    test.env("CARGO_TARGET_DIR", root.join("target/miri"));
    match test.status()?.success() {
        true => Ok(()),
        false => bail!("Miri found something, or a test failed"),
    }
}

fn is_there(root: &Path) -> bool {
    let mut version = miri(root);
    version.arg("--version");
    version.stdout(Stdio::null()).stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// rustup's `cargo +nightly miri`, asked for so that the version which runs this command
/// does not count.
fn miri(root: &Path) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "miri"]);
    command.current_dir(root);
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
}
