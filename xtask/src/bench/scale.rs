//! `cargo xtask bench scale`: whether the time per operation stays the same when
//! there is a hundred times as much, and what the server's memory comes to.
//!
//! Figures are in the unit their name ends with. Must never hide that a step
//! failed: the column ends there and says why.

mod steps;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::host::{self, Usage};
use super::inputs::{self, Inputs, Scale};
use super::rounds::said_by;
use super::target::{self, END_LIMIT, Stage, Target};
use super::view::View;
use super::worker::Answer;
use super::{CommonArgs, report, stats};

pub(super) use steps::work;
pub(crate) use steps::{create, probe};

const STEP_LIMIT: Duration = Duration::from_secs(900);
const REST: Duration = Duration::from_secs(10);
/// A large `-wal` is folded five seconds after the last write, and that is work.
const BEFORE_REST: Duration = Duration::from_secs(9);
const TERMINALS: usize = 8;
/// What the bare server's figures do not say by themselves.
const TERMINALS_NOTE: &str = "terminals: in the column *requests alone* the server keeps all in memory, and it and all \
     terminals are on one processor, so that no interrupt is sent";
/// What the cold figures do not say by themselves.
const COLD_NOTE: &str = "\nCold: the kernel's caches were dropped, the server's memory was not. It holds the contents \
     of the 10,000 files but not of all 1,000,000, so that *read cold* compares memory with the \
     disk; the disk's own column compares the disk with the disk.\n";

#[derive(Args)]
pub(super) struct ScaleArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Files of one session, at most; default 1,000,000 (20,000 with `--quick`).
    #[arg(long)]
    files: Option<usize>,
    /// Entries of one directory; default 100,000 (10,000 with `--quick`).
    #[arg(long)]
    entries: Option<usize>,
    /// Size of the sparse file.
    #[arg(long, default_value_t = 10)]
    gib: usize,
    /// Only targets whose name contains one of these.
    #[arg(long, value_name = "TEXT", value_delimiter = ',')]
    targets: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    date: String,
    machine: String,
    targets: Vec<Column>,
}

#[derive(Default, Serialize)]
struct Column {
    name: String,
    figures: Vec<(String, f64)>,
    failure: Option<String>,
}

impl Column {
    fn put(&mut self, name: String, value: f64) {
        self.figures.push((name, value));
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| *value)
    }
}

#[allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool speaks on its terminal
pub(super) fn run(root: &Path, args: &ScaleArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let _held = common.prepare()?;
    std::fs::create_dir_all(&common.work)?;
    let worker = target::install_worker(&common.work)?;
    let inputs = inputs::prepare(&common.work, &Scale::QUICK, true)?;
    let with_bare = host::is_root() && host::has_program("taskset");
    let (mut targets, mut notes) = target::all(root, common, &[], with_bare)?;
    targets.retain(|target| {
        let named = args.targets.iter().any(|text| target.name.contains(text));
        let by_default = target.is_disk() || target.is_bare() || target.is_ours();
        named || args.targets.is_empty() && by_default
    });
    if targets.iter().any(Target::is_bare) {
        notes.push(TERMINALS_NOTE.to_owned());
    }
    let mut report = Report {
        date: said_by("date", &["-u", "+%F"]),
        machine: host::machine(),
        targets: Vec::new(),
    };
    for target in &targets {
        eprintln!("{}", target.name);
        let mut column = Column {
            name: target.name.clone(),
            ..Column::default()
        };
        let outcome = measure(target, args, &worker, &inputs, &mut column);
        column.failure = outcome.err().map(|error| format!("{error:#}"));
        report.targets.push(column);
    }
    std::fs::remove_file(&worker)?;

    let (json, mut table) = (serde_json::to_string_pretty(&report)?, table(&report));
    for note in notes {
        table.push_str(&format!("- {note}\n"));
    }
    println!("{}", if common.json { &json } else { &table });
    let out = common.out_dir(root);
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("scale.json"), json + "\n")?;
    std::fs::write(out.join("scale.md"), table)?;
    Ok(())
}

fn measure(
    target: &Target,
    args: &ScaleArgs,
    worker: &Path,
    inputs: &Inputs,
    column: &mut Column,
) -> anyhow::Result<()> {
    let stage = target.set_up(&args.common.work, inputs)?;
    let room = Room {
        stage: &stage,
        worker,
    };
    let outcome = match target.is_bare() {
        true => room.terminals_alone(args, column),
        false => room.all(args, column),
    };
    stage.wait_for_end()?;
    outcome.and(stage.tear_down())
}

struct Room<'a> {
    stage: &'a Stage,
    worker: &'a Path,
}

