//! The rules of [`super::diff`], told as what programs did and what is listed.

use std::sync::Arc;

use super::*;
use crate::lower::MemoryLower;
use crate::overlay::{NewNode, Overlay, OverlayConfig, RenameMode, SetAttr, SetTime, XattrMode};
use crate::storage::{MemoryStorage, Storage};
use crate::types::{Ino, LowerPath, ManualClock, Owner, Timestamp};

const CHUNK_BYTES: u32 = 8;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// A view of a base, changed by commands.
struct View {
    base: MemoryLower,
    overlay: Overlay<Arc<MemoryStorage>, MemoryLower>,
    storage: Arc<MemoryStorage>,
}

impl View {
    fn new(base: &MemoryLower) -> Self {
        let storage = Arc::new(MemoryStorage::new(CHUNK_BYTES));
        let config = OverlayConfig {
            clock: Arc::new(ManualClock::new(Timestamp::new(1_800_000_000, 0))),
            hidden: vec![name(".agentfs")],
            root_owner: Owner::default(),
        };
        let overlay = Overlay::open(Arc::clone(&storage), base.clone(), config).unwrap();
        let base = base.clone();
        Self {
            base,
            overlay,
            storage,
        }
    }

    /// The directory and name of a path.
    fn place(&self, path: &str) -> (Ino, Name) {
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = Ino::ROOT;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            at = self.overlay.lookup(at, &name(part)).unwrap().ino;
        }
        (at, name(last))
    }

    fn ino(&self, path: &str) -> Ino {
        let (dir, last) = self.place(path);
        self.overlay.lookup(dir, &last).unwrap().ino
    }

    fn set(&self, path: &str, set: SetAttr) {
        self.overlay.setattr(self.ino(path), &set).unwrap();
    }

    fn mknod(&self, path: &str, kind: FileKind) -> Ino {
        let (dir, last) = self.place(path);
        let node = NewNode {
            kind,
            perm: 0o644,
            rdev: 0,
        };
        self.overlay
            .mknod(dir, &last, node, Owner::default())
            .unwrap()
            .ino
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) {
        let (dir, last) = self.place(from);
        let (new_dir, new_last) = self.place(to);
        self.overlay
            .rename(dir, &last, new_dir, &new_last, mode)
            .unwrap();
    }

    /// Runs commands, separated by semicolons.
    fn run(&self, commands: &str) {
        let o = &self.overlay;
        let none = SetAttr::default();
        for command in commands.split(';').filter(|c| !c.trim().is_empty()) {
            match command.split_whitespace().collect::<Vec<_>>()[..] {
                ["look", path] => drop(self.ino(path)),
                ["create", path] => drop(self.mknod(path, FileKind::Regular)),
                ["create", path, data] => {
                    let ino = self.mknod(path, FileKind::Regular);
                    o.write(ino, 0, data.as_bytes(), false).unwrap();
                }
                ["fifo", path] => drop(self.mknod(path, FileKind::Fifo)),
                ["mkdir", path] => {
                    let (dir, last) = self.place(path);
                    o.mkdir(dir, &last, 0o755, Owner::default()).unwrap();
                }
                ["symlink", target, path] => {
                    let (dir, last) = self.place(path);
                    o.symlink(dir, &last, target.as_bytes(), Owner::default())
                        .unwrap();
                }
                ["write", path, offset, data] => {
                    let offset = offset.parse().unwrap();
                    o.write(self.ino(path), offset, data.as_bytes(), false)
                        .unwrap();
                }
                ["truncate", path, size] => {
                    self.set(
                        path,
                        SetAttr {
                            size: Some(size.parse().unwrap()),
                            ..none
                        },
                    );
                }
                ["chmod", perm, path] => {
                    let perm = u16::from_str_radix(perm, 8).unwrap();
                    self.set(
                        path,
                        SetAttr {
                            perm: Some(perm),
                            ..none
                        },
                    );
                }
                ["chown", uid, path] => {
                    self.set(
                        path,
                        SetAttr {
                            uid: Some(uid.parse().unwrap()),
                            ..none
                        },
                    );
                }
                ["touch", path] => {
                    let time = Some(SetTime::At(Timestamp::new(1, 2)));
                    self.set(
                        path,
                        SetAttr {
                            atime: time,
                            mtime: time,
                            ..none
                        },
                    );
                }
                ["setxattr", path, key] => {
                    o.setxattr(self.ino(path), key.as_bytes(), b"1", XattrMode::Set)
                        .unwrap();
                }
                ["removexattr", path, key] => {
                    o.removexattr(self.ino(path), key.as_bytes()).unwrap();
                }
                ["rm", path] => {
                    let (dir, last) = self.place(path);
                    o.unlink(dir, &last).unwrap();
                }
                ["rmdir", path] => {
                    let (dir, last) = self.place(path);
                    o.rmdir(dir, &last).unwrap();
                }
                ["mv", from, to] => self.rename(from, to, RenameMode::Replace),
                ["swap", a, b] => self.rename(a, b, RenameMode::Exchange),
                ["ln", from, to] => {
                    let (dir, last) = self.place(to);
                    o.link(self.ino(from), dir, &last).unwrap();
                }
                ["base-set", path, data] => drop(self.base.set_content(path, data).unwrap()),
                ["base-rm", path] => drop(self.base.remove(path).unwrap()),
                ref other => panic!("no such command: {other:?}"),
            }
        }
    }

    /// The entries as lines, checked for their order.
    fn lines(&self) -> Vec<String> {
        let mut entries = Vec::new();
        let hidden = [name(".agentfs")];
        self.storage
            .read(|txn| {
                let sink = &mut |entry| entries.push(entry);
                diff(txn, &self.base, &hidden, CHUNK_BYTES, sink)
            })
            .unwrap();
        let paths: Vec<_> = entries.iter().map(|entry| &entry.path).collect();
        assert!(
            paths.is_sorted_by(|a, b| a < b),
            "sorted, each once: {entries:?}"
        );
        entries.iter().map(line).collect()
    }
}

