//! Looks up which tools and privileges the tests may need, so that a test whose
//! tool is missing is *ignored, with the reason*, and never counted as passed.
//!
//! For each absent tool this sets `cfg(missing_<tool>)`; tests say
//! `#[cfg_attr(missing_npm, ignore = "skipped: npm is not installed")]`. With
//! `AGENTFS_REQUIRE_ALL=1` nothing is set, and such a test runs and fails.
//! Must never install or change anything.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Tools looked for on `PATH`.
const TOOLS: [&str; 11] = [
    "cargo", "gcc", "git", "make", "npm", "python3", "rsync", "sqlite3", "tar", "tmux", "vim",
];

fn main() {
    println!("cargo::rerun-if-env-changed=AGENTFS_REQUIRE_ALL");
    println!("cargo::rerun-if-env-changed=AGENTFS_SDK_PYTHON");
    println!("cargo::rerun-if-env-changed=PATH");
    let require_all = env::var_os("AGENTFS_REQUIRE_ALL").is_some_and(|v| v == "1");
    let directories: Vec<PathBuf> = env::var_os("PATH")
        .map(|p| env::split_paths(&p).collect())
        .unwrap_or_default();

    for tool in TOOLS {
        let found = directories
            .iter()
            .map(|d| d.join(tool))
            .find(|p| p.is_file());
        report(tool, found.as_deref(), require_all);
    }
    let sdk_python =
        env::var_os("AGENTFS_SDK_PYTHON").map_or_else(default_sdk_python, PathBuf::from);
    report(
        "sdk",
        Some(sdk_python.as_path()).filter(|p| p.is_file()),
        require_all,
    );
    let fuse = Path::new("/dev/fuse");
    report(
        "fuse",
        Some(fuse).filter(|_| is_root() || can_open(fuse)),
        require_all,
    );
    report(
        "root",
        Some(Path::new("/proc/self")).filter(|_| is_root()),
        require_all,
    );
}

fn report(name: &str, found: Option<&Path>, require_all: bool) {
    println!("cargo::rustc-check-cfg=cfg(missing_{name})");
    match found {
        Some(path) if !path.starts_with("/proc") && !path.starts_with("/dev") => {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        Some(_) => {}
        None => {
            // A path that does not exist makes Cargo look again next time.
            println!("cargo::rerun-if-changed=missing-{name}");
            if !require_all {
                println!("cargo::rustc-cfg=missing_{name}");
            }
        }
    }
}

/// The virtual environment that `.ci/run` makes under `target`.
fn default_sdk_python() -> PathBuf {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    manifest.join("../target/python/bin/python3")
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|s| {
        s.lines()
            .any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
    })
}

fn can_open(path: &Path) -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .is_ok()
}
