//! Phases that are the work of well-known programs.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::super::host;
use super::super::inputs::{MOVED_DIRECTORY, NEEDLE};
use super::{Scene, timed};

const UNPACKED: &str = "unpacked";
const COPIED: &str = "copied";
const MARK: &[u8] = b"// edited";

fn program(scene: &Scene, name: &str, arguments: &[&str]) -> anyhow::Result<(Duration, Output)> {
    timed(|| {
        host::run(
            Command::new(name)
                .args(arguments)
                .current_dir(&scene.view)
                .env("GIT_TERMINAL_PROMPT", "0"),
        )
    })
}

pub(crate) fn walk(scene: &Scene) -> anyhow::Result<Duration> {
    let arguments = [
        ".",
        "-mindepth",
        "1",
        "-name",
        ".git",
        "-prune",
        "-o",
        "-printf",
        "%s\\n",
    ];
    let (time, output) = program(scene, "find", &arguments)?;
    let listed = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    let expected = scene.inputs.manifest.entries;
    ensure!(listed == expected, "{listed} of {expected} entries");
    Ok(time)
}

pub(crate) fn grep(scene: &Scene) -> anyhow::Result<Duration> {
    let arguments = ["-r", "-l", "--exclude-dir=.git", NEEDLE, "repo"];
    let (time, output) = program(scene, "grep", &arguments)?;
    let found = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    let expected = scene.inputs.manifest.needles;
    ensure!(found == expected, "found {found} of {expected}");
    Ok(time)
}

pub(crate) fn git_status(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, output) = program(scene, "git", &["-C", "repo", "status", "--porcelain"])?;
    ensure!(
        output.stdout.is_empty(),
        "git finds changes in an unchanged tree"
    );
    Ok(time)
}

pub(crate) fn git_clone(scene: &Scene) -> anyhow::Result<Duration> {
    let source = scene.inputs.base().join("repo");
    let source = source.to_str().context("not UTF-8")?;
    // Objects are copied on the plain disk too, where git could link them.
    let arguments = ["clone", "--quiet", "--no-hardlinks", source, "clone"];
    let (time, _) = program(scene, "git", &arguments)?;
    ensure_tree(scene, &scene.view.join("clone"))?;
    Ok(time)
}

pub(crate) fn untar(scene: &Scene) -> anyhow::Result<Duration> {
    let archive = scene.inputs.dir.join("tree.tar");
    let archive = archive.to_str().context("not UTF-8")?;
    fs::create_dir(scene.view.join(UNPACKED))?;
    let (time, _) = program(scene, "tar", &["-xf", archive, "-C", UNPACKED])?;
    // No more: a look at all of it would warm caches for `copy`, which shows it.
    ensure!(scene.view.join(UNPACKED).join(MOVED_DIRECTORY).is_dir());
    Ok(time)
}

pub(crate) fn copy(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, _) = program(scene, "cp", &["-r", UNPACKED, COPIED])?;
    ensure_tree(scene, &scene.view.join(COPIED))?;
    Ok(time)
}

pub(crate) fn remove(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, _) = program(scene, "rm", &["-rf", UNPACKED, COPIED])?;
    for name in [UNPACKED, COPIED] {
        ensure!(!scene.view.join(name).exists(), "{name} is still there");
    }
    Ok(time)
}

pub(crate) fn edit(scene: &Scene) -> anyhow::Result<Duration> {
    let repo = scene.view.join("repo");
    let files = files_below(&repo)?;
    let step = (files.len() / scene.scale().edited_files).max(1);
    let chosen = files.iter().step_by(step).take(scene.scale().edited_files);
    let chosen: Vec<_> = chosen.cloned().collect();
    let expression = format!("1s:^:{} :", String::from_utf8_lossy(MARK));
    let (time, _) =
        timed(|| host::run(Command::new("sed").arg("-i").arg(expression).args(&chosen)))?;
    for path in chosen {
        ensure!(
            fs::read(&path)?.starts_with(MARK),
            "{} was not edited",
            path.display()
        );
    }
    Ok(time)
}

pub(crate) fn move_directory(scene: &Scene) -> anyhow::Result<Duration> {
    let (from, to) = (format!("repo/{MOVED_DIRECTORY}"), "repo/third_party");
    let (time, _) = program(scene, "mv", &[&from, to])?;
    ensure!(
        !scene.view.join(&from).exists(),
        "the old name is still there"
    );
    let moved = files_below(&scene.view.join(to))?;
    let expected = scene.inputs.manifest.moved_files;
    ensure!(
        moved.len() == expected,
        "{} of {expected} files moved",
        moved.len()
    );
    for path in moved.iter().step_by(50) {
        let mut first = [0];
        fs::File::open(path)?.read_exact(&mut first)?;
    }
    Ok(time)
}

pub(crate) fn sqlite(scene: &Scene) -> anyhow::Result<Duration> {
    let count = scene.scale().transactions;
    let mut script = String::from("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);\n");
    for number in 0..count {
        script.push_str(&format!(
            "BEGIN; INSERT INTO t(b) VALUES ('{number:0>200}'); COMMIT;\n"
        ));
    }
    script.push_str("SELECT count(*) FROM t;\n");
    let (time, output) = timed(|| {
        let mut child = Command::new("sqlite3")
            .args(["-batch", "application.db"])
            .current_dir(&scene.view)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `sqlite3`")?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(script.as_bytes())?;
        drop(stdin);
        Ok(child.wait_with_output()?)
    })?;
    let counted = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && counted.trim() == count.to_string(),
        "{counted} of {count} rows"
    );
    Ok(time)
}

pub(crate) fn make(scene: &Scene) -> anyhow::Result<Duration> {
    let (time, _) = program(scene, "make", &["-j2", "-C", "csrc"])?;
    let (_, output) = program(scene, "./csrc/program", &[])?;
    ensure!(output.stdout == b"42\n", "the program made is wrong");
    Ok(time)
}

fn ensure_tree(scene: &Scene, root: &Path) -> anyhow::Result<()> {
    let files = files_below(root)?;
    let (found, expected) = (files.len(), scene.scale().files);
    ensure!(
        found == expected,
        "{found} of {expected} files in {}",
        root.display()
    );
    let mut bytes = 0;
    for file in &files {
        bytes += fs::symlink_metadata(file)?.len();
    }
    let expected = scene.inputs.manifest.tree_bytes;
    ensure!(
        bytes == expected,
        "{bytes} of {expected} bytes in {}",
        root.display()
    );
    Ok(())
}

/// All regular files below a directory, sorted, without `.git`.
fn files_below(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut pending) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                if entry.file_name() != ".git" {
                    pending.push(entry.path());
                }
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