fn line(entry: &Entry) -> String {
    let kind = |kind| match kind {
        FileKind::Regular => 'f',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        _ => '?',
    };
    let (letter, path) = (entry.change.letter(), entry.path.escape_ascii());
    let line = format!("{letter} {} {path}", kind(entry.kind));
    match &entry.change {
        Change::Renamed { old_path, modified } => {
            let changed = if *modified { " (modified)" } else { "" };
            format!("{line} <- {}{changed}", old_path.escape_ascii())
        }
        Change::Modified {
            old_kind: Some(old),
        } => format!("{line} (was {})", kind(*old)),
        _ => line,
    }
}

fn base() -> MemoryLower {
    let base = MemoryLower::new();
    base.file("file", 0o644, "the-quick-brown-fox").unwrap();
    base.file("big", 0o644, "x".repeat(100)).unwrap();
    base.symlink("link", "file").unwrap();
    base.dir("dir", 0o755).unwrap();
    base.file("dir/a", 0o644, "a").unwrap();
    base.file("dir/b", 0o644, "b").unwrap();
    base.dir("dir/sub", 0o755).unwrap();
    base.file("dir/sub/c", 0o644, "c").unwrap();
    base.file("dir-x", 0o644, "between dir and what is in it")
        .unwrap();
    base.dir("empty", 0o755).unwrap();
    base.dir(".agentfs", 0o700).unwrap();
    base.file(".agentfs/s.db", 0o600, "never seen").unwrap();
    base
}

/// Runs commands on a view of the usual base and compares what is listed.
fn check(commands: &str, want: &[&str]) {
    check_on(&base(), commands, want);
}

fn check_on(base: &MemoryLower, commands: &str, want: &[&str]) {
    let view = View::new(base);
    view.run(commands);
    assert_eq!(view.lines(), want, "{commands}");
}

#[test]
fn nothing_done_is_nothing_listed() {
    check("", &[]);
    check("look dir/sub/c", &[]);
}

