//! `agentfs diff`: what a session changed.

use std::io::{IsTerminal as _, Write as _};

use agentfs_core::Storage as _;
use agentfs_core::diff::{Change, Entry, diff as compare};
use anyhow::Result;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::args::DiffArgs;
use crate::output::{self, JsonArray, Out, Progress, kind_letter, quote};
use crate::store::{self, Store};
use crate::{base, locate};

pub(crate) fn diff(args: &DiffArgs) -> Result<u8> {
    let located = locate::existing(&args.name)?;
    let store = Store::read(&located)?;
    let lower = store::lower(&located, &base::of(&located, &store.database)?)?;
    let progress = Progress::new("comparing");
    let mut entries = Vec::new();
    store.storage.read(|txn| {
        compare(
            txn,
            &lower,
            &store::hidden(),
            store.storage.chunk_size_bytes(),
            &mut |entry| {
                entries.push(entry);
            },
        )
    })?;
    drop(progress);
    let mut out = Out::new();
    if args.json {
        out.json(&JsonArray(&entries, JsonEntry))?;
    } else {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        for entry in &entries {
            writeln!(out, "{}", line(entry, colour))?;
        }
    }
    out.finish()?;
    Ok(0)
}

fn line(entry: &Entry, colour: bool) -> String {
    let (letter, kind) = (entry.change.letter(), kind_letter(entry.kind));
    let line = format!("{letter} {kind} {}", quote(&entry.path));
    if !colour {
        return line;
    }
    let code = match entry.change {
        Change::Added => 32,
        Change::Modified { .. } => 33,
        Change::Deleted => 31,
        Change::Renamed { .. } => 36,
    };
    format!("\x1b[{code}m{line}\x1b[0m")
}

/// An entry as a JSON object.
struct JsonEntry<'a>(&'a Entry);

impl Serialize for JsonEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(entry) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("change", &entry.change.letter())?;
        map.serialize_entry("kind", &kind_letter(entry.kind))?;
        output::json_path(&mut map, "path", &entry.path)?;
        match &entry.change {
            Change::Renamed { old_path, modified } => {
                output::json_path(&mut map, "old_path", old_path)?;
                map.serialize_entry("modified", modified)?;
            }
            Change::Modified {
                old_kind: Some(kind),
            } => {
                map.serialize_entry("old_kind", &kind_letter(*kind))?;
            }
            Change::Modified { old_kind: None } | Change::Added | Change::Deleted => {}
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use agentfs_core::FileKind;

    use super::*;

    fn entry(change: Change, path: &[u8]) -> Entry {
        Entry {
            change,
            kind: FileKind::Regular,
            path: path.to_vec(),
        }
    }

    #[test]
    fn lines() {
        assert_eq!(line(&entry(Change::Added, b"/a b"), false), "A f /a b");
        assert_eq!(
            line(&entry(Change::Deleted, b"/a\n"), false),
            "D f \"/a\\n\""
        );
        assert_eq!(
            line(&entry(Change::Deleted, b"/a"), true),
            "\x1b[31mD f /a\x1b[0m"
        );
    }

    #[test]
    fn objects() {
        let json = |entry| serde_json::to_string(&JsonEntry(&entry)).unwrap();
        assert_eq!(
            json(entry(Change::Added, b"/a\xff")),
            r#"{"change":"A","kind":"f","path":"/a�","path_hex":"2f61ff"}"#
        );
        let renamed = Change::Renamed {
            old_path: b"/old".to_vec(),
            modified: true,
        };
        assert_eq!(
            json(entry(renamed, b"/new")),
            r#"{"change":"R","kind":"f","path":"/new","old_path":"/old","modified":true}"#
        );
        let retyped = Change::Modified {
            old_kind: Some(FileKind::Directory),
        };
        assert_eq!(
            json(entry(retyped, b"/x")),
            r#"{"change":"M","kind":"f","path":"/x","old_kind":"d"}"#
        );
    }
}
