//! Real projects: crates, a package of npm and CPython's own tests are built and
//! tested outside and in a session, from the same files at the same path. Each test
//! must end the same way, as root and as an ordinary user.
//!
//! Temporary files lie in the view as well. Must never accept a difference that is
//! not in `projects.allow` with its reason, nor a run without tests.

mod outcomes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_tests::user::public_toolchain;
use agentfs_tests::{Run, Who, World};
use anyhow::{Context, bail};
use clap::Args;

use crate::bench;
use outcomes::{Outcomes, cargo, differences, python, tap, unexpected};

const ALLOWED: &str = include_str!("projects.allow");
const OUTCOMES_PY: &str = include_str!("projects/outcomes.py");
const LIMIT: Duration = Duration::from_secs(1800);
const SESSION: &str = "project";
/// Temporary files in the project, of which each run starts with none.
const TEMPORARY: &str = "mkdir -p tmp && export TMPDIR=\"$PWD/tmp\"\n";

#[derive(Args)]
pub(super) struct ProjectsArgs {
    /// The agentfs binary; default: builds the release profile and takes that.
    #[arg(long, value_name = "BINARY")]
    agentfs: Option<PathBuf>,
    /// Only the projects of which the name contains this.
    #[arg(long, value_name = "PROJECT")]
    only: Option<String>,
    /// Two of them, and of CPython two modules.
    #[arg(long)]
    short: bool,
}

struct Project {
    name: &'static str,
    /// Whether it is tried with `--short`.
    short: bool,
    /// Gets it, outside, by `sh -eu` in an empty directory. `$1` is the name.
    prepare: &'static str,
    /// Builds and tests it.
    test: &'static str,
    /// What became of each test, from all that it printed; why that is not all of
    /// them, when the runner did not come to its end.
    outcomes: fn(&str) -> Result<Outcomes, String>,
}

