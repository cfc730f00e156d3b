//! What the whole-system tests share: the built `agentfs`, scratch projects, the
//! ordinary user, children with a time limit, comparison of trees.
//!
//! Nothing here may touch the real home directory or leave a process behind.

// A helper of tests fails the test by panicking, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod agentfs;
pub mod changes;
pub mod child;
pub mod disk;
pub mod fuzz;
pub mod hostile;
pub mod power;
pub mod project;
pub mod skip;
pub mod tree;
pub mod user;
pub mod world;
pub mod worlds;

pub use agentfs::agentfs_binary;
pub use child::{Finished, Run};
pub use tree::Tree;
pub use user::Who;
pub use world::World;
