//! Counts the FUSE requests that the kernel sends for one view, by kind, with
//! its own tracepoint: the same for our server and any other.
//!
//! Needs root and Linux 6.11. Must never count another mount's requests, nor
//! leave the tracing instance behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::host;

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENT: &str = "events/fuse/fuse_request_send";
/// Per processor; half a million events in all on two.
const BUFFER_KIB: u32 = 16 * 1024;

/// Sees to it that requests can be counted: mounts tracefs where it is missing.
///
/// # Errors
/// One sentence that says what this machine lacks.
pub(super) fn prepare() -> anyhow::Result<()> {
    if !host::is_root() {
        bail!("--requests needs root: counting requests is the kernel's tracing");
    }
    let (dir, event) = (Path::new(TRACEFS), Path::new(TRACEFS).join(EVENT));
    if !dir.join("instances").is_dir() {
        host::run(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS])).with_context(
            || format!("--requests needs tracefs, which cannot be mounted at {TRACEFS}"),
        )?;
    }
    // The event comes with the module, which the first mount may load.
    if !event.is_dir() {
        let _ = host::run(Command::new("modprobe").arg("fuse")); // looked at next
    }
    if !event.is_dir() {
        bail!("--requests needs the kernel's event fuse_request_send (Linux 6.11): leave it out");
    }
    Ok(())
}

/// How many of each kind, by the protocol's name without its prefix.
pub(super) type Counts = BTreeMap<String, u64>;

/// The tracing of one view.
pub(super) struct Requests {
    instance: PathBuf,
}

impl Requests {
    /// Starts counting for the mount whose device has that minor number.
    pub(super) fn count(minor: u32) -> anyhow::Result<Self> {
        let instance = Path::new(TRACEFS)
            .join("instances")
            .join(format!("agentfs-bench-{}", std::process::id()));
        fs::create_dir(&instance)
            .with_context(|| format!("cannot trace: {}", instance.display()))?;
        let requests = Self { instance };
        requests.set("buffer_size_kb", &BUFFER_KIB.to_string())?;
        requests.set(
            &format!("{EVENT}/filter"),
            &format!("connection == {minor}"),
        )?;
        requests.set(&format!("{EVENT}/enable"), "1")?;
        Ok(requests)
    }

    fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        fs::write(self.instance.join(name), value).with_context(|| format!("cannot trace: {name}"))
    }

    /// Those since the last call.
    pub(super) fn take(&self) -> anyhow::Result<Counts> {
        let trace = self.instance.join("trace");
        let counts = parse(&fs::read_to_string(&trace)?);
        fs::write(&trace, "")?; // truncating clears it
        Ok(counts)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let _ = self.set(&format!("{EVENT}/enable"), "0");
        let _ = fs::remove_dir(&self.instance); // nobody to tell
    }
}

fn parse(trace: &str) -> Counts {
    let mut counts = Counts::new();
    let kinds = trace
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (_, rest) = line.split_once("(FUSE_")?;
            Some(rest.split_once(')')?.0)
        });
    for kind in kinds {
        *counts.entry(kind.to_owned()).or_default() += 1;
    }
    counts
}

/// `READ 12, LOOKUP 3`: the most frequent first.
pub(super) fn describe(counts: &Counts) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), *kind));
    let described: Vec<_> = sorted
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    described.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind() {
        let trace = "# tracer: nop\n#\n\
            git-1 [000] ..... 1.5: fuse_request_send: connection 48 req 2 opcode 1 (FUSE_LOOKUP) len 45 \n\
            git-1 [001] ..... 1.6: fuse_request_send: connection 48 req 4 opcode 15 (FUSE_READ) len 80 \n\
            git-1 [001] ..... 1.7: fuse_request_send: connection 48 req 6 opcode 1 (FUSE_LOOKUP) len 45 \n";
        let counts = parse(trace);
        assert_eq!(describe(&counts), "LOOKUP 2, READ 1");
        assert_eq!(describe(&parse("# nothing\n")), "");
    }
}
