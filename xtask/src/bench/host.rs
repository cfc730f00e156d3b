//! The machine: users, caches, processes, programs.
//!
//! Must never stop a process that the benchmark did not start, and changes
//! nothing of the machine but the page cache and the mode of /dev/fuse.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

/// Somebody to run as.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// Looks a name up.
    pub(super) fn find(name: &str) -> anyhow::Result<Self> {
        let number = |flag: &str| -> anyhow::Result<u32> {
            let output = run(Command::new("id").arg(flag).arg("--").arg(name))
                .with_context(|| format!("there is no user `{name}`; name one with --user"))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
        };
        Ok(Self {
            uid: number("-u")?,
            gid: number("-g")?,
        })
    }
}

/// Whether caches can be dropped and file systems mounted.
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Lets an ordinary user open /dev/fuse, as distributions do.
pub(super) fn open_dev_fuse() -> anyhow::Result<()> {
    let device = "/dev/fuse";
    let mode = fs::metadata(device).context(device)?.permissions().mode();
    if mode & 0o666 != 0o666 {
        fs::set_permissions(device, PermissionsExt::from_mode(0o666))?;
    }
    Ok(())
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started or fails; the error has the end of its stderr.
pub(super) fn run(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{name}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}`: {}: {}", output.status, last_lines(&said));
    }
    Ok(output)
}

/// The end of what a program said, on one line.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Whether a program can be found in `PATH`.
pub(super) fn has_program(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// The entries of a directory, sorted; none where it cannot be read.
pub(super) fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Writes back what is dirty, everywhere.
pub(super) fn sync() -> anyhow::Result<()> {
    run(&mut Command::new("sync")).map(drop)
}

/// Empties the page, dentry and inode caches. Only root can.
pub(super) fn drop_caches() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches")
}

/// What processes of one program have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    /// Processor time, user and system, of those alive.
    pub(super) cpu_ms: u64,
    /// Resident memory of the largest, now.
    pub(super) resident_kib: u64,
    /// The same at its peak.
    pub(super) peak_resident_kib: u64,
}

impl Usage {
    /// Sums up the live processes that execute `program`.
    pub(super) fn of(program: &Path) -> Self {
        let mut total = Self::default();
        for process in children(Path::new("/proc")) {
            if fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program) {
                let read = |name| fs::read_to_string(process.join(name)).unwrap_or_default();
                total.cpu_ms += parse_cpu_ms(&read("stat")).unwrap_or(0);
                let status = read("status");
                let kib = |key| parse_status_kib(&status, key).unwrap_or(0);
                total.resident_kib = total.resident_kib.max(kib("VmRSS:"));
                total.peak_resident_kib = total.peak_resident_kib.max(kib("VmHWM:"));
            }
        }
        total
    }
}

/// Waits until no process executes `program` any more.
pub(super) fn wait_until_gone(program: &Path, limit: Duration) -> anyhow::Result<()> {
    let begin = std::time::Instant::now();
    let lives =
        |process: &PathBuf| fs::read_link(process.join("exe")).is_ok_and(|exe| exe == program);
    while children(Path::new("/proc")).iter().any(lives) {
        if begin.elapsed() > limit {
            bail!("`{}` still runs after {limit:?}", program.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// User and system time in a line of /proc/PID/stat, in ms (a tick is 10 ms
/// on every Linux that matters: `USER_HZ`).
fn parse_cpu_ms(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) * 10)
}

/// A figure of /proc/meminfo.
pub(super) fn memory_kib(key: &str) -> Option<u64> {
    parse_status_kib(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

fn parse_status_kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// One line about the machine: no figure is worth anything without it.
pub(super) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model)
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = memory_kib("MemTotal:").unwrap_or(0) / 1024 / 1024;
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} x {model}, {memory} GiB, Linux {}",
        kernel.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_past_any_name() {
        let stat = "42 (a) b (c)) S 1 1 1 0 -1 4194560 10 0 0 0 123 45 0 0 20 0 1 0 9";
        assert_eq!(parse_cpu_ms(stat), Some(1_680));
        assert_eq!(parse_cpu_ms("nonsense"), None);
        assert_eq!(parse_cpu_ms("1 (x) S 1"), None);
    }

    #[test]
    fn memory_is_read_from_status() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(parse_status_kib(status, "VmRSS:"), Some(1_024));
        assert_eq!(parse_status_kib(status, "VmHWM:"), Some(2_048));
        assert_eq!(parse_status_kib(status, "VmSwap:"), None);
    }

    #[test]
    fn the_end_of_what_a_program_said_fits_on_a_line() {
        assert_eq!(last_lines("a\nb\n\nc\nd\n"), "b | c | d");
        assert_eq!(last_lines(""), "");
    }
}
