//! fsx in sessions: on a new file, on files of the base that are copied up on the
//! way, with the caches dropped at random, with the server restarted in between,
//! and several at once on files with three names each.
//!
//! fsx holds every read against what it wrote. At the end, the file is compared once
//! more with one to which the same operations were done on a tmpfs, read from the
//! database by another program. Must never go on with a file that the server did
//! not give back: see `go_on.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;

use super::{Bench, CommonArgs, host};
use crate::random::Random;

const CONFIG: &str = include_str!("fsx.toml");
const GO_ON: &str = include_str!("go_on.c");
const LIMIT: Duration = Duration::from_secs(3 * 3600);
const END_LIMIT: Duration = Duration::from_secs(60);
/// How many operations a file of the base has seen before the session.
const HEAD_START: u64 = 500;
/// How many one sees in all where the files are short-lived. Of a base file that
/// is written to at random no byte is the base's after a few dozen.
const SHORT: u64 = 2 * HEAD_START;
/// How many a process does, before the next one goes on: fsx 0.3.2 never unmaps what
/// it read. Truncating then takes ever longer, and `vm.max_map_count` (65,530) ends it.
const PROCESS_MAX: u64 = 50_000;
/// A tmpfs.
const MEMORY: &str = "/dev/shm";
const SESSION: &str = "suite";
/// The names of a file, hard links in the base.
const NAMES: [&str; 3] = ["first", "second", "third"];
const AT_ONCE: u64 = 4;

#[derive(Args)]
pub(super) struct FsxArgs {
    #[command(flatten)]
    pub(super) common: CommonArgs,
    /// Operations of each part.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    operations: u64,
    /// The first seed; default: another one each time, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the parts of which the name contains this.
    #[arg(long, value_name = "PART")]
    only: Option<String>,
}

/// One way to run it.
struct Part {
    name: &'static str,
    /// Files, each with an fsx of its own, all at once.
    files: u64,
    /// Whether it is done again and again, with other files for [`SHORT`] operations.
    short: bool,
    /// Whether they are the base's.
    based: bool,
    /// Between two rounds the server ends.
    rounds: u64,
    /// Whether the kernel's caches are dropped now and then.
    dropping: bool,
    /// Whether each file has three names, and each round goes by the next.
    linked: bool,
}

const PLAIN: Part = Part {
    name: "a new file",
    files: 1,
    short: false,
    based: false,
    rounds: 1,
    dropping: false,
    linked: false,
};

