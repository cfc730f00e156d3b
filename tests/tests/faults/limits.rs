//! A server under limits: of file sizes, of descriptors, of memory.
//!
//! The limits are set on `agentfs run` and so hold for the server it starts, and for
//! the programs inside.

use std::fs;

use agentfs_tests::World;
use agentfs_tests::child::Finished;

use super::{Told, check_afterwards};
use crate::session::{as_everyone, server_pid};

/// Runs a script in the session `s`, under a limit of `prlimit`.
fn under(world: &World, limit: &str, script: &str) -> Finished {
    world
        .run("prlimit")
        .arg(limit)
        .arg(world.binary())
        .args(["run", "--session", "s", "--", "sh", "-c", script])
        .finish()
}

#[test]
fn a_database_that_may_not_grow_is_told_as_a_full_disk() {
    as_everyone(|world| {
        let script = "i=0; echo kept > kept; sync kept
while [ $i -lt 100 ] && head -c 100000 /dev/urandom > f$i && sync f$i; do i=$((i+1)); done 2>said
cat said; cat kept; rm f0; echo $i";
        let done = under(world, "--fsize=4000000", script).ok();
        let out = done.out();
        assert!(out.contains("No space left on device"), "{done}");
        assert!(out.contains("\nkept\n"), "the server goes on: {done}");
        let synced: usize = out.trim().lines().last().unwrap().parse().unwrap();
        assert!((10..40).contains(&synced), "{done}");
        let script = format!(
            "cat kept; i=1; while [ -s f$i ]; do i=$((i+1)); done; [ $i -ge {synced} ] && echo all"
        );
        check_afterwards(world, &script, "kept\nall\n");
    });
}

#[test]
fn a_server_needs_no_more_descriptors_than_it_is_given() {
    as_everyone(|world| {
        const FILES: usize = 1500;
        for number in 0..FILES {
            fs::write(world.project.join(format!("b{number}")), "base\n").unwrap();
        }
        world.own(&world.project);
        // More files of the base open at once than the server may have.
        let script = format!(
            "echo kept > kept; sync kept
for p in $(seq 0 6 {}); do
  (exec 3<b$p 4<b$((p+1)) 5<b$((p+2)) 6<b$((p+3)) 7<b$((p+4)) 8>>b$((p+5))
   cat <&3 && cat <&4 && cat <&5 && cat <&6 && cat <&7 && echo more >&8 && sleep 3) &
done >>read 2>>said; wait; wc -l <read; cat said kept; echo after > after && sync after && cat after",
            FILES - 6
        );
        let done = under(world, "--nofile=1024:1024", &script).ok();
        assert_eq!(done.out(), "1250\nkept\nafter\n", "{done}");
        check_afterwards(world, "cat kept after; cat b5", "kept\nafter\nbase\nmore\n");

        // With fewer than it may come to need there is no session, and a sentence.
        let refused = under(world, "--nofile=1023:1023", "true");
        assert_eq!(refused.code(), 125, "{refused}");
        assert!(refused.err().contains("ulimit -Hn"), "{refused}");
        let place = world.dir.join("mounted");
        fs::create_dir(&place).unwrap();
        let refused = world.run("prlimit").arg("--nofile=1023:1023");
        let refused = refused.arg(world.binary()).args(["mount", "s"]);
        let refused = refused.arg(&place).finish();
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(refused.err().contains("ulimit -Hn"), "{refused}");
        check_afterwards(world, "cat kept after", "kept\nafter\n");
    });
}

/// The most memory that a process has had, in KiB.
fn peak_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure.unwrap().parse().unwrap()
}

#[test]
fn memory_has_a_bound() {
    as_everyone(|world| {
        let script = "head -c 640M /dev/zero > large && sync large && echo up
await end; rm large";
        let told = Told::start(world, &[], script);
        let peak = peak_kib(server_pid(world, "s"));
        assert!(peak < 400 << 10, "{peak} KiB for 640 MiB written");
        let done = told.end("end");
        assert_eq!(done.code(), 0, "{done}");
    });
}

#[test]
fn a_server_without_memory_ends_and_loses_nothing() {
    as_everyone(|world| {
        let mut died = 0;
        for limit in [20, 60, 120, 250, 400_u64] {
            let script =
                "echo kept >> kept; sync kept && echo synced; head -c 64M /dev/zero > more";
            let done = under(world, &format!("--as={}", limit << 20), script);
            let synced = done.out().matches("synced").count();
            if done.code() != 0 {
                died += 1;
                assert!(!done.err().is_empty(), "a sentence: {done}");
            }
            let kept = world.in_session("s", "cat kept 2>/dev/null | wc -l; rm -f kept more");
            let kept: usize = kept.finish().ok().out().trim().parse().unwrap();
            assert!(kept >= synced, "{kept} of {synced} after {done}");
            let _ = world.agentfs_out(["check", "s"]);
        }
        assert!(died > 0, "the limits were none");
    });
}
