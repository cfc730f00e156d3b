//! Compares a directory tree with the model: names, attributes, bytes, link
//! targets, extended attributes, and times as far as they can be known.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use agentfs_core::types::{FileKind, Timestamp};
use agentfs_testkit::model::{Body, Model, Node, NodeId, SparseBytes};

use super::side::Side;

/// The model's clock is far from any time that a base or an operation sets, so
/// that it can be told which times were set and which were taken.
const MODEL_EPOCH_SECS: i64 = 100_000_000_000;
/// The kernel's clock for files goes in ticks, a server's does not.
const TICK_NANOS: i128 = 20_000_000;

/// The model's time at a step.
pub(super) fn model_time(step: u32) -> Timestamp {
    Timestamp::new(MODEL_EPOCH_SECS + i64::from(step), 0)
}

/// What is known of the times of changes.
pub(super) struct Times {
    start_nanos: i128,
}

impl Times {
    pub(super) fn start() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        Self {
            start_nanos: now.as_nanos().cast_signed(),
        }
    }
}

type Same = Result<(), String>;

fn nanos(secs: i64, nanos: i64) -> i128 {
    i128::from(secs) * 1_000_000_000 + i128::from(nanos)
}

/// Compares a whole tree and what is held open.
pub(super) fn tree(model: &Model, side: &Side, times: &Times) -> Same {
    let mut taken = Vec::new();
    for dir in model.directories() {
        let path = side.path(model, dir).expect("reachable");
        directory(model, dir, &path, times, &mut taken)
            .map_err(|what| format!("{}: {what}", path.display()))?;
    }
    // Changes that came later show later times.
    taken.sort_unstable_by_key(|(step, _)| *step);
    let mut latest = 0;
    for (step, time) in taken {
        if time + TICK_NANOS < latest {
            return Err(format!(
                "the time taken at {step:?} is before an earlier one"
            ));
        }
        latest = latest.max(time);
    }
    for (node, fd) in side.held() {
        held(model, node, fd).map_err(|what| format!("handle on {node:?}: {what}"))?;
    }
    Ok(())
}

type Taken = Vec<(Timestamp, i128)>;

fn directory(model: &Model, dir: NodeId, path: &Path, times: &Times, taken: &mut Taken) -> Same {
    let listed = std::fs::read_dir(path).map_err(|e| format!("readdir: {e}"))?;
    let mut names = BTreeSet::new();
    for entry in listed {
        let entry = entry.map_err(|e| format!("readdir: {e}"))?;
        let name = entry.file_name();
        if !names.insert(name.as_bytes().to_vec()) {
            return Err(format!("lists {} twice", name.display()));
        }
    }
    let expected: BTreeSet<Vec<u8>> = model
        .entries(dir)
        .keys()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    if names != expected {
        return Err(format!("lists {names:?}, should be {expected:?}"));
    }
    for (name, &child) in model.entries(dir) {
        let child_path = path.join(OsStr::from_bytes(name.as_bytes()));
        let node = model.node(child);
        object(node, &child_path, times, taken)
            .map_err(|what| format!("{}: {what}", name.as_bytes().escape_ascii()))?;
    }
    Ok(())
}

fn object(node: &Node, path: &Path, times: &Times, taken: &mut Taken) -> Same {
    let meta = path.symlink_metadata().map_err(|e| format!("lstat: {e}"))?;
    attributes(node, &meta)?;
    let mtime = nanos(meta.mtime(), meta.mtime_nsec());
    time("mtime", node.mtime, mtime, times, taken)?;
    // Copying the base to the plain directory has read it.
    if node.lower_id.is_none() && !matches!(node.kind, FileKind::Directory | FileKind::Symlink) {
        let atime = nanos(meta.atime(), meta.atime_nsec());
        // Reading changes it (relatime): only what was set stays.
        let read_since = atime >= times.start_nanos - TICK_NANOS;
        if node.atime.secs < MODEL_EPOCH_SECS && !read_since {
            time("atime", node.atime, atime, times, &mut Vec::new())?;
        }
    }
    let mut names = Vec::new();
    let mut buf = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut buf[..]).map_err(|e| format!("llistxattr: {e}"))?;
    names.extend(
        buf[..len]
            .split(|&b| b == 0)
            .filter(|n| !n.is_empty())
            .map(<[u8]>::to_vec),
    );
    names.sort();
    if !names.iter().eq(node.xattrs.keys()) {
        return Err(format!(
            "extended attributes {names:?}, should be {:?}",
            node.xattrs
        ));
    }
    for (name, value) in &node.xattrs {
        let name = OsStr::from_bytes(name);
        let len = rustix::fs::lgetxattr(path, name, &mut buf[..])
            .map_err(|e| format!("lgetxattr: {e}"))?;
        if buf[..len] != value[..] {
            return Err(format!(
                "{} is {:?}, should be {value:?}",
                name.display(),
                &buf[..len]
            ));
        }
    }
    match &node.body {
        Body::Symlink(target) => {
            let real = path.read_link().map_err(|e| format!("readlink: {e}"))?;
            if real.as_os_str().as_bytes() != target {
                return Err(format!("leads to {real:?}, should be {target:?}"));
            }
            Ok(())
        }
        Body::File(expected) => {
            let file = File::open(path).map_err(|e| format!("open: {e}"))?;
            bytes(&file, expected)
        }
        Body::Directory { .. } | Body::Special => Ok(()),
    }
}

