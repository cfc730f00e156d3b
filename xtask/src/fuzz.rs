//! `cargo xtask fuzz`: libFuzzer on the targets of `fuzz/`, one after the other,
//! from the seeds that are kept and what earlier runs found.
//!
//! Works on stable Rust: coverage is a flag of the compiler's, the sanitizers,
//! which are not, are left out. Must never write into the source tree, but for the
//! seeds when `--keep` says so, or run without a limit on time and memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;

/// The version of cargo-fuzz.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";
/// Seeds kept of one target, and the longest of them.
const SEEDS_MAX: usize = 120;
const SEED_MAX_BYTES: u64 = 4096;

/// Arguments of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// The target; default: all of them
    target: Option<String>,
    /// For how long each is run
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Longest time for one input, in seconds
    #[arg(long, value_name = "N", default_value_t = 20)]
    timeout: u64,
    /// Most memory, in MiB
    #[arg(long, value_name = "N", default_value_t = 2048)]
    memory: u64,
    /// Afterwards, keep what reaches other code than the seeds do as seeds
    #[arg(long)]
    keep: bool,
}

/// What one run found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    executions: u64,
    /// Edges that were reached.
    coverage: u64,
    peak_mib: u64,
}

/// Runs the targets.
///
/// # Errors
/// When one cannot be built, or ends with a finding; it names the input.
#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(crate) fn run(root: &Path, args: &FuzzArgs) -> anyhow::Result<()> {
    let targets = targets(root, args.target.as_deref())?;
    let fuzz = install(root)?;
    println!("| target | seconds | executions | edges reached | peak memory |");
    println!("|---|--:|--:|--:|--:|");
    let mut failed = Vec::new();
    for target in &targets {
        let binary = build(root, &fuzz, target)?;
        let places = Places::make(root, target)?;
        let log = places.dir.join(format!("{target}.log"));
        let found = fuzz_one(&binary, &places, &log, args)?;
        match found {
            Ok(report) => println!(
                "| `{target}` | {} | {} | {} | {} MiB |",
                args.seconds, report.executions, report.coverage, report.peak_mib
            ),
            Err(why) => {
                println!("| `{target}` | {why}, see {} | | | |", log.display());
                failed.push(target.as_str());
            }
        }
        if args.keep {
            keep(&binary, &places)?;
        }
    }
    if !failed.is_empty() {
        let artifacts = root.join("target/fuzz/artifacts");
        bail!(
            "{} found something: the inputs are in {}",
            failed.join(", "),
            artifacts.display()
        );
    }
    Ok(())
}

/// The targets there are, or the one asked for.
fn targets(root: &Path, asked: Option<&str>) -> anyhow::Result<Vec<String>> {
    let dir = root.join("fuzz/fuzz_targets");
    let mut all = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        all.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    all.sort();
    match asked {
        None => Ok(all),
        Some(one) if all.iter().any(|target| target == one) => Ok(vec![one.to_owned()]),
        Some(other) => bail!("there is no target {other}: {}", all.join(", ")),
    }
}

/// Installs cargo-fuzz into `target/tools`, unless it is there.
fn install(root: &Path) -> anyhow::Result<PathBuf> {
    let tools = root.join("target/tools");
    let mut install = Command::new("cargo");
    install.args(["install", "--quiet", "--locked", "--root"]);
    install.arg(&tools).arg(CARGO_FUZZ);
    succeed(&mut install)?;
    Ok(tools.join("bin/cargo-fuzz"))
}

fn build(root: &Path, fuzz: &Path, target: &str) -> anyhow::Result<PathBuf> {
    let target_dir = root.join("target/fuzz/build");
    let mut build = Command::new(fuzz);
    // Without a sanitizer: that is what stable Rust can do.
    build.args(["fuzz", "build", "--sanitizer", "none", "--fuzz-dir"]);
    build.arg(root.join("fuzz"));
    build.arg("--target-dir").arg(&target_dir).arg(target);
    succeed(build.current_dir(root))?;
    let triple = host_triple()?;
    Ok(target_dir.join(triple).join("release").join(target))
}

fn host_triple() -> anyhow::Result<String> {
    let told = Command::new("rustc").arg("-vV").output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run `{name}`"))?;
    if !status.success() {
        bail!("`{name}`: {status}");
    }
    Ok(())
}

