//! What a session does while the programs in it rest.

use std::time::Duration;

use agentfs_testkit::reads::reads_in;

use super::{as_everyone, eventually, live, server_pid};

/// How many files there are to read, half of them the base's.
const FILES: u64 = 1000;

/// A look at a file that was read or written asks the server, unless the holder has
/// looked meanwhile: what nobody waited for costs nobody anything later.
#[test]
fn what_programs_have_read_the_kernel_knows_once_they_rest() {
    as_everyone(|world| {
        let make = format!(
            "mkdir d; for n in $(seq {}); do echo $n > d/$n; done",
            FILES / 2
        );
        let _ = world.run("sh").args(["-c", &make]).finish().ok();
        let in_session = |script: &str| world.in_session("s", script).finish().ok();
        let script = "while [ ! -e end ]; do sleep 0.05; done";
        let running = world.in_session("s", script).start();
        eventually("it is up", || live(world, "s").is_some());
        let made = format!(
            "for n in $(seq {} {FILES}); do echo $n > d/$n; done",
            FILES / 2 + 1
        );
        let _ = in_session(&format!("{made}; sync d"));

        let reads = || reads_in(&format!("/proc/{}/io", server_pid(world, "s")));
        let names = format!("seq -f d/%g {FILES}");
        eventually("a look asks the server nothing", || {
            let _ = in_session(&format!("{names} | xargs cat"));
            std::thread::sleep(Duration::from_millis(500));
            let before = reads();
            // What reading and closing made the kernel doubt; the size is not.
            let seen = in_session(&format!("{names} | xargs stat -c %b,%x | wc -l"));
            assert_eq!(seen.out().trim(), FILES.to_string());
            reads() - before < FILES / 4
        });
        let _ = in_session("touch end");
        assert_eq!(running.wait().code(), 0);
    });
}
