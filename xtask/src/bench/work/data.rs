//! Phases about the bytes of large files.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use super::super::inputs::{Random, has_stamp, stamp};
use super::{Scene, timed};

const MIB: usize = 1024 * 1024;
const BLOCK: usize = 4096;
const LARGE: &str = "written.bin";

pub(crate) fn write_large(scene: &Scene) -> anyhow::Result<Duration> {
    let mut buffer = vec![0; MIB];
    Random(1).fill(&mut buffer);
    let (time, ()) = timed(|| {
        let mut file = File::create(scene.view.join(LARGE))?;
        for index in 0..scene.scale().written_mib {
            stamp(&mut buffer, index);
            file.write_all(&buffer)?;
        }
        Ok(file.sync_all()?)
    })?;
    Ok(time)
}

pub(crate) fn read_large(scene: &Scene) -> anyhow::Result<Duration> {
    read_blocks(&scene.view.join(LARGE), scene.scale().written_mib)
}

pub(crate) fn read_base_large(scene: &Scene) -> anyhow::Result<Duration> {
    read_blocks(&scene.view.join("large-b.bin"), scene.scale().base_file_mib)
}

fn read_blocks(path: &Path, mib: usize) -> anyhow::Result<Duration> {
    let mut buffer = vec![0; MIB];
    let (time, ()) = timed(|| {
        let mut file = File::open(path)?;
        for index in 0..mib {
            file.read_exact(&mut buffer)?;
            ensure!(has_stamp(&buffer, index), "block {index} has other bytes");
        }
        ensure!(file.read(&mut buffer)? == 0, "the file is too long");
        Ok(())
    })?;
    Ok(time)
}

pub(crate) fn write_one_byte(scene: &Scene) -> anyhow::Result<Duration> {
    let path = scene.view.join("large-a.bin");
    let middle = scene.scale().base_file_mib / 2;
    let offset = (middle * MIB) as u64 + 8;
    let (time, ()) = timed(|| {
        let file = OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(b"!", offset)?;
        Ok(file.sync_all()?)
    })?;
    let mut around = [0; 9];
    File::open(&path)?.read_exact_at(&mut around, offset - 8)?;
    ensure!(
        around[8] == b'!' && has_stamp(&around, middle),
        "the byte or those before it are wrong"
    );
    Ok(time)
}

pub(crate) fn append(scene: &Scene) -> anyhow::Result<Duration> {
    const LINE: [u8; 100] = [b'a'; 100];
    let path = scene.view.join("appended.log");
    let count = scene.scale().appends;
    let (time, ()) = timed(|| {
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        for _ in 0..count {
            file.write_all(&LINE)?;
        }
        Ok(())
    })?;
    let length = path.metadata()?.len();
    ensure!(length == (count * LINE.len()) as u64, "{length} bytes");
    Ok(time)
}

pub(crate) fn fsyncs(scene: &Scene) -> anyhow::Result<Duration> {
    let path = scene.view.join("synced.log");
    let count = scene.scale().fsyncs;
    let (time, ()) = timed(|| {
        let mut file = File::create(&path)?;
        for _ in 0..count {
            file.write_all(&[b's'; BLOCK])?;
            file.sync_all()?;
        }
        Ok(())
    })?;
    ensure!(path.metadata()?.len() == (count * BLOCK) as u64);
    Ok(time)
}

pub(crate) fn random_read(scene: &Scene) -> anyhow::Result<Duration> {
    let (mut random, mut buffer) = (Random(2), [0; BLOCK]);
    let (time, ()) = timed(|| {
        let file = File::open(scene.view.join(LARGE))?;
        for _ in 0..scene.scale().random_read_mib * MIB / BLOCK {
            let place = random.below(scene.scale().written_mib * MIB / BLOCK) * BLOCK;
            file.read_exact_at(&mut buffer, place as u64)?;
            ensure!(
                !place.is_multiple_of(MIB) || has_stamp(&buffer, place / MIB),
                "the block at {place} has other bytes"
            );
        }
        Ok(())
    })?;
    Ok(time)
}

pub(crate) fn random_write(scene: &Scene) -> anyhow::Result<Duration> {
    let (mut random, mut buffer) = (Random(3), [0; BLOCK]);
    Random(4).fill(&mut buffer);
    let path = scene.view.join(LARGE);
    let (time, last) = timed(|| {
        let file = OpenOptions::new().write(true).open(&path)?;
        let mut place = 0;
        for _ in 0..scene.scale().random_write_mib * MIB / BLOCK {
            place = random.below(scene.scale().written_mib * MIB / BLOCK) * BLOCK;
            stamp(&mut buffer, place / MIB);
            file.write_all_at(&buffer, place as u64)?;
        }
        file.sync_all()?;
        Ok(place)
    })?;
    let mut back = [0; BLOCK];
    File::open(&path)?.read_exact_at(&mut back, last as u64)?;
    ensure!(back == buffer, "the last block has other bytes");
    Ok(time)
}