fn attributes(node: &Node, meta: &Metadata) -> Same {
    let mode = node.kind.mode_bits() | u32::from(node.perm);
    if meta.mode() != mode {
        return Err(format!("mode {:o}, should be {mode:o}", meta.mode()));
    }
    if (meta.uid(), meta.gid()) != (node.uid, node.gid) {
        let real = (meta.uid(), meta.gid());
        return Err(format!(
            "owner {real:?}, should be {:?}",
            (node.uid, node.gid)
        ));
    }
    if !node.kind.is_dir() && meta.nlink() != u64::from(node.nlink) {
        return Err(format!("{} links, should be {}", meta.nlink(), node.nlink));
    }
    if node.kind == FileKind::Regular && meta.size() != node.size() {
        return Err(format!("size {}, should be {}", meta.size(), node.size()));
    }
    if matches!(node.kind, FileKind::CharDevice | FileKind::BlockDevice)
        && meta.rdev() != rustix::fs::makedev(node.rdev >> 8 & 0xfff, node.rdev & 0xff)
    {
        return Err(format!(
            "device {:#x}, should be {:#x}",
            meta.rdev(),
            node.rdev
        ));
    }
    Ok(())
}

fn time(what: &str, model: Timestamp, real: i128, times: &Times, taken: &mut Taken) -> Same {
    if model.secs >= MODEL_EPOCH_SECS {
        taken.push((model, real));
        if real < times.start_nanos - TICK_NANOS {
            return Err(format!("{what} is {real}, before the start"));
        }
    } else if real != nanos(model.secs, model.nanos.into()) {
        return Err(format!("{what} is {real}, should be {model:?}"));
    }
    Ok(())
}

fn held(model: &Model, node: NodeId, fd: BorrowedFd<'_>) -> Same {
    let node = model.node(node);
    let file = File::from(fd.try_clone_to_owned().map_err(|e| format!("dup: {e}"))?);
    let meta = file.metadata().map_err(|e| format!("fstat: {e}"))?;
    attributes(node, &meta)?;
    match &node.body {
        Body::File(expected) => bytes(&file, expected),
        _ => Ok(()),
    }
}

fn bytes(file: &File, expected: &SparseBytes) -> Same {
    const WHOLE: u64 = 64 << 10;
    let mut pieces = vec![(0, WHOLE)];
    if expected.len() > WHOLE {
        let around = |at: u64| (at.saturating_sub(200), at + 200);
        pieces.push(around(expected.len()));
        let ranges = expected.data_ranges();
        pieces.extend(
            ranges
                .iter()
                .take(40)
                .map(|(from, to)| (around(*from).0, around(*to).1)),
        );
    }
    for (from, to) in pieces {
        let expected = expected.read(from, usize::try_from(to - from).expect("small"));
        let mut real = vec![0; expected.len() + 1];
        let mut read = 0;
        while read < real.len() {
            let at = from + read as u64;
            match file
                .read_at(&mut real[read..], at)
                .map_err(|e| format!("read at {at}: {e}"))?
            {
                0 => break,
                n => read += n,
            }
            // One more than expected, to see the end where it is the end.
            if read >= expected.len() && from + expected.len() as u64 != to {
                continue;
            }
        }
        if read < expected.len() {
            return Err(format!("only {read} of {} bytes at {from}", expected.len()));
        }
        if let Some(at) = expected.iter().zip(&real).position(|(a, b)| a != b) {
            return Err(format!(
                "byte {} is {:#04x}, should be {:#04x}",
                from + at as u64,
                real[at],
                expected[at]
            ));
        }
    }
    Ok(())
}
