//! Contract suites for the boundaries of core: what every storage and every
//! lower layer has to do. They must use nothing but the traits.

mod content;
mod dump;
mod lower;
mod random;
mod storage;

pub use dump::Dump;
pub use lower::lower_suite;
pub use storage::{StorageBench, storage_suite};
