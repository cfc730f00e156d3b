//! What the kernel's requests cost: a view in memory, mounted, used through the
//! host's calls. Says first how many requests each operation takes, for that is
//! its price before anything else. Needs root and `/dev/fuse`.
//!
//! `cargo bench -p agentfs-fuse`

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)] // A benchmark speaks, and stops where it fails.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use agentfs_core::lower::MemoryLower;
use agentfs_core::storage::MemoryStorage;
use agentfs_core::types::ManualClock;
use agentfs_core::{Overlay, OverlayConfig, Owner};
use agentfs_fuse::{FuseConfig, MountOptions, Server, Unchanging};
use divan::Bencher;

const FILES: usize = 1_000;

/// The one mount of all benchmarks.
struct Mounted {
    path: PathBuf,
    server: Server,
}

static VIEW: OnceLock<Mounted> = OnceLock::new();

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("needs root: not measured");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let mounted = VIEW.get_or_init(|| mount(place.path().to_owned()));
    count(mounted);
    divan::main();
    mounted.server.unmount().unwrap();
    place.close().unwrap();
}

fn mount(path: PathBuf) -> Mounted {
    let base = MemoryLower::new();
    for number in 0..FILES {
        let name = format!("base-{number}");
        base.file(name, 0o644, "content").unwrap();
    }
    let config = OverlayConfig {
        clock: Arc::new(ManualClock::default()),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    let overlay = Overlay::open(MemoryStorage::new(65_536), base, config).unwrap();
    let options = MountOptions { allow_other: true };
    let config = FuseConfig::new(Arc::new(Unchanging));
    let server = agentfs_fuse::mount(Arc::new(overlay), &path, &options, config).unwrap();
    Mounted { path, server }
}

fn at(name: &str) -> PathBuf {
    VIEW.get().unwrap().path.join(name)
}

/// Prints the requests of a hundred operations of each kind.
fn count(mounted: &Mounted) {
    let counters = mounted.server.counters();
    let hundred = |what: &str, operation: &dyn Fn(usize)| {
        counters.reset();
        (0..100).for_each(operation);
        println!("100 x {what}: {counters}");
    };
    hundred("stat, first", &|n| {
        fs::metadata(at(&format!("base-{n}"))).unwrap();
    });
    hundred("stat, again", &|n| {
        fs::metadata(at(&format!("base-{n}"))).unwrap();
    });
    hundred("open + read + close, first", &|n| {
        fs::read(at(&format!("base-{n}"))).unwrap();
    });
    hundred("open + read + close, again", &|n| {
        fs::read(at(&format!("base-{n}"))).unwrap();
    });
    hundred("create + write + close", &|n| {
        write(&format!("counted-{n}"));
    });
    hundred("rename", &|n| {
        fs::rename(at(&format!("counted-{n}")), at(&format!("renamed-{n}"))).unwrap();
    });
    hundred("unlink", &|n| {
        fs::remove_file(at(&format!("renamed-{n}"))).unwrap();
    });
}

fn write(name: &str) {
    let mut file = File::create(at(name)).unwrap();
    file.write_all(b"content").unwrap();
}

/// Answered by the kernel alone: what no file system can do better.
#[divan::bench]
fn stat_known(bencher: Bencher<'_, '_>) {
    let path = at("base-0");
    fs::metadata(&path).unwrap();
    bencher.bench(|| fs::metadata(&path).unwrap());
}

/// One LOOKUP: a name that does not exist and that nobody asked for before.
#[divan::bench(sample_count = 50, sample_size = 100)]
fn lookup(bencher: Bencher<'_, '_>) {
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            at(&format!("missing-{number}"))
        })
        .bench_local_refs(|path| path.exists());
}

/// One GETATTR: statx with `AT_STATX_FORCE_SYNC`.
#[divan::bench]
fn getattr(bencher: Bencher<'_, '_>) {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let file = File::open(at("base-0")).unwrap();
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    bencher.bench_local(|| statx(&file, "", flags, StatxFlags::BASIC_STATS).unwrap());
}

#[divan::bench(sample_count = 50, sample_size = 50)]
fn create_write_close(bencher: Bencher<'_, '_>) {
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            format!("new-{number}")
        })
        .bench_local_refs(|name| write(name));
}