#[test]
fn new_objects_of_every_kind() {
    check(
        "create new text; mkdir d; create d/x 1; symlink nowhere l; fifo pipe",
        &["A d /d", "A f /d/x", "A l /l", "A f /new", "A ? /pipe"],
    );
    check("create new; rm new", &[]);
}

#[test]
fn a_name_that_is_no_text() {
    let view = View::new(&base());
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    let odd = Name::new(b"\xff\n").unwrap();
    view.overlay
        .mknod(Ino::ROOT, &odd, node, Owner::default())
        .unwrap();
    assert_eq!(view.lines(), ["A f /\\xff\\n"]);
}

#[test]
fn content_decides_not_copying_up() {
    check("write file 4 QUICK", &["M f /file"]);
    check("write file 4 QUICK; write file 4 quick", &[]);
    check("truncate file 5", &["M f /file"]);
    check("truncate file 0; write file 0 the-quick-brown-fox", &[]);
    check("truncate big 10; truncate big 100", &["M f /big"]);
    check("rm file; create file the-quick-brown-fox", &[]);
    check("rm file; create file the-quick-brown-dog", &["M f /file"]);
    check("rm link; symlink file link", &[]);
    check("rm link; symlink elsewhere link", &["M l /link"]);
}

#[test]
fn holes_are_zeros() {
    let zeros = MemoryLower::new();
    zeros.file("z", 0o644, vec![0; 100]).unwrap();
    zeros.sparse_file("s", 0o644, 1 << 40).unwrap();
    check_on(&zeros, "rm z; create z; truncate z 100", &[]);
    check_on(&zeros, "rm s; create s; truncate s 1099511627776", &[]);
    zeros.write_at("s", 1 << 39, "x").unwrap();
    check_on(
        &zeros,
        "rm s; create s; truncate s 1099511627776",
        &["M f /s"],
    );
}

#[test]
fn attributes_count_and_times_do_not() {
    check("chmod 600 file", &["M f /file"]);
    check("chmod 600 file; chmod 644 file", &[]);
    check("chown 7 file", &["M f /file"]);
    check("touch file", &[]);
    check("setxattr file user.a", &["M f /file"]);
    let tagged = MemoryLower::new();
    tagged
        .file("f", 0o644, "")
        .unwrap()
        .set_xattr("f", "user.a", "1")
        .unwrap();
    check_on(&tagged, "chmod 600 f; chmod 644 f", &[]);
    check_on(&tagged, "removexattr f user.a", &["M f /f"]);
}

#[test]
fn a_directory_is_modified_by_its_own_attributes_only() {
    check("create dir/new", &["A f /dir/new"]);
    check("chmod 700 dir", &["M d /dir"]);
    check(
        "chmod 700 dir; write dir/a 0 A",
        &["M d /dir", "M f /dir/a"],
    );
}

#[test]
fn deletion_lists_everything() {
    check("rm file", &["D f /file"]);
    check("rm dir/sub/c", &["D f /dir/sub/c"]);
    check(
        "rm dir/a; rm dir/b; rm dir/sub/c; rmdir dir/sub; rmdir dir",
        &[
            "D d /dir",
            "D f /dir/a",
            "D f /dir/b",
            "D d /dir/sub",
            "D f /dir/sub/c",
        ],
    );
}

#[test]
fn order_is_that_of_whole_paths() {
    check(
        "write dir/a 0 A; write dir-x 0 A; chmod 700 dir",
        &["M d /dir", "M f /dir-x", "M f /dir/a"],
    );
}

#[test]
fn a_directory_made_again_is_compared_by_content() {
    let remake = "rm dir/a; rm dir/b; rm dir/sub/c; rmdir dir/sub; rmdir dir; mkdir dir;";
    check(
        &format!("{remake} create dir/a a; create dir/new"),
        &[
            "D f /dir/b",
            "A f /dir/new",
            "D d /dir/sub",
            "D f /dir/sub/c",
        ],
    );
    check(
        &format!("{remake} create dir/a a; create dir/b b; mkdir dir/sub; create dir/sub/c c"),
        &[],
    );
}

