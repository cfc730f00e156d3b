//! Names: removing, renaming, linking, listing, limits.

use std::ops::ControlFlow;

use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::{RenameMode, SetAttr};
use agentfs_core::storage::{InodeRow, Storage};
use agentfs_core::types::{FileKind, Ino, LINK_MAX, Name, Owner, Timestamp};

use super::project;
use super::view::{View, name};

#[test]
fn deleted_stays_deleted() {
    let view = View::over(&project());
    view.unlink("README");
    view.unlink("src/lib/util.rs");
    view.rmdir("src/lib").unwrap();
    let view = view.restart();
    assert_eq!(
        (view.ls(""), view.ls("src")),
        (vec!["src".into()], vec!["main.rs".into()])
    );
    assert!(!view.exists("src/lib"));
}

#[test]
fn renaming_a_base_directory_moves_it_whole() {
    let base = project();
    base.dir("many", 0o755).unwrap();
    for n in 0..2_000 {
        base.file(format!("many/{n}"), 0o644, n.to_string())
            .unwrap();
    }
    let view = View::over(&base);
    let number = view.ino("many/77");
    let written = view.written(|view| view.rename("many", "src/moved"));
    assert_eq!(written.write_transactions, 1);
    assert!(written.inodes_put < 10, "{written:?}");
    assert!(!view.exists("many"));
    let view = view.restart();
    assert_eq!(view.ls("src/moved").len(), 2_000);
    assert_eq!(view.read("src/moved/77"), b"77");
    assert_eq!(view.ino("src/moved/77"), number);
    assert!(!view.exists("many"));
    // And what is changed in it stays where it is now.
    view.unlink("src/moved/78");
    view.write("src/moved/79", 0, b"xy");
    view.rename("src", "elsewhere");
    let view = view.restart();
    assert_eq!(view.ls("elsewhere/moved").len(), 1_999);
    assert_eq!(view.read("elsewhere/moved/79"), b"xy");
}

#[test]
fn a_new_directory_at_an_old_name_is_empty() {
    let view = View::over(&project());
    view.rename("src/lib", "lib");
    view.mkdir("src/lib");
    assert_eq!(view.ls("src/lib"), [""; 0]);
    view.unlink("src/main.rs");
    view.rmdir("src/lib").unwrap();
    view.rmdir("src").unwrap();
    view.mkdir("src");
    view.create("src/fresh");
    let view = view.restart();
    assert_eq!(view.ls("src"), ["fresh"]);
    assert_eq!(view.ls("lib"), ["util.rs"]);
}

#[test]
fn a_directory_from_another_writer_merges() {
    let base = project();
    let view = View::over(&base);
    let storage = view.storage.clone();
    let row = |kind| InodeRow {
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        origin: None,
    };
    // As an SDK does that makes `src/added`: a row for `src`, no origin.
    storage
        .write(|txn| {
            let (dir, file) = (txn.allocate_ino()?, txn.allocate_ino()?);
            txn.put_inode(dir, &row(FileKind::Directory))?;
            txn.put_dentry(Ino::ROOT, &name("src"), dir)?;
            txn.put_inode(file, &row(FileKind::Regular))?;
            txn.put_dentry(dir, &name("added"), file)
        })
        .unwrap_or_else(|e: agentfs_core::StorageError| panic!("{e}"));
    let view = view.restart();
    assert_eq!(view.ls("src"), ["added", "lib", "main.rs"]);
    view.rename("src", "moved");
    let view = view.restart();
    assert_eq!(view.ls("moved"), ["added", "lib", "main.rs"]);
    assert!(!view.exists("src"));
}

#[test]
fn rename_modes() {
    let view = View::over(&project());
    let errno = |from, to, mode| view.try_rename(from, to, mode).unwrap_err().errno();
    assert_eq!(
        errno("README", "src/main.rs", RenameMode::NoReplace),
        libc::EEXIST
    );
    assert_eq!(
        errno("README", "absent", RenameMode::Exchange),
        libc::ENOENT
    );
    assert_eq!(
        errno("src", "src/lib/in", RenameMode::Replace),
        libc::EINVAL
    );
    view.try_rename("README", "src/lib", RenameMode::Exchange)
        .unwrap();
    assert_eq!(view.ls("README"), ["util.rs"]);
    assert_eq!(view.read("src/lib"), b"read me\n");
    view.try_rename("src/lib", "fresh", RenameMode::NoReplace)
        .unwrap();
    let view = view.restart();
    assert_eq!(view.ls(""), ["README", "fresh", "src"]);
    assert_eq!(view.ls("src"), ["main.rs"]);
}

