//! A directory tree as a program sees it, to compare trees with.
//!
//! Taken by `find` and `sha256sum`, not by our own code, so that it can be taken
//! inside a session as well as outside, by the same means.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::child::Run;

/// Lists the current directory so that [`Tree::parse`] can read it. `.agentfs`
/// is left out: it is hidden inside and present outside.
pub const SCRIPT: &str = r"
set -e
find . -path ./.agentfs -prune -o -printf '%y %m %n %U %G %s %i %T@ %P\0%l\0'
printf 'END\0\0'
find . -path ./.agentfs -prune -o -type f -print0 | xargs -0 -r sha256sum -z
";

/// One object of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `f`, `d`, `l`, `p`, `s`, `c` or `b`.
    pub kind: char,
    /// Permissions, octal.
    pub perm: String,
    /// Link count; 0 for a directory, whose count is a matter of taste.
    pub nlink: u64,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size in bytes; 0 for a directory.
    pub size_bytes: u64,
    /// Inode number.
    pub ino: u64,
    /// Modification time, seconds with a fraction, as `find` prints it.
    pub mtime: String,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// SHA-256 of a regular file, in hexadecimal.
    pub sha256: String,
}

/// What two trees are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// What a copy of a tree shares with the original.
    Content,
    /// Inode numbers and modification times, too.
    Identity,
}

/// A tree: path relative to its root (the root is empty) to object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Vec<u8>, Entry>);

impl Tree {
    /// The tree at `dir` on the host.
    ///
    /// # Panics
    /// When it cannot be listed.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let listed = Run::new("/bin/sh")
            .args(["-c", SCRIPT])
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .dir(dir)
            .finish()
            .ok();
        Self::parse(&listed.stdout)
    }

    /// What [`SCRIPT`] printed.
    ///
    /// # Panics
    /// When it is no such listing.
    #[must_use]
    pub fn parse(listing: &[u8]) -> Self {
        let mut tree = BTreeMap::new();
        let mut fields = listing.split(|&byte| byte == 0);
        loop {
            let head = fields.next().expect("an END in the listing");
            let target = fields.next().expect("a target in the listing").to_vec();
            if head == b"END" {
                break;
            }
            let (path, entry) = parse_entry(head, target);
            tree.insert(path, entry);
        }
        for line in fields.filter(|line| !line.is_empty()) {
            let (hash, path) = line.split_at(64);
            let path = path.strip_prefix(b"  ./").expect("a path after a hash");
            let entry = tree.get_mut(path).expect("a hash of a listed file");
            entry.sha256 = String::from_utf8_lossy(hash).into_owned();
        }
        Self(tree)
    }

    /// Without `paths` and what lies beneath them.
    #[must_use]
    pub fn without(mut self, paths: &[&str]) -> Self {
        self.0
            .retain(|path, _| !paths.iter().any(|out| is_beneath(path, out.as_bytes())));
        self
    }

    /// Fails with a list of differences unless both are the same.
    ///
    /// # Panics
    /// When they differ.
    pub fn assert_same(&self, other: &Self, by: By, what: &str) {
        let differences = self.differences(other, by);
        if differences.is_empty() {
            return;
        }
        let mut message = format!("{what}: {} differences", differences.len());
        for difference in differences.iter().take(25) {
            let _ = write!(message, "\n  {difference}");
        }
        panic!("{message}");
    }

    /// What differs, one line per path.
    #[must_use]
    pub fn differences(&self, other: &Self, by: By) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, left) in &self.0 {
            match other.0.get(path) {
                None => lines.push(format!("- {}", path.escape_ascii())),
                Some(right) if left.as_compared(by) != right.as_compared(by) => {
                    lines.push(format!(
                        "! {}\n    {left:?}\n    {right:?}",
                        path.escape_ascii()
                    ));
                }
                Some(_) => {}
            }
        }
        let added = other.0.keys().filter(|path| !self.0.contains_key(*path));
        lines.extend(added.map(|path| format!("+ {}", path.escape_ascii())));
        lines
    }
}

impl Entry {
    fn as_compared(&self, by: By) -> Self {
        let mut entry = self.clone();
        if by == By::Content {
            entry.ino = 0;
            entry.mtime.clear();
        }
        entry
    }

    /// Whether content, kind, mode and owner are the same; times and link counts
    /// do not matter.
    #[must_use]
    pub fn is_unchanged(&self, now: &Self) -> bool {
        self.kind == now.kind
            && self.perm == now.perm
            && self.owner == now.owner
            && self.size_bytes == now.size_bytes
            && self.target == now.target
            && self.sha256 == now.sha256
    }
}

fn parse_entry(head: &[u8], target: Vec<u8>) -> (Vec<u8>, Entry) {
    let mut fields = head.splitn(9, |&byte| byte == b' ');
    let mut text = || String::from_utf8_lossy(fields.next().expect("a field")).into_owned();
    let kind = text().chars().next().expect("a type");
    let perm = text();
    let nlink: u64 = text().parse().expect("a link count");
    let owner = (
        text().parse().expect("a user"),
        text().parse().expect("a group"),
    );
    let size_bytes: u64 = text().parse().expect("a size");
    let ino = text().parse().expect("an inode number");
    let mtime = text();
    let path = fields.next().expect("a path").to_vec();
    let countable = |number: u64| if kind == 'd' { 0 } else { number };
    let entry = Entry {
        kind,
        perm,
        nlink: countable(nlink),
        owner,
        size_bytes: countable(size_bytes),
        ino,
        mtime,
        target,
        sha256: String::new(),
    };
    (path, entry)
}

fn is_beneath(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn equal_trees_are_equal_and_a_changed_byte_shows() {
        let dir = tempfile::tempdir().unwrap();
        crate::project::generate(dir.path(), 30).unwrap();
        let before = Tree::of(dir.path());
        assert!(before.0.len() > 40, "{}", before.0.len());
        assert_eq!(
            before.differences(&Tree::of(dir.path()), By::Identity),
            Vec::<String>::new()
        );

        fs::write(dir.path().join("special/read me"), "new").unwrap();
        fs::write(dir.path().join("special/run.sh"), "#!/bin/sh\necho RAN\n").unwrap();
        fs::remove_file(dir.path().join("special/dangling")).unwrap();
        let after = Tree::of(dir.path());
        let mut differences = before.differences(&after, By::Content);
        differences
            .iter_mut()
            .for_each(|line| line.truncate("! special/run.sh".len()));
        assert_eq!(
            differences,
            ["- special/dangli", "! special/run.sh", "+ special/read m"]
        );
    }
}
