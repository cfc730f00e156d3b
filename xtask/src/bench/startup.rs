//! `cargo xtask bench startup`: what `run --session NAME -- true` costs, from
//! nothing, of a session at rest and joining, beside bubblewrap and nothing at all.
//!
//! Whole processes are timed here, from outside. Must never time the waiting for
//! an earlier session's server to end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::inputs::{self, Scale};
use super::rounds::said_by;
use super::target::{self, END_LIMIT, Stage, Target};
use super::view::View;
use super::{CommonArgs, host, report, stats};

#[derive(Args)]
pub(super) struct StartupArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Times each is done; the median counts.
    #[arg(long, default_value_t = 30)]
    times: usize,
}

/// All that was measured.
#[derive(Serialize)]
struct Report {
    date: String,
    machine: String,
    times: usize,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    target: String,
    what: &'static str,
    median_ms: Option<f64>,
    slowest_ms: Option<f64>,
    failure: Option<String>,
    /// The bar.
    bar_ms: Option<f64>,
}

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(super) fn run(root: &Path, args: &StartupArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let _held = common.prepare()?;
    std::fs::create_dir_all(&common.work)?;
    let worker = target::install_worker(&common.work)?;
    let inputs = inputs::prepare(&common.work, &Scale::QUICK, true)?;
    let (targets, notes) = target::ours(root, common)?;
    let times = args.times.max(1);
    let mut rows = vec![
        row("the machine", "starting `true`", None, || {
            repeat(times, || time(Command::new("true")))
        }),
        row("bubblewrap", "starting", None, || {
            repeat(times, || time(bubblewrap()))
        }),
    ];
    for target in &targets {
        let stage = target.set_up(&common.work, &inputs)?;
        rows.extend(session_rows(target, &stage, &worker, times));
        stage.wait_for_end()?;
        stage.tear_down()?;
    }
    std::fs::remove_file(&worker)?;

    let report = Report {
        date: said_by("date", &["-u", "+%F"]),
        machine: host::machine(),
        times,
        rows,
    };
    let (json, mut table) = (serde_json::to_string_pretty(&report)?, table(&report));
    for note in notes {
        table.push_str(&format!("- {note}\n"));
    }
    println!("{}", if common.json { &json } else { &table });
    let out = common.out_dir(root);
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("startup.json"), json + "\n")?;
    std::fs::write(out.join("startup.md"), table)?;
    Ok(())
}

fn session_rows(target: &Target, stage: &Stage, worker: &Path, times: usize) -> Vec<Row> {
    let name = &target.name;
    let run = |session: &str| time(stage.command(session, Path::new("true")));
    // As many sessions as times: no later one finds anything of an earlier.
    let mut number = 0;
    let nothing = row(name, "from nothing", Some(30.0), || {
        repeat(times, || {
            number += 1;
            let time = run(&format!("fresh-{number}"))?;
            stage.wait_for_end()?;
            Ok(time)
        })
    });
    let at_rest = row(name, "a session at rest", Some(30.0), || {
        repeat(times, || {
            let time = run("fresh-1")?;
            stage.wait_for_end()?;
            Ok(time)
        })
    });
    let joining = row(name, "joining", Some(10.0), || {
        let mut view = View::open(stage.worker(worker), &stage.log())?;
        view.ask("nothing", END_LIMIT)
            .context("no session to join")?;
        let outcome = repeat(times, || run(target::SESSION));
        view.close(END_LIMIT)?;
        outcome
    });
    vec![nothing, at_rest, joining]
}

fn bubblewrap() -> Command {
    let mut command = Command::new("bwrap");
    command
        .args(["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"])
        .args([
            "--tmpfs",
            "/tmp",
            "--unshare-user",
            "--unshare-pid",
            "--unshare-ipc",
        ])
        .args(["--die-with-parent", "true"]);
    command
}

fn time(mut command: Command) -> anyhow::Result<f64> {
    let program = PathBuf::from(command.get_program());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let begin = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let output = child.wait_with_output()?;
    let elapsed = begin.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, host::last_lines(&said));
    }
    Ok(elapsed.as_secs_f64() * 1e3)
}

fn repeat(times: usize, mut once: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<Vec<f64>> {
    once()?; // warms the caches
    std::thread::sleep(Duration::from_millis(20));
    (0..times).map(|_| once()).collect()
}

fn row(
    target: &str,
    what: &'static str,
    bar_ms: Option<f64>,
    measure: impl FnOnce() -> anyhow::Result<Vec<f64>>,
) -> Row {
    let outcome = measure();
    let times = outcome.as_deref().unwrap_or_default();
    Row {
        target: target.to_owned(),
        what,
        median_ms: stats::median(times),
        slowest_ms: times.iter().copied().max_by(f64::total_cmp),
        failure: outcome.as_ref().err().map(|error| format!("{error:#}")),
        bar_ms,
    }
}

fn table(report: &Report) -> String {
    let head = ["", "", "median ms", "slowest ms", "bar"]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![head];
    for row in &report.rows {
        let ms = |value: Option<f64>| value.map_or(String::new(), |ms| format!("{ms:.1}"));
        let median = match (&row.failure, row.median_ms, row.bar_ms) {
            (Some(failure), ..) => format!("**failed**: {failure}"),
            (None, Some(median), Some(bar)) if median > bar => format!("{median:.1} !"),
            _ => ms(row.median_ms),
        };
        rows.push(vec![
            row.target.clone(),
            row.what.to_owned(),
            median,
            ms(row.slowest_ms),
            ms(row.bar_ms),
        ]);
    }
    let mut text = report::aligned(&rows);
    text.push_str(&format!(
        "\n{}; {}; {} times each. `!`: over the bar.\n",
        report.date, report.machine, report.times
    ));
    text
}
