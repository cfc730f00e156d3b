//! Databases that an enemy has made, and what is done to them: everything that a
//! session or a command can do, once, with bounded effort.
//!
//! Used by the tests of single absurdities and by the fuzz targets. It expects
//! nothing of what comes out but that something does: an answer or an error, in
//! time, within memory, and no panic.

mod exercise;
mod rows;
mod template;

pub use exercise::{Tried, exercise};
pub use rows::spoil;
pub use template::{base, config, template};
