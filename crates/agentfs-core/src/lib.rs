//! Overlay semantics of agentfs: a copy-on-write view of a read-only *lower*
//! layer (the base), whose changes (the *upper* layer, or *delta*) live behind
//! a storage trait.
//!
//! ```text
//!        programs, a FUSE adapter, an embedding program
//!                           |
//!                  Overlay<S, L>: the merged view
//!                   |                        |
//!      S: Storage (upper, read-write)   L: LowerLayer (lower, read-only)
//!      MemoryStorage, SQLite            MemoryLower, a host directory
//! ```
//!
//! This crate must never touch the host: no paths of it, no clock, no
//! environment, no SQL, no FUSE. Everything it needs is passed in.
//!
//! # Vocabulary
//! *inode*: an object with a number that stays the same while it exists;
//! *dentry*: a name in a directory; *whiteout*: a lower name that must not show
//! through; *opaque*: an upper directory that hides the lower one at its place;
//! *copy-up*: giving a lower inode a row in the upper layer so that it can be
//! changed; *origin*: the lower object an upper inode was copied up from.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//! use agentfs_core::lower::MemoryLower;
//! use agentfs_core::storage::MemoryStorage;
//! use agentfs_core::types::{ManualClock, Timestamp};
//! use agentfs_core::{Ino, Name, Overlay, OverlayConfig, Owner};
//!
//! let base = MemoryLower::new();
//! base.file("hello.txt", 0o644, b"hello, base")?;
//! let view = Overlay::open(
//!     MemoryStorage::new(4096),
//!     base.clone(),
//!     OverlayConfig {
//!         clock: Arc::new(ManualClock::new(Timestamp::new(1_700_000_000, 0))),
//!         hidden: Vec::new(),
//!         root_owner: Owner::default(),
//!     },
//! )?;
//!
//! let file = view.lookup(Ino::ROOT, &Name::new(b"hello.txt")?)?;
//! view.write(file.ino, 7, b"view", false)?;
//! assert_eq!(view.read(file.ino, 0, 100)?, b"hello, view");
//! assert_eq!(view.lookup(Ino::ROOT, &Name::new(b"hello.txt")?)?.ino, file.ino);
//! # Ok::<(), agentfs_core::FsError>(())
//! ```

#![forbid(unsafe_code)]

pub mod audit;
pub mod check;
pub mod diff;
pub mod error;
pub mod kv;
pub mod lower;
pub mod overlay;
pub mod storage;
pub mod types;

pub use error::{FsError, LowerError, StorageError};
pub use lower::LowerLayer;
pub use overlay::{Overlay, OverlayConfig};
pub use storage::Storage;
pub use types::{Attr, FileKind, Ino, LowerPath, Name, Owner, Timestamp};
