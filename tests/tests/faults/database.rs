//! The database is replaced while a session lives on it, and the many ways in which
//! two servers might come to serve one.
//!
//! That it is removed is the subject of `session/life.rs`.

use std::fs;
use std::path::Path;

use super::{Told, check_afterwards, host};
use crate::session::{as_everyone, eventually, live};

#[test]
fn a_database_replaced_under_a_session_is_not_touched() {
    as_everyone(|world| {
        let _ = world
            .in_session("other", "echo other > other")
            .finish()
            .ok();
        world.wait_for_end("other");
        let script = "echo mine > mine; sync mine; echo up
await replaced
echo late > late; try sync late; echo told
await end";
        let mut told = Told::start(world, &[], script);
        fs::rename(world.database("other"), world.database("s")).unwrap();
        let new = fs::read(world.database("s")).unwrap();
        told.go_on("replaced", "told");
        let out = told.out();
        assert!(out.contains("Input/output error"), "it is not saved: {out}");
        let said = told.log();
        assert!(
            said.contains("removed or replaced"),
            "the log says why: {said}"
        );
        let log = told.log.clone();
        fs::write(world.dir.join("stages/end"), "").unwrap();
        let done = told.running.wait();
        assert_eq!(done.code(), 0, "{done}");
        // The directory of the log is removed when all went well.
        eventually("the server ends", || {
            fs::read_to_string(&log).map_or(true, |log| log.contains("removed"))
                && live(world, "s").is_none()
        });
        assert_eq!(
            fs::read(world.database("s")).unwrap(),
            new,
            "the new one is as it was"
        );
        // What the old one left beside it is not laid over it.
        let next = world.in_session("s", "ls").finish();
        if next.code() != 0 {
            assert!(next.err().contains("-wal beside"), "{next}");
            fs::remove_file(world.database("s").with_extension("db-wal")).unwrap();
        }
        check_afterwards(world, "ls", "other\n");
    });
}

/// Only a file that is gone takes what was done along.
#[test]
fn regression_a_database_that_is_moved_under_a_session_keeps_what_was_synced() {
    as_everyone(|world| {
        let script = "echo early > early; sync early; echo up
await moved
echo late > late; sync late; echo synced
await end";
        let mut told = Told::start(world, &[], script);
        fs::rename(world.database("s"), world.database("moved")).unwrap();
        told.go_on("moved", "synced");
        fs::write(world.dir.join("stages/end"), "").unwrap();
        assert_eq!(told.running.wait().code(), 0);
        eventually("the session ends", || live(world, "moved").is_none());
        world.wait_for_end("moved");
        let done = world.in_session("moved", "cat early late").finish().ok();
        assert_eq!(done.out(), "early\nlate\n", "{done}");
    });
}

/// A second way to the database of a live session leads into that session.
fn joins(prepare: impl Fn(&Path, &Path), clean_up: impl Fn(&Path)) {
    as_everyone(|world| {
        let mut told = Told::start(world, &[], "echo one > one; echo up; await end");
        let elsewhere = world.dir.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        world.own(&elsewhere);
        prepare(&world.project.join(".agentfs"), &elsewhere);
        let other = elsewhere.join("s.db");
        let base = world.project.to_str().unwrap();
        let second = world
            .agentfs([
                "run",
                "--session",
                other.to_str().unwrap(),
                "--base",
                base,
                "--",
            ])
            .args(["sh", "-c", "cat one; echo two > two"])
            .finish();
        let listed = world.agentfs_out(["ps", "--json"]);
        let listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
        let ours = |session: &&serde_json::Value| session["base"].as_str() == Some(base);
        let servers = listed.iter().filter(ours).count();
        let mounted = world
            .agentfs(["mount", "s"])
            .arg(world.dir.join("home"))
            .finish();
        clean_up(&elsewhere);
        let ok = second.ok();
        assert_eq!(ok.out(), "one\n", "{ok}");
        assert_eq!(servers, 1, "one server for one database");
        assert_eq!(mounted.code(), 1, "{mounted}");
        assert!(mounted.err().contains("in use"), "{mounted}");
        assert!(told.out().ends_with("up\n"));
        let done = told.end("end");
        assert_eq!(done.code(), 0, "{done}");
        check_afterwards(world, "cat one two", "one\ntwo\n");
    });
}

#[test]
fn a_hard_link_of_a_database_leads_to_the_same_session() {
    joins(
        |holder, elsewhere| fs::hard_link(holder.join("s.db"), elsewhere.join("s.db")).unwrap(),
        |_| (),
    );
}

#[test]
fn a_symbolic_link_of_a_database_leads_to_the_same_session() {
    joins(
        |holder, elsewhere| {
            std::os::unix::fs::symlink(holder.join("s.db"), elsewhere.join("s.db")).unwrap();
        },
        |_| (),
    );
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: a bind mount needs root")]
fn a_bind_mount_of_a_database_leads_to_the_same_session() {
    joins(
        |holder, elsewhere| {
            let _ = host("mount", &[Path::new("--bind"), holder, elsewhere]).ok();
        },
        |elsewhere| drop(host("umount", &[elsewhere]).ok()),
    );
}

/// Terminals that do not find the server, because it keeps its socket elsewhere, are
/// refused by the lock on the database.
#[test]
fn a_server_that_is_not_found_keeps_others_out() {
    as_everyone(|world| {
        let runtime = world.dir.join("runtime");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(
            &runtime,
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        world.own(&runtime);
        let mut running = world
            .in_session("s", "echo one > one; echo up; exec sleep 600")
            .env("XDG_RUNTIME_DIR", &runtime)
            .start();
        eventually("it is up", || running.printed().0 == b"up\n");
        let second = world.in_session("s", "echo two > two").finish();
        assert_eq!(second.code(), 125, "{second}");
        assert!(
            second.err().contains("in use by another program"),
            "{second}"
        );
        assert_eq!(running.ended(), None, "the first goes on");
        let _ = world
            .agentfs(["stop", "s"])
            .env("XDG_RUNTIME_DIR", &runtime)
            .finish()
            .ok();
        drop(running);
        world.wait_for_end("s");
        check_afterwards(world, "ls", "one\n");
    });
}

#[test]
fn a_copy_of_a_database_is_a_session_of_its_own() {
    as_everyone(|world| {
        let _ = world.in_session("s", "echo old > old").finish().ok();
        world.wait_for_end("s");
        fs::copy(world.database("s"), world.database("copy")).unwrap();
        world.own(&world.database("copy"));
        let mut told = Told::start(world, &[], "echo one > one; sync one; echo up; await end");
        let copy = world
            .in_session("copy", "cat old; echo two > two; ls")
            .finish()
            .ok();
        assert_eq!(copy.out(), "old\nold\ntwo\n");
        assert!(told.out().ends_with("up\n"));
        assert_eq!(told.end("end").code(), 0);
        check_afterwards(world, "ls", "old\none\n");
    });
}
