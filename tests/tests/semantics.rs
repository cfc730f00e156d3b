//! One test for each clause of `docs/SEMANTICS.md`, in its order, on layers in
//! memory. What needs a kernel is in [`mounted`].

mod data;
mod durable;
mod metadata;
mod mounted;
mod names;
mod view;

use std::ops::ControlFlow;

use agentfs_core::lower::{LowerLayer, MemoryLower};
use agentfs_core::overlay::{DirEntry, RenameMode, SetAttr, SetTime};
use agentfs_core::storage::{LowerId, Storage};
use agentfs_core::types::{Attr, FileKind, Ino, LowerPath, Timestamp};
use agentfs_testkit::model::Model;

use view::{View, name};

/// `src/main.rs`, `src/lib/util.rs`, `README` (a line each).
fn project() -> MemoryLower {
    let base = MemoryLower::new();
    base.dir("src", 0o755).unwrap();
    base.dir("src/lib", 0o750).unwrap();
    base.file("src/main.rs", 0o644, "fn main() {}\n").unwrap();
    base.file("src/lib/util.rs", 0o600, "// util\n").unwrap();
    base.file("README", 0o644, "read me\n").unwrap();
    base
}

#[test]
fn view_starts_as_the_base() {
    let base = project();
    let view = View::over(&base);
    assert_eq!(view.ls(""), ["README", "src"]);
    assert_eq!(view.ls("src/lib"), ["util.rs"]);
    assert_eq!(view.read("src/main.rs"), b"fn main() {}\n");
    let lower = base
        .stat(&LowerPath::parse(b"src/lib/util.rs").unwrap())
        .unwrap()
        .unwrap();
    let attr = view.attr("src/lib/util.rs");
    assert_eq!((attr.perm, attr.size, attr.mtime), (0o600, 8, lower.mtime));
    assert_eq!(
        (attr.atime, attr.ctime, attr.nlink),
        (lower.atime, lower.ctime, 1)
    );
}

#[test]
fn changes_never_reach_the_base() {
    let base = project();
    let before = Model::from_lower(&base, &[]);
    let view = View::over(&base);
    view.write("README", 0, b"changed");
    view.unlink("src/main.rs");
    view.rename("src", "moved");
    view.set(
        "moved/lib",
        &SetAttr {
            perm: Some(0o700),
            ..SetAttr::default()
        },
    );
    view.create("moved/lib/new");
    assert_eq!(view.ls("moved/lib"), ["new", "util.rs"]);
    assert_eq!(Model::from_lower(&base, &[]), before);
}

