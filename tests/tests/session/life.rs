//! The life of a session: who starts it, who keeps it, how it ends.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::{as_everyone, eventually, live, server_pid};

#[test]
fn three_terminals_and_the_first_one_leaves() {
    as_everyone(|world| {
        let wait_for = |file: &str| format!("while [ ! -e {file} ]; do sleep 0.02; done");
        let first = world
            .in_session("s", &format!("echo 1 > one; {}", wait_for("two")))
            .start();
        let second = world
            .in_session(
                "s",
                &format!(
                    "{}; cat one > two; {}; cat three",
                    wait_for("one"),
                    wait_for("three")
                ),
            )
            .start();
        let third = world
            .in_session(
                "s",
                &format!("{}; sleep 0.3; echo 3 > three", wait_for("two")),
            )
            .start();
        assert_eq!(first.wait().code(), 0);
        let second = second.wait().ok();
        assert_eq!(second.out(), "3\n");
        assert_eq!(third.wait().code(), 0);
        eventually("the session ends", || live(world, "s").is_none());
        world.wait_for_end("s");
        assert!(
            !world.project.join("one").exists(),
            "the project is untouched"
        );
        assert_eq!(world.in_session("s", "cat two").finish().ok().out(), "1\n");
    });
}

#[test]
fn simultaneous_first_runs_meet_in_one_session() {
    as_everyone(|world| {
        let runs: Vec<_> = (0..6)
            .map(|n| {
                let script =
                    format!("echo > f{n}; while [ $(ls | wc -l) -lt 6 ]; do sleep 0.02; done");
                world.in_session("s", &script).start()
            })
            .collect();
        for run in runs {
            let done = run.wait();
            assert_eq!(done.code(), 0, "{done}");
        }
    });
}

#[test]
fn a_session_lives_as_long_as_a_process_inside() {
    as_everyone(|world| {
        let done = world
            .in_session(
                "s",
                "(sleep 1.5; echo late > late) >/dev/null 2>&1 & echo left",
            )
            .finish();
        assert_eq!(done.ok().out(), "left\n");
        assert!(
            live(world, "s").is_some(),
            "the background process keeps it"
        );
        eventually("the session ends", || live(world, "s").is_none());
        assert_eq!(
            world.in_session("s", "cat late").finish().ok().out(),
            "late\n"
        );
    });
}

#[test]
fn what_was_done_is_there_when_run_returns() {
    as_everyone(|world| {
        for round in 0..10 {
            let script = format!("echo {round} > last");
            let _ = world.in_session("s", &script).finish().ok();
            let db = world.database("s");
            let copy = world.database("copy");
            let beside = db.with_extension("db-wal");
            assert!(
                !beside.exists(),
                "the last run returns when all is in one file"
            );
            fs::copy(&db, &copy).expect("a copy");
            world.own(&copy);
            let out = world.in_session("copy", "cat last").finish().ok().out();
            assert_eq!(out, format!("{round}\n"));
        }
    });
}

#[test]
fn a_killed_server_leaves_errors_and_a_session_that_resumes() {
    as_everyone(|world| {
        let script = "echo kept > kept; sync kept; echo up; while cat kept >/dev/null 2>&1; do sleep 0.02; done; \
                      cat kept";
        let mut running = world.in_session("s", script).start();
        eventually("it is up", || running.printed().0 == b"up\n");
        let server = Pid::from_raw(server_pid(world, "s")).expect("a pid");
        kill_process(server, Signal::KILL).expect("our server");
        let done = running.wait();
        assert_eq!(done.code(), 1, "{done}");
        assert!(done.err().contains("not connected"), "{done}");
        assert!(done.err().contains("log"), "the log is named: {done}");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(
            !mounts.contains(&*world.project.to_string_lossy()),
            "no mount is left: {mounts}"
        );
        assert_eq!(
            world.in_session("s", "cat kept").finish().ok().out(),
            "kept\n"
        );
    });
}

#[test]
fn a_terminated_server_ends_the_session_in_order() {
    as_everyone(|world| {
        let mut running = world
            .in_session("s", "echo kept > kept; echo up; sleep 600")
            .start();
        eventually("it is up", || running.printed().0 == b"up\n");
        kill_process(
            Pid::from_raw(server_pid(world, "s")).expect("a pid"),
            Signal::TERM,
        )
        .expect("our server");
        let done = running.wait();
        assert_eq!(done.code(), 143, "{done}");
        world.wait_for_end("s");
        assert_eq!(
            world.in_session("s", "cat kept").finish().ok().out(),
            "kept\n"
        );
    });
}

#[test]
fn stop_ends_also_what_ignores_it() {
    as_everyone(|world| {
        let mut running = world
            .in_session("s", "trap '' TERM; echo up; while :; do sleep 1; done")
            .start();
        eventually("it is up", || running.printed().0 == b"up\n");
        let _ = world.agentfs(["stop", "s"]).finish().ok();
        assert_eq!(running.wait().code(), 137);
        assert!(live(world, "s").is_none());
        let again = world.agentfs(["stop", "s"]).finish();
        assert_ne!(again.code(), 0, "there is nothing to stop: {again}");
    });
}

