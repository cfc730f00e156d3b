//! Serves an [`agentfs_core::Overlay`] to the kernel through FUSE.
//!
//! A thin adapter: one request, one operation of the overlay. What makes it fast
//! is what it does not do. The kernel opens, closes and checks permissions
//! without asking, gathers writes, and keeps entries and attributes for good;
//! whoever watches the base ([`DirInterest`]) and the storage tells the
//! [`Notifier`] when something of that is no longer so.
//!
//! Architecture invariants: no rule of the file system is decided here; no
//! request handler notifies the kernel or touches the mount; nothing is kept per
//! open file.
//!
//! ```
//! use std::sync::Arc;
//! use agentfs_core::types::{Clock, Timestamp};
//! use agentfs_core::{Overlay, OverlayConfig, Owner, lower::MemoryLower, storage::MemoryStorage};
//! use agentfs_fuse::{FuseConfig, MountOptions, Unchanging};
//!
//! struct Midnight;
//! impl Clock for Midnight {
//!     fn now(&self) -> Timestamp { Timestamp::new(0, 0) }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let base = MemoryLower::new();
//! base.file("greeting", 0o644, "hello")?;
//! let config = OverlayConfig {
//!     clock: Arc::new(Midnight),
//!     hidden: Vec::new(),
//!     root_owner: Owner::default(),
//! };
//! let overlay = Arc::new(Overlay::open(MemoryStorage::new(4096), base, config)?);
//!
//! let place = tempfile::tempdir()?;
//! let options = MountOptions::default();
//! let fuse = FuseConfig::new(Arc::new(Unchanging));
//! match agentfs_fuse::mount(overlay, place.path(), &options, fuse) {
//!     Ok(server) => {
//!         assert_eq!(std::fs::read(place.path().join("greeting"))?, b"hello");
//!         server.unmount()?;
//!         server.wait()?;
//!     }
//!     Err(error) => println!("{error}"), // no /dev/fuse here
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod adapter;
mod connection;
mod convert;
mod counters;
mod device;
mod ids;
mod interest;
mod mount;
mod notify;
mod pairing;
mod place;
mod protocol;
mod read_ahead;
mod revalidate;

pub use counters::{Counters, Operation};
pub use ids::KnownIds;
pub use interest::{DirInterest, Unchanging};
pub use mount::{FuseConfig, MountError, MountOptions, Server, mount, mount_data, serve};
pub use notify::{EntryChange, Notifier};
pub use pairing::Pairing;
pub use revalidate::{Look, Revalidator};
