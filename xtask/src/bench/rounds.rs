//! The table: all phases on all targets, several rounds, targets alternating.
//!
//! Must never let one target's dirty pages be written back in another's time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::host::{self, Usage};
use super::inputs::{self, Inputs, Scale};
use super::phase::{self, Phase};
use super::report::{Database, Growth, Report, TargetResult};
use super::requests::{self, Requests};
use super::target::{self, Stage, Target};
use super::view::View;
use super::worker::Answer;
use super::{CommonArgs, chart};

/// A phase that takes longer has failed.
const PHASE_LIMIT: Duration = Duration::from_secs(180);
/// Times that a view is opened again after it was lost, per round.
const REOPEN_LIMIT: u32 = 3;
/// Rest before each phase, so that what the last one left to do in the
/// background is done.
const SETTLE: Duration = Duration::from_millis(150);

#[derive(Args)]
pub(super) struct TableArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Times each phase is run on each target; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these phases, and untimed what they need.
    #[arg(long, value_name = "PHASE", value_delimiter = ',')]
    phases: Vec<String>,
    /// Another program with the command line `run --session NAME -- COMMAND`.
    #[arg(long = "rival", value_name = "BINARY")]
    rivals: Vec<PathBuf>,
    /// Count the FUSE requests of each phase too (root only; costs a little time).
    #[arg(long)]
    requests: bool,
    /// Only targets whose name contains one of these; the plain disk and what
    /// `--rival` names always.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    targets: Vec<String>,
    /// What requests cost alone: the disk, a session, and a FUSE server that only keeps
    /// names and bytes in memory, in phases that need no base (root only).
    #[arg(long)]
    floor: bool,
}

impl TableArgs {
    fn phases(&self) -> Vec<String> {
        match self.floor && self.phases.is_empty() {
            true => FLOOR_PHASES.map(str::to_owned).to_vec(),
            false => self.phases.clone(),
        }
    }
}

/// Those that find nothing there when they begin.
const FLOOR_PHASES: [&str; 10] = [
    "untar",
    "cp-r",
    "rm-rf",
    "write-large",
    "read-large-cold",
    "read-large-hot",
    "appends",
    "create",
    "stat",
    "unlink",
];

#[allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool speaks on its terminal
pub(super) fn run(root: &Path, args: &TableArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let _held = common.prepare()?;
    let phases = args.phases();
    let plan = phase::plan(&phases)?;
    if args.requests {
        requests::prepare()?;
    }
    std::fs::create_dir_all(&common.work)?;
    let worker = target::install_worker(&common.work)?;
    let (mut targets, notes) = target::all(root, common, &args.rivals, args.floor)?;
    let wanted = |target: &Target| match args.targets.is_empty() {
        true => !args.floor || target.is_ours() || target.is_bare(),
        false => args.targets.iter().any(|text| target.name.contains(text)),
    };
    targets.retain(|target| target.is_disk() || target.is_rival() || wanted(target));
    let scale = if common.quick {
        Scale::QUICK
    } else {
        Scale::FULL
    };
    eprintln!("making inputs in {}", common.work.display());
    let inputs = inputs::prepare(&common.work, &scale, common.quick)?;
    let bench = Bench {
        work: &common.work,
        worker: &worker,
        inputs: &inputs,
        plan: &plan,
        counts_requests: args.requests,
    };

    let mut results: Vec<_> = targets
        .iter()
        .map(|target| bench.empty_result(target))
        .collect();
    for round in 0..args.rounds.max(1) {
        for turn in 0..targets.len() {
            let place = (round + turn) % targets.len();
            eprintln!("round {}: {}", round + 1, targets[place].name);
            bench.round(&targets[place], &mut results[place]);
        }
    }
    if phases.is_empty() {
        for (target, result) in targets
            .iter()
            .zip(&mut results)
            .filter(|(t, _)| t.is_ours())
        {
            result.growth = bench.growth(target);
        }
    }
    std::fs::remove_file(&worker)?;

    let mut report = Report {
        date: said_by("date", &["-u", "+%F"]),
        revision: said_by(
            "git",
            &[
                "-C",
                &root.to_string_lossy(),
                "describe",
                "--always",
                "--dirty",
            ],
        ),
        machine: host::machine(),
        rounds: args.rounds.max(1),
        quick: common.quick,
        inputs: inputs.manifest.clone(),
        notes,
        targets: results,
    };
    report.finish();
    let (json, table) = (serde_json::to_string_pretty(&report)?, report.table());
    println!("{}", if common.json { &json } else { &table });
    let out = common.out_dir(root);
    std::fs::create_dir_all(&out)?;
    let stem = if args.floor { "floor" } else { "phases" };
    std::fs::write(out.join(stem).with_extension("json"), json + "\n")?;
    std::fs::write(out.join(stem).with_extension("md"), table)?;
    if !args.floor {
        std::fs::write(out.join("phases.svg"), chart::draw(&report))?;
    }
    eprintln!("written to {}", out.display());
    Ok(())
}

