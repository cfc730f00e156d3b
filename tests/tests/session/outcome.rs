//! Exit codes, signals and the environment of the command.

use agentfs_tests::child::Finished;

use super::{as_everyone, eventually};

fn check(script: &str, code: i32, out: &str) {
    as_everyone(|world| {
        let done = world.in_session("s", script).finish();
        assert_eq!((done.code(), done.out().as_str()), (code, out), "{done}");
    });
}

#[test]
fn the_exit_code_is_the_commands() {
    check("exit 0", 0, "");
    check("exit 7", 7, "");
    check("exit 255", 255, "");
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    check("kill -TERM $$", 143, "");
    check("kill -KILL $$", 137, "");
    check("kill -SEGV $$", 139, "");
}

#[test]
fn what_cannot_be_run_is_127_or_126() {
    as_everyone(|world| {
        let run = |command: &str| -> Finished {
            world
                .agentfs(["run", "--session", "s", "--", command])
                .finish()
        };
        let missing = run("no-such-command-here");
        assert_eq!(missing.code(), 127, "{missing}");
        assert!(missing.err().contains("no-such-command-here"), "{missing}");
        assert_eq!(run("/no/such/file").code(), 127);
        assert_eq!(run("/etc/passwd").code(), 126);
        assert_eq!(run("/etc").code(), 126);
    });
}

#[test]
fn the_command_knows_where_it_is() {
    as_everyone(|world| {
        std::fs::create_dir(world.project.join("sub")).expect("a directory");
        world.own(&world.project);
        let done = world
            .agentfs(["run", "--session", "s", "--", "sh", "-c"])
            .arg("pwd; echo $AGENTFS $AGENTFS_SANDBOX $AGENTFS_SESSION; id -u; id -g; umask")
            .env("AGENTFS_UNRELATED", "kept")
            .finish()
            .ok();
        let expected = format!(
            "{}\n1 linux-namespace s\n{}\n{}\n{}",
            world.project.display(),
            world.account.uid,
            world.account.gid,
            world.run("sh").args(["-c", "umask"]).finish().ok().out()
        );
        assert_eq!(done.out(), expected, "{done}");
        let sub = world
            .in_session("s", "pwd")
            .dir(&world.project.join("sub"))
            .finish()
            .ok();
        assert_eq!(
            sub.out().trim(),
            world.project.join("sub").display().to_string()
        );
    });
}

#[test]
fn variables_that_lead_outside_are_removed() {
    as_everyone(|world| {
        let done = world
            .agentfs(["run", "--session", "s", "--", "sh", "-c"])
            .arg("echo ${SSH_AUTH_SOCK-none} ${DISPLAY-none} ${TMUX-none} $TMPDIR; mktemp -u | cut -c1-5")
            .env("SSH_AUTH_SOCK", "/tmp/ssh-x/agent.1")
            .env("DISPLAY", ":0")
            .env("TMUX", "/tmp/tmux-0/default,1,0")
            .env("TMPDIR", "/tmp/of-the-shell-outside")
            .finish()
            .ok();
        assert_eq!(done.out(), "none none none /tmp\n/tmp/\n", "{done}");
    });
}

#[test]
fn standard_input_and_output_are_the_callers() {
    as_everyone(|world| {
        let done = world
            .in_session("s", "cat; echo err >&2")
            .stdin("through")
            .finish()
            .ok();
        assert_eq!(done.out(), "through");
        assert_eq!(done.err(), "err\n", "and no banner where nobody looks");
    });
}

#[test]
fn signals_to_agentfs_reach_the_command() {
    as_everyone(|world| {
        for (signal, number) in [
            ("TERM", 15),
            ("INT", 2),
            ("HUP", 1),
            ("QUIT", 3),
            ("USR1", 10),
        ] {
            // A shell cannot trap what was ignored when it began (POSIX, trap).
            if is_ignored(number) {
                continue;
            }
            let script =
                format!("trap 'echo got; exit 9' {signal}; echo up; while :; do sleep 0.05; done");
            let mut running = world.in_session("s", &script).start();
            eventually("it is up", || running.printed().0 == b"up\n");
            let pid = rustix::process::Pid::from_raw(i32::try_from(running.pid()).expect("a pid"));
            let signal = rustix::process::Signal::from_named_raw(number).expect("a signal");
            rustix::process::kill_process(pid.expect("a pid"), signal).expect("our child");
            let done = running.wait();
            assert_eq!(
                (done.code(), done.out().as_str()),
                (9, "up\ngot\n"),
                "{done}"
            );
        }
    });
}

/// Whether this process was started with the signal ignored, which children inherit.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .map(|mask| u64::from_str_radix(mask.trim(), 16).expect("a mask"));
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[test]
fn the_command_dies_with_a_killed_agentfs() {
    as_everyone(|world| {
        let mut running = world.in_session("s", "echo up; sleep 600").start();
        eventually("it is up", || running.printed().0 == b"up\n");
        running.kill();
        drop(running);
        // The shell inside is killed; its `sleep` then is nobody's and may stay,
        // until somebody ends the session.
        let _ = world.agentfs(["stop", "s"]).finish().ok();
        world.wait_for_end("s");
    });
}
