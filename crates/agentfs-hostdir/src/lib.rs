//! A directory of the host as the read-only lower layer of agentfs.
//!
//! Everything goes through a directory descriptor opened before any mount, with
//! `*at()` calls that neither follow a symbolic link nor leave the directory, so
//! that a base which others change while we walk it cannot lead us out of it.
//! This crate must never change anything on the host, and never resolve a path
//! from the root of the host's file system except `/proc/self/fd/N`.
//!
//! ```
//! use agentfs_core::{LowerLayer, LowerPath};
//! use agentfs_hostdir::HostDir;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = HostDir::open(env!("CARGO_MANIFEST_DIR"))?;
//! let attr = base.stat(&LowerPath::parse(b"Cargo.toml")?)?;
//! assert!(attr.is_some_and(|a| a.size > 0));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod clock;
mod convert;
mod dir;
mod file;
mod left_out;
mod plan;
mod read_ahead;
mod walk;
mod watch;
mod xattr;

pub use clock::HostClock;
pub use dir::HostDir;
pub use watch::{BaseChange, BaseWatcher, EntryChange, WatchState};
