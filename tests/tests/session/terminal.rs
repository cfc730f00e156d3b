//! The terminal inside: job control, interrupts, size, pipelines.

use std::fs;

use agentfs_tests::world::World;

use super::tty::Tty;
use super::{as_everyone, eventually, live, server_pid};

/// Runs a conversation on a terminal, as root and as an ordinary user.
fn on_a_terminal(talk: impl Fn(&mut Tty)) {
    as_everyone(|world| match Tty::new(world) {
        Ok(mut tty) => talk(&mut tty),
        Err(why) => agentfs_tests::skip::skipped(&why),
    });
}

const SHELL: &str = "$A run -q --session s -- bash --norc --noprofile -i";

#[test]
fn a_shell_inside_has_job_control() {
    on_a_terminal(|tty| {
        tty.line(SHELL);
        tty.line("PS1='in> '");
        tty.expect("in> ");
        tty.line("tty; echo tty=$?");
        tty.expect("/dev/");
        tty.expect("tty=0");
        tty.line("sleep 600");
        std::thread::sleep(std::time::Duration::from_millis(300));
        tty.send("\x03");
        tty.expect("in> ");
        tty.line("echo interrupted=$?");
        tty.expect("interrupted=130");
        tty.line("sleep 600");
        std::thread::sleep(std::time::Duration::from_millis(300));
        tty.send("\x1a");
        tty.expect("Stopped");
        tty.line("bg; kill %1; wait; echo re''aped");
        tty.expect("reaped");
        tty.line("exit 5");
        tty.expect("$ ");
        tty.line("echo code=$?");
        tty.expect("code=5");
    });
}

#[test]
fn control_z_stops_the_run_and_fg_resumes_it() {
    on_a_terminal(|tty| {
        tty.line("$A run -q --session s -- sh -c 'echo u''p; sleep 600'");
        tty.expect("up");
        // While the shell waits for its vfork(2) it cannot be stopped.
        std::thread::sleep(std::time::Duration::from_millis(300));
        tty.send("\x1a");
        tty.expect("Stopped");
        tty.line("echo out''side; fg");
        tty.expect("outside");
        std::thread::sleep(std::time::Duration::from_millis(300));
        tty.send("\x03");
        tty.line("echo code=$?");
        tty.expect("code=130");
        tty.line("stty -a | grep -c isig");
        tty.expect("1");
    });
}

/// The server is in the process session of that terminal, but not on it.
#[test]
fn the_terminal_that_began_a_session_may_be_closed() {
    as_everyone(|world| {
        let mut tty = match Tty::new(world) {
            Ok(tty) => tty,
            Err(why) => return agentfs_tests::skip::skipped(&why),
        };
        tty.line("$A run -q --session s -- sh -c 'echo u''p; sleep 600'");
        tty.expect("up");
        is_apart(world);
        let script = "echo here; while [ ! -e end ]; do sleep 0.05; done; cat end";
        let mut second = world.in_session("s", script).start();
        eventually("the second is in", || second.printed().0 == b"here\n");
        drop(tty);
        let terminals = || live(world, "s").map(|s| s["terminals"].as_array().map(Vec::len));
        eventually("the first has gone", || terminals() == Some(Some(1)));
        let _ = world.in_session("s", "echo kept > end").finish().ok();
        assert_eq!(second.wait().ok().out(), "here\nkept\n");
        world.wait_for_end("s");
    });
}

/// No terminal, a process group of its own, and the scheduling group of whoever began it.
fn is_apart(world: &World) {
    let session = live(world, "s").expect("a live session");
    let began = session["terminals"][0]["pid"].as_i64().expect("a pid");
    let server = server_pid(world, "s");
    let of = |pid: i64, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let group_and_terminal = |pid: i64| {
        let stat = of(pid, "stat").expect("a process");
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        let fields: Vec<_> = rest.split_whitespace().map(str::to_owned).collect();
        (fields[2].clone(), fields[4].clone())
    };
    let (group, terminal) = group_and_terminal(server.into());
    assert_eq!(terminal, "0");
    assert_ne!(group, group_and_terminal(began).0);
    // A kernel may be built without.
    if let Ok(scheduled) = of(server.into(), "autogroup") {
        assert_eq!(scheduled, of(began, "autogroup").expect("a process"));
    }
}

#[test]
fn an_interrupt_arrives_once() {
    on_a_terminal(|tty| {
        tty.line("$A run -q --session s -- bash -c 'n=0; trap \"n=\\$((n+1))\" INT; echo u''p; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; echo n=$n'");
        tty.expect("up");
        tty.send("\x03");
        tty.expect("n=1");
    });
}

#[test]
fn a_pipeline_leaves_the_terminal_to_who_reads_it() {
    on_a_terminal(|tty| {
        tty.line("$A run -q --session s -- echo piped | (read x; read y </dev/tty; echo $x-$y)");
        std::thread::sleep(std::time::Duration::from_millis(300));
        tty.line("typed");
        tty.expect("piped-typed");
        // And the command gets it when it asks.
        tty.line(
            "echo in | $A run -q --session s -- bash -c 'read x; read y </dev/tty; echo $x+$y'",
        );
        std::thread::sleep(std::time::Duration::from_millis(300));
        tty.line("typed");
        tty.expect("in+typed");
        tty.line("echo still=$?");
        tty.expect("still=0");
    });
}

#[test]
fn a_changed_size_is_told() {
    on_a_terminal(|tty| {
        tty.line("(sleep 0.5; stty rows 33 cols 111 </dev/tty) & $A run -q --session s -- bash -c 'trap \"stty size; exit\" WINCH; for i in $(seq 100); do sleep 0.1; done'");
        tty.expect("33 111");
    });
}

#[test]
fn a_script_is_interrupted_with_its_command() {
    on_a_terminal(|tty| {
        tty.line("bash -c '$A run -q --session s -- sleep 600; echo after=$?; exit 4'");
        std::thread::sleep(std::time::Duration::from_millis(500));
        tty.send("\x03");
        tty.expect("after=130");
    });
}

#[test]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn nothing_can_be_typed_into_the_terminal_from_inside() {
    // TIOCSTI, and TIOCLINUX of the console.
    const TYPE: &str = "import fcntl\nfor call in 0x5412, 0x541c:\n try: fcntl.ioctl(0, call, b\"x\"); print(\"ty\" \"ped\")\n except OSError as e: print(\"errno\", e.errno)\nprint(\"do\" \"ne\")";
    let since_6_2 = std::fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
    on_a_terminal(|tty| {
        let script = TYPE.replace('\n', "\\n");
        tty.line(&format!("T=$'{script}'"));
        tty.line("$A run -q --session s -- python3 -c \"$T\"");
        tty.expect("errno 1\r\nerrno 1\r\ndone");
        // Outside it can be, where the kernel still lets anybody do it.
        if since_6_2.as_ref().map_or(true, |value| value.trim() == "1") {
            tty.line("python3 -c \"$T\"");
            tty.expect("typed");
        }
    });
}
