//! Holds `agentfs diff --json` against two trees: what it tells, done to the
//! base, must give the view, and what it does not tell must be unchanged.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::tree::{Entry, Tree};

/// One change as told.
struct Change {
    letter: String,
    kind: String,
    path: Vec<u8>,
    old_path: Option<Vec<u8>>,
    modified: bool,
}

/// What is wrong with the changes told of a session whose base is `base` and
/// whose view is `view` (neither with a root); empty when nothing is.
///
/// # Panics
/// When `json` is not what `agentfs diff --json` prints.
#[must_use]
pub fn disagreements(json: &str, base: &Tree, view: &Tree) -> Vec<String> {
    let told: Vec<Value> = serde_json::from_str(json).expect("JSON");
    let changes: Vec<Change> = told.iter().map(change).collect();
    let mut wrong = Vec::new();
    let mut say = |what: &str, path: &[u8]| wrong.push(format!("{what}: {}", path.escape_ascii()));

    let mut expected = moved(base, &changes);
    let mut changed: BTreeMap<&[u8], &Change> = BTreeMap::new();
    for change in &changes {
        if changed.insert(&change.path, change).is_some() {
            say("told twice", &change.path);
        }
        let known = expected.contains_key(&change.path);
        match (change.letter.as_str(), known) {
            ("D", true) => drop(expected.remove(&change.path)),
            ("A", false) | ("M" | "R", true) => {}
            ("A", true) => say("told as added, but it was there", &change.path),
            _ => say("told as changed, but it was not there", &change.path),
        }
    }
    for (path, now) in &view.0 {
        let change = changed.get(path.as_slice());
        if change.is_some_and(|change| change.kind != letter(now)) {
            say("told with the wrong kind", path);
        }
        match (
            expected.get(path),
            change.map(|change| (change.letter.as_str(), change.modified)),
        ) {
            (None, Some(("A", _))) => {}
            (None, _) => say("added, and not told so", path),
            (Some(before), told) => {
                let told_changed = matches!(told, Some(("M", _) | ("R", true)));
                if before.is_unchanged(now) && told_changed {
                    say("told as changed, but it is as before", path);
                } else if !before.is_unchanged(now) && !told_changed {
                    say("changed, and not told so", path);
                }
            }
        }
    }
    for path in expected.keys().filter(|path| !view.0.contains_key(*path)) {
        say("deleted, and not told so", path);
    }
    wrong
}

/// The base with everything where the told renames put it.
fn moved<'a>(base: &'a Tree, changes: &[Change]) -> BTreeMap<Vec<u8>, &'a Entry> {
    let renames: Vec<_> = changes
        .iter()
        .filter_map(|change| Some((change.old_path.as_deref()?, change.path.as_slice())))
        .collect();
    let mut tree = BTreeMap::new();
    let mut arrived = Vec::new();
    for (path, entry) in &base.0 {
        let above = renames.iter().filter(|(old, _)| {
            path.strip_prefix(*old)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        });
        match above.max_by_key(|(old, _)| old.len()) {
            Some((old, new)) => arrived.push(([*new, &path[old.len()..]].concat(), entry)),
            None => drop(tree.insert(path.clone(), entry)),
        }
    }
    tree.extend(arrived);
    tree
}

fn change(value: &Value) -> Change {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Change {
        letter: text("change"),
        kind: text("kind"),
        path: path(value, "path").expect("a path"),
        old_path: path(value, "old_path"),
        modified: value["modified"].as_bool().unwrap_or(false),
    }
}

/// A path without its leading slash; in hexadecimal beside, when it is no text.
fn path(value: &Value, key: &str) -> Option<Vec<u8>> {
    let bytes = match value[format!("{key}_hex").as_str()].as_str() {
        Some(hex) => (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal"))
            .collect(),
        None => value[key].as_str()?.as_bytes().to_vec(),
    };
    Some(bytes.strip_prefix(b"/").expect("an absolute path").to_vec())
}

fn letter(entry: &Entry) -> String {
    if "fdl".contains(entry.kind) {
        entry.kind.to_string()
    } else {
        "?".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_true_account_is_accepted_and_each_lie_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kept", "gone", "edited"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("old")).unwrap();
        fs::write(dir.path().join("old/inside"), "inside").unwrap();
        let base = Tree::of(dir.path()).without(&[""]);
        fs::remove_file(dir.path().join("gone")).unwrap();
        fs::write(dir.path().join("edited"), "otherwise").unwrap();
        fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
        fs::write(dir.path().join("new/born"), "born").unwrap();
        let view = Tree::of(dir.path()).without(&[""]);

        let lines = [
            r#"{"change":"M","kind":"f","path":"/edited"}"#,
            r#"{"change":"D","kind":"f","path":"/gone"}"#,
            r#"{"change":"R","kind":"d","path":"/new","old_path":"/old","modified":false}"#,
            r#"{"change":"A","kind":"f","path":"/new/born"}"#,
        ];
        let told = |lines: &[&str]| disagreements(&format!("[{}]", lines.join(",")), &base, &view);
        assert_eq!(told(&lines), Vec::<String>::new());
        for left_out in 0..lines.len() {
            let mut fewer = lines.to_vec();
            fewer.remove(left_out);
            assert_ne!(
                told(&fewer),
                Vec::<String>::new(),
                "without {}",
                lines[left_out]
            );
        }
        let mut more = lines.to_vec();
        more.push(r#"{"change":"M","kind":"f","path":"/kept"}"#);
        assert_ne!(told(&more), Vec::<String>::new());
    }
}
