//! pjdfstest in six places: on the disk and on a mount; in a session, on the disk
//! beneath its `/tmp` and in its view; each view at its root and in a directory of
//! the base that has files.
//!
//! On a mount nothing but the file system is judged: the caller is the host's root,
//! and what fails is ours. In a session the sandbox refuses some cases; the same
//! ones on the disk, or it is not the sandbox. Must never take a case for refused
//! that is not in `pjdfstest.allow` with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Bench, host};

const ALLOWED: &str = include_str!("pjdfstest.allow");
const LIMIT: Duration = Duration::from_secs(300);
const SESSION: &str = "suite";
/// The second of the two users that the suite switches to; `nobody` is the first.
const USER: &str = "agentfs-test";
const FILES_OF_BASE: usize = 50;

/// What became of each case.
type Outcomes = BTreeMap<String, Outcome>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped,
    /// As the stage's list says.
    Refused,
    Failed,
}

/// A place to run in.
struct Stage<'a> {
    name: &'a str,
    /// Where the suite makes its files.
    dir: &'a Path,
    /// In a session: the project and the session's name.
    session: Option<(&'a Path, &'a str)>,
    /// The disk in the same stage, which a view must not fall behind.
    disk: Option<&'a Outcomes>,
}

pub(super) fn run(bench: &Bench) -> anyhow::Result<()> {
    if !host::is_root() {
        bail!("run me as root: the suite switches users");
    }
    configure(bench)?;
    let plain = bench.dir.join("plain");
    fs::create_dir(&plain)?;
    host::open_to_all(&plain)?;
    let disk = stage(bench, "the disk", &plain)?;
    on_mount(bench, &disk)?;
    in_session(bench)
}

/// Without the sandbox.
fn on_mount(bench: &Bench, disk: &Outcomes) -> anyhow::Result<()> {
    let project = project(bench, "mounted")?;
    let view = bench.dir.join("view");
    fs::create_dir(&view)?;
    host::run(&mut bench.agentfs(&project, &["init", SESSION]))?;
    let mount = ["mount", "--allow-other", SESSION];
    host::run(bench.agentfs(&project, &mount).arg(&view))?;
    let mounted = Mounted { bench, view: &view };
    for (name, dir) in [
        ("a mount", view.clone()),
        ("a mount, directory of the base", view.join("base")),
    ] {
        let stage = Stage {
            name,
            dir: &dir,
            session: None,
            disk: Some(disk),
        };
        stage.run(bench)?;
    }
    drop(mounted);
    sound(bench, &project)
}

/// With it.
fn in_session(bench: &Bench) -> anyhow::Result<()> {
    let project = project(bench, "inside")?;
    let session = Some((project.as_path(), SESSION));
    let disk = Stage {
        name: "a session, the disk at its /tmp",
        dir: Path::new("/tmp"),
        session,
        disk: None,
    };
    let disk = disk.run(bench)?;
    for (name, dir) in [
        ("a session", project.clone()),
        ("a session, directory of the base", project.join("base")),
    ] {
        let stage = Stage {
            name,
            dir: &dir,
            session,
            disk: Some(&disk),
        };
        stage.run(bench)?;
    }
    sound(bench, &project)
}

fn stage(bench: &Bench, name: &str, dir: &Path) -> anyhow::Result<Outcomes> {
    let stage = Stage {
        name,
        dir,
        session: None,
        disk: None,
    };
    stage.run(bench)
}

impl Stage<'_> {
    #[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
    fn run(&self, bench: &Bench) -> anyhow::Result<Outcomes> {
        let mut command = match self.session {
            None => Command::new(&bench.suite),
            // A session that is given a file to write to refuses set-user-ID bits.
            Some((project, session)) => {
                let mut command = host::piped(&bench.session(project, session));
                command.arg(&bench.suite);
                command
            }
        };
        let config = config(bench, self.session.is_some());
        command.arg("-c").arg(config).arg("-p").arg(self.dir);
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
        let begin = Instant::now();
        let mut job = host::Job::start(command, &bench.dir.join("log"), LIMIT)?;
        let success = job.wait(|| Ok(()))?;
        let said = job.said()?;
        let outcomes = parse(&said);
        let count = |wanted| {
            outcomes
                .values()
                .filter(|&&outcome| outcome == wanted)
                .count()
        };
        println!(
            "pjdfstest on {}: {} passed, {} skipped, {} refused, {} failed ({:.1} s)",
            self.name,
            count(Outcome::Passed),
            count(Outcome::Skipped),
            count(Outcome::Refused),
            count(Outcome::Failed),
            begin.elapsed().as_secs_f64()
        );
        if !success || count(Outcome::Failed) > 0 {
            println!("{}", failures(&said));
            bail!("pjdfstest failed on {}", self.name);
        }
        if count(Outcome::Passed) == 0 {
            bail!("nothing passed on {}: {said}", self.name);
        }
        if let Some(disk) = self.disk {
            let lost = lost(disk, &outcomes);
            if !lost.is_empty() {
                bail!("passed on the disk and not on {}: {lost:?}", self.name);
            }
        }
        Ok(outcomes)
    }
}

