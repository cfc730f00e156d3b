//! Everything that can be done to a database, once: what a session does and what
//! the commands do.
//!
//! The effort is bounded by constants here, not by what the database says: where
//! it takes longer or more memory than that, the fault is in what is tested.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use agentfs_core::audit::{Audit, Filter};
use agentfs_core::check::check;
use agentfs_core::diff::diff;
use agentfs_core::kv::Kv;
use agentfs_core::overlay::{
    Fallocate, NewNode, RenameMode, SeekWhence, SetAttr, SetTime, Times, XattrMode,
};
use agentfs_core::types::Attr;
use agentfs_core::{
    FileKind, FsError, Ino, LowerLayer, Name, Overlay, Owner, Storage, StorageError, Timestamp,
};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};

use super::template::config;

/// Inodes looked at in one walk.
const WALKED_MAX: usize = 400;
/// Inodes that are changed.
const CHANGED_MAX: usize = 40;

type View<L> = Overlay<SqliteStorage, L>;

/// What could be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// The sentence of the refusal, when it was not opened for reading.
    pub refused: Option<String>,
    /// The same for writing.
    pub refused_to_write: Option<String>,
    /// What `check` said, or why it could not.
    pub check: String,
    /// What `diff` failed with.
    pub diff: Option<String>,
    /// Inodes seen in the walk for reading.
    pub walked: usize,
}

/// Opens the database at `path`, reads all, changes all, closes.
///
/// # Panics
/// When an error has no errno, or a refusal is no sentence.
pub fn exercise<L: LowerLayer + Clone>(path: &Path, base: &L) -> Tried {
    let mut tried = Tried::default();
    match Database::open(path, &OpenOptions::new().read_only(true)) {
        Err(error) => tried.refused = Some(sentence(&error)),
        Ok(database) => {
            for volume in [Volume::View, Volume::Home] {
                let storage = database.volume(volume);
                if let Ok(view) = Overlay::open_read_only(storage, base.clone(), config()) {
                    tried.walked += read_all(&view).len();
                }
            }
            records(&database);
            (tried.check, tried.diff) = compare(&database, base);
        }
    }
    match Database::open(path, &OpenOptions::new()) {
        Err(error) => tried.refused_to_write = Some(sentence(&error)),
        Ok(database) => {
            for volume in [Volume::View, Volume::Home] {
                let storage = database.volume(volume);
                if let Ok(view) = Overlay::open(storage, base.clone(), config()) {
                    change_all(&view);
                    read_all(&view);
                }
            }
            write_records(&database);
            let _ = database.sync();
            let _ = compare(&database, base);
            let _ = database.close();
        }
    }
    tried
}

fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    assert!(
        text.len() < 1000 && !text.contains(char::is_control),
        "not one sentence: {text:?}"
    );
    text
}

/// A refusal is fine; one without an errno is not.
fn ok<T>(result: Result<T, FsError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(error.errno() > 0, "{error:?}");
            None
        }
    }
}

/// Walks and reads; gives what was seen, one reference held on each.
fn read_all<L: LowerLayer>(view: &View<L>) -> Vec<(Ino, Name, Attr)> {
    let mut seen = HashSet::from([Ino::ROOT]);
    let mut found: Vec<(Ino, Name, Attr)> = Vec::new();
    let mut dirs = vec![Ino::ROOT];
    while let Some(dir) = dirs.pop() {
        let mut names = Vec::new();
        ok(view.read_dir(dir, 0, &mut |entry| {
            names.push(entry.name.clone());
            bound(names.len())
        }));
        let mut listed = Vec::new();
        ok(view.read_dir_plus(dir, 0, &mut |_, attr| {
            let flow = bound(listed.len());
            if flow.is_continue() {
                listed.push(attr.ino);
            }
            flow
        }));
        for ino in listed {
            view.forget(ino, 1);
        }
        for name in names {
            let Some(attr) = ok(view.lookup(dir, &name)) else {
                continue;
            };
            if found.len() >= WALKED_MAX || !seen.insert(attr.ino) {
                view.forget(attr.ino, 1);
                continue;
            }
            if attr.kind.is_dir() {
                dirs.push(attr.ino);
            }
            read_one(view, &attr);
            found.push((dir, name, attr));
        }
    }
    for (_, _, attr) in &found {
        ok(view.parent(attr.ino));
        ok(view.getattr(attr.ino));
        view.lower_dir(attr.ino);
    }
    found
}

fn bound(count: usize) -> ControlFlow<()> {
    if count < WALKED_MAX {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(())
    }
}

fn read_one<L: LowerLayer>(view: &View<L>, attr: &Attr) {
    let ino = attr.ino;
    for at in [0, attr.size / 2, attr.size.saturating_sub(1), 1 << 30] {
        if let Some(bytes) = ok(view.read(ino, at, 10_000)) {
            assert!(bytes.len() <= 10_000);
        }
        ok(view.lseek(ino, at, SeekWhence::Data));
        ok(view.lseek(ino, at, SeekWhence::Hole));
    }
    ok(view.readlink(ino));
    for name in ok(view.listxattr(ino)).into_iter().flatten().take(20) {
        ok(view.getxattr(ino, &name));
    }
}

