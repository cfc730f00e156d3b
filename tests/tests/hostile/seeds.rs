//! The seeds of the fuzz targets, each once. `cargo xtask fuzz` goes on from them.

use agentfs_tests::agentfs::workspace_root;
use agentfs_tests::fuzz::TARGETS;

use super::in_time;

/// Replays the seeds of one target.
fn check(target: &str) {
    let (_, run) = TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    let dir = workspace_root().join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", dir.display());
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        in_time(&path.display().to_string(), move || run(&bytes));
    }
}

#[test]
fn seeds_of_overlay_ops() {
    check("overlay_ops");
}

#[test]
fn seeds_of_sqlite_open() {
    check("sqlite_open");
}

#[test]
fn seeds_of_protocol() {
    check("protocol");
}

#[test]
fn seeds_of_cli_args() {
    check("cli_args");
}
