//! Entries: making, finding, renaming, removing; attributes and their changes.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirEntryExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};

use agentfs_core::FileKind;
use agentfs_core::lower::MemoryLower;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags, mknodat};

use crate::{errno, memory_view, names_in};

fn base() -> MemoryLower {
    let base = MemoryLower::new();
    base.file("f", 0o644, "base file").unwrap();
    base.dir("d", 0o755)
        .unwrap()
        .file("d/x", 0o600, "x")
        .unwrap()
        .file("d/y", 0o600, "y")
        .unwrap();
    base.symlink("l", "d/x")
        .unwrap()
        .special("p", FileKind::Fifo, 0o600, 0)
        .unwrap();
    base.hard_link("f", "d/f2").unwrap();
    base
}

#[test]
fn both_layers_show() {
    let base = base();
    let Some(view) = memory_view(&base) else {
        return;
    };
    fs::write(view.at("new"), "new").unwrap();
    fs::write(view.at("d/new"), "new").unwrap();
    assert_eq!(names_in(&view), ["d", "f", "l", "new", "p"]);
    assert_eq!(names_in(&view.at("d")), ["f2", "new", "x", "y"]);
    assert_eq!(fs::read(view.at("l")).unwrap(), b"x");
    assert!(
        fs::symlink_metadata(view.at("p"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    for entry in fs::read_dir(view.at("d")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
    }
    let (a, b) = (
        fs::metadata(view.at("f")).unwrap(),
        fs::metadata(view.at("d/f2")).unwrap(),
    );
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    let dots = fs::metadata(view.at("d/..")).unwrap().ino();
    assert_eq!(dots, fs::metadata(&*view).unwrap().ino());
}

#[test]
fn every_kind_can_be_made() {
    let Some(view) = memory_view(&base()) else {
        return;
    };
    fs::create_dir(view.at("dir")).unwrap();
    symlink("target", view.at("dir/link")).unwrap();
    fs::write(view.at("dir/file"), "1").unwrap();
    fs::hard_link(view.at("dir/file"), view.at("dir/hard")).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, view.at("dir/fifo"), FileType::Fifo, mode, 0).unwrap();
    let dev = rustix::fs::makedev(1, 3);
    mknodat(
        CWD,
        view.at("dir/null"),
        FileType::CharacterDevice,
        mode,
        dev,
    )
    .unwrap();
    drop(std::os::unix::net::UnixListener::bind(view.at("dir/sock")).unwrap());
    let stat = |name: &str| fs::symlink_metadata(view.at("dir").join(name)).unwrap();
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("sock").file_type().is_socket());
    assert_eq!(
        (
            stat("null").file_type().is_char_device(),
            stat("null").rdev()
        ),
        (true, dev)
    );
    assert_eq!(
        (stat("file").ino(), stat("file").nlink()),
        (stat("hard").ino(), 2)
    );
    assert_eq!(
        fs::read_link(view.at("dir/link")).unwrap(),
        OsStr::new("target")
    );
    let odd = view.at("dir").join(OsStr::from_bytes(b"caf\xe9\xff\n"));
    fs::write(&odd, "odd").unwrap();
    assert_eq!(fs::read(&odd).unwrap(), b"odd");
    fs::write(view.at(&"n".repeat(255)), "").unwrap();
    assert_eq!(
        errno(fs::write(view.at(&"n".repeat(256)), "")),
        libc::ENAMETOOLONG
    );
    assert_eq!(
        errno(fs::metadata(view.at(&"n".repeat(256)))),
        libc::ENAMETOOLONG
    );
}

/// How the kernel opens after a CREATE that is not supported: MKNOD, then an
/// open without a message. Nothing of open(2) may be lost by that.
#[test]
fn open_creates_as_it_should() {
    let Some(view) = memory_view(&base()) else {
        return;
    };
    let create = |flags: i32, mode: u32, name: &str| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .mode(mode)
            .custom_flags(flags)
            .open(view.at(name))
    };
    // Without permission to write, and yet open for writing.
    let mut file = create(libc::O_EXCL, 0o444, "readonly").unwrap();
    file.write_all(b"written").unwrap();
    drop(file);
    assert_eq!(fs::read(view.at("readonly")).unwrap(), b"written");
    assert_eq!(
        fs::metadata(view.at("readonly")).unwrap().mode() & 0o7777,
        0o444
    );
    assert_eq!(errno(create(libc::O_EXCL, 0o600, "readonly")), libc::EEXIST);
    assert_eq!(errno(create(libc::O_EXCL, 0o600, "f")), libc::EEXIST);
    assert_eq!(errno(create(libc::O_EXCL, 0o600, "l")), libc::EEXIST);
    // Existing: opened, not emptied; with O_TRUNC emptied.
    drop(create(0, 0o600, "f").unwrap());
    assert_eq!(fs::read(view.at("f")).unwrap(), b"base file");
    drop(create(libc::O_TRUNC, 0o600, "f").unwrap());
    assert_eq!(fs::read(view.at("f")).unwrap(), b"");
    assert_eq!(fs::metadata(view.at("f")).unwrap().mode() & 0o7777, 0o644);
    // Through a link; into a directory.
    create(libc::O_TRUNC, 0o600, "l")
        .unwrap()
        .write_all(b"via")
        .unwrap();
    assert_eq!(fs::read(view.at("d/x")).unwrap(), b"via");
    assert_eq!(errno(create(0, 0o600, "d")), libc::EISDIR);
    assert_eq!(errno(create(libc::O_NOFOLLOW, 0o600, "l")), libc::ELOOP);
    assert_eq!(errno(create(0, 0o600, "none/x")), libc::ENOENT);
    // The umask of the caller.
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "umask 027; : > made; mkdir sub; umask 777; : > closed",
        ])
        .current_dir(&*view)
        .status();
    assert!(status.unwrap().success());
    for (name, mode) in [("made", 0o640), ("sub", 0o750), ("closed", 0)] {
        assert_eq!(
            fs::metadata(view.at(name)).unwrap().mode() & 0o7777,
            mode,
            "{name}"
        );
    }
    // Unlinked and open.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(view.at("gone"))
        .unwrap();
    fs::remove_file(view.at("gone")).unwrap();
    file.write_all(b"still there").unwrap();
    let mut content = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(
        (content.as_str(), file.metadata().unwrap().nlink()),
        ("still there", 0)
    );
    assert_eq!(errno(File::open(view.at("gone"))), libc::ENOENT);
}