#[test]
fn a_path_that_changed_its_kind() {
    check("rm file; symlink x file", &["M l /file (was f)"]);
    check(
        "rm file; mkdir file; create file/x",
        &["M d /file (was f)", "A f /file/x"],
    );
    check(
        "rm dir/sub/c; rmdir dir/sub; create dir/sub",
        &["M f /dir/sub (was d)", "D f /dir/sub/c"],
    );
}

#[test]
fn renamed_files() {
    check("mv file new", &["R f /new <- /file"]);
    check("mv file dir/sub/new", &["R f /dir/sub/new <- /file"]);
    check("mv file new; mv new file", &[]);
    check(
        "mv file new; write new 0 T",
        &["R f /new <- /file (modified)"],
    );
    check("mv file new; rm new", &["D f /file"]);
    check(
        "mv file new; create file other",
        &["A f /file", "R f /new <- /file"],
    );
    // The new name replaces what was there.
    check("mv file big", &["R f /big <- /file"]);
    check("swap file big", &["R f /big <- /file", "R f /file <- /big"]);
    // A file born here has no old name.
    check("create x; mv x y", &["A f /y"]);
    // Written beside and renamed over, as editors do.
    check(
        "create tmp the-quick-brown-cat; mv tmp file",
        &["M f /file"],
    );
    check("create tmp the-quick-brown-fox; mv tmp file", &[]);
}

#[test]
fn renamed_directories() {
    check("mv dir new", &["R d /new <- /dir"]);
    check("mv dir new; mv new dir", &[]);
    check(
        "mv dir new; write new/a 0 A; rm new/b; create new/sub/d",
        &[
            "R d /new <- /dir",
            "M f /new/a",
            "D f /new/b",
            "A f /new/sub/d",
        ],
    );
    // Out of, within and into a moved directory.
    check(
        "mv dir new; mv new/a a; mv new/sub new/sub2; mv file new/f",
        &[
            "R f /a <- /dir/a",
            "R d /new <- /dir",
            "R f /new/f <- /file",
            "R d /new/sub2 <- /dir/sub",
        ],
    );
    // Something else at the old name.
    check(
        "mv dir new; mkdir dir; create dir/a a",
        &["A d /dir", "A f /dir/a", "R d /new <- /dir"],
    );
    check("mv empty new; rmdir new", &["D d /empty"]);
    // Moved out before the directory was removed.
    let moved_out = "mv dir/sub sub; rm dir/a; rm dir/b; rmdir dir;";
    check(
        moved_out,
        &[
            "D d /dir",
            "D f /dir/a",
            "D f /dir/b",
            "R d /sub <- /dir/sub",
        ],
    );
    check(
        &format!("{moved_out} create dir"),
        &[
            "M f /dir (was d)",
            "D f /dir/a",
            "D f /dir/b",
            "R d /sub <- /dir/sub",
        ],
    );
}

#[test]
fn a_directory_moved_over_another() {
    let base = MemoryLower::new();
    base.dir("a", 0o755)
        .unwrap()
        .file("a/x", 0o644, "ax")
        .unwrap();
    base.dir("b", 0o755)
        .unwrap()
        .file("b/x", 0o644, "bx")
        .unwrap();
    base.file("b/y", 0o644, "by").unwrap();
    check_on(
        &base,
        "rm b/x; rm b/y; mv a b",
        &["R d /b <- /a", "D f /b/y"],
    );
}

#[test]
fn hard_links_made_here() {
    check("ln file second", &["A f /second"]);
    check("ln file second; rm file", &["R f /second <- /file"]);
    check(
        "ln file second; write second 0 T",
        &["M f /file", "A f /second"],
    );
    check(
        "ln file x; ln file y; rm file",
        &["R f /x <- /file", "A f /y"],
    );
}

