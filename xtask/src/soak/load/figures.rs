//! What a server holds, and what sessions leave on the machine.
//!
//! Must never count what belongs to somebody else: a server is known by the copy of
//! the binary that it runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_tests::World;
use anyhow::{Context, bail};
use serde::Deserialize;

use crate::bench;

/// Inodes that the kernel may go on holding of a session in which one terminal is
/// idle: the root, the working directory, what the shell has open.
const INODES_SPARE: u64 = 16;
/// A base directory is kept open as long as the kernel holds it.
const DESCRIPTORS_SPARE: u64 = INODES_SPARE;
/// What the server's memory may grow by for good: its caches (64 MiB of chunks, 16 MiB
/// of pages in each of SQLite's five connections, at most 24 MiB for rows of inodes, 20
/// for open directories and 24 for packed ones), and a fifth more that malloc keeps.
const RESIDENT_SPARE_KIB: u64 = 254 << 10;
/// How long the kernel may take to tell what it has forgotten.
const FORGET_PATIENCE: Duration = Duration::from_secs(30);

/// A live session, as `agentfs ps --json` tells.
#[derive(Deserialize)]
pub(super) struct Live {
    server_pid: u32,
    inodes: u64,
}

/// The live sessions of the user of a world.
pub(super) fn servers(world: &World) -> anyhow::Result<Vec<Live>> {
    let told = world.agentfs(["ps", "--json"]).finish();
    if told.code() != 0 {
        bail!("{told}");
    }
    let live: Vec<Live> = serde_json::from_slice(&told.stdout)?;
    Ok(live
        .into_iter()
        .filter(|live| runs(live.server_pid, world.binary()))
        .collect())
}

fn runs(pid: u32, binary: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary)
}

/// How many processes run a binary.
pub(super) fn processes(binary: &Path) -> usize {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| runs(pid, binary))
        .count()
}

/// What a server holds at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    descriptors: u64,
    threads: u64,
    /// Mounts of the session's namespace.
    mounts: u64,
    /// Inodes in the server's table.
    inodes: u64,
    pub(super) resident_kib: u64,
}

impl Figures {
    /// Of the one live session.
    pub(super) fn of(world: &World) -> anyhow::Result<Self> {
        Self::of_server(&the_one(world)?)
    }

    pub(super) fn of_server(live: &Live) -> anyhow::Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", live.server_pid));
        let status = fs::read_to_string(process.join("status"))?;
        let field = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(value
                .context("no such field of /proc/PID/status")?
                .parse()?)
        };
        Ok(Self {
            descriptors: fs::read_dir(process.join("fd"))?.count() as u64,
            threads: field("Threads:")?,
            mounts: mounts_inside(live.server_pid)?,
            inodes: live.inodes,
            resident_kib: field("VmRSS:")?,
        })
    }

    /// Has the kernel drop all that it caches, and waits until the server knows and is
    /// done folding.
    pub(super) fn after_forgetting(world: &World) -> anyhow::Result<Self> {
        let begin = Instant::now();
        loop {
            let written = world.run("sync").finish();
            if written.code() != 0 {
                bail!("{written}");
            }
            fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches")?;
            std::thread::sleep(Duration::from_millis(500));
            let live = the_one(world)?;
            let is_settled = live.inodes <= INODES_SPARE && !is_folding(live.server_pid)?;
            let figures = Self::of_server(&live)?;
            if is_settled || begin.elapsed() > FORGET_PATIENCE {
                return Ok(figures);
            }
        }
    }

    /// What is more than it was at the start, and than may be.
    pub(super) fn grown_since(&self, start: &Self) -> Vec<String> {
        let rows = [
            (
                "descriptors",
                self.descriptors,
                start.descriptors + DESCRIPTORS_SPARE,
            ),
            ("threads", self.threads, start.threads),
            ("mounts", self.mounts, start.mounts),
            ("inodes", self.inodes, INODES_SPARE),
            (
                "resident memory, KiB",
                self.resident_kib,
                start.resident_kib + RESIDENT_SPARE_KIB,
            ),
        ];
        rows.into_iter()
            .filter(|(_, now, most)| now > most)
            .map(|(what, now, most)| format!("{what}: {now}, at most {most}"))
            .collect()
    }
}