/// The directories of one target.
struct Places {
    dir: PathBuf,
    /// Kept in the repository.
    seeds: PathBuf,
    /// What was found to reach something new.
    corpus: PathBuf,
    /// Inputs that failed.
    artifacts: PathBuf,
}

impl Places {
    fn make(root: &Path, target: &str) -> anyhow::Result<Self> {
        let dir = root.join("target/fuzz");
        let places = Self {
            seeds: root.join("fuzz/seeds").join(target),
            corpus: dir.join("corpus").join(target),
            artifacts: dir.join("artifacts").join(target),
            dir,
        };
        for made in [&places.seeds, &places.corpus, &places.artifacts] {
            fs::create_dir_all(made).with_context(|| made.display().to_string())?;
        }
        Ok(places)
    }
}

/// Runs libFuzzer; an inner error is a finding, or that it did not run at all.
fn fuzz_one(
    binary: &Path,
    places: &Places,
    log: &Path,
    args: &FuzzArgs,
) -> anyhow::Result<Result<Report, String>> {
    let file = fs::File::create(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(binary);
    command.arg(&places.corpus).arg(&places.seeds);
    command.arg(format!("-max_total_time={}", args.seconds));
    command.arg(format!("-timeout={}", args.timeout));
    command.arg(format!("-rss_limit_mb={}", args.memory));
    command.arg(format!("-malloc_limit_mb={}", args.memory / 2));
    command.arg(format!("-artifact_prefix={}/", places.artifacts.display()));
    command.args(["-max_len=8192", "-print_final_stats=1"]);
    let status = command
        .current_dir(&places.dir)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| binary.display().to_string())?;
    let said = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let report = Report::parse(&said);
    if !status.success() {
        return Ok(Err(format!("ended with {status}")));
    }
    Ok(report.ok_or_else(|| "says nothing of what it did".to_owned()))
}

impl Report {
    /// From what libFuzzer says; `None` when it did not come to its end.
    fn parse(said: &str) -> Option<Self> {
        let stat = |name: &str| {
            let line = said
                .lines()
                .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name))?;
            line.trim_start_matches([':', ' ']).parse().ok()
        };
        let coverage = said
            .lines()
            .filter_map(|line| line.split("cov: ").nth(1))
            .filter_map(|rest| rest.split(' ').next()?.parse().ok())
            .next_back()?;
        Some(Self {
            executions: stat("number_of_executed_units")?,
            coverage,
            peak_mib: stat("peak_rss_mb")?,
        })
    }
}

/// Adds to the seeds what reaches something that they do not, the smallest first.
fn keep(binary: &Path, places: &Places) -> anyhow::Result<()> {
    let merged = places.dir.join("merged");
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    let mut command = Command::new(binary);
    command.args(["-merge=1", "-timeout=20"]).arg(&merged);
    command.arg(&places.seeds).arg(&places.corpus);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    succeed(command.current_dir(&places.dir))?;
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(&merged)? {
        let entry = entry?;
        found.push((entry.metadata()?.len(), entry.path()));
    }
    found.sort();
    let mut left = SEEDS_MAX.saturating_sub(fs::read_dir(&places.seeds)?.count());
    for (bytes, path) in found {
        let to = places.seeds.join(path.file_name().unwrap_or_default());
        if left > 0 && bytes <= SEED_MAX_BYTES && !to.exists() {
            fs::copy(&path, &to)?;
            left -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
INFO: seed corpus: files: 8
#8	INITED cov: 5012 ft: 9000 corp: 7/9Kb exec/s: 4 rss: 80Mb
#64	NEW    cov: 5044 ft: 9100 corp: 8/9Kb lim: 4096 exec/s: 32 rss: 81Mb L: 6/9
#90	DONE   cov: 5044 ft: 9100 corp: 8/9Kb lim: 4096 exec/s: 30 rss: 92Mb
stat::number_of_executed_units: 90
stat::average_exec_per_sec:     30
stat::peak_rss_mb:              92
";

    #[test]
    fn the_figures_are_read() {
        let report = Report {
            executions: 90,
            coverage: 5044,
            peak_mib: 92,
        };
        assert_eq!(Report::parse(SAID), Some(report));
    }

    #[test]
    fn a_run_that_was_cut_short_has_none() {
        let cut = SAID.split("stat::peak").next().unwrap_or_default();
        assert_eq!(Report::parse(cut), None);
    }
}
