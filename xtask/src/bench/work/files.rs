//! Phases about many small files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;

use super::{Scene, timed};

const BYTES: usize = 1_000;
const PER_DIRECTORY: usize = 100;

fn directory(scene: &Scene, number: usize) -> PathBuf {
    scene.view.join(format!("small/{number}"))
}

fn path(scene: &Scene, number: usize) -> PathBuf {
    directory(scene, number / PER_DIRECTORY).join(format!("file-{number}"))
}

pub(crate) fn create(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, ()) = timed(|| {
        for number in 0..scene.scale().small_files {
            if number % PER_DIRECTORY == 0 {
                fs::create_dir_all(directory(scene, number / PER_DIRECTORY))?;
            }
            fs::write(path(scene, number), [b'f'; BYTES])?;
        }
        Ok(())
    })?;
    Ok(time)
}

pub(crate) fn stat(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, bytes) = timed(|| {
        let mut bytes = 0;
        for _ in 0..3 {
            for number in 0..scene.scale().small_files {
                bytes += fs::symlink_metadata(path(scene, number))?.len();
            }
        }
        Ok(bytes)
    })?;
    ensure!(
        bytes == (3 * scene.scale().small_files * BYTES) as u64,
        "{bytes} bytes"
    );
    Ok(time)
}

pub(crate) fn unlink(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, ()) = timed(|| {
        for number in 0..scene.scale().small_files {
            fs::remove_file(path(scene, number))?;
        }
        Ok(())
    })?;
    // Removing the directories shows that they are empty.
    for number in 0..scene.scale().small_files.div_ceil(PER_DIRECTORY) {
        fs::remove_dir(directory(scene, number))?;
    }
    Ok(time)
}
