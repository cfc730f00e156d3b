//! What the worker does for `bench scale`. Must never work outside the view.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::super::inputs::Random;
use super::super::work::{Scene, timed};
use super::many;

/// By name, in the unit that the name ends with.
pub(crate) type Figures = Vec<(String, f64)>;

const MIB: usize = 1024 * 1024;
const PROBES: usize = 5_000;

/// Does a request of `bench scale`; none where it is not one.
pub(crate) fn work(scene: &Scene, request: &str) -> Option<anyhow::Result<Figures>> {
    if request == "nothing" {
        return Some(Ok(Vec::new()));
    }
    let words: Vec<_> = request.strip_prefix("scale ")?.split(' ').collect();
    Some(step(&scene.view, &words).with_context(|| request.to_owned()))
}

fn step(view: &Path, words: &[&str]) -> anyhow::Result<Figures> {
    match words {
        ["directory", entries] => directory(view, entries.parse()?),
        ["sparse", gib] => sparse(view, gib.parse()?),
        ["create", from, to] => create(view, from.parse()?, to.parse()?),
        ["probe", files, state] => probe(view, files.parse()?, state),
        ["mixed", number, seconds] => mixed(view, number.parse()?, seconds.parse()?),
        _ => bail!("not a step"),
    }
}

/// The sizes to measure at: ten thousand, ten times as many, and so on to `most`.
pub(super) fn sizes(most: usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut size = 10_000;
    while size < most {
        sizes.push(size);
        size *= 10;
    }
    sizes.push(most);
    sizes
}

fn each(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn directory(view: &Path, entries: usize) -> anyhow::Result<Figures> {
    let dir = view.join(format!("directory-{entries}"));
    fs::create_dir(&dir)?;
    let path = |number: usize| dir.join(format!("an-entry-{number}"));
    let (create, ()) = timed(|| {
        for number in 0..entries {
            File::create(path(number))?;
        }
        Ok(())
    })?;
    let (list, listed) = timed(|| Ok(fs::read_dir(&dir)?.count()))?;
    ensure!(listed == entries, "{listed} of {entries} listed");
    let mut random = Random(5);
    let (stat, ()) = timed(|| {
        for _ in 0..PROBES {
            fs::symlink_metadata(path(random.below(entries)))?;
        }
        Ok(())
    })?;
    let (missing, ()) = timed(|| {
        for number in 0..PROBES {
            ensure!(!path(entries + number).exists());
        }
        Ok(())
    })?;
    let (remove, ()) = timed(|| {
        for number in 0..entries {
            fs::remove_file(path(number))?;
        }
        Ok(fs::remove_dir(&dir)?)
    })?;
    let name = |what: &str| format!("{entries} entries in a directory: {what}, us");
    Ok(vec![
        (name("create"), each(create, entries)),
        (name("list"), each(list, entries)),
        (name("stat"), each(stat, PROBES)),
        (name("look a missing one up"), each(missing, PROBES)),
        (name("remove"), each(remove, entries)),
    ])
}

/// One file of that size with a MiB here and there.
fn sparse(view: &Path, gib: usize) -> anyhow::Result<Figures> {
    const PLACES: usize = 64;
    let path = view.join("sparse.bin");
    let bytes = gib * 1024 * MIB;
    let mut body = vec![0; MIB];
    Random(6).fill(&mut body);
    let place = |number: usize| (bytes / PLACES * number) as u64;
    let (write, file) = timed(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(bytes as u64)?;
        for number in 0..PLACES {
            file.write_all_at(&body, place(number))?;
        }
        file.sync_all()?;
        Ok(file)
    })?;
    let mut back = vec![0; MIB];
    let (read, ()) = timed(|| {
        for number in 0..PLACES {
            file.read_exact_at(&mut back, place(number))?;
            ensure!(back == body, "other bytes at {}", place(number));
            file.read_exact_at(&mut back, place(number) + 2 * MIB as u64)?;
            ensure!(back.iter().all(|byte| *byte == 0), "a hole that is none");
        }
        Ok(())
    })?;
    let metadata = file.metadata()?;
    ensure!(metadata.len() == bytes as u64, "{} bytes", metadata.len());
    let (remove, ()) = timed(|| Ok(fs::remove_file(&path)?))?;
    let name = |what: &str| format!("sparse file of {gib} GiB: {what}");
    Ok(vec![
        (
            name("write 64 x 1 MiB + fsync, ms"),
            write.as_secs_f64() * 1e3,
        ),
        (name("read them and 64 holes, ms"), read.as_secs_f64() * 1e3),
        (
            name("allocated, MiB"),
            (metadata.blocks() * 512) as f64 / MIB as f64,
        ),
        (name("remove, ms"), remove.as_secs_f64() * 1e3),
    ])
}