#[test]
fn rename_does_what_its_flags_say() {
    let Some(view) = memory_view(&base()) else {
        return;
    };
    let rename = |from: &str, to: &str, flags: RenameFlags| {
        rustix::fs::renameat_with(CWD, view.at(from), CWD, view.at(to), flags)
            .map_err(std::io::Error::from)
    };
    fs::write(view.at("new"), "new").unwrap();
    assert_eq!(
        errno(rename("new", "f", RenameFlags::NOREPLACE)),
        libc::EEXIST
    );
    rename("new", "f", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(view.at("f")).unwrap(), b"new");
    assert_eq!(fs::read(view.at("new")).unwrap(), b"base file");
    assert_eq!(
        errno(rename("f", "none", RenameFlags::EXCHANGE)),
        libc::ENOENT
    );
    assert_eq!(
        errno(rename("f", "none", RenameFlags::WHITEOUT)),
        libc::EINVAL
    );
    let ino = fs::metadata(view.at("d")).unwrap().ino();
    rename("d", "moved", RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::metadata(view.at("moved")).unwrap().ino(), ino);
    assert_eq!(names_in(&view.at("moved")), ["f2", "x", "y"]);
    fs::create_dir(view.at("d")).unwrap();
    assert_eq!(names_in(&view.at("d")), [""; 0]);
    rename("d", "moved", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(names_in(&view.at("d")), ["f2", "x", "y"]);
    assert_eq!(
        errno(rename("moved", "d", RenameFlags::empty())),
        libc::ENOTEMPTY
    );
    assert_eq!(
        errno(rename("d", "d/in", RenameFlags::empty())),
        libc::EINVAL
    );
    assert_eq!(errno(fs::remove_dir(view.at("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(view.at("d"))), libc::EISDIR);
    fs::remove_dir_all(view.at("d")).unwrap();
    assert_eq!(names_in(&view), ["f", "l", "moved", "new", "p"]);
}

#[test]
fn attributes_can_be_changed() {
    let Some(view) = memory_view(&base()) else {
        return;
    };
    let f = view.at("f");
    let ino = fs::metadata(&f).unwrap().ino();
    fs::set_permissions(&f, fs::Permissions::from_mode(0o6755)).unwrap();
    assert_eq!(fs::metadata(&f).unwrap().mode() & 0o7777, 0o6755);
    // A change of owner takes the set-id bits away, root or not.
    std::os::unix::fs::chown(&f, Some(1000), Some(1001)).unwrap();
    let stat = fs::metadata(&f).unwrap();
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (1000, 1001, 0o755)
    );
    // Those of a directory stay.
    fs::set_permissions(view.at("d"), fs::Permissions::from_mode(0o2775)).unwrap();
    std::os::unix::fs::chown(view.at("d"), None, Some(1001)).unwrap();
    assert_eq!(fs::metadata(view.at("d")).unwrap().mode() & 0o7777, 0o2775);
    fs::write(view.at("d/inherits"), "").unwrap();
    assert_eq!(fs::metadata(view.at("d/inherits")).unwrap().gid(), 1001);

    for (secs, nanos) in [
        (1, 5),
        (13_569_465_600, 999_999_999),
        (-1, 0),
        (-2, 800_000_000),
    ] {
        let time = Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, &f, &times, rustix::fs::AtFlags::empty()).unwrap();
        for path in [&f, &view.at("d/f2")] {
            let stat = fs::metadata(path).unwrap();
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (secs, nanos));
            assert_eq!((stat.atime(), stat.atime_nsec()), (secs, nanos));
        }
    }
    assert_eq!(fs::metadata(&f).unwrap().ino(), ino);
    assert_eq!(fs::read(&f).unwrap(), b"base file");
    let stats = rustix::fs::statvfs(&*view).unwrap();
    assert_eq!(
        (stats.f_namemax, stats.f_bsize > 0, stats.f_blocks > 0),
        (255, true, true)
    );
}

#[test]
fn extended_attributes_follow_their_rules() {
    let base = base();
    base.set_xattr("f", "user.base", "from below").unwrap();
    let Some(view) = memory_view(&base) else {
        return;
    };
    let f = view.at("f");
    let get = |name: &str| {
        let mut buffer = vec![0; 70_000];
        let len = rustix::fs::getxattr(&f, name, &mut buffer[..])?;
        buffer.truncate(len);
        Ok::<_, rustix::io::Errno>(buffer)
    };
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&f, name, value, flags);
    assert_eq!(get("user.base").unwrap(), b"from below");
    set("user.new", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(
        set("user.new", b"2", XattrFlags::CREATE),
        Err(rustix::io::Errno::EXIST)
    );
    assert_eq!(
        set("user.none", b"2", XattrFlags::REPLACE),
        Err(rustix::io::Errno::NODATA)
    );
    set("user.large", &[7; 65_536], XattrFlags::empty()).unwrap();
    assert_eq!(get("user.large").unwrap(), vec![7; 65_536]);
    let mut small = [0; 3];
    let short = rustix::fs::getxattr(&f, "user.base", &mut small[..]);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    assert_eq!(get("user.none"), Err(rustix::io::Errno::NODATA));
    let mut list = vec![0; 1000];
    let len = rustix::fs::listxattr(&f, &mut list[..]).unwrap();
    assert_eq!(&list[..len], b"user.base\0user.large\0user.new\0");
    rustix::fs::removexattr(&f, "user.base").unwrap();
    assert_eq!(get("user.base"), Err(rustix::io::Errno::NODATA));
    // Access control lists are refused, not stored and ignored.
    let acl = set(
        "system.posix_acl_access",
        &[2, 0, 0, 0],
        XattrFlags::empty(),
    );
    assert_eq!(acl, Err(rustix::io::Errno::OPNOTSUPP));
}