#[test]
fn inode_numbers_are_the_bases() {
    let base = project();
    base.set_id("README", LowerId { dev: 77, ino: 12 }).unwrap();
    let view = View::over(&base);
    let lower = base
        .stat(&LowerPath::parse(b"src/main.rs").unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(view.ino("src/main.rs"), Ino(lower.id.ino));
    assert_eq!(view.attr("").ino, Ino::ROOT);
    // Of another device: a number of its own, always the same.
    let mapped = view.ino("README");
    assert!(mapped >= Ino::FIRST_MAPPED, "{mapped}");
    assert_eq!(view.restart().ino("README"), mapped);
}

#[test]
fn new_inodes_are_numbered_from_2_48() {
    let view = View::over(&project());
    let first = view.create("new");
    assert!(
        first >= Ino::FIRST_UPPER && first < Ino::FIRST_MAPPED,
        "{first}"
    );
    view.unlink("new");
    let view = view.restart();
    assert!(view.create("new") > first, "never given twice");
}

#[test]
fn hidden_names_do_not_exist() {
    let base = project();
    base.dir(".agentfs", 0o755).unwrap();
    base.dir("src/.agentfs", 0o755).unwrap();
    let view = View::over(&base);
    assert_eq!(view.ls(""), ["README", "src"]);
    assert!(!view.exists(".agentfs"));
    let refused = view.try_create(".agentfs").unwrap_err();
    assert_eq!(refused.errno(), libc::EPERM);
    let refused = view
        .try_rename("README", ".agentfs", RenameMode::Replace)
        .unwrap_err();
    assert_eq!(refused.errno(), libc::EPERM);
    assert!(view.exists("src/.agentfs"), "hidden in the root only");
}

#[test]
fn made_directories_count_their_subdirectories() {
    let view = View::over(&project());
    let links = || ["", "src", "new", "other"].map(|path| view.attr(path).nlink);
    view.mkdir("new");
    view.mkdir("new/sub");
    view.create("new/file");
    view.mkdir("other");
    view.mkdir("src/sub");
    assert_eq!(links(), [1, 1, 3, 2], "made");
    view.rename("new/sub", "other/sub");
    assert_eq!(links(), [1, 1, 2, 3], "moved");
    view.rename("src", "new/src");
    assert_eq!([view.attr("new").nlink, view.attr("new/src").nlink], [3, 1]);
    view.mkdir("other/empty");
    view.rename("other/sub", "other/empty");
    assert_eq!(view.attr("other").nlink, 3, "replaced");
    view.try_rename("new/file", "other/empty", RenameMode::Exchange)
        .unwrap();
    assert_eq!(["new", "other"].map(|path| view.attr(path).nlink), [4, 2]);
    view.rmdir("new/file").unwrap();
    assert_eq!(view.attr("new").nlink, 3, "removed");
    let view = view.restart();
    assert_eq!(view.attr("new").nlink, 3, "after a restart");
}

#[test]
fn reading_copies_nothing_up() {
    let view = View::over(&project());
    let written = view.written(|view| {
        view.ls("src");
        view.read("src/main.rs");
        view.attr("src/lib");
        let ino = view.ino("src/lib/util.rs");
        view.overlay.listxattr(ino).unwrap();
        view.overlay
            .lseek(ino, 0, agentfs_core::overlay::SeekWhence::Data)
            .unwrap();
    });
    assert_eq!(written.write_transactions, 0);
}

#[test]
fn copy_up_keeps_everything() {
    let base = project();
    let stamp = Timestamp::new(1_000, 123_456_789);
    base.set_owner("src/lib/util.rs", 3, 4).unwrap();
    base.set_xattr("src/lib/util.rs", "user.note", "kept")
        .unwrap();
    base.set_times("src/lib/util.rs", stamp, stamp).unwrap();
    base.set_times("src/lib", stamp, stamp).unwrap();
    let view = View::over(&base);
    let (file, dir) = (view.attr("src/lib/util.rs"), view.attr("src/lib"));
    let set = SetAttr {
        perm: Some(0o640),
        ..SetAttr::default()
    };
    let changed = view.set("src/lib/util.rs", &set);
    assert_eq!((changed.perm, changed.ctime), (0o640, view::at(0)));
    let expected = agentfs_core::Attr {
        perm: 0o640,
        ctime: changed.ctime,
        ..file
    };
    assert_eq!(
        agentfs_core::Attr {
            blocks: expected.blocks,
            ..changed
        },
        expected
    );
    let ino = view.ino("src/lib/util.rs");
    assert_eq!(view.overlay.getxattr(ino, b"user.note").unwrap(), b"kept");
    assert_eq!(view.read("src/lib/util.rs"), b"// util\n");
    // The directories above came up as they were.
    let above = view.attr("src/lib");
    let above = agentfs_core::Attr {
        blocks: dir.blocks,
        size: dir.size,
        ..above
    };
    assert_eq!(above, dir);
}

#[test]
fn numbers_survive_copy_up_and_restart() {
    let view = View::over(&project());
    let paths = ["src", "src/lib", "src/lib/util.rs"];
    let before = paths.map(|path| view.ino(path));
    view.write("src/lib/util.rs", 0, b"x");
    assert_eq!(paths.map(|path| view.ino(path)), before);
    assert_eq!(paths.map(|path| view.attr(path).ino), before);
    let view = view.restart();
    assert_eq!(paths.map(|path| view.ino(path)), before);
}

#[test]
fn attributes_names_and_links_copy_no_data() {
    let base = project();
    base.sparse_file("big", 0o644, 1 << 30).unwrap();
    let view = View::over(&base);
    let written = view.written(|view| {
        let set = SetAttr {
            perm: Some(0o600),
            uid: Some(5),
            ..SetAttr::default()
        };
        view.set("big", &set);
        view.rename("big", "src/large");
        view.link("src/large", "again");
        let ino = view.ino("again");
        view.overlay
            .setxattr(ino, b"user.a", b"b", Default::default())
            .unwrap();
    });
    assert_eq!(written.chunks_put, 0);
    assert_eq!(view.attr("again").size, 1 << 30);
}

#[test]
fn a_write_copies_its_blocks() {
    let base = project();
    base.file("big", 0o644, vec![7; 1 << 20]).unwrap();
    let view = View::over(&base);
    let written = view.written(|view| view.write("big", 500_000, b"x"));
    assert_eq!(written.chunks_put, 1);
    let written = view.written(|view| view.write("big", 8190, b"four"));
    assert_eq!(written.chunks_put, 2, "across a boundary");
    let mut expected = vec![7; 1 << 20];
    expected[500_000] = b'x';
    expected[8190..8194].copy_from_slice(b"four");
    assert_eq!(view.read("big"), expected);
}

#[test]
fn setting_what_is_already_so_changes_nothing() {
    let view = View::over(&project());
    let attr = view.attr("README");
    let set = SetAttr {
        perm: Some(attr.perm),
        uid: Some(attr.uid),
        mtime: Some(SetTime::At(attr.mtime)),
        ..SetAttr::default()
    };
    let written = view.written(|view| {
        view.set("README", &set);
    });
    assert_eq!(written.inodes_put, 0);
    assert_eq!(view.attr("README"), attr);
}

#[test]
fn a_changed_base_under_a_partial_copy_is_stale() {
    let base = project();
    base.file("big", 0o644, vec![7; 20_000]).unwrap();
    let view = View::over(&base);
    view.write("big", 0, b"mine");
    base.write_at("big", 10_000, b"theirs").unwrap();
    let ino = view.ino("big");
    let refused = view.overlay.read(ino, 8192, 4096).unwrap_err();
    assert_eq!(refused.errno(), libc::ESTALE);
    assert!(refused.to_string().contains("/big"), "{refused}");
    // What was copied stays readable; nothing is mixed.
    assert_eq!(view.overlay.read(ino, 0, 4).unwrap(), b"mine");
    let refused = view.overlay.write(ino, 9000, b"x", false).unwrap_err();
    assert_eq!(refused.errno(), libc::ESTALE);
    // Writing whole blocks, and truncating, need nothing of the base.
    let size = Some(0);
    view.set(
        "big",
        &SetAttr {
            size,
            ..SetAttr::default()
        },
    );
    view.write("big", 0, b"new");
    assert_eq!(view.read("big"), b"new");
}

#[test]
fn a_whole_copy_no_longer_needs_the_base() {
    let base = project();
    let view = View::over(&base);
    view.write("README", 0, b"R");
    base.set_content("README", "something else altogether")
        .unwrap();
    assert_eq!(view.read("README"), b"Read me\n");
    base.remove("README").unwrap();
    let view = view.restart();
    assert_eq!(view.read("README"), b"Read me\n");
}

/// Only a growth may be told to a kernel that has a file of the base open: anything
/// else could be put over what a program writes into it meanwhile.
#[test]
fn a_growth_of_a_base_file_is_told_once() {
    let base = project();
    let view = View::over(&base);
    let ino = view.ino("README");
    let told = |size| view.overlay.tell_growth(ino, size);
    assert!(!told(8), "as long as when it was looked up");
    assert!(told(9));
    assert!(!told(9), "it has been told");
    assert!(!told(3), "shorter");
    // Looked up again while it is held: whoever holds it goes by what it was told first.
    view.overlay.lookup(Ino::ROOT, &name("README")).unwrap();
    assert!(!told(9) && told(10));
}

#[test]
fn base_changes_show_while_unchanged() {
    let base = project();
    let view = View::over(&base);
    view.write("src/main.rs", 0, b"FN");
    assert_eq!(view.read("README"), b"read me\n");
    view.ls("");
    base.set_content("README", "news\n").unwrap();
    base.set_content("src/main.rs", "theirs\n").unwrap();
    base.file("added", 0o644, "a").unwrap();
    // What the watcher of the base says.
    let stale = view.overlay.lower_changed(Ino::ROOT, Some(&name("README")));
    assert!(stale.contains(&view.ino("README")), "{stale:?}");
    view.overlay.lower_changed(Ino::ROOT, None);
    assert_eq!(view.read("README"), b"news\n");
    assert_eq!(view.ls(""), ["README", "added", "src"]);
    assert_eq!(
        view.read("src/main.rs"),
        b"FN main() {}\n",
        "changed here: ours"
    );
    assert_eq!(view.attr("src/main.rs").kind, FileKind::Regular);
}

/// For a kernel that is told of every change: what it looked up it need not wait for again.
#[test]
fn a_listing_gives_what_was_seen_of_what_is_told() {
    let base = project();
    let view = View::over(&base);
    let readme = view.ino("README");
    let listed = |is_told: bool| {
        let mut found = None;
        let is_told = |_, ino| is_told && ino == readme;
        let mut look = |entry: &DirEntry, attr: &Attr| {
            if entry.name == name("README") {
                assert_eq!(attr.ino, readme);
                found = Some(attr.perm);
            }
            ControlFlow::Continue(())
        };
        view.overlay
            .read_dir_plus_as_seen(Ino::ROOT, 0, &is_told, &mut look)
            .unwrap();
        found
    };
    base.set_perm("README", 0o600).unwrap();
    assert_eq!(listed(true), Some(0o644), "as it was looked up");
    assert_eq!(listed(false), Some(0o600));
    assert_eq!(listed(true), Some(0o600), "as it was listed");
    base.set_perm("README", 0o640).unwrap();
    view.overlay.lower_changed(Ino::ROOT, Some(&name("README")));
    assert_eq!(listed(true), Some(0o640), "it was told");
    let set = SetAttr {
        perm: Some(0o666),
        ..SetAttr::default()
    };
    view.set("README", &set);
    assert_eq!(listed(true), Some(0o666), "changed here: ours");
    view.unlink("README");
    assert_eq!(listed(true), None);
}

/// Others rename a file, and of the two names the new one is told of first.
#[test]
fn a_listing_finds_what_moved_in_the_base_by_its_new_name() {
    let base = project();
    let view = View::over(&base);
    let readme = view.ino("README");
    base.rename("README", "NEWS").unwrap();
    view.overlay.lower_changed(Ino::ROOT, Some(&name("NEWS")));
    let mut names = Vec::new();
    let mut look = |entry: &DirEntry, attr: &Attr| {
        if attr.ino == readme {
            names.push(entry.name.clone());
        }
        ControlFlow::Continue(())
    };
    view.overlay
        .read_dir_plus_as_seen(Ino::ROOT, 0, &|_, _| true, &mut look)
        .unwrap();
    assert_eq!(names, [name("NEWS")]);
    // It lies where it was listed.
    assert_eq!(view.overlay.getattr(readme).unwrap().ino, readme);
}

#[test]
fn statfs_is_the_bases() {
    let base = project();
    assert_eq!(
        View::over(&base).overlay.statfs().unwrap(),
        base.statfs().unwrap()
    );
}

#[test]
fn another_writer_of_the_storage_is_seen() {
    let view = View::over(&project());
    let ino = view.create("note");
    view.ls("");
    view.storage
        .write(|txn| {
            let row = txn.inode(ino)?.unwrap();
            txn.put_inode(Ino(1 << 50), &row)?;
            txn.put_dentry(Ino::ROOT, &name("theirs"), Ino(1 << 50))
        })
        .unwrap_or_else(|e: agentfs_core::StorageError| panic!("{e}"));
    assert!(view.overlay.storage_changed().contains(&ino));
    assert_eq!(view.ls(""), ["README", "note", "src", "theirs"]);
}