const PARTS: [Part; 6] = [
    PLAIN,
    Part {
        name: "a file of the base",
        based: true,
        ..PLAIN
    },
    Part {
        name: "files of the base, one after the other",
        based: true,
        short: true,
        ..PLAIN
    },
    Part {
        name: "a file of the base, caches dropped",
        based: true,
        dropping: true,
        ..PLAIN
    },
    Part {
        name: "a file of the base, server restarted",
        based: true,
        rounds: 20,
        ..PLAIN
    },
    Part {
        name: "four files of the base by three names each, server restarted",
        files: AT_ONCE,
        based: true,
        rounds: 6,
        linked: true,
        ..PLAIN
    },
];

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(super) fn run(bench: &Bench, args: &FsxArgs) -> anyhow::Result<()> {
    let (config, source) = (bench.dir.join("fsx.toml"), bench.dir.join("go_on.c"));
    fs::write(&config, CONFIG)?;
    fs::write(&source, GO_ON)?;
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-shared", "-fPIC", "-o"]);
    host::run(compile.arg(bench.dir.join("go_on.so")).arg(source))?;
    let mut random = Random(match args.seed {
        Some(seed) => seed,
        None => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
    });
    println!("fsx: --seed {}", random.0);
    let wanted = |part: &Part| {
        args.only
            .as_ref()
            .is_none_or(|only| part.name.contains(only))
    };
    if !PARTS.iter().any(wanted) {
        bail!(
            "no part of that name; there are: {}",
            PARTS.map(|part| part.name).join("; ")
        );
    }
    for part in &PARTS {
        // One seed for all would run one history five times.
        let seed = random.next() >> 32;
        if !wanted(part) {
            continue;
        }
        if part.dropping && !host::is_root() {
            bail!(
                "run me as root: the part \"{}\" drops the kernel's caches",
                part.name
            );
        }
        let begin = Instant::now();
        let (times, operations) = if part.short {
            (args.operations.div_ceil(SHORT), SHORT)
        } else {
            (1, args.operations.max(2 * HEAD_START) / part.files)
        };
        let mut drops = 0;
        for time in 0..times {
            let run = Run {
                bench,
                part,
                project: bench.dir.join("project"),
                expected: Path::new(MEMORY).join(format!("agentfs-fsx-{}", std::process::id())),
                seed: seed.wrapping_add(time),
                operations,
            };
            drops += run.run(&mut random).with_context(|| part.name)?;
        }
        println!(
            "fsx on {}: {} operations, no difference ({} restarts, {drops} drops, {:.0} s)",
            part.name,
            operations * part.files * times,
            part.rounds * times - 1,
            begin.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

struct Run<'a> {
    bench: &'a Bench,
    part: &'a Part,
    /// The base.
    project: PathBuf,
    /// Where the same is done in memory.
    expected: PathBuf,
    seed: u64,
    operations: u64,
}

impl Run<'_> {
    /// Gives how often caches were dropped.
    fn run(&self, random: &mut Random) -> anyhow::Result<u64> {
        for dir in [&self.project, &self.expected] {
            host::remove(dir)?;
            fs::create_dir_all(dir)?;
        }
        for file in 0..self.part.files {
            self.prepare(file)?;
        }
        let bases = self.bases()?;
        let mut drops = 0;
        let mut done = if self.part.based { HEAD_START } else { 0 };
        for round in 1..=self.part.rounds {
            let until = self.operations * round / self.part.rounds;
            if until > done {
                drops += self.round(round, done, until, random)?;
                done = until;
            }
            let check = &mut self.bench.agentfs(&self.project, &["check", SESSION]);
            host::run(check)?;
        }
        self.compare()?;
        if self.bases()? != bases {
            bail!("the base changed");
        }
        host::remove(&self.expected)?;
        Ok(drops)
    }

    /// Does everything in memory, and puts a file into the base.
    fn prepare(&self, file: u64) -> anyhow::Result<()> {
        let expected = self.expected.join(file.to_string());
        if self.part.based {
            host::run(&mut self.fsx(file, &expected, 0, HEAD_START, None))?;
            let names = self.names(file);
            fs::copy(&expected, self.project.join(&names[0]))?;
            for name in &names[1..] {
                fs::hard_link(self.project.join(&names[0]), self.project.join(name))?;
            }
        }
        host::run(&mut self.fsx(file, &expected, 0, self.operations, None))?;
        Ok(())
    }

    /// One terminal for each file, until the last of them has left and the server
    /// has ended.
    fn round(&self, round: u64, done: u64, until: u64, random: &mut Random) -> anyhow::Result<u64> {
        let mut jobs = Vec::new();
        for file in 0..self.part.files {
            let names = self.names(file);
            let by = usize::try_from(round)? % names.len();
            let session = self.bench.session(&self.project, SESSION);
            let command = self.fsx(file, Path::new(&names[by]), done, until, Some(session));
            let log = self.bench.dir.join(format!("log-{file}"));
            jobs.push((host::Job::start(command, &log, LIMIT)?, log));
        }
        let mut drops = 0;
        let mut next_drop = Instant::now();
        for (job, log) in &mut jobs {
            let success = job.wait(|| {
                if self.part.dropping && Instant::now() > next_drop {
                    // The page cache, dentries and inodes, or both.
                    let what = 1 + random.next() % 3;
                    fs::write("/proc/sys/vm/drop_caches", what.to_string())?;
                    drops += 1;
                    next_drop = Instant::now() + Duration::from_millis(50 + random.next() % 1000);
                }
                Ok(())
            })?;
            if !success {
                bail!(
                    "fsx found a difference in round {round}; see {}",
                    log.display()
                );
            }
        }
        host::wait_until("the end of the server", END_LIMIT, || {
            let running = host::run(&mut self.bench.agentfs(&self.project, &["ps", "--json"]))?;
            Ok(!String::from_utf8_lossy(&running).contains(&*self.project.to_string_lossy()))
        })?;
        Ok(drops)
    }

    /// Operations `done + 1` to `until` on a file; inside, when there is a session.
    fn fsx(
        &self,
        file: u64,
        path: &Path,
        done: u64,
        until: u64,
        session: Option<Command>,
    ) -> Command {
        let mut script = String::new();
        let mut from = done;
        while from < until {
            let to = until.min(from + PROCESS_MAX);
            if from > done {
                script.push_str(" && ");
            }
            if from > 0 {
                let library = self.bench.dir.join("go_on.so");
                script.push_str(&format!("LD_PRELOAD={} ", quoted(&library)));
            }
            script.push_str(&format!(
                "{} -f {} -S {} -b {} -N {to} {}",
                quoted(&self.bench.suite),
                quoted(&self.bench.dir.join("fsx.toml")),
                self.seed.wrapping_add(file),
                from + 1,
                quoted(path)
            ));
            from = to;
        }
        let mut command = match session {
            None => Command::new("sh"),
            Some(mut session) => {
                session.arg("sh");
                session
            }
        };
        command.arg("-c").arg(script);
        command
    }

    fn names(&self, file: u64) -> Vec<String> {
        let count = if self.part.linked { NAMES.len() } else { 1 };
        NAMES[..count]
            .iter()
            .map(|name| format!("{name}-{file}"))
            .collect()
    }

    /// Every name, read from the database, has the bytes of the file in memory.
    fn compare(&self) -> anyhow::Result<()> {
        for file in 0..self.part.files {
            let expected = fs::read(self.expected.join(file.to_string()))?;
            for name in self.names(file) {
                let args = ["fs", "cat", SESSION, &format!("/{name}")];
                let bytes = host::run(&mut self.bench.agentfs(&self.project, &args))?;
                if bytes != expected {
                    bail!("/{name} differs from what it should be at the end");
                }
            }
        }
        Ok(())
    }

    /// What lies in the base.
    fn bases(&self) -> anyhow::Result<Vec<Option<Vec<u8>>>> {
        let names = (0..self.part.files).flat_map(|file| self.names(file));
        names
            .map(|name| match fs::read(self.project.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.into()),
            })
            .collect()
    }
}

/// For a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
