//! The base goes away under a live session.

use std::fs;
use std::path::Path;

use agentfs_tests::World;

use super::{Told, check_afterwards, host};
use crate::session::as_everyone;

const SCRIPT: &str = "cat old; echo kept > kept; sync kept; echo up
await gone
try cat never-read; try cat kept
echo more > more; sync more; echo going on
await end";

/// A base outside the project, with two files.
fn fill(world: &World, base: &Path) {
    fs::write(base.join("old"), "old\n").unwrap();
    fs::write(base.join("never-read"), "never read\n").unwrap();
    world.own(base);
}

fn start<'a>(world: &'a World, base: &Path) -> Told<'a> {
    Told::start(world, &["--base", base.to_str().unwrap()], SCRIPT)
}

#[test]
fn a_base_removed_under_a_session() {
    as_everyone(|world| {
        let base = world.dir.join("base");
        fs::create_dir(&base).unwrap();
        fill(world, &base);
        let mut told = start(world, &base);
        fs::remove_dir_all(&base).unwrap();
        told.go_on("gone", "going on");
        let out = told.out();
        assert!(out.contains("never-read: No such file"), "{out}");
        assert!(
            out.contains("\nkept\n"),
            "what the session holds stays: {out}"
        );
        let done = told.end("end");
        assert_eq!(done.code(), 0, "{done}");
        // The next run says what is missing; with the base back, all is there.
        let refused = world.in_session("s", "true").finish();
        assert_eq!(refused.code(), 125, "{refused}");
        assert!(refused.err().contains("base directory"), "{refused}");
        assert!(refused.err().contains("--base"), "what to do: {refused}");
        fs::create_dir(&base).unwrap();
        fill(world, &base);
        check_afterwards(world, "cat kept more old", "kept\nmore\nold\n");
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting needs root")]
fn a_base_unmounted_under_a_session() {
    as_everyone(|world| {
        let base = world.dir.join("base");
        fs::create_dir(&base).unwrap();
        let mount = ["-t", "tmpfs", "none"].map(Path::new);
        let _ = host("mount", &[&mount[..], &[&base]].concat()).ok();
        fill(world, &base);
        let mut told = start(world, &base);
        let busy = host("umount", &[&base]);
        assert!(
            busy.err().contains("busy"),
            "a session holds its base: {busy}"
        );
        let _ = host("umount", &[Path::new("--lazy"), &base]).ok();
        // Detached, it lives as long as the session does.
        told.go_on("gone", "going on");
        let out = told.out();
        assert!(out.contains("never read\nkept\n"), "{out}");
        let done = told.end("end");
        assert_eq!(done.code(), 0, "{done}");
        check_afterwards(world, "cat kept more; ls", "kept\nmore\nkept\nmore\n");
    });
}