fn records(database: &Database) {
    let storage = database.volume(Volume::View);
    let _ = database.base_path();
    let _ = database.integrity_check();
    let _ = Kv::new(&storage).list("", &mut |_| {});
    let _ = Kv::new(&storage).get("key");
    let filter = Filter {
        limit: Some(1000),
        ..Filter::default()
    };
    let _ = Audit::new(&storage).list(&filter, &mut |_| {});
}

fn write_records(database: &Database) {
    let storage = database.volume(Volume::View);
    let _ = Kv::new(&storage).set("key", "1", 5);
    let _ = Kv::new(&storage).delete("other");
    let call = agentfs_core::audit::ToolCall {
        name: "tool",
        parameters: None,
        started: Timestamp::new(5, 0),
        outcome: agentfs_core::audit::Outcome::Pending,
    };
    let _ = Audit::new(&storage).record(&call);
    records(database);
}

/// What `agentfs check` and `agentfs diff` do.
fn compare<L: LowerLayer>(database: &Database, base: &L) -> (String, Option<String>) {
    let storage = database.volume(Volume::View);
    let chunk = storage.chunk_size_bytes();
    let checked = storage.read(|txn| check(txn, base, chunk));
    let checked = match checked {
        Ok(violations) => {
            let texts: Vec<String> = violations.iter().map(ToString::to_string).collect();
            texts.join("\n")
        }
        Err(error) => error.to_string(),
    };
    let compared = storage.read(|txn| diff(txn, base, &[], chunk, &mut |_| {}));
    (checked, compared.err().map(|error| error.to_string()))
}

/// Changes what a walk finds, in every way there is.
fn change_all<L: LowerLayer>(view: &View<L>) {
    let found = read_all(view);
    let spare = |number: usize| Name::new(format!("spare{number}").as_bytes());
    for (number, (dir, name, attr)) in found.iter().take(CHANGED_MAX).enumerate() {
        let Ok(spare) = spare(number) else { continue };
        change_attributes(view, attr.ino);
        change_bytes(view, attr);
        change_names(view, *dir, name, attr, &spare);
    }
    // Committing has to have an answer too, good or bad.
    let answer: Result<(), StorageError> = view.storage().sync();
    drop(answer);
    for (_, _, attr) in found {
        view.forget(attr.ino, 1);
    }
}

fn change_attributes<L: LowerLayer>(view: &View<L>, ino: Ino) {
    ok(view.setattr(
        ino,
        &SetAttr {
            perm: Some(0o640),
            uid: Some(7),
            mtime: Some(SetTime::At(Timestamp::new(i64::MIN, 999_999_999))),
            ..SetAttr::default()
        },
    ));
    ok(view.setxattr(ino, b"user.new", b"v", XattrMode::Set));
    ok(view.removexattr(ino, b"user.a"));
}

fn change_bytes<L: LowerLayer>(view: &View<L>, attr: &Attr) {
    let (ino, size) = (attr.ino, attr.size);
    ok(view.write(ino, 3, b"ten bytes.", true));
    ok(view.write(ino, size / 2, &[1; 1500], false));
    ok(view.write(ino, size, b"end", false));
    for (mode, at, len) in [
        (Fallocate::PunchHole, 0, size / 2),
        (Fallocate::PunchHole, 1, size.max(1)),
        (Fallocate::ZeroRange { keep_size: true }, size / 2, 1 << 20),
        (Fallocate::Allocate, size, 100),
    ] {
        ok(view.fallocate(ino, mode, at, len, Times::Now));
    }
    ok(view.copy_file_range(ino, 0, ino, size / 2, 2000, Times::Now));
    for size in [size.saturating_sub(1), size / 3, 100] {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        ok(view.setattr(ino, &set));
    }
}

fn change_names<L: LowerLayer>(view: &View<L>, dir: Ino, name: &Name, attr: &Attr, spare: &Name) {
    let owner = Owner::default();
    if attr.kind.is_dir() {
        if let Some(made) = ok(view.mkdir(attr.ino, spare, 0o755, owner)) {
            view.forget(made.ino, 1);
        }
        // Into itself, out of itself, and over an ancestor.
        ok(view.rename(dir, name, attr.ino, spare, RenameMode::Replace));
        ok(view.rename(attr.ino, spare, Ino::ROOT, spare, RenameMode::NoReplace));
    } else if let Some(linked) = ok(view.link(attr.ino, dir, spare)) {
        view.forget(linked.ino, 1);
    }
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o600,
        rdev: 0,
    };
    if let Some(made) = ok(view.mknod(dir, spare, node, owner)) {
        view.forget(made.ino, 1);
    }
    ok(view.rename(dir, name, Ino::ROOT, spare, RenameMode::Exchange));
    ok(view.rename(dir, name, Ino::ROOT, spare, RenameMode::Replace));
    ok(view.unlink(Ino::ROOT, spare));
    ok(view.rmdir(Ino::ROOT, spare));
}
