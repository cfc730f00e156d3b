//! The process that does the work of the phases inside a view: one for all
//! phases, so that starting is paid by none of them.
//!
//! Reads names of phases from stdin, a line each, and answers each with a line
//! of JSON. Must never write anything else to stdout, nor end on a failed phase.

use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::inputs::Inputs;
use super::work::Scene;
use super::{phase, scale};

/// Arguments of the hidden `cargo xtask bench-worker`.
#[derive(Args)]
pub(crate) struct WorkerArgs {
    /// The directory to work in.
    #[arg(long)]
    dir: PathBuf,
    /// What `bench` made.
    #[arg(long)]
    inputs: PathBuf,
    /// Phases to run; none: reads them from stdin.
    phases: Vec<String>,
}

/// What the worker says of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It took that long, in milliseconds.
    Ms(f64),
    /// It failed, and why.
    Failed(String),
    /// The minor number of the view's device.
    Device(u32),
    /// Figures of a scale measurement, by name.
    Figures(Vec<(String, f64)>),
}

/// Does phases until there are no more.
///
/// # Errors
/// When the inputs are not there or stdout is closed.
pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    let scene = Scene {
        view: args.dir.clone(),
        inputs: Inputs::open(&args.inputs)?,
    };
    if args.phases.is_empty() {
        for line in std::io::stdin().lock().lines() {
            answer(&scene, &line?)?;
        }
    }
    for name in &args.phases {
        answer(&scene, name)?;
    }
    Ok(())
}

fn device(scene: &Scene) -> anyhow::Result<u32> {
    let device = scene.view.metadata()?.dev();
    // As glibc's minor().
    Ok(u32::try_from(
        (device & 0xff) | ((device >> 12) & 0xf_ff00),
    )?)
}

fn answer(scene: &Scene, request: &str) -> anyhow::Result<()> {
    let answer = match scale::work(scene, request) {
        Some(outcome) => outcome.map(Answer::Figures),
        None if request == "device" => device(scene).map(Answer::Device),
        None => phase::find(request)
            .and_then(|phase| (phase.work)(scene))
            .map(|time| Answer::Ms(time.as_secs_f64() * 1e3)),
    };
    let answer = answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
    stdout.flush()?;
    Ok(())
}
