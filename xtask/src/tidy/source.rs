//! Rules about one Rust file: its head, its length, its unsafe, its leftovers.

use super::SourceFile;

/// The most lines a file may have.
const LINES_MAX: usize = 600;

/// Files that may be longer: path, lines, why.
const LONGER: &[(&str, usize, &str)] = &[(
    "crates/agentfs-fuse/src/adapter/requests.rs",
    650,
    "one trait, whose implementation cannot be divided",
)];

/// The files that may hold unsafe code: of a crate one for the host's calls, and
/// those that SQLite calls.
const UNSAFE_FILES: &[&str] = &[
    "crates/agentfs-fuse/src/sys.rs",
    "crates/agentfs-hostdir/src/sys.rs",
    "crates/agentfs-session/src/sys.rs",
    "crates/agentfs-sqlite/src/sys.rs",
    "crates/agentfs-sqlite/src/vfs.rs",
    "crates/agentfs-sqlite/src/vfs/db_file.rs",
    "crates/agentfs-sqlite/src/vfs/wal_file.rs",
    "tests/tests/mount_model/sys.rs",
];

/// Checks all rules about one file.
pub(super) fn check(file: &SourceFile) -> Vec<String> {
    let mut findings = Vec::new();
    findings.extend(head(file));
    findings.extend(length(file));
    let mut say = |number: usize, what: String| {
        findings.push(format!("{}:{}: {what}", file.path, number + 1));
    };
    for (number, line) in file.text.lines().enumerate() {
        if let Some(leftover) = leftover(line) {
            say(
                number,
                format!("`{leftover}` is left over; do it or drop it"),
            );
        }
        if holds_unsafe(line) && !UNSAFE_FILES.contains(&file.path.as_str()) {
            say(
                number,
                "unsafe code belongs into the crate's one file for it".to_owned(),
            );
        }
    }
    findings
}

fn head(file: &SourceFile) -> Option<String> {
    let headed = file.text.starts_with("//! ");
    (!headed).then(|| {
        format!(
            "{}:1: must open with `//!` and say what it is for",
            file.path
        )
    })
}

fn length(file: &SourceFile) -> Option<String> {
    let allowed = LONGER
        .iter()
        .find(|(path, ..)| *path == file.path)
        .map_or(LINES_MAX, |entry| entry.1);
    let lines = file.text.lines().count();
    (lines > allowed).then(|| {
        format!(
            "{}: {lines} lines, over {allowed}; it wants to be two files",
            file.path
        )
    })
}

/// Marks of unfinished work. Spelled in parts, so that this file passes.
fn leftover(line: &str) -> Option<&'static str> {
    const MARKS: [&str; 4] = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    // `mktemp` patterns have longer runs of the last mark.
    let words = line.replace(concat!("XX", "XX"), "");
    MARKS.into_iter().find(|mark| words.contains(mark))
}

fn holds_unsafe(line: &str) -> bool {
    const USES: [&str; 5] = [
        concat!("uns", "afe {"),
        concat!("uns", "afe fn"),
        concat!("uns", "afe impl"),
        concat!("uns", "afe extern"),
        concat!("allow(uns", "afe_code)"),
    ];
    let code = line.split("//").next().unwrap_or_default();
    USES.into_iter().any(|used| code.contains(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str) -> Vec<String> {
        check(&SourceFile {
            path: path.into(),
            text: text.into(),
        })
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(
            check_text("a.rs", "//! What it is for.\nfn a() {}\n"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_rule_finds_its_breach() {
        let check = |text: &str, words: &str| {
            let findings = check_text("a.rs", text);
            assert!(
                findings.iter().any(|f| f.contains(words)),
                "{text:?}: {findings:?}"
            );
        };
        check("fn a() {}\n", "must open");
        check(
            &format!("//! Head.\n{}", "\n".repeat(LINES_MAX)),
            "wants to be two",
        );
        check(concat!("//! Head.\nfn a() { to", "do!() }\n"), "left over");
        check(concat!("//! Head.\n// FIX", "ME later\n"), "left over");
        check(
            concat!("//! Head.\nfn a() { uns", "afe { b() } }\n"),
            "one file for it",
        );
    }

    #[test]
    fn unsafe_is_allowed_where_it_is_listed() {
        let text = concat!("//! Head.\nfn a() { uns", "afe { b() } }\n");
        assert_eq!(check_text(UNSAFE_FILES[0], text), Vec::<String>::new());
    }
}
