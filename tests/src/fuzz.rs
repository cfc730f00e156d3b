//! What each fuzz target does with its bytes. `fuzz/` feeds them to libFuzzer;
//! the tests replay the seeds that are kept (`fuzz/seeds`).
//!
//! A target returns, panics, or takes too long: there is no other outcome.

mod overlay_ops;
mod sqlite_open;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

pub use overlay_ops::overlay_ops;
pub use sqlite_open::sqlite_open;

/// A target: its name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("overlay_ops", overlay_ops),
    ("sqlite_open", sqlite_open),
    ("protocol", protocol),
    ("cli_args", cli_args),
];

/// Bytes that a peer sends over a session's sockets.
pub fn protocol(bytes: &[u8]) {
    agentfs_session::fuzz::conversation(bytes);
}

/// A command line: its words, separated by NUL.
pub fn cli_args(bytes: &[u8]) {
    let words = bytes
        .split(|&byte| byte == 0)
        .map(|word| OsString::from_vec(word.to_vec()));
    let dir = std::env::temp_dir();
    agentfs_cli::fuzz::read_words(words, &dir);
}
