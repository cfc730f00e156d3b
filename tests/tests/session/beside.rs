//! Commands and programs at the database of a live session: what they cost it.

use agentfs_tests::world::World;

use super::{as_everyone, eventually, live, reads_at_rest, server_reads};

/// How many files there are to look at.
const FILES: u64 = 500;

/// What the server reads while a program looks at each file twice, once what the session
/// does next is on the disk.
fn reads_of_looks(world: &World) -> u64 {
    let in_session = |script: &str| world.in_session("s", script).finish().ok();
    let _ = in_session("echo more >> log; sync log");
    let before = reads_at_rest(world, "s");
    // By name: a listing would tell of all at once.
    let look = format!("seq -f d/%g {FILES} | xargs stat -c %s | wc -l");
    for _ in 0..2 {
        assert_eq!(in_session(&look).out().trim(), FILES.to_string());
    }
    server_reads(world, "s") - before
}

#[test]
fn commands_beside_a_session_leave_it_what_it_knows() {
    as_everyone(|world| {
        let make = format!("mkdir d; for n in $(seq {FILES}); do echo $n > d/$n; done; sync log");
        let script = format!("{make}; echo up; while [ ! -e end ]; do sleep 0.05; done");
        let mut running = world.in_session("s", &script).start();
        eventually("it is up", || running.printed().0 == b"up\n");
        // The kernel asks for each file once, as it was written.
        let _ = reads_of_looks(world);

        let commands: [&[&str]; 10] = [
            &["diff", "s"],
            &["kv", "set", "s", "key", "1"],
            &["kv", "get", "s", "key"],
            &["kv", "delete", "s", "key"],
            &["tool", "record", "s", "grep", "--result", "[]"],
            &["timeline", "s"],
            &["fs", "ls", "s"],
            &["fs", "cat", "s", "/d/7"],
            &["check", "s"],
            &["export", "s", "copy.db"],
        ];
        for command in commands {
            let _ = world.agentfs_out(command);
            let reads = reads_of_looks(world);
            assert!(reads < FILES / 2, "{command:?}: {reads}");
        }
        let sql = |text: &str| {
            let sqlite3 = world.run("sqlite3").args(["-cmd", ".timeout 10000"]);
            sqlite3.arg(world.database("s")).arg(text).finish().ok()
        };
        let counted = "SELECT count(*) FROM tool_calls WHERE name = 'grep'";
        assert_eq!(sql(counted).out(), "1\n");

        // And what is written from outside is seen.
        let size = "stat -c %s d/7";
        assert_eq!(world.in_session("s", size).finish().ok().out(), "2\n");
        let _ = sql("UPDATE fs_inode SET size = 1 WHERE ino = \
             (SELECT ino FROM fs_dentry WHERE name = '7')");
        eventually("the new size shows", || {
            world.in_session("s", size).finish().ok().out() == "1\n"
        });
        assert!(reads_of_looks(world) >= FILES, "a look is seen to ask");

        let _ = world.in_session("s", "touch end").finish().ok();
        assert_eq!(running.wait().code(), 0);
        eventually("the session ends", || live(world, "s").is_none());
    });
}