pub(super) fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = host::run(Command::new(program).args(arguments));
    output.map_or("unknown".to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

struct Bench<'a> {
    work: &'a Path,
    worker: &'a Path,
    inputs: &'a Inputs,
    plan: &'a [(&'static Phase, bool)],
    counts_requests: bool,
}

impl Bench<'_> {
    fn empty_result(&self, target: &Target) -> TargetResult {
        let mut result = TargetResult {
            name: target.name.clone(),
            is_ours: target.is_ours(),
            is_kernel_overlay: target.is_kernel_overlay(),
            ..TargetResult::default()
        };
        for (phase, _) in self.plan.iter().filter(|(_, asked)| *asked) {
            result.phase(phase.name);
        }
        result
    }

    /// All phases once on one target. What goes wrong is in the result.
    fn round(&self, target: &Target, result: &mut TargetResult) {
        let outcome = target.set_up(self.work, self.inputs).and_then(|stage| {
            let outcome = self.phases(&stage, result);
            // The first thing that went wrong is what counts.
            outcome.and(stage.tear_down())
        });
        if let Err(error) = outcome {
            for phase in &mut result.phases {
                if phase.failures.len() + phase.ms.len() == 0 {
                    phase.failures.push(format!("{error:#}"));
                }
            }
        }
    }

    fn phases(&self, stage: &Stage, result: &mut TargetResult) -> anyhow::Result<()> {
        host::sync()?; // what the last target left is not this one's to write
        let mut seat = Seat::new(stage, self.worker);
        let requests = if self.counts_requests {
            Some(Requests::count(device(&mut seat)?)?)
        } else {
            None
        };
        for (phase, asked) in self.plan {
            let before = stage.usage();
            let outcome = ready(phase).and_then(|()| {
                if let Some(requests) = &requests {
                    requests.take()?;
                }
                seat.ask(phase.name)
            });
            let after = stage.usage();
            let cell = result.phase(phase.name);
            match outcome {
                Ok(Answer::Ms(ms)) => cell.ms.push(ms),
                Ok(Answer::Failed(why)) => cell.failures.push(why),
                Ok(_) => cell.failures.push("no time in the answer".to_owned()),
                Err(error) => cell.failures.push(format!("{error:#}")),
            }
            if let Some(requests) = &requests {
                cell.requests = requests.take()?;
            }
            cell.server_cpu_ms
                .push(after.cpu_ms.saturating_sub(before.cpu_ms));
            if !asked {
                let failed = cell.failures.pop();
                result.phases.retain(|cell| cell.name != phase.name);
                if let Some(why) = failed {
                    result.phase(phase.name).failures.push(why);
                }
            }
        }
        result.server = stage.usage();
        let begin = Instant::now();
        seat.leave()?;
        stage.wait_for_end()?;
        result.leave_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        match stage.database().map(|path| measure(&path)) {
            Some(Ok(database)) => result.database = Some(database),
            Some(Err(error)) => result.database_failure = Some(format!("{error:#}")),
            None => {}
        }
        Ok(())
    }

    /// What reading, moving and one byte add to a database, each alone.
    fn growth(&self, target: &Target) -> Vec<Growth> {
        let sets: [(&str, &[&str]); 3] = [
            (
                "reading everything",
                &["walk-cold", "grep-first", "read-base-large"],
            ),
            ("mv of a base directory", &["mv-base-dir"]),
            ("one byte into a large base file", &["one-byte"]),
        ];
        let empty = self.size_after(target, &[]);
        sets.into_iter()
            .map(|(title, phases)| {
                let bytes = match (&empty, self.size_after(target, phases)) {
                    (Ok(empty), Ok(size)) => Ok(size - empty),
                    (Err(error), _) => Err(format!("{error:#}")),
                    (_, Err(error)) => Err(format!("{error:#}")),
                };
                Growth {
                    phases: title.to_owned(),
                    failure: bytes.as_ref().err().cloned(),
                    bytes: bytes.ok(),
                }
            })
            .collect()
    }

    fn size_after(&self, target: &Target, phases: &[&str]) -> anyhow::Result<i64> {
        let stage = target.set_up(self.work, self.inputs)?;
        let size = (|| {
            let mut seat = Seat::new(&stage, self.worker);
            seat.ask("nothing")?;
            for phase in phases {
                if let Answer::Failed(why) = seat.ask(phase)? {
                    anyhow::bail!("{phase}: {why}");
                }
            }
            seat.leave()?;
            stage.wait_for_end()?;
            let path = stage.database().context("no database was made")?;
            Ok(i64::try_from(measure(&path)?.file_bytes)?)
        })();
        stage.tear_down()?;
        size
    }
}

