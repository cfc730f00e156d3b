//! Locates the `agentfs` binary under test, building it once if need be.
//!
//! Cargo gives a package the path of its own binaries only, so this asks Cargo
//! to bring the binary up to date in the profile that the tests are in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `agentfs` binary: `$AGENTFS_BIN` if set, else the one of this workspace.
///
/// # Panics
/// When it does not build.
pub fn agentfs_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("AGENTFS_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

/// The directory of this workspace.
#[must_use]
pub fn workspace_root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

fn build() -> PathBuf {
    // .../target/<profile directory>/deps/<this test>
    let this_test = std::env::current_exe().expect("the path of this test");
    let profile_dir = this_test
        .ancestors()
        .nth(2)
        .expect("a target directory")
        .to_owned();
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        // The whole workspace is named so that features are unified as they
        // were for the tests: otherwise dependencies would be built again.
        .args([
            "build",
            "--quiet",
            "--offline",
            "--workspace",
            "--bin",
            "agentfs",
        ])
        .args(["--profile", profile, "--target-dir"])
        .arg(profile_dir.parent().expect("a target directory"))
        .current_dir(workspace_root())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "`agentfs` does not build");
    profile_dir.join("agentfs")
}
