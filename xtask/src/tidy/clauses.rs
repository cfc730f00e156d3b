//! Every clause of docs/SEMANTICS.md and every promise of docs/SANDBOX.md names
//! tests, and every named test exists.
//!
//! A clause is a heading of level 3 or deeper, `### 2.4 Title`; its tests stand
//! in its text as `Tests:` (or `Test:`) and names in backquotes, with or without
//! a module path.

use std::collections::HashSet;

use super::{SourceFile, is_rust};

/// A document of clauses, and what each must say beside its tests.
struct Document {
    path: &'static str,
    says: Option<&'static str>,
}

const DOCUMENTS: [Document; 2] = [
    Document {
        path: "docs/SEMANTICS.md",
        says: None,
    },
    Document {
        path: "docs/SANDBOX.md",
        says: Some("Stopped by:"),
    },
];

/// Checks the documents against the tests of the repository.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let sources = files.iter().filter(|file| is_rust(&file.path));
    let functions: HashSet<&str> = sources
        .flat_map(|file| function_names(&file.text))
        .collect();
    let check = |document: &Document| {
        let file = files.iter().find(|file| file.path == document.path);
        match file {
            Some(file) => check_document(document, &file.text, &functions),
            None => vec![format!("{}: is missing", document.path)],
        }
    };
    DOCUMENTS.iter().flat_map(check).collect()
}

fn check_document(document: &Document, text: &str, functions: &HashSet<&str>) -> Vec<String> {
    let mut findings = Vec::new();
    let Document { path, says } = document;
    for clause in clauses(text) {
        if let Some(words) = says.filter(|words| !clause.lines.iter().any(|l| l.contains(words))) {
            findings.push(format!("{path}: `{}` has no `{words}`", clause.title));
        }
        let named: Vec<_> = tests_named(&clause).collect();
        if named.is_empty() {
            findings.push(format!("{path}: `{}` names no test", clause.title));
        }
        for test in named
            .iter()
            .filter(|test| !functions.contains(last_segment(test)))
        {
            findings.push(format!(
                "{path}: `{}` names `{test}`, which does not exist",
                clause.title
            ));
        }
    }
    findings
}

struct Clause<'a> {
    title: &'a str,
    lines: Vec<&'a str>,
}

fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('#') {
            inside = line.starts_with("###");
            if inside {
                clauses.push(Clause {
                    title: line.trim_start_matches(['#', ' ']),
                    lines: Vec::new(),
                });
            }
        } else if let Some(clause) = clauses.last_mut().filter(|_| inside) {
            clause.lines.push(line);
        }
    }
    clauses
}

/// The names in backquotes from `Tests:` to the end of its paragraph.
fn tests_named<'a>(clause: &Clause<'a>) -> impl Iterator<Item = &'a str> {
    let mut listing = false;
    clause.lines.clone().into_iter().flat_map(move |line| {
        listing =
            (listing && !line.is_empty()) || line.contains("Tests:") || line.contains("Test:");
        let quoted = line.split('`').skip(1).step_by(2);
        quoted.filter(|_| listing).collect::<Vec<_>>()
    })
}

fn last_segment(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

fn function_names(source: &str) -> impl Iterator<Item = &str> {
    source.split("fn ").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        Some(&rest[..end]).filter(|name| !name.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# Title
## 2 Copy-up
Prose with `code`.
### 2.1 Reading never copies
It does not.
Tests: `semantics::reading_copies_nothing`,
`opening_copies_nothing`.

More `code`.
";

    #[test]
    fn named_tests_must_exist() {
        let both = HashSet::from(["reading_copies_nothing", "opening_copies_nothing"]);
        assert_eq!(
            check_document(&DOCUMENTS[0], TEXT, &both),
            Vec::<String>::new()
        );
        let one = HashSet::from(["reading_copies_nothing"]);
        assert_eq!(check_document(&DOCUMENTS[0], TEXT, &one).len(), 1);
    }

    #[test]
    fn a_clause_without_tests_is_found() {
        assert_eq!(
            check_document(&DOCUMENTS[0], "### 1 Clause\nProse.\n", &HashSet::new()).len(),
            1
        );
    }

    #[test]
    fn a_promise_says_what_keeps_it() {
        let check = |text| check_document(&DOCUMENTS[1], text, &HashSet::from(["one"]));
        assert_eq!(
            check("### 1 Promise\nStopped by: mounts.\nTests: `one`\n"),
            Vec::<String>::new()
        );
        assert_eq!(check("### 1 Promise\nTests: `one`\n").len(), 1);
    }

    #[test]
    fn functions_are_found() {
        let names: Vec<_> =
            function_names("#[test]\nfn one() {}\npub fn two<T>(t: T) {}").collect();
        assert_eq!(names, ["one", "two"]);
    }
}
