//! Every clause of docs/SEMANTICS.md names tests, and every named test exists.
//!
//! A clause is a heading of level 3 or deeper, `### 2.4 Title`; its tests stand
//! in its text as `Tests:` (or `Test:`) and names in backquotes, with or without
//! a module path.

use std::collections::HashSet;

use super::{SourceFile, is_rust};

const DOCUMENT: &str = "docs/SEMANTICS.md";

/// Checks the document against the tests of the repository.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    let Some(document) = files.iter().find(|file| file.path == DOCUMENT) else {
        return vec![format!("{DOCUMENT}: is missing")];
    };
    let sources = files.iter().filter(|file| is_rust(&file.path));
    let functions: HashSet<&str> = sources
        .flat_map(|file| function_names(&file.text))
        .collect();
    check_document(&document.text, &functions)
}

fn check_document(text: &str, functions: &HashSet<&str>) -> Vec<String> {
    let mut findings = Vec::new();
    for clause in clauses(text) {
        let named: Vec<_> = tests_named(&clause).collect();
        if named.is_empty() {
            findings.push(format!("{DOCUMENT}: `{}` names no test", clause.title));
        }
        for test in named
            .iter()
            .filter(|test| !functions.contains(last_segment(test)))
        {
            findings.push(format!(
                "{DOCUMENT}: `{}` names `{test}`, which does not exist",
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

    const DOCUMENT: &str = "\
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
        assert_eq!(check_document(DOCUMENT, &both), Vec::<String>::new());
        let one = HashSet::from(["reading_copies_nothing"]);
        assert_eq!(check_document(DOCUMENT, &one).len(), 1);
    }

    #[test]
    fn a_clause_without_tests_is_found() {
        assert_eq!(
            check_document("### 1 Clause\nProse.\n", &HashSet::new()).len(),
            1
        );
    }

    #[test]
    fn functions_are_found() {
        let names: Vec<_> =
            function_names("#[test]\nfn one() {}\npub fn two<T>(t: T) {}").collect();
        assert_eq!(names, ["one", "two"]);
    }
}
