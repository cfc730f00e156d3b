//! `agentfs fs`: listing and printing what a session's view holds.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;

use agentfs_core::types::Attr;
use agentfs_core::{FileKind, FsError, Ino, Name, Overlay};
use agentfs_sqlite::SqliteStorage;
use anyhow::{Context as _, Result, bail};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::args::FsArgs;
use crate::locate;
use crate::output::{self, JsonArray, Out, kind_letter, quote, say};
use crate::store::{self, Lower, Store};

/// Symbolic links followed in one path, as Linux does.
const LINKS_MAX: usize = 40;
/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;

type View = Overlay<SqliteStorage, Lower>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Ls,
    Cat,
}

pub(crate) fn fs(args: &FsArgs) -> Result<u8> {
    let action = |word: &OsStr| match word.as_bytes() {
        b"ls" => Some(Action::Ls),
        b"cat" => Some(Action::Cat),
        _ => None,
    };
    let (action, name) = match (action(&args.first), action(&args.second)) {
        (Some(action), _) => (action, &args.second),
        (None, Some(action)) => (action, &args.first),
        (None, None) => bail!(
            "'{}' is not something to do with files: say 'agentfs fs ls NAME' or 'agentfs fs cat NAME PATH'",
            quote(args.first.as_bytes())
        ),
    };
    let path = match (&args.path, action) {
        (Some(path), _) => path.as_bytes(),
        (None, Action::Ls) => b"/",
        (None, Action::Cat) => bail!("'agentfs fs cat' needs the path of a file"),
    };
    let located = locate::existing(name)?;
    let store = Store::read(&located)?;
    let (lower, missing) = store::lower_or_nothing(&located, &store.database)?;
    if let Some(why) = missing {
        say(format_args!(
            "{why}: only what the session itself holds is shown"
        ));
    }
    let view = store::view(&store, lower)?;
    match action {
        Action::Ls => ls(&view, path, args.recursive, args.json),
        Action::Cat => cat(&view, path),
    }
}

/// What is listed of an entry.
struct Listed {
    path: Vec<u8>,
    attr: Attr,
}

fn ls(view: &View, path: &[u8], recursive: bool, json: bool) -> Result<u8> {
    let top = resolve(view, path)?;
    let mut listed = Vec::new();
    if top.kind == FileKind::Directory {
        let mut dirs = vec![(Vec::new(), top.ino)];
        // A hostile database can hold a cycle of directories: each is entered once.
        let mut entered = HashSet::from([top.ino]);
        while let Some((prefix, dir)) = dirs.pop() {
            let names = names(view, dir).with_context(|| quote(path).into_owned())?;
            for name in names {
                let Some(attr) = found(view.lookup(dir, &name))? else {
                    continue;
                };
                let path = [&prefix, name.as_bytes()].concat();
                if recursive && attr.kind.is_dir() && entered.insert(attr.ino) {
                    dirs.push(([&path, &b"/"[..]].concat(), attr.ino));
                }
                listed.push(Listed { path, attr });
            }
        }
        listed.sort_by(|a, b| a.path.cmp(&b.path));
    } else {
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path).to_vec();
        listed.push(Listed {
            path: name,
            attr: top,
        });
    }
    let mut out = Out::new();
    if json {
        out.json(&JsonArray(&listed, JsonListed))?;
    } else {
        for entry in &listed {
            writeln!(
                out,
                "{} {}",
                kind_letter(entry.attr.kind),
                quote(&entry.path)
            )?;
        }
    }
    out.finish()?;
    Ok(0)
}

struct JsonListed<'a>(&'a Listed);

impl Serialize for JsonListed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Listed { path, attr } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", &kind_letter(attr.kind))?;
        output::json_path(&mut map, "path", path)?;
        map.serialize_entry("mode", &format!("{:04o}", attr.perm))?;
        map.serialize_entry("uid", &attr.uid)?;
        map.serialize_entry("gid", &attr.gid)?;
        map.serialize_entry("size", &attr.size)?;
        map.serialize_entry("mtime", &attr.mtime.secs)?;
        map.serialize_entry("ino", &attr.ino.0)?;
        map.end()
    }
}

fn cat(view: &View, path: &[u8]) -> Result<u8> {
    let attr = resolve(view, path)?;
    match attr.kind {
        FileKind::Regular => {}
        FileKind::Directory => bail!("{} is a directory", quote(path)),
        _ => bail!("{} is not a regular file", quote(path)),
    }
    let mut out = Out::new();
    let mut offset = 0;
    loop {
        let piece = view
            .read(attr.ino, offset, PIECE_BYTES)
            .with_context(|| quote(path).into_owned())?;
        if piece.is_empty() {
            break;
        }
        offset += piece.len() as u64;
        out.write_all(&piece)?;
    }
    out.finish()?;
    Ok(0)
}

fn names(view: &View, dir: Ino) -> Result<Vec<Name>, FsError> {
    let mut names = Vec::new();
    view.read_dir(dir, 0, &mut |entry| {
        names.push(entry.name.clone());
        ControlFlow::Continue(())
    })?;
    Ok(names)
}

/// Finds a path in the view, symbolic links included: one with an absolute
/// target leads out of the view as far as can be known here, and is refused.
fn resolve(view: &View, path: &[u8]) -> Result<Attr> {
    let whole = || quote(path).into_owned();
    let mut at = vec![Ino::ROOT];
    let mut left: Vec<Vec<u8>> = Vec::new();
    push_components(&mut left, path);
    let mut links = 0;
    let mut attr = view.getattr(Ino::ROOT)?;
    while let Some(component) = left.pop() {
        match component.as_slice() {
            b"" | b"." => continue,
            b".." => {
                if at.len() > 1 {
                    at.pop();
                }
                attr = view.getattr(at.last().copied().unwrap_or(Ino::ROOT))?;
                continue;
            }
            _ => {}
        }
        let dir = at.last().copied().unwrap_or(Ino::ROOT);
        let name = Name::new(&component).with_context(whole)?;
        attr = view.lookup(dir, &name).with_context(whole)?;
        if attr.kind == FileKind::Symlink {
            links += 1;
            let target = view.readlink(attr.ino).with_context(whole)?;
            if links > LINKS_MAX {
                bail!("{}: too many levels of symbolic links", whole());
            }
            if target.starts_with(b"/") {
                bail!(
                    "{} is a symbolic link out of the session, to {}",
                    whole(),
                    quote(&target)
                );
            }
            push_components(&mut left, &target);
            attr = view.getattr(dir)?;
        } else if attr.kind.is_dir() {
            at.push(attr.ino);
        } else if left.iter().any(|component| !component.is_empty()) {
            bail!("{}: not a directory", whole());
        }
    }
    Ok(attr)
}

/// Puts the components of a path on a stack, the first on top.
fn push_components(stack: &mut Vec<Vec<u8>>, path: &[u8]) {
    stack.extend(path.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
}

/// Of a lookup: nothing for what has gone meanwhile.
fn found(result: Result<Attr, FsError>) -> Result<Option<Attr>> {
    match result {
        Ok(attr) => Ok(Some(attr)),
        Err(FsError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
