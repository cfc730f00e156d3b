//! What a session does while the programs in it rest.

use super::{as_everyone, eventually, live, reads_at_rest, server_reads};

/// How many files there are to read, half of them the base's.
const FILES: u64 = 1000;

/// A look at a file that was read or written asks the server, unless the holder has
/// looked meanwhile: what nobody waited for costs nobody anything later.
#[test]
fn what_programs_have_read_the_kernel_knows_once_they_rest() {
    as_everyone(|world| {
        let in_session = |script: &str| world.in_session("s", script).finish().ok();
        let script = "while [ ! -e end ]; do sleep 0.05; done";
        let running = world.in_session("s", script).start();
        eventually("it is up", || live(world, "s").is_some());
        let half = FILES / 2;
        let mut attempt = 0;
        eventually("a look asks the server nothing", || {
            // New ones: of a second reading, and the closing after it, the server hears nothing.
            attempt += 1;
            let d = format!("d{attempt}");
            let make = format!("mkdir {d}; for n in $(seq {half}); do echo $n > {d}/$n; done");
            let _ = world.run("sh").args(["-c", &make]).finish().ok();
            let made = format!("for n in $(seq {half} {FILES}); do echo $n > {d}/$n; done");
            let names = format!("seq -f {d}/%g {FILES}");
            let _ = in_session(&format!("{made}; sync {d}; {names} | xargs cat"));
            let before = reads_at_rest(world, "s");
            // What reading and closing made the kernel doubt; the size is not.
            let seen = in_session(&format!("{names} | xargs stat -c %b,%x | wc -l"));
            assert_eq!(seen.out().trim(), FILES.to_string());
            server_reads(world, "s") - before < FILES / 4
        });
        let _ = in_session("touch end");
        assert_eq!(running.wait().code(), 0);
    });
}
