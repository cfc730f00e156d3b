//! The Unix sockets of the host that programs inside could connect to by their
//! paths: they are covered when a session starts. Looks; changes nothing.
//!
//! Nothing else stops them: connecting is no writing, as far as a read-only mount
//! is concerned, and Landlock only learns to see it (version 9).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// The most sockets that are covered one by one.
const SOCKETS_MAX: usize = 4096;
/// The most relative names that are looked for.
const RELATIVE_MAX: usize = 64;

/// All that were bound by an absolute path (in this network namespace).
pub(crate) fn by_absolute_path() -> BTreeSet<PathBuf> {
    absolute(&table()).into_iter().take(SOCKETS_MAX).collect()
}

/// Those that were bound by a relative path, which is all that the kernel tells:
/// they are looked for in the working directories of the processes that this one
/// may look at. To be called outside the session's namespaces.
pub(crate) fn by_relative_path() -> BTreeSet<PathBuf> {
    let mut names = relative(&table());
    let mut found = BTreeSet::new();
    if names.is_empty() {
        return found;
    }
    names = names.into_iter().take(RELATIVE_MAX).collect();
    for directory in working_directories() {
        for path in names.iter().map(|name| directory.join(name)) {
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_socket()) {
                found.extend(fs::canonicalize(path));
            }
        }
    }
    found
}

fn working_directories() -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    let processes = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.as_bytes().iter().all(u8::is_ascii_digit)
    });
    processes
        .filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok())
        .collect()
}

fn table() -> Vec<u8> {
    fs::read("/proc/net/unix").unwrap_or_default()
}

/// The absolute paths in a table of the form of `/proc/net/unix`.
fn absolute(table: &[u8]) -> BTreeSet<PathBuf> {
    table
        .split(|&b| b == b'\n')
        .filter_map(|line| {
            // Seven columns, then the path to the end of the line.
            let at = line.iter().position(|&b| b == b'/')?;
            Some(PathBuf::from(OsStr::from_bytes(line.get(at..)?)))
        })
        .collect()
}

/// The relative ones. An abstract name begins with `@`.
fn relative(table: &[u8]) -> BTreeSet<PathBuf> {
    const PATH_COLUMN: usize = 7;
    let lines = table.split(|&b| b == b'\n').skip(1);
    lines
        .filter_map(|line| {
            let mut rest = line;
            for _ in 0..PATH_COLUMN {
                let start = rest.iter().position(|&b| b != b' ')?;
                let end = start + rest.get(start..)?.iter().position(|&b| b == b' ')?;
                rest = rest.get(end..)?;
            }
            let path = rest.strip_prefix(b" ")?;
            let relative = !path.is_empty() && !path.starts_with(b"/") && !path.starts_with(b"@");
            relative.then(|| Path::new(OsStr::from_bytes(path)).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
        00000000f8be1496: 00000003 00000000 00000000 0001 03  1586\n\
        00000000f8be1497: 00000002 00000000 00010000 0001 01  1587 /run/dbus/a b\n\
        00000000f8be1498: 00000002 00000000 00010000 0001 01  1588 @/tmp/abstract\n\
        00000000f8be1499: 00000002 00000000 00010000 0001 01 15899 ../c d\n\
        00000000f8be149a: 00000002 00000000 00010000 0001 01  1590 plain\n";

    #[test]
    fn socket_table() {
        let found = absolute(TABLE);
        assert!(found.contains(Path::new("/run/dbus/a b")));
        assert_eq!(
            found.len(),
            3,
            "what has a slash further on is looked for as a path, which is harmless"
        );
        let expected = ["../c d", "plain"].map(PathBuf::from);
        assert_eq!(relative(TABLE), BTreeSet::from(expected));
    }
}
