//! What each phase does inside a view, and how long it took.
//!
//! Each function times only what its phase names and then looks whether it
//! really happened: a file system that loses contents is not fast. Must never
//! work outside the view.

mod data;
mod files;
mod programs;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::inputs::{Inputs, Scale};

pub(super) use data::{
    append, fsyncs, random_read, random_write, read_base_large, read_large, write_large,
    write_one_byte,
};
pub(super) use files::{create, stat, unlink};
pub(super) use programs::{
    copy, edit, git_clone, git_status, grep, make, move_directory, remove, sqlite, untar, walk,
};

/// Where a phase works.
pub(super) struct Scene {
    /// A copy of the inputs' base, seen through what is measured.
    pub(super) view: PathBuf,
    /// The inputs themselves, on the plain disk.
    pub(super) inputs: Inputs,
}

impl Scene {
    pub(super) fn scale(&self) -> &Scale {
        &self.inputs.manifest.scale
    }
}

/// Runs `work` and gives its time and result.
pub(super) fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Duration, T)> {
    let begin = Instant::now();
    let result = work()?;
    Ok((begin.elapsed(), result))
}
