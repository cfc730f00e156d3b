//! Where servers are killed: a project of a user's, the sessions in it, and what
//! must be so when one has been killed.
//!
//! Must never kill a process that does not run our own copy of agentfs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::steps::{Listing, Tree, listing_of};
use super::worker::now;
use crate::suite::host::{self, Job};

const SESSION: &str = "soak";
/// The ordinary user.
const ORDINARY: &str = "agentfs-test";
/// How long a terminal may stay when the server has gone, and anything else take.
const LIMIT: Duration = Duration::from_secs(60);

/// Who does it.
pub(super) struct User {
    pub(super) name: &'static str,
    /// User and group to switch to.
    ids: Option<(u32, u32)>,
}

/// Everybody we can be.
pub(super) fn users() -> anyhow::Result<Vec<User>> {
    if !host::is_root() {
        return Ok(vec![User {
            name: "the user",
            ids: None,
        }]);
    }
    let id = |what: &str| -> anyhow::Result<u32> {
        let printed = host::run(Command::new("id").args([what, ORDINARY]))
            .context("the ordinary user agentfs-test is needed (`cargo test` makes it)")?;
        Ok(String::from_utf8_lossy(&printed).trim().parse()?)
    };
    let ordinary = User {
        name: "an ordinary user",
        ids: Some((id("-u")?, id("-g")?)),
    };
    let root = User {
        name: "root",
        ids: None,
    };
    Ok(vec![root, ordinary])
}

/// A scratch directory with the programs and a project.
pub(super) struct Place {
    dir: PathBuf,
    project: PathBuf,
    home: PathBuf,
    agentfs: PathBuf,
    worker: PathBuf,
    user: User,
    _claimed: File,
}

impl Place {
    pub(super) fn prepare(
        root: &Path,
        work: &Path,
        agentfs: Option<&Path>,
        user: User,
    ) -> anyhow::Result<Self> {
        if work.starts_with("/tmp") || !work.is_absolute() {
            bail!("--work must be an absolute path outside /tmp, which a session replaces");
        }
        let claimed = host::claim(work)?;
        let place = Self {
            project: work.join("project"),
            home: work.join("home"),
            agentfs: work.join("agentfs"),
            worker: work.join("worker"),
            dir: work.to_owned(),
            user,
            _claimed: claimed,
        };
        fs::create_dir_all(&place.home)?;
        host::open_to_all(work)?;
        let agentfs = host::agentfs(root, agentfs)?;
        fs::copy(&agentfs, &place.agentfs).with_context(|| agentfs.display().to_string())?;
        fs::copy(std::env::current_exe()?, &place.worker)?;
        place.own(&place.home)?;
        Ok(place)
    }

    /// A new base, and no session.
    pub(super) fn begin_anew(&self, workers: usize) -> anyhow::Result<()> {
        host::remove(&self.project)?;
        for number in 0..workers {
            Tree::base().make(&self.base_of(number))?;
        }
        self.own(&self.project)
    }

    pub(super) fn remove(&self) -> anyhow::Result<()> {
        host::remove(&self.dir)
    }

    fn own(&self, path: &Path) -> anyhow::Result<()> {
        if let Some((user, group)) = self.user.ids {
            let owner = format!("{user}:{group}");
            host::run(Command::new("chown").args(["-R", &owner]).arg(path))?;
        }
        Ok(())
    }

    fn base_of(&self, worker: usize) -> PathBuf {
        self.project.join(format!("worker{worker}"))
    }

