//! Rules of this repository that neither rustfmt nor clippy knows.
//!
//! Each rule is a function from what it looks at to a list of findings; only
//! [`run`] reads files. A finding names the file and says what to do.

mod clauses;
mod layers;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use xshell::{Shell, cmd};

/// A text file of the repository.
struct SourceFile {
    /// Relative to the root of the repository, with `/`.
    path: String,
    /// What is in it.
    text: String,
}

/// Checks every rule and prints all findings.
///
/// # Errors
/// When there is a finding, or the repository cannot be read.
#[allow(clippy::print_stderr)] // a command-line tool speaks on its terminal
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let files = read_files(root)?;
    let mut findings = Vec::new();
    for file in &files {
        if is_rust(&file.path) {
            findings.extend(source::check(file));
        }
        if file.path.ends_with(".md") {
            findings.extend(broken_links(file, root));
        }
    }
    findings.extend(changelog(&files));
    findings.extend(clauses::check(&files));
    findings.extend(layers::check(&layers::read(root)?));
    findings.extend(published_crates(&files, root));

    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in {} files", findings.len(), files.len());
    }
    eprintln!("tidy: {} files, nothing to say", files.len());
    Ok(())
}

fn is_rust(path: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs")
}

/// All Rust, Markdown and manifest files that git knows or would add.
fn read_files(root: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    let listing = cmd!(shell, "git ls-files --cached --others --exclude-standard").read()?;
    let mut files = Vec::new();
    for path in listing
        .lines()
        .filter(|p| is_rust(p) || p.ends_with(".md") || p.ends_with("Cargo.toml"))
    {
        if !root.join(path).exists() {
            continue; // deleted, not yet committed
        }
        let text = fs::read_to_string(root.join(path)).with_context(|| path.to_owned())?;
        files.push(SourceFile {
            path: path.to_owned(),
            text,
        });
    }
    if files.is_empty() {
        bail!("git lists no files in {}", root.display());
    }
    Ok(files)
}

fn changelog(files: &[SourceFile]) -> Vec<String> {
    match files.iter().find(|file| file.path == "CHANGELOG.md") {
        Some(file) if file.text.contains("\n## [Unreleased]\n") => Vec::new(),
        Some(_) => vec!["CHANGELOG.md: has no `## [Unreleased]` section".to_owned()],
        None => vec!["CHANGELOG.md: is missing".to_owned()],
    }
}

/// Every crate that can be published has a README, a licence text and, when it
/// is a library, an example in its documentation, which `cargo test` runs.
fn published_crates(files: &[SourceFile], root: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    let manifests = files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"));
    for manifest in manifests.filter(|file| !file.text.contains("publish = false")) {
        let directory = manifest.path.trim_end_matches("/Cargo.toml");
        for needed in ["README.md", "LICENSE"] {
            if !root.join(directory).join(needed).exists() {
                findings.push(format!(
                    "{directory}/{needed}: is missing; a published crate needs it"
                ));
            }
        }
        let library = format!("{directory}/src/lib.rs");
        let head = files.iter().find(|file| file.path == library);
        if head.is_some_and(|file| !file.text.lines().any(|line| line.starts_with("//! ```"))) {
            findings.push(format!("{library}: its documentation has no example"));
        }
    }
    findings
}

/// Relative links in Markdown must lead to a file.
fn broken_links(file: &SourceFile, root: &Path) -> Vec<String> {
    let directory = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for target in link_targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if outside || path.is_empty() || root.join(directory).join(path).exists() {
                continue;
            }
            findings.push(format!(
                "{}:{}: the link `{target}` leads nowhere",
                file.path,
                number + 1
            ));
        }
    }
    findings
}

/// The targets of `[text](target)` in one line.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found() {
        let targets: Vec<_> = link_targets("see [a](docs/a.md#x) and [b](https://b)").collect();
        assert_eq!(targets, ["docs/a.md#x", "https://b"]);
    }

    #[test]
    fn a_changelog_without_unreleased_is_found() {
        let file = |text: &str| SourceFile {
            path: "CHANGELOG.md".into(),
            text: text.into(),
        };
        assert_eq!(
            changelog(&[file("# Changelog\n\n## [Unreleased]\n")]),
            Vec::<String>::new()
        );
        assert_eq!(changelog(&[file("# Changelog\n")]).len(), 1);
        assert_eq!(changelog(&[]).len(), 1);
    }
}