/// `$1` is `NAME@VERSION` of a crate, whose archive has its tests.
const GET_CRATE: &str = r#"
    name=${1%@*} version=${1#*@}
    mkdir "$HOME/fetch" "$HOME/fetch/src"
    : >"$HOME/fetch/src/lib.rs"
    printf '[package]\nname = "fetch"\nedition = "2021"\n[dependencies]\n%s = "=%s"\n' \
        "$name" "$version" >"$HOME/fetch/Cargo.toml"
    cargo fetch --quiet --manifest-path "$HOME/fetch/Cargo.toml"
    tar xzf "$HOME"/.cargo/registry/cache/*/"$name-$version.crate" --strip-components 1
    cargo fetch --quiet
"#;
const TEST_CRATE: &str = "cargo test --offline --no-fail-fast --lib --tests 2>&1";

const CRATE: Project = Project {
    name: "",
    short: false,
    prepare: GET_CRATE,
    test: TEST_CRATE,
    outcomes: cargo,
};

const PROJECTS: [Project; 5] = [
    Project {
        name: "walkdir@2.5.0",
        short: true,
        ..CRATE
    },
    Project {
        name: "tempfile@3.27.0",
        ..CRATE
    },
    Project {
        name: "fs_extra@1.3.0",
        ..CRATE
    },
    Project {
        name: "tar-fs@2.1.3",
        short: false,
        // npm leaves names like `.gitignore` and links out of an archive; without these
        // two its test throws at the third of its nineteen parts. `npm install` fills
        // the cache that `npm ci` goes by; `standard` keeps one in the home directory
        // itself, where a session lets nobody write. After a failed request npm waits
        // 10 s, and 60 s after a second: here it tries more often and waits less.
        prepare: r#"
            export npm_config_update_notifier=false npm_config_fetch_retries=5
            export npm_config_fetch_retry_mintimeout=500 npm_config_fetch_retry_maxtimeout=5000
            tar xzf "$(npm pack --silent "$1")" --strip-components 1
            mkdir -p test/fixtures/c
            : >test/fixtures/c/.gitignore
            ln -s file test/fixtures/e/symlink
            npm install --no-audit --no-fund --silent && rm -r node_modules
        "#,
        test: r#"
            export npm_config_update_notifier=false
            npm ci --offline --no-audit --no-fund 2>&1
            HOME=$TMPDIR npm test 2>&1
        "#,
        outcomes: tap,
    },
    Project {
        name: "cpython",
        short: true,
        prepare: "true",
        test: r#"
            status=0
            /usr/bin/python3 -m test -u largefile --tempdir "$TMPDIR" \
                --junit-xml results.xml $MODULES 2>&1 || status=$?
            /usr/bin/python3 outcomes.py results.xml
            exit $status
        "#,
        outcomes: python,
    },
];

const MODULES: &str = "test_os test_shutil test_mmap test_tarfile test_sqlite3";
const MODULES_SHORT: &str = "test_shutil test_mmap";

pub(super) fn run(root: &Path, args: &ProjectsArgs) -> anyhow::Result<()> {
    let binary = match &args.agentfs {
        Some(binary) => binary.clone(),
        None => bench::build_agentfs(root)?,
    };
    let mut users = vec![Who::Ordinary];
    if Who::Root.account().is_ok() {
        users.insert(0, Who::Root);
    }
    let mut differing = Vec::new();
    for project in &PROJECTS {
        let wanted = args.only.as_ref().is_none_or(|o| project.name.contains(o));
        if !wanted || args.short && !project.short {
            continue;
        }
        for who in &users {
            let trial = Trial {
                project,
                who: *who,
                modules: if args.short { MODULES_SHORT } else { MODULES },
            };
            let found = trial
                .run(&binary)
                .with_context(|| format!("{} as {}", project.name, trial.user()))?;
            differing.extend(found);
        }
    }
    if !differing.is_empty() {
        bail!("{}", differing.join("\n"));
    }
    Ok(())
}

/// One project as one user.
struct Trial<'a> {
    project: &'a Project,
    who: Who,
    modules: &'a str,
}

impl Trial<'_> {
    fn user(&self) -> &'static str {
        match self.who {
            Who::Root => "root",
            Who::Ordinary => "user",
        }
    }

    /// Gives what differs and should not, and what should and does not.
    fn run(&self, binary: &Path) -> anyhow::Result<Vec<String>> {
        let mut world = World::with_binary(self.who, || binary).map_err(anyhow::Error::msg)?;
        let found = self.run_in(&mut world);
        if !found.as_ref().is_ok_and(Vec::is_empty) {
            world.keep();
        }
        found.with_context(|| format!("see {}", world.dir.display()))
    }

    #[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
    fn run_in(&self, world: &mut World) -> anyhow::Result<Vec<String>> {
        let toolchain = public_toolchain().map_err(anyhow::Error::msg)?;
        world.prefer_programs_in(&toolchain.join("bin"));
        fs::write(world.project.join("outcomes.py"), OUTCOMES_PY)?;
        let prepare = ["-euc", self.project.prepare, "sh", self.project.name];
        let prepared = world.run("sh").args(prepare).limit(LIMIT).finish();
        if prepared.code() != 0 {
            bail!("it cannot be fetched: {prepared}");
        }

        // At the very same path: programs write down where they are.
        let kept = world.dir.join("kept");
        copy(world, &world.project, &kept)?;
        let script = format!("{TEMPORARY}{}", self.project.test);
        let sh = ["sh", "-euc", &script];
        let begin = Instant::now();
        let outside = self.outcomes(world, "outside", world.run(sh[0]).args(&sh[1..]))?;
        let took_outside = begin.elapsed();
        fs::remove_dir_all(&world.project)?;
        fs::rename(&kept, &world.project)?;
        let begin = Instant::now();
        let args = ["run", "--quiet", "--session", SESSION, "--"];
        let inside = self.outcomes(world, "inside", world.agentfs(args).args(sh))?;
        let took_inside = begin.elapsed();
        world.wait_for_end(SESSION);
        let checked = world.agentfs(["check", SESSION]).finish();
        if checked.code() != 0 {
            bail!("{checked}");
        }

        let differing = differences(&outside, &inside);
        println!(
            "{} as {}: {} tests, {} passed outside, {} differ inside ({:.0} s, {:.0} s)",
            self.project.name,
            self.user(),
            outside.len(),
            outside.values().filter(|outcome| *outcome == "ok").count(),
            differing.len(),
            took_outside.as_secs_f64(),
            took_inside.as_secs_f64(),
        );
        let about = format!("{} {} ", self.user(), self.project.name);
        Ok(unexpected(ALLOWED, &about, &outside, &inside))
    }

    fn outcomes(&self, world: &World, place: &str, run: Run) -> anyhow::Result<Outcomes> {
        let done = run.env("MODULES", self.modules).limit(LIMIT).finish();
        let said = done.out();
        fs::write(world.dir.join(format!("{place}.log")), &said)?;
        let read = (self.project.outcomes)(&said);
        let mut outcomes = read.map_err(|why| anyhow::anyhow!("{place}: {why}: {done}"))?;
        if !outcomes.values().any(|outcome| outcome == "ok") {
            bail!("nothing passed {place}: {done}");
        }
        outcomes.insert("all of it".to_owned(), format!("exit {}", done.code()));
        Ok(outcomes)
    }
}

fn copy(world: &World, from: &Path, to: &Path) -> anyhow::Result<()> {
    // By root, who may be somebody else: `-a` keeps the owner.
    let copied = Run::new("cp").env("PATH", "/usr/bin:/bin").arg("-a");
    let copied = copied.arg(from).arg(to).dir(&world.dir).finish();
    if copied.code() != 0 {
        bail!("{copied}");
    }
    Ok(())
}