    /// agentfs, as the user.
    fn agentfs(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.agentfs);
        command
            .args(args)
            .current_dir(&self.project)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home);
        if let Some((user, group)) = self.user.ids {
            command.uid(user).gid(group);
        }
        command
    }

    fn inside(&self) -> Command {
        let mut command = self.agentfs(&["run", "--quiet", "--session", SESSION, "--"]);
        command.arg(&self.worker).arg("crash-worker");
        command
    }

    /// A terminal in which a worker does the steps after `from` up to `until`.
    pub(super) fn start(
        &self,
        worker: usize,
        seed: u64,
        (from, until): (usize, usize),
    ) -> anyhow::Result<Job> {
        let mut command = self.inside();
        command.arg("--dir").arg(self.base_of(worker));
        for (name, value) in [
            ("--seed", seed),
            ("--from", from as u64),
            ("--until", until as u64),
        ] {
            command.args([name, &value.to_string()]);
        }
        Job::start(command, &self.dir.join(format!("told-{worker}")), LIMIT)
    }

    /// Kills the server, if there is one, and gives the time just before. With
    /// `patience`, waits for one to come.
    pub(super) fn kill_server(&self, patience: Option<Duration>) -> anyhow::Result<Option<u64>> {
        let until = Instant::now() + patience.unwrap_or_default();
        loop {
            if let Some(server) = self.server()? {
                let time = now();
                return match kill_process(server, Signal::KILL) {
                    Ok(()) => Ok(Some(time)),
                    // It has just ended.
                    Err(rustix::io::Errno::SRCH) => Ok(None),
                    Err(error) => Err(error.into()),
                };
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// The server: of our processes that are called so, the one that is not the
    /// child of another (that is the holder).
    fn server(&self) -> anyhow::Result<Option<Pid>> {
        let servers = self.processes("__server")?;
        for &pid in &servers {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<_> = stat
                .rsplit(") ")
                .next()
                .unwrap_or_default()
                .split(' ')
                .collect();
            let parent = fields.get(1).and_then(|ppid| ppid.parse::<i32>().ok());
            if parent.is_some_and(|parent| !servers.contains(&parent)) {
                return Ok(Pid::from_raw(pid));
            }
        }
        Ok(None)
    }

    /// Processes that run our copy of agentfs, and have a word in their command line.
    fn processes(&self, word: &str) -> anyhow::Result<BTreeSet<i32>> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let ours = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == self.agentfs);
            if ours
                && fs::read(entry.path().join("cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
            {
                found.insert(pid);
            }
        }
        Ok(found)
    }

    /// No process is left, and no mount.
    pub(super) fn is_clean(&self) -> anyhow::Result<()> {
        host::wait_until("the end of all processes", LIMIT, || {
            Ok(self.processes("")?.is_empty())
        })?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let ours = self.dir.to_string_lossy();
        let stale = mounts.lines().find(|line| line.contains(&*ours));
        ensure!(stale.is_none(), "a mount is left: {stale:?}");
        Ok(())
    }

    /// agentfs and SQLite find nothing wrong; the latter in a copy, as opening a
    /// database changes it.
    pub(super) fn is_sound(&self) -> anyhow::Result<()> {
        let database = self.project.join(".agentfs").join(format!("{SESSION}.db"));
        if fs::metadata(&database).map_or(0, |metadata| metadata.len()) == 0 {
            // Killed before there was any.
            return Ok(());
        }
        host::run(&mut self.agentfs(&["check", SESSION]))?;
        let copy = self.dir.join("copy.db");
        for suffix in ["", "-wal", "-journal"] {
            let beside = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
            match fs::copy(beside(&database), beside(&copy)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    host::remove_file(&beside(&copy))?;
                }
                other => drop(other?),
            }
        }
        let mut sqlite = Command::new("sqlite3");
        let found = host::run(sqlite.arg(&copy).arg("PRAGMA integrity_check"))?;
        let found = String::from_utf8_lossy(&found);
        ensure!(found.trim() == "ok", "SQLite finds: {found}");
        Ok(())
    }

    /// The next run: what each worker's directory holds.
    pub(super) fn resume(&self, workers: usize) -> anyhow::Result<Vec<Listing>> {
        (0..workers)
            .map(|number| {
                let mut command = self.inside();
                command.arg("--list").arg("--dir").arg(self.base_of(number));
                let printed = host::run(&mut command).context("the next run")?;
                Ok(serde_json::from_slice(&printed)?)
            })
            .collect()
    }

    pub(super) fn is_base_unchanged(&self, workers: usize) -> anyhow::Result<()> {
        for number in 0..workers {
            let base = listing_of(&self.base_of(number))?;
            ensure!(base == Tree::base().listing(), "the base changed: {base:?}");
        }
        Ok(())
    }
}