/// Makes the files number `from` to `to`.
pub(crate) fn create(view: &Path, from: usize, to: usize) -> anyhow::Result<Figures> {
    let (time, ()) = timed(|| {
        for number in from..to {
            let path = many(view, number);
            if number % 1_000 == 0 {
                fs::create_dir_all(path.parent().unwrap_or(view))?;
            }
            fs::write(path, [b'm'; 100])?;
        }
        Ok(())
    })?;
    Ok(vec![(
        format!("{to} files: create one more, us"),
        each(time, to - from),
    )])
}

/// Looks at files here and there.
pub(crate) fn probe(view: &Path, files: usize, state: &str) -> anyhow::Result<Figures> {
    let mut random = Random(7);
    let (stat, ()) = timed(|| {
        for _ in 0..PROBES {
            let length = fs::symlink_metadata(many(view, random.below(files)))?.len();
            ensure!(length == 100, "a file of {length} bytes");
        }
        Ok(())
    })?;
    let (read, ()) = timed(|| {
        for _ in 0..PROBES {
            let body = fs::read(many(view, random.below(files)))?;
            ensure!(body == [b'm'; 100], "a file with other bytes");
        }
        Ok(())
    })?;
    let name = |what: &str| format!("{files} files: {what} {state}, us");
    Ok(vec![
        (name("stat"), each(stat, PROBES)),
        (name("read"), each(read, PROBES)),
    ])
}

/// Operations per second of a terminal that makes, reads, renames and removes.
fn mixed(view: &Path, number: usize, seconds: u64) -> anyhow::Result<Figures> {
    let dir = view.join(format!("terminal-{number}"));
    fs::create_dir_all(&dir)?;
    let (begin, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut rounds = 0_u32;
    let body = [b'x'; 2_000];
    while begin.elapsed() < limit {
        let (one, other) = (
            dir.join(format!("a{}", rounds % 50)),
            dir.join(format!("b{rounds}")),
        );
        fs::write(&one, body)?;
        ensure!(
            fs::read(&one)? == body,
            "read something else than was written"
        );
        fs::rename(&one, &other)?;
        ensure!(fs::symlink_metadata(&other)?.len() == body.len() as u64);
        fs::remove_file(&other)?;
        rounds += 1;
    }
    let rate = f64::from(rounds) * 5.0 / begin.elapsed().as_secs_f64();
    fs::remove_dir_all(&dir)?;
    Ok(vec![(format!("terminal {number}, operations/s"), rate)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_tenfold_and_end_with_the_largest() {
        assert_eq!(sizes(1_000_000), [10_000, 100_000, 1_000_000]);
        assert_eq!(sizes(20_000), [10_000, 20_000]);
        assert_eq!(sizes(5_000), [5_000]);
    }

    #[test]
    fn only_requests_of_this_measurement_are_taken() {
        let words = ["directory"];
        assert!(step(Path::new("/nowhere"), &words).is_err());
        assert!(step(Path::new("/nowhere"), &["probe", "ten", "warm"]).is_err());
    }
}