#[test]
fn hard_links_of_the_base() {
    let base = MemoryLower::new();
    base.file("a", 0o644, "text").unwrap();
    base.dir("d", 0o755).unwrap().hard_link("a", "d/b").unwrap();
    base.dir("e", 0o755).unwrap().hard_link("a", "e/c").unwrap();
    check_on(&base, "write d/b 0 T", &["M f /a", "M f /d/b", "M f /e/c"]);
    check_on(&base, "rm a", &["D f /a"]);
    check_on(
        &base,
        "rm a; write d/b 0 T",
        &["D f /a", "M f /d/b", "M f /e/c"],
    );
    check_on(
        &base,
        "mv d moved; write a 0 T",
        &["M f /a", "M f /e/c", "R d /moved <- /d", "M f /moved/b"],
    );
    check_on(&base, "chmod 600 a; chmod 644 a", &[]);
}

#[test]
fn a_base_that_changed_underneath() {
    // Some blocks are ours, the others cannot be had any more.
    check("write big 0 x; base-set big yyy", &["M f /big"]);
    // A deleted name that the base has lost as well.
    check("rm file; base-rm file", &[]);
    // What a renamed file came from has gone from the base.
    check("mv file new; base-rm file", &["A f /new"]);
}

#[test]
fn the_database_directory_is_no_part_of_the_view() {
    let view = View::new(&base());
    let hidden = name(".agentfs");
    view.storage
        .write(|txn| txn.put_whiteout(&LowerPath::root(), &hidden, Timestamp::default()))
        .unwrap();
    assert!(view.lines().is_empty());
}

#[test]
fn directories_made_by_other_programs_merge() {
    // As an SDK writes them: rows without an origin at the place of a base directory.
    let view = View::new(&base());
    view.run("create template sdk");
    let file = view.ino("template");
    view.storage
        .write(|txn| {
            let dir = txn.allocate_ino()?;
            let mut row = txn.inode(Ino::ROOT)?.unwrap();
            row.origin = None;
            txn.put_inode(dir, &row)?;
            txn.put_dentry(Ino::ROOT, &name("dir"), dir)?;
            txn.delete_dentry(Ino::ROOT, &name("template"))?;
            txn.put_dentry(dir, &name("a"), file)?;
            Ok::<_, FsError>(())
        })
        .unwrap();
    assert_eq!(view.lines(), ["M f /dir/a"]);
}

#[test]
fn a_rename_by_another_program_is_a_copy() {
    // An SDK moves the row and knows nothing of whiteouts: the base shows again.
    let view = View::new(&base());
    view.run("chmod 600 file; mkdir copy; chmod 700 dir");
    let (file, dir, copy) = (view.ino("file"), view.ino("dir"), view.ino("copy"));
    view.storage
        .write(|txn| {
            txn.delete_dentry(Ino::ROOT, &name("file"))?;
            txn.put_dentry(Ino::ROOT, &name("new"), file)?;
            txn.delete_dentry(Ino::ROOT, &name("dir"))?;
            txn.put_dentry(copy, &name("d"), dir)
        })
        .unwrap();
    let want = [
        "A d /copy",
        "A d /copy/d",
        "A f /copy/d/a",
        "A f /copy/d/b",
        "A d /copy/d/sub",
    ];
    assert_eq!(view.lines()[..5], want);
    assert_eq!(view.lines()[5..], ["A f /copy/d/sub/c", "A f /new"]);
}

#[test]
fn a_cycle_of_directories_is_refused() {
    let view = View::new(&base());
    view.run("mkdir d; mkdir d/e");
    let (d, e) = (view.ino("d"), view.ino("d/e"));
    view.storage
        .write(|txn| txn.put_dentry(e, &name("d"), d))
        .unwrap();
    let result = view
        .storage
        .read(|txn| diff(txn, &view.base, &[], CHUNK_BYTES, &mut |_| {}));
    assert!(
        matches!(
            result,
            Err(FsError::Storage(crate::StorageError::Corrupt(_)))
        ),
        "{result:?}"
    );
}