/// What the disk passes, the view does not and no list has.
fn lost<'a>(disk: &'a Outcomes, view: &Outcomes) -> Vec<&'a str> {
    let skips = allowed("view skips");
    let passed = disk.iter().filter(|entry| *entry.1 == Outcome::Passed);
    let names = passed.map(|(name, _)| name.as_str());
    names
        .filter(|name| view.get(*name) != Some(&Outcome::Passed) && !skips.contains(name))
        .collect()
}

/// The cases with that mark in the list.
fn allowed(mark: &str) -> BTreeSet<&'static str> {
    let lines = ALLOWED.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.strip_prefix(mark))
        .map(str::trim)
        .collect()
}

fn parse(said: &str) -> Outcomes {
    said.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            let outcome = match rest.trim() {
                "ok" => Outcome::Passed,
                "skipped" => Outcome::Skipped,
                "failed as expected" => Outcome::Refused,
                "FAILED" | "PASSED UNEXPECTEDLY" => Outcome::Failed,
                _ => return None,
            };
            Some((name.to_owned(), outcome))
        })
        .collect()
}

/// What failed, each with why; all of it when that is not to be seen.
fn failures(said: &str) -> String {
    let mut shown = String::new();
    let mut show = false;
    for line in said.lines() {
        if !line.starts_with('\t') && !line.starts_with(' ') {
            show = line.ends_with("FAILED") || line.ends_with("PASSED UNEXPECTEDLY");
        }
        if show {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    if shown.is_empty() {
        said.to_owned()
    } else {
        shown
    }
}

fn config(bench: &Bench, in_session: bool) -> PathBuf {
    let name = if in_session { "session" } else { "host" };
    bench.dir.join(format!("{name}.toml"))
}

/// Writes the suite's configuration, with the cases that are refused.
fn configure(bench: &Bench) -> anyhow::Result<()> {
    if host::run(Command::new("id").arg(USER)).is_err() {
        host::run(Command::new("useradd").args(["--create-home", USER]))?;
    }
    let mut users = Vec::new();
    for user in ["nobody", USER] {
        let group = host::run(Command::new("id").args(["-gn", user]))?;
        users.push([user.to_owned(), String::from_utf8(group)?.trim().to_owned()]);
    }
    for in_session in [false, true] {
        let refused = if in_session {
            allowed("session fails").into_iter().collect()
        } else {
            Vec::new()
        };
        let text = format!(
            "[features]\nposix_fallocate = {{}}\nrename_ctime = {{}}\nutime_now = {{}}\n\
             utimensat = {{}}\n[settings]\nnaptime = 0.01\nexpected_failures = {refused:?}\n\
             [dummy_auth]\nentries = {users:?}\n"
        );
        fs::write(config(bench, in_session), text)?;
    }
    Ok(())
}

/// A base with files.
fn project(bench: &Bench, name: &str) -> anyhow::Result<PathBuf> {
    let project = bench.dir.join(name);
    let base = project.join("base");
    fs::create_dir_all(base.join("sub"))?;
    for number in 0..FILES_OF_BASE {
        fs::write(base.join(format!("file-{number}")), "of the base\n")?;
    }
    fs::hard_link(base.join("file-0"), base.join("sub/linked"))?;
    std::os::unix::fs::symlink("file-1", base.join("link"))?;
    for dir in [&project, &base] {
        host::open_to_all(dir)?;
    }
    Ok(project)
}

/// The session's database is consistent, and the base what it was.
fn sound(bench: &Bench, project: &Path) -> anyhow::Result<()> {
    host::wait_until("the end of the session", LIMIT, || {
        Ok(host::run(&mut bench.agentfs(project, &["check", SESSION])).is_ok())
    })
    .with_context(|| project.display().to_string())?;
    let names = fs::read_dir(project.join("base"))?.count();
    if names != FILES_OF_BASE + 2 {
        bail!("the base has {names} entries now");
    }
    Ok(())
}

/// A mount, for as long as this lives.
struct Mounted<'a> {
    bench: &'a Bench,
    view: &'a Path,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let mut unmount = Command::new(&self.bench.agentfs);
        // A mount that stays is told of: the scratch directory cannot be removed.
        drop(host::run(unmount.arg("umount").arg(self.view)));
    }
}