/// The live session, where there is one.
fn the_one(world: &World) -> anyhow::Result<Live> {
    let mut live = servers(world)?;
    match (live.pop(), live.len()) {
        (Some(one), 0) => Ok(one),
        (last, others) => bail!("{} sessions live, not one", others + last.iter().count()),
    }
}

/// Whether a server's `-wal` is being folded, on a thread that then ends.
fn is_folding(server: u32) -> anyhow::Result<bool> {
    let tasks = fs::read_dir(format!("/proc/{server}/task"))?.flatten();
    Ok(tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .any(|name| name.trim() == "afs-fold"))
}

/// The mounts that the processes inside see: the server's own are the host's.
fn mounts_inside(server: u32) -> anyhow::Result<u64> {
    let tasks = fs::read_dir(format!("/proc/{server}/task"))?.flatten();
    let children: String = tasks
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .collect();
    let mounts = children
        .split_whitespace()
        .filter_map(|holder| fs::read_to_string(format!("/proc/{holder}/mountinfo")).ok())
        .map(|table| table.lines().count() as u64);
    mounts.max().context("the server has no holder")
}

/// A table: moments in columns.
pub(super) fn table(moments: &[(&str, Figures)]) -> String {
    type Column = fn(&Figures) -> u64;
    let rows: [(&str, Column); 5] = [
        ("descriptors", |figures| figures.descriptors),
        ("threads", |figures| figures.threads),
        ("mounts", |figures| figures.mounts),
        ("inodes", |figures| figures.inodes),
        ("resident memory, MiB", |figures| {
            figures.resident_kib.div_ceil(1024)
        }),
    ];
    let mut head = vec![String::new()];
    head.extend(moments.iter().map(|(name, _)| (*name).to_owned()));
    let mut lines = vec![head];
    for (name, figure) in rows {
        let mut line = vec![name.to_owned()];
        line.extend(moments.iter().map(|(_, now)| figure(now).to_string()));
        lines.push(line);
    }
    bench::aligned(&lines)
}

/// What sessions may leave on the machine when they have ended: nothing.
#[derive(Debug, PartialEq)]
pub(super) struct Leftovers {
    processes: usize,
    /// Mounts of the host.
    mounts: usize,
    /// Runtime and temporary directories.
    directories: BTreeSet<PathBuf>,
}

impl Leftovers {
    pub(super) fn of(world: &World) -> anyhow::Result<Self> {
        let mut directories = BTreeSet::new();
        for shared in ["/tmp", "/var/tmp"] {
            let root = Path::new(shared).join(format!("agentfs-{}", world.account.uid));
            let entries = fs::read_dir(root).into_iter().flatten().flatten();
            directories.extend(entries.map(|entry| entry.path()));
        }
        Ok(Self {
            processes: processes(world.binary()),
            mounts: fs::read_to_string("/proc/self/mountinfo")?.lines().count(),
            directories,
        })
    }

    /// That nothing has been added. Servers need a moment to end.
    pub(super) fn same_after(&self, world: &World) -> anyhow::Result<()> {
        super::wait_for("the end of all processes", || {
            Ok(processes(world.binary()) == self.processes)
        })?;
        let now = Self::of(world)?;
        let added: Vec<_> = now.directories.difference(&self.directories).collect();
        if now.mounts > self.mounts || !added.is_empty() {
            bail!(
                "left on the machine: {} mounts and {added:?}",
                now.mounts.saturating_sub(self.mounts)
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_and_shrinking_is_not() {
        let start = Figures {
            descriptors: 10,
            threads: 5,
            mounts: 40,
            inodes: 3,
            resident_kib: 10_000,
        };
        assert!(start.grown_since(&start).is_empty());
        let less = Figures {
            descriptors: 9,
            resident_kib: 9_000,
            ..start
        };
        assert!(less.grown_since(&start).is_empty());
        let more = Figures {
            descriptors: 11 + DESCRIPTORS_SPARE,
            threads: 6,
            inodes: INODES_SPARE + 1,
            resident_kib: 10_001 + RESIDENT_SPARE_KIB,
            ..start
        };
        assert_eq!(more.grown_since(&start).len(), 4);
    }
}