#[test]
fn errors_are_those_of_ext4() {
    let view = View::over(&project());
    let (root, src) = (Ino::ROOT, view.ino("src"));
    let file = view.ino("README");
    let overlay = &view.overlay;
    let owner = Owner::default();
    let cases = [
        (
            "unlink of a directory",
            overlay.unlink(root, &name("src")).unwrap_err(),
            libc::EISDIR,
        ),
        (
            "rmdir of a file",
            overlay.rmdir(root, &name("README")).unwrap_err(),
            libc::ENOTDIR,
        ),
        (
            "rmdir of a full one",
            overlay.rmdir(root, &name("src")).unwrap_err(),
            libc::ENOTEMPTY,
        ),
        (
            "unlink of nothing",
            overlay.unlink(root, &name("no")).unwrap_err(),
            libc::ENOENT,
        ),
        (
            "lookup in a file",
            overlay.lookup(file, &name("x")).unwrap_err(),
            libc::ENOTDIR,
        ),
        (
            "mkdir over a file",
            overlay.mkdir(root, &name("README"), 0, owner).unwrap_err(),
            libc::EEXIST,
        ),
        (
            "link of a directory",
            overlay.link(src, root, &name("l")).unwrap_err(),
            libc::EPERM,
        ),
        (
            "a directory onto a file",
            view.try_rename("src", "README", RenameMode::Replace)
                .unwrap_err(),
            libc::ENOTDIR,
        ),
        (
            "a file onto a directory",
            view.try_rename("README", "src", RenameMode::Replace)
                .unwrap_err(),
            libc::EISDIR,
        ),
        (
            "a directory onto a full one",
            view.try_rename("src/lib", "src", RenameMode::Replace)
                .unwrap_err(),
            libc::ENOTEMPTY,
        ),
        (
            "readlink of a file",
            overlay.readlink(file).unwrap_err(),
            libc::EINVAL,
        ),
        (
            "read of a directory",
            overlay.read(src, 0, 1).unwrap_err(),
            libc::EISDIR,
        ),
    ];
    for (what, refused, errno) in cases {
        assert_eq!(refused.errno(), errno, "{what}: {refused}");
    }
}

#[test]
fn names_are_bytes() {
    let base = project();
    let odd: [&[u8]; 4] = [b"\xff\xfe", b"new\nline", b"\xc3\xa9", b"e\xcc\x81"];
    base.file(odd[0], 0o644, "lower").unwrap();
    let view = View::over(&base);
    let attr = view.overlay.lookup(Ino::ROOT, &name(odd[0])).unwrap();
    assert_eq!(attr.size, 5);
    for bytes in &odd[1..] {
        let (root, name) = (Ino::ROOT, name(bytes));
        view.overlay
            .symlink(root, &name, b"\xfd", Owner::default())
            .unwrap();
    }
    view.overlay
        .rename(
            Ino::ROOT,
            &name(odd[0]),
            Ino::ROOT,
            &name("\u{1F980}"),
            RenameMode::Replace,
        )
        .unwrap();
    let view = view.restart();
    assert_eq!(view.ls("").len(), 6);
    for bytes in &odd[1..] {
        let attr = view.overlay.lookup(Ino::ROOT, &name(bytes)).unwrap();
        assert_eq!(view.overlay.readlink(attr.ino).unwrap(), b"\xfd");
    }
}

#[test]
fn names_and_targets_have_limits() {
    assert_eq!(
        Name::new(&[b'n'; 256]).unwrap_err().errno(),
        libc::ENAMETOOLONG
    );
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert_eq!(Name::new(bad).unwrap_err().errno(), libc::EINVAL, "{bad:?}");
    }
    let view = View::over(&project());
    let longest = String::from_utf8(vec![b'n'; 255]).unwrap();
    view.create(&longest);
    assert!(view.exists(&longest));
    let symlink = |target: &[u8]| {
        view.overlay
            .symlink(Ino::ROOT, &name("l"), target, Owner::default())
    };
    assert_eq!(
        symlink(&[b't'; 4096]).unwrap_err().errno(),
        libc::ENAMETOOLONG
    );
    symlink(&[b't'; 4095]).unwrap();
}

#[test]
fn a_file_has_at_most_65000_names() {
    let view = View::over(&MemoryLower::new());
    let ino = view.create("first");
    for n in 1..LINK_MAX {
        view.overlay
            .link(ino, Ino::ROOT, &name(n.to_string()))
            .unwrap();
    }
    let refused = view
        .overlay
        .link(ino, Ino::ROOT, &name("more"))
        .unwrap_err();
    assert_eq!(refused.errno(), libc::EMLINK);
    assert_eq!(view.attr("first").nlink, LINK_MAX);
}

