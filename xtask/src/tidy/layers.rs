//! Which crate may depend on which: the layers of docs/ARCHITECTURE.md.
//!
//! Read from `cargo metadata`; development dependencies are free.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use xshell::{Shell, cmd};

/// What each crate of the workspace may depend on of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("agentfs-core", &[]),
    ("agentfs-sqlite", &["agentfs-core"]),
    ("agentfs-fuse", &["agentfs-core"]),
    ("agentfs-hostdir", &["agentfs-core"]),
    ("agentfs-testkit", &["agentfs-core"]),
    (
        "agentfs-session",
        &[
            "agentfs-core",
            "agentfs-fuse",
            "agentfs-hostdir",
            "agentfs-sqlite",
        ],
    ),
    (
        "agentfs-cli",
        &[
            "agentfs-core",
            "agentfs-fuse",
            "agentfs-hostdir",
            "agentfs-session",
            "agentfs-sqlite",
        ],
    ),
];

/// Crates that have one user only: SQL is known to `agentfs-sqlite`, the sandbox to
/// `agentfs-session`.
const ONE_USER: &[(&str, &str)] = &[
    ("rusqlite", "agentfs-sqlite"),
    ("landlock", "agentfs-session"),
    ("seccompiler", "agentfs-session"),
    ("clap", "agentfs-cli"),
];

/// What `agentfs-core` may use from outside: nothing that reaches the host.
const CORE_MAY_USE: &[&str] = &[
    "foldhash",
    "hashbrown",
    "libc",
    "lru",
    "parking_lot",
    "serde",
    "serde_json",
    "thiserror",
    "tracing",
];

/// One crate of the workspace and its dependencies (not for development).
pub(super) struct Crate {
    name: String,
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Asks Cargo for the crates of the workspace.
pub(super) fn read(root: &Path) -> anyhow::Result<Vec<Crate>> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    let json = cmd!(
        shell,
        "cargo metadata --format-version 1 --no-deps --offline"
    )
    .read()?;
    let metadata: Metadata = serde_json::from_str(&json).context("cargo metadata")?;
    let crates = metadata.packages.into_iter().map(|package| Crate {
        name: package.name,
        dependencies: package
            .dependencies
            .into_iter()
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .map(|dependency| dependency.name)
            .collect(),
    });
    Ok(crates.collect())
}

/// Checks the layers.
pub(super) fn check(crates: &[Crate]) -> Vec<String> {
    let mut findings = Vec::new();
    for (user, used) in edges(crates) {
        let allowed = MAY_USE
            .iter()
            .find(|(name, _)| *name == user)
            .map(|(_, allowed)| *allowed);
        let ours = used.starts_with("agentfs-");
        if ours && allowed.is_some_and(|allowed| !allowed.contains(&used)) {
            findings.push(format!(
                "{user} must not depend on {used}: see docs/ARCHITECTURE.md"
            ));
        }
        let is_layer = user.starts_with("agentfs-") && user != "agentfs-tests";
        if is_layer
            && ONE_USER
                .iter()
                .any(|&(one, only)| one == used && only != user)
        {
            findings.push(format!(
                "{user} must not depend on {used}: another layer's business"
            ));
        }
        if user == "agentfs-core" && !ours && !CORE_MAY_USE.contains(&used) {
            findings.push(format!(
                "agentfs-core must not depend on {used}: it may reach the host"
            ));
        }
    }
    for krate in crates
        .iter()
        .filter(|krate| krate.name.starts_with("agentfs-"))
    {
        let known =
            krate.name == "agentfs-tests" || MAY_USE.iter().any(|(name, _)| *name == krate.name);
        if !known {
            findings.push(format!("{}: say in xtask which layer it is", krate.name));
        }
    }
    findings
}

fn edges(crates: &[Crate]) -> impl Iterator<Item = (&str, &str)> {
    crates.iter().flat_map(|krate| {
        krate
            .dependencies
            .iter()
            .map(|used| (krate.name.as_str(), used.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_edge(user: &str, used: &str) -> usize {
        check(&[Crate {
            name: user.into(),
            dependencies: vec![used.into()],
        }])
        .len()
    }

    #[test]
    fn layers_are_kept() {
        assert_eq!(check_edge("agentfs-sqlite", "agentfs-core"), 0);
        assert_eq!(check_edge("agentfs-sqlite", "rusqlite"), 0);
        assert_eq!(check_edge("agentfs-core", "serde"), 0);
        assert_eq!(check_edge("agentfs-tests", "rusqlite"), 0);
    }

    #[test]
    fn breaches_are_found() {
        assert_eq!(check_edge("agentfs-core", "agentfs-sqlite"), 1);
        assert_eq!(check_edge("agentfs-fuse", "agentfs-sqlite"), 1);
        assert_eq!(check_edge("agentfs-cli", "rusqlite"), 1);
        assert_eq!(check_edge("agentfs-core", "rustix"), 1);
        assert_eq!(check_edge("agentfs-unheard-of", "serde"), 1);
    }
}