/// The minor number of the view's device, which tells its requests from others'.
fn device(seat: &mut Seat<'_>) -> anyhow::Result<u32> {
    match seat.ask("device")? {
        Answer::Device(minor) => Ok(minor),
        other => anyhow::bail!("no device in the answer: {other:?}"),
    }
}

/// Empties the caches where that is asked, and lets things come to rest.
///
/// Other phases follow one another as they do in a day's work, without a sync:
/// it would make ext4 pay for what it never has to do (removing what was made a
/// moment ago costs it 20 us a file, and 10 to 100 times that after a sync).
fn ready(phase: &Phase) -> anyhow::Result<()> {
    if phase.cold {
        host::sync()?;
        if host::is_root() {
            host::drop_caches()?;
        }
    }
    std::thread::sleep(SETTLE);
    Ok(())
}

/// A worker in a view, put back when the view is lost.
struct Seat<'a> {
    stage: &'a Stage,
    worker: &'a Path,
    view: Option<View>,
    opened: u32,
}

impl<'a> Seat<'a> {
    fn new(stage: &'a Stage, worker: &'a Path) -> Self {
        Self {
            stage,
            worker,
            view: None,
            opened: 0,
        }
    }

    fn ask(&mut self, request: &str) -> anyhow::Result<Answer> {
        let mut view = match self.view.take() {
            Some(view) => view,
            None if self.opened > REOPEN_LIMIT => anyhow::bail!("the view was lost too often"),
            None => {
                self.opened += 1;
                View::open(self.stage.worker(self.worker), &self.stage.log())?
            }
        };
        let answer = view.ask(request, PHASE_LIMIT);
        match answer {
            Ok(_) => self.view = Some(view),
            Err(_) => view.abandon(),
        }
        answer
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        match self.view.take() {
            Some(view) => view.close(target::END_LIMIT).map(drop),
            None => Ok(()),
        }
    }
}

impl Stage {
    fn usage(&self) -> Usage {
        self.program.as_deref().map_or(Usage::default(), Usage::of)
    }
}

/// Looks at a database that nobody uses.
fn measure(path: &Path) -> anyhow::Result<Database> {
    let mut file_bytes = 0;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        file_bytes += std::fs::metadata(name).map_or(0, |metadata| metadata.len());
    }
    let query = "SELECT (SELECT page_count FROM pragma_page_count) \
                 - (SELECT freelist_count FROM pragma_freelist_count), \
                 (SELECT page_size FROM pragma_page_size), \
                 (SELECT coalesce(sum(length(data)), 0) FROM fs_data)";
    let output = host::run(
        Command::new("sqlite3")
            .arg("-readonly")
            .arg(path)
            .arg(query),
    )?;
    let line = String::from_utf8_lossy(&output.stdout);
    let (pages, page_bytes, data_bytes) = parse_sizes(line.trim()).context("no sizes")?;
    Ok(Database {
        file_bytes,
        used_bytes: pages * page_bytes,
        data_bytes,
    })
}

fn parse_sizes(line: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = line.split('|').map(str::parse::<u64>);
    Some((
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
        numbers.next()?.ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_three_numbers() {
        assert_eq!(parse_sizes("12|4096|30000"), Some((12, 4096, 30_000)));
        assert_eq!(parse_sizes("12|4096"), None);
        assert_eq!(parse_sizes("12|x|1"), None);
    }
}