#[test]
fn hard_links_of_the_base_stay_one_file() {
    let base = project();
    base.hard_link("README", "src/same").unwrap();
    let view = View::over(&base);
    assert_eq!(view.ino("README"), view.ino("src/same"));
    view.write("README", 0, b"R");
    assert_eq!(view.read("src/same"), b"Read me\n");
    view.unlink("README");
    let view = view.restart();
    assert_eq!(view.attr("src/same").nlink, 1);
    assert_eq!(view.read("src/same"), b"Read me\n");
    view.write("src/same", 0, b"X");
    view.link("src/same", "README");
    assert_eq!(
        (view.attr("README").nlink, view.read("README")),
        (2, b"Xead me\n".to_vec())
    );
}

#[test]
fn unlinked_files_live_until_closed() {
    let view = View::over(&project());
    let (lower, upper) = (view.ino("README"), view.create("tmp"));
    view.write("tmp", 0, b"data");
    view.unlink("README");
    view.unlink("tmp");
    let overlay = &view.overlay;
    assert_eq!(overlay.read(lower, 0, 99).unwrap(), b"read me\n");
    overlay.write(lower, 0, b"R", false).unwrap();
    assert_eq!(overlay.read(lower, 0, 99).unwrap(), b"Read me\n");
    assert_eq!(overlay.read(upper, 0, 99).unwrap(), b"data");
    assert_eq!(overlay.getattr(upper).unwrap().nlink, 0);
    let refused = overlay.link(upper, Ino::ROOT, &name("back")).unwrap_err();
    assert_eq!(refused.errno(), libc::ENOENT);
    for ino in [lower, upper] {
        overlay.forget(ino, 99);
        assert_eq!(overlay.getattr(ino).unwrap_err().errno(), libc::ESTALE);
        let row = view.storage.read(|txn| txn.inode(ino));
        assert_eq!(
            row.unwrap_or_else(|e: agentfs_core::StorageError| panic!("{e}")),
            None
        );
    }
}

#[test]
fn nothing_is_left_of_unlinked_files() {
    let view = View::over(&project());
    let ino = view.create("tmp");
    view.write("tmp", 0, b"data");
    view.unlink("tmp");
    // The server ends without having been told to forget.
    let view = view.restart();
    let left = view
        .storage
        .read(|txn| Ok((txn.inode(ino)?, txn.chunk(ino, 0)?)));
    let left = left.unwrap_or_else(|e: agentfs_core::StorageError| panic!("{e}"));
    assert_eq!(left, (None, None));
}

#[test]
fn a_tmpfile_is_gone_unless_linked() {
    let view = View::over(&project());
    let attr = view
        .overlay
        .tmpfile(Ino::ROOT, 0o600, Owner::default())
        .unwrap();
    assert_eq!(attr.nlink, 0);
    view.overlay.write(attr.ino, 0, b"kept", false).unwrap();
    view.overlay
        .link(attr.ino, Ino::ROOT, &name("kept"))
        .unwrap();
    view.overlay
        .tmpfile(Ino::ROOT, 0o600, Owner::default())
        .unwrap();
    let view = view.restart();
    assert_eq!(view.ls(""), ["README", "kept", "src"]);
    assert_eq!(view.read("kept"), b"kept");
}

#[test]
fn listings_go_on_while_the_directory_changes() {
    const ENTRIES: usize = 100_000;
    let base = MemoryLower::new();
    base.dir("d", 0o755).unwrap();
    for n in 0..ENTRIES {
        base.file(format!("d/{n}"), 0o644, "").unwrap();
    }
    let view = View::over(&base);
    let dir = view.ino("d");
    let mut seen = std::collections::HashMap::new();
    let (mut cookie, mut round) = (0, 0);
    loop {
        let mut page = Vec::new();
        view.overlay
            .read_dir(dir, cookie, &mut |entry| {
                page.push(entry.clone());
                if page.len() < 1000 {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .unwrap();
        let Some(last) = page.last() else { break };
        cookie = last.cookie;
        for entry in page {
            *seen.entry(entry.name).or_insert(0) += 1;
        }
        // Removed and added while the listing goes on.
        let _ = view.overlay.unlink(dir, &name((round * 7).to_string()));
        view.create(&format!("d/new{round}"));
        round += 1;
    }
    assert!(
        seen.values().all(|&times| times == 1),
        "an entry was listed twice"
    );
    let removed: std::collections::HashSet<usize> = (0..round).map(|r| r * 7).collect();
    for n in (0..ENTRIES).filter(|n| !removed.contains(n)) {
        assert!(seen.contains_key(&name(n.to_string())), "{n} was left out");
    }
}

#[test]
fn set_group_id_directories_pass_their_group_on() {
    let view = View::over(&project());
    let set = SetAttr {
        perm: Some(0o2775),
        gid: Some(42),
        ..SetAttr::default()
    };
    view.set("src", &set);
    view.create("src/file");
    view.mkdir("src/dir");
    let (file, dir) = (view.attr("src/file"), view.attr("src/dir"));
    assert_eq!(
        (file.gid, file.perm, dir.gid, dir.perm),
        (42, 0o644, 42, 0o2755)
    );
}