#[test]
fn stop_does_not_wait_for_a_terminal_that_is_stopped() {
    as_everyone(|world| {
        let mut running = world.in_session("s", "echo up; exec sleep 600").start();
        eventually("it is up", || running.printed().0 == b"up\n");
        let session = live(world, "s").expect("a live session");
        let run = session["terminals"][0]["pid"].as_i64().expect("a pid");
        let run = Pid::from_raw(i32::try_from(run).expect("a pid")).expect("a pid");
        kill_process(run, Signal::STOP).expect("our run");
        let _ = world.agentfs(["stop", "s"]).finish().ok();
        assert!(live(world, "s").is_none());
        assert_eq!(running.wait().code(), 143);
    });
}

#[test]
fn a_database_removed_while_live_is_gone_for_good() {
    as_everyone(|world| {
        let mut running = world
            .in_session(
                "s",
                "echo old > old; sync old; echo up; while [ ! -e go ]; do sleep 0.02; done",
            )
            .start();
        eventually("it is up", || running.printed().0 == b"up\n");
        fs::remove_file(world.database("s")).expect("the database");
        // A new session of the name starts beside the old one.
        let fresh = world.in_session("s", "ls; echo new > new").finish().ok();
        assert_eq!(fresh.out(), "", "{fresh}");
        assert_eq!(running.ended(), None, "the old one goes on");
        running.kill();
        drop(running);
        assert_eq!(world.in_session("s", "ls").finish().ok().out(), "new\n");
    });
}

#[test]
fn nonsense_on_its_socket_does_not_disturb_a_session() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let world = match agentfs_tests::world::World::new(agentfs_tests::user::Who::current()) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let mut running = world
        .in_session(
            "s",
            "echo up; while [ ! -e go ]; do sleep 0.02; done; echo ended",
        )
        .start();
    eventually("it is up", || running.printed().0 == b"up\n");
    let session = live(&world, "s").expect("a live session");
    let log = session["log"].as_str().expect("a log").to_owned();
    let socket = std::path::Path::new(&log).with_file_name("socket");
    let connect = || UnixStream::connect(&socket).expect("the server listens");

    let mut half = connect();
    half.write_all(b"{\"Join\":").expect("half a message");
    for nonsense in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"\"Leave\"\n\"Leave\"\n",
        b"[1,2\n",
    ] {
        let mut stream = connect();
        stream.write_all(nonsense).expect("it is taken");
        let _ = stream.set_read_timeout(Some(std::time::Duration::from_millis(200)));
        let _ = stream.read(&mut [0; 64]);
    }
    let mut flood = connect();
    while flood.write_all(&[b'x'; 65536]).is_ok() {}
    let many: Vec<_> = (0..300).map(|_| UnixStream::connect(&socket)).collect();
    drop(many);

    let joined = world.in_session("s", "touch go; echo joined").finish().ok();
    assert_eq!(joined.out(), "joined\n");
    assert_eq!(running.wait().ok().out(), "up\nended\n");
    drop(half);
    eventually("the session ends", || live(&world, "s").is_none());
}

#[test]
fn an_idle_session_uses_no_cpu() {
    let world = match agentfs_tests::world::World::new(agentfs_tests::user::Who::current()) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let mut running = world
        .in_session("s", "ls >/dev/null; echo up; exec sleep 600")
        .start();
    eventually("it is up", || running.printed().0 == b"up\n");
    let server = server_pid(&world, "s");
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{server}/stat")).expect("the server lives");
        let after_name = stat.rsplit(") ").next().expect("fields").to_owned();
        let fields: Vec<&str> = after_name.split(' ').collect();
        // utime and stime, the 14th and 15th of proc(5), in 1/100 s.
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(
        ticks() - before <= 1,
        "{} ticks in two seconds",
        ticks() - before
    );
    running.kill();
}

#[test]
fn a_session_inside_a_session_is_refused() {
    as_everyone(|world| {
        let agentfs = world.in_session("s", "true").finish().line;
        let agentfs = agentfs.split(' ').next().expect("the program");
        let done = world
            .in_session("s", &format!("{agentfs} run --session t -- true"))
            .finish();
        assert_eq!(done.code(), 125, "{done}");
        assert!(done.err().contains("inside"), "{done}");
    });
}

#[test]
fn another_user_cannot_join() {
    use agentfs_tests::user::Who;
    use agentfs_tests::world::World;
    let (root, other) = match (World::new(Who::Root), World::new(Who::Ordinary)) {
        (Ok(root), Ok(other)) => (root, other),
        (Err(why), _) | (_, Err(why)) => agentfs_tests::skip!("{why}"),
    };
    let mut running = root
        .in_session("s", "echo secret > secret; echo up; exec sleep 600")
        .start();
    eventually("it is up", || running.printed().0 == b"up\n");
    let done = other
        .agentfs(["run", "--session", "s", "--", "cat", "secret"])
        .dir(&root.project)
        .finish();
    assert_ne!(done.code(), 0, "{done}");
    assert!(!done.out().contains("secret"), "{done}");
    running.kill();
}
