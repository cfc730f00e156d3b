//! The storage of agentfs on SQLite, in the tables of the Agent Filesystem
//! Specification 0.4, so that its SDKs and plain `sqlite3` can read and write a
//! session. `docs/FORMAT.md` describes what is in the file.
//!
//! ```text
//!   Txn            one transaction: rows over all layers of state
//!   Delta          changes in memory, as final row values
//!   committer      the thread that writes deltas, in order, in batches
//!   folding        when the -wal is folded into the file, and by whom
//!   Cache          clean rows
//!   Gate, Lease    who may use the file when; nothing is locked at rest
//!   apply, rows    SQL: writing a delta, strictly decoding rows
//! ```
//!
//! Architecture invariants: rules of the overlay are nowhere in this crate; a
//! row from the file is never trusted; no lock on the file and no transaction is
//! held at rest; nothing waits for the disk but a sync and a writer that is far
//! ahead.

mod apply;
mod cache;
mod check;
mod committer;
mod connection;
mod database;
mod error;
mod examine;
mod files;
mod folding;
mod gate;
mod open;
mod pending;
mod read_ahead;
mod rows;
mod schema;
mod shared;
mod sql;
mod stamp;
mod sys;
mod txn;
mod vfs;
mod wal;

pub use database::{Database, SqliteStorage, Volume};
pub use error::OpenError;
pub use files::DatabaseFiles;
pub use open::{ClearedPlace, OpenOptions, clear_place};
