//! The rule for what is missing on this machine: say so, never pass silently.
//!
//! What can be known when the tests are compiled is handled by `build.rs`, so
//! that libtest itself counts the test as ignored; [`crate::skip!`] is for what
//! shows only while the test runs.

use std::io::Write;

/// Leaves the current test, saying why: `skip!("no second user: {error}")`.
///
/// With `AGENTFS_REQUIRE_ALL=1` it fails the test instead.
#[macro_export]
macro_rules! skip {
    ($($why:tt)+) => {{
        $crate::skip::skipped(&format!($($why)+));
        return;
    }};
}

/// Whether a missing tool or privilege is a failure.
#[must_use]
pub fn require_all() -> bool {
    std::env::var_os("AGENTFS_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// Writes `skipped: why` to the real standard error (libtest hides what a
/// passing test prints through the macros).
///
/// # Panics
/// With `AGENTFS_REQUIRE_ALL=1`.
pub fn skipped(why: &str) {
    assert!(
        !require_all(),
        "AGENTFS_REQUIRE_ALL=1 and something is missing: {why}"
    );
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    // Nothing to be done about a standard error that is closed.
    let _ = writeln!(std::io::stderr(), "skipped: {why} ({name})");
}