impl Room<'_> {
    fn all(&self, args: &ScaleArgs, column: &mut Column) -> anyhow::Result<()> {
        let quick = args.common.quick;
        let mut view = self.open(0)?;
        let most = args.entries.unwrap_or(if quick { 10_000 } else { 100_000 });
        for entries in steps::sizes(most) {
            ask(&mut view, &format!("scale directory {entries}"), column)?;
        }
        ask(&mut view, &format!("scale sparse {}", args.gib), column)?;
        let most = args.files.unwrap_or(if quick { 20_000 } else { 1_000_000 });
        // What was written so far is not paid for by what follows.
        host::sync()?;
        let mut there = 0;
        for files in steps::sizes(most) {
            let before = self.usage();
            ask(&mut view, &format!("scale create {there} {files}"), column)?;
            if let (Some(before), Some(after)) = (before, self.usage()) {
                let cpu_us = after.cpu_ms.saturating_sub(before.cpu_ms) as f64 * 1e3;
                let name = format!("{files} files: create one more, server's processor time, us");
                column.put(name, cpu_us / (files - there).max(1) as f64);
            }
            ask(&mut view, &format!("scale probe {files} warm"), column)?;
            host::sync()?;
            if host::is_root() {
                host::drop_caches()?;
                ask(&mut view, &format!("scale probe {files} cold"), column)?;
            }
            self.memory(files, column);
            there = files;
        }
        self.rest(column);
        self.terminals(&mut view, quick, column)?;
        view.close(END_LIMIT).map(drop)
    }

    /// What terminals cost where the server has nothing to do.
    fn terminals_alone(&self, args: &ScaleArgs, column: &mut Column) -> anyhow::Result<()> {
        let mut view = self.open(0)?;
        self.terminals(&mut view, args.common.quick, column)?;
        view.close(END_LIMIT).map(drop)
    }

    fn open(&self, number: usize) -> anyhow::Result<View> {
        let log = self.stage.log().with_extension(format!("{number}.log"));
        View::open(self.stage.worker(self.worker), &log)
    }

    fn usage(&self) -> Option<Usage> {
        self.stage.program.as_deref().map(Usage::of)
    }

    fn memory(&self, files: usize, column: &mut Column) {
        if let Some(usage) = self.usage() {
            let mib = |kib: u64| report::mib(kib * 1024);
            column.put(
                format!("{files} files: server memory, MiB"),
                mib(usage.resident_kib),
            );
            column.put(
                format!("{files} files: its peak, MiB"),
                mib(usage.peak_resident_kib),
            );
        }
    }

    /// A server at rest uses no processor.
    fn rest(&self, column: &mut Column) {
        std::thread::sleep(BEFORE_REST);
        let before = self.usage();
        std::thread::sleep(REST);
        if let (Some(before), Some(after)) = (before, self.usage()) {
            let used = after.cpu_ms.saturating_sub(before.cpu_ms);
            column.put(
                format!("processor time in {} s at rest, ms", REST.as_secs()),
                used as f64,
            );
        }
    }

    /// What one terminal does, and what eight do together.
    fn terminals(&self, first: &mut View, quick: bool, column: &mut Column) -> anyhow::Result<()> {
        let seconds = if quick { 1 } else { 5 };
        let alone = operations(first, 0, seconds)?;
        column.put("one terminal, operations/s".to_owned(), alone);
        let mut views: Vec<_> = (1..TERMINALS)
            .map(|number| self.open(number))
            .collect::<Result<_, _>>()?;
        for view in &mut views {
            view.ask("nothing", END_LIMIT)?;
        }
        let together: anyhow::Result<f64> = std::thread::scope(|scope| {
            let others: Vec<_> = views
                .iter_mut()
                .enumerate()
                .map(|(number, view)| scope.spawn(move || operations(view, number + 1, seconds)))
                .collect();
            let mut total = operations(first, 0, seconds)?;
            for other in others {
                total += other
                    .join()
                    .map_err(|_| anyhow::anyhow!("a terminal panicked"))??;
            }
            Ok(total)
        });
        column.put(format!("{TERMINALS} terminals, operations/s"), together?);
        views
            .into_iter()
            .try_for_each(|view| view.close(END_LIMIT).map(drop))
    }
}

fn figures(view: &mut View, request: &str) -> anyhow::Result<Vec<(String, f64)>> {
    match view.ask(request, STEP_LIMIT)? {
        Answer::Figures(figures) => Ok(figures),
        Answer::Failed(why) => bail!("{request}: {why}"),
        _ => bail!("{request}: no figures"),
    }
}

fn ask(view: &mut View, request: &str, column: &mut Column) -> anyhow::Result<()> {
    column.figures.extend(figures(view, request)?);
    Ok(())
}

