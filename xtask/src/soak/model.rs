//! `cargo xtask soak model`: the tests that compare with the model, again and
//! again, each round with another seed for all of them.
//!
//! A failing sequence is shrunk by the test itself and kept in
//! `tests/proptest-regressions`; what a round said is kept beside. Must never stop
//! at a failure as long as there is time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentfs_tests::Run;
use anyhow::{Context, bail};
use clap::Args;

/// Of the tests: `model`, and `mount_model` with the eight processes.
const FILTER: &str = "model::";
const ROUND_LIMIT: Duration = Duration::from_secs(3600);
/// A round of a long soak: how many times as many cases as in a test, and how long
/// the eight processes work.
const LONG: (&str, &str) = ("10", "60");
const SHORT: (&str, &str) = ("1", "3");
const LONG_MINUTES: f64 = 10.0;

#[derive(Args)]
pub(super) struct ModelArgs {
    /// No round is begun after that; there is at least one.
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    minutes: f64,
    /// The seed of the first round; default: another one each time, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(super) fn run(root: &Path, args: &ModelArgs) -> anyhow::Result<()> {
    let first = match args.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    let (cases, seconds) = if args.minutes < LONG_MINUTES {
        SHORT
    } else {
        LONG
    };
    let kept = root.join("target/soak");
    fs::create_dir_all(&kept)?;
    let begin = Instant::now();
    let limit = Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?;
    let mut failures = Vec::new();
    let mut passed = 0;
    for seed in first.. {
        let settings = [
            ("PROPTEST_RNG_SEED", seed.to_string()),
            ("AGENTFS_PROPTEST_CASES", cases.to_owned()),
            ("AGENTFS_SOAK_SECONDS", seconds.to_owned()),
        ];
        let test = ["test", "--quiet", "-p", "agentfs-tests", "--test", "main"];
        let mut run = Run::new("cargo").args(test).args(["--", FILTER]);
        for (name, value) in std::env::vars_os() {
            run = run.env(name, value);
        }
        for (name, value) in &settings {
            run = run.env(name, value);
        }
        let done = run.dir(root).limit(ROUND_LIMIT).finish();
        let tests = tests_passed(&done.out());
        if done.code() == 0 && tests > 0 {
            passed += tests;
            println!(
                "seed {seed}: {tests} tests, no difference ({:.0} s)",
                done.took.as_secs_f64()
            );
        } else {
            let log = kept.join(format!("model-{seed}.log"));
            let settings = settings.map(|(name, value)| format!("{name}={value}"));
            fs::write(&log, [&done.stdout[..], &done.stderr[..]].concat())?;
            println!("seed {seed}: FAILED, see {}", log.display());
            failures.push(settings.join(" "));
        }
        if begin.elapsed() >= limit {
            break;
        }
    }
    if !failures.is_empty() {
        bail!(
            "failures; each again with `cargo test -p agentfs-tests -- {FILTER}` and\n{}",
            failures.join("\n")
        );
    }
    println!("{passed} tests from seed {first} on, no difference");
    Ok(())
}

/// What libtest counts as passed.
fn tests_passed(said: &str) -> u64 {
    let results = said
        .lines()
        .filter(|line| line.starts_with("test result: "));
    let counts = results.filter_map(|line| {
        let (before, _) = line.split_once(" passed;")?;
        before.rsplit(' ').next()?.parse::<u64>().ok()
    });
    counts.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted() {
        let said = "running 2 tests\n..\ntest result: ok. 2 passed; 0 failed; 1 ignored; \
                    0 measured; 15 filtered out; finished in 1.00s\n";
        assert_eq!(tests_passed(said), 2);
        assert_eq!(tests_passed("no tests"), 0);
    }
}
