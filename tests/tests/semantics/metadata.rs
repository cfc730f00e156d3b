//! Times, modes, extended attributes.

use agentfs_core::overlay::{SetAttr, SetTime, XattrMode};
use agentfs_core::types::Timestamp;

use super::project;
use super::view::{View, at};

#[test]
fn times_follow_posix() {
    let view = View::over(&project());
    let times = |path: &str| {
        let attr = view.attr(path);
        (attr.mtime, attr.ctime)
    };
    let (old, _) = times("README");
    view.clock.set(at(1));
    view.set(
        "README",
        &SetAttr {
            perm: Some(0o600),
            ..SetAttr::default()
        },
    );
    assert_eq!(times("README"), (old, at(1)), "chmod");
    view.clock.set(at(2));
    view.write("README", 0, b"x");
    assert_eq!(times("README"), (at(2), at(2)), "write");
    view.clock.set(at(3));
    view.link("README", "src/link");
    assert_eq!(times("README"), (at(2), at(3)), "link: the file");
    assert_eq!(times("src"), (at(3), at(3)), "link: the directory");
    view.clock.set(at(4));
    view.rename("src/link", "link");
    assert_eq!(times("README"), (at(2), at(4)), "rename: the file");
    assert_eq!(times("src"), (at(4), at(4)), "rename: from");
    assert_eq!(times(""), (at(4), at(4)), "rename: to");
    view.clock.set(at(5));
    view.unlink("link");
    assert_eq!(times("README"), (at(2), at(5)), "unlink: the file");
    assert_eq!(times(""), (at(5), at(5)), "unlink: the directory");
    view.clock.set(at(6));
    view.overlay
        .setxattr(view.ino("src"), b"user.a", b"", XattrMode::Set)
        .unwrap();
    assert_eq!(times("src"), (at(4), at(6)), "setxattr");
    view.clock.set(at(7));
    view.create("new");
    let new = view.attr("new");
    assert_eq!((new.atime, new.mtime, new.ctime), (at(7), at(7), at(7)));
    assert_eq!(times(""), (at(7), at(7)), "create");
    view.clock.set(at(8));
    view.set(
        "new",
        &SetAttr {
            size: Some(9),
            ..SetAttr::default()
        },
    );
    assert_eq!(times("new"), (at(8), at(8)), "truncate");
}

#[test]
fn times_reach_2400() {
    let far = Timestamp::new(13_569_465_600, 999_999_999);
    let view = View::over(&project());
    let time = Some(SetTime::At(far));
    view.set(
        "README",
        &SetAttr {
            atime: time,
            mtime: time,
            ..SetAttr::default()
        },
    );
    let early = Some(SetTime::At(Timestamp::new(-1, 1)));
    view.set(
        "src",
        &SetAttr {
            mtime: early,
            ..SetAttr::default()
        },
    );
    let view = view.restart();
    assert_eq!(
        (view.attr("README").atime, view.attr("README").mtime),
        (far, far)
    );
    assert_eq!(view.attr("src").mtime, Timestamp::new(-1, 1));
}

#[test]
fn reading_keeps_the_access_time() {
    let view = View::over(&project());
    view.write("src/main.rs", 0, b"x");
    let before = ["README", "src", "src/main.rs"].map(|path| view.attr(path).atime);
    view.clock.set(at(100));
    view.read("README");
    view.read("src/main.rs");
    view.ls("src");
    let after = ["README", "src", "src/main.rs"].map(|path| view.attr(path).atime);
    assert_eq!(before, after);
}

#[test]
fn set_ids_go_with_a_change_by_others() {
    let view = View::over(&project());
    let set = |perm| SetAttr {
        perm: Some(perm),
        ..SetAttr::default()
    };
    let ino = view.ino("README");
    view.set("README", &set(0o6755));
    view.overlay.write(ino, 0, b"x", false).unwrap();
    assert_eq!(view.attr("README").perm, 0o6755, "a privileged writer");
    view.overlay.write(ino, 0, b"x", true).unwrap();
    assert_eq!(view.attr("README").perm, 0o755);
    view.set("README", &set(0o6745));
    view.overlay.write(ino, 0, b"x", true).unwrap();
    assert_eq!(
        view.attr("README").perm,
        0o2745,
        "not executable by the group"
    );
    view.set("src", &set(0o2775));
    view.set(
        "src",
        &SetAttr {
            uid: Some(1),
            kill_suid_sgid: true,
            ..SetAttr::default()
        },
    );
    assert_eq!(view.attr("src").perm, 0o2775, "directories keep it");
}

#[test]
fn extended_attributes_are_kept() {
    let base = project();
    base.set_xattr("README", "user.lower", [0, 255]).unwrap();
    let view = View::over(&base);
    let (ino, overlay) = (view.ino("README"), &view.overlay);
    let errno = |result: Result<(), agentfs_core::FsError>| result.unwrap_err().errno();
    overlay
        .setxattr(ino, b"trusted.b", b"1", XattrMode::Create)
        .unwrap();
    overlay
        .setxattr(ino, b"security.c", b"2", XattrMode::Set)
        .unwrap();
    assert_eq!(
        errno(overlay.setxattr(ino, b"user.lower", b"", XattrMode::Create)),
        libc::EEXIST
    );
    assert_eq!(
        errno(overlay.setxattr(ino, b"user.no", b"", XattrMode::Replace)),
        libc::ENODATA
    );
    assert_eq!(errno(overlay.removexattr(ino, b"user.no")), libc::ENODATA);
    let view = view.restart();
    let (ino, overlay) = (view.ino("README"), &view.overlay);
    let expected = [&b"security.c"[..], b"trusted.b", b"user.lower"];
    assert_eq!(overlay.listxattr(ino).unwrap(), expected);
    assert_eq!(overlay.getxattr(ino, b"user.lower").unwrap(), [0, 255]);
    overlay.removexattr(ino, b"user.lower").unwrap();
    assert_eq!(
        overlay.getxattr(ino, b"user.lower").unwrap_err().errno(),
        libc::ENODATA
    );
}

#[test]
fn acls_are_refused() {
    let view = View::over(&project());
    let ino = view.ino("README");
    for name in [&b"system.posix_acl_access"[..], b"system.posix_acl_default"] {
        let set = view.overlay.setxattr(ino, name, b"x", XattrMode::Set);
        assert_eq!(set.unwrap_err().errno(), libc::EOPNOTSUPP);
        let got = view.overlay.getxattr(ino, name);
        assert_eq!(got.unwrap_err().errno(), libc::EOPNOTSUPP);
    }
}

#[test]
fn extended_attributes_have_limits() {
    let view = View::over(&project());
    let ino = view.ino("README");
    let set = |name: &[u8], len: usize| {
        let value = vec![1; len];
        view.overlay
            .setxattr(ino, name, &value, XattrMode::Set)
            .map_err(|e| e.errno())
    };
    assert_eq!(set(b"user.big", 65_537), Err(libc::E2BIG));
    assert_eq!(set(b"user.big", 65_536), Ok(()));
    let longest = [&b"user."[..], &[b'n'; 250]].concat();
    assert_eq!(set(&longest, 1), Ok(()));
    let too_long = [&b"user."[..], &[b'n'; 251]].concat();
    assert!(set(&too_long, 1).is_err());
    assert!(set(b"user.", 1).is_err());
}