fn operations(view: &mut View, number: usize, seconds: u64) -> anyhow::Result<f64> {
    let figures = figures(view, &format!("scale mixed {number} {seconds}"))?;
    figures
        .first()
        .map(|(_, value)| *value)
        .context("no figure")
}

fn table(report: &Report) -> String {
    let mut head = vec![String::new()];
    let longest = report
        .targets
        .iter()
        .max_by_key(|column| column.figures.len());
    for column in &report.targets {
        head.push(column.name.clone());
    }
    let mut rows = vec![head];
    for (name, _) in longest.into_iter().flat_map(|column| &column.figures) {
        let mut row = vec![name.clone()];
        for column in &report.targets {
            let value = column.get(name);
            row.push(value.map_or(String::new(), |value| {
                if value < 100.0 {
                    format!("{value:.1}")
                } else {
                    format!("{value:.0}")
                }
            }));
        }
        rows.push(row);
    }
    let mut text = report::aligned(&rows);
    text.push_str(&format!("\n{}; {}\n", report.date, report.machine));
    for column in &report.targets {
        if let Some(failure) = &column.failure {
            text.push_str(&format!("- {}: **failed**: {failure}\n", column.name));
        }
    }
    text.push('\n');
    text.push_str(&report::aligned(&growth_table(report)));
    text.push_str(COLD_NOTE);
    text
}

/// How each time grows, the disk's own beside it.
fn growth_table(report: &Report) -> Vec<Vec<String>> {
    let columns: Vec<_> = report.targets.iter().map(growth_of_times).collect();
    let mut head = vec!["from the smallest size to the largest".to_owned()];
    head.extend(report.targets.iter().map(|column| column.name.clone()));
    let mut rows = vec![head];
    let longest = columns.iter().max_by_key(|growths| growths.len());
    for (what, _) in longest.into_iter().flatten() {
        let mut row = vec![what.clone()];
        row.extend(columns.iter().map(|growths| {
            let growth = growths.iter().find(|(other, _)| other == what);
            growth.map_or(String::new(), |(_, factor)| format!("{factor:.2} x"))
        }));
        rows.push(row);
    }
    rows
}

/// For each figure in us that was taken at several sizes: the last against the
/// first. Its name is `SIZE THINGS: WHAT, us`.
fn growth_of_times(column: &Column) -> Vec<(String, f64)> {
    let mut seen: Vec<(String, f64, f64)> = Vec::new();
    for (name, value) in &column.figures {
        let Some((_, what)) = name.split_once(' ').filter(|_| name.ends_with(", us")) else {
            continue;
        };
        match seen.iter_mut().find(|(other, ..)| other == what) {
            Some((_, _, last)) => *last = *value,
            None => seen.push((what.to_owned(), *value, *value)),
        }
    }
    seen.into_iter()
        .filter_map(|(what, first, last)| Some((what, stats::ratio(Some(last), Some(first))?)))
        .collect()
}

/// Not part of the public table: paths that a step uses.
fn many(view: &Path, number: usize) -> PathBuf {
    view.join(format!("many/{}/{number}", number / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_compares_the_last_size_with_the_first() {
        let mut column = Column::default();
        column.put("10 files: stat, us".to_owned(), 2.0);
        column.put("10 files: memory, MiB".to_owned(), 2.0);
        column.put("100 files: stat, us".to_owned(), 2.5);
        column.put("1000 files: stat, us".to_owned(), 3.0);
        let growth = growth_of_times(&column);
        assert_eq!(growth, [("files: stat, us".to_owned(), 1.5)]);
    }

    #[test]
    fn growth_stands_beside_the_disks_own() {
        let column = |name: &str, times: &[f64]| {
            let mut column = Column {
                name: name.to_owned(),
                ..Column::default()
            };
            for (size, time) in [10, 100].into_iter().zip(times) {
                column.put(format!("{size} files: stat, us"), *time);
            }
            column
        };
        let report = Report {
            date: String::new(),
            machine: String::new(),
            targets: vec![
                column("ext4", &[2.0, 9.0]),
                column("ours", &[4.0, 5.0]),
                column("failed", &[]),
            ],
        };
        let rows = growth_table(&report);
        assert_eq!(rows[0][1..], ["ext4", "ours", "failed"]);
        assert_eq!(rows[1], ["files: stat, us", "4.50 x", "1.25 x", ""]);
    }

    #[test]
    fn a_column_that_failed_says_so() {
        let column = Column {
            name: "ours".to_owned(),
            failure: Some("no space".to_owned()),
            ..Column::default()
        };
        let report = Report {
            date: String::new(),
            machine: String::new(),
            targets: vec![column],
        };
        assert!(table(&report).contains("ours: **failed**: no space"));
    }
}
