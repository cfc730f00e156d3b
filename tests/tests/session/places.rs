//! What can be written, where it goes, and what is not there at all.

use std::fs;

use agentfs_tests::{Who, World};

use super::{as_everyone, eventually};

#[test]
fn allowed_paths_are_written_for_real() {
    as_everyone(|world| {
        let allowed = world.dir.join("allowed");
        let file = world.dir.join("allowed-file");
        fs::create_dir(&allowed).expect("a directory");
        fs::write(&file, "before\n").expect("a file");
        world.own(&allowed);
        world.own(&file);
        let done = world
            .agentfs(["run", "--session", "s", "--allow"])
            .arg(&allowed)
            .arg("--allow")
            .arg(&file)
            .args(["--", "sh", "-c"])
            .arg("echo real > $0/f && echo after > $1 && ! touch $0/../beside 2>/dev/null")
            .arg(&allowed)
            .arg(&file)
            .finish();
        assert_eq!(done.code(), 0, "{done}");
        assert_eq!(
            fs::read_to_string(allowed.join("f")).expect("the file"),
            "real\n"
        );
        assert_eq!(fs::read_to_string(&file).expect("the file"), "after\n");
    });
}

#[test]
fn unfit_allowed_paths_are_refused_with_a_sentence() {
    as_everyone(|world| {
        let check = |path: &std::path::Path, words: &str| {
            let done = world
                .agentfs(["run", "--session", "s", "--allow"])
                .arg(path)
                .args(["--", "true"])
                .finish();
            assert_eq!(done.code(), 125, "{done}");
            assert!(done.err().contains(words), "{done}");
        };
        check("/".as_ref(), "cannot be made writable");
        check("/no/such/path".as_ref(), "does not exist");
        check(&world.project, "base");
        check(&world.dir, "database");
    });
}

#[test]
fn agents_keep_their_state_and_nothing_else_of_home_is_written() {
    as_everyone(|world| {
        for dir in [".claude", ".codex", ".secret"] {
            fs::create_dir(world.home.join(dir)).expect("a directory");
        }
        fs::write(world.home.join(".claude.json"), "{}").expect("a file");
        world.own(&world.home);
        let script = "echo a > ~/.claude/a && echo b > ~/.codex/b && echo '{1}' > ~/.claude.json; \
                      touch ~/.secret/x ~/x ~/.bashrc 2>/dev/null; ls -A ~/.secret";
        let done = world.in_session("s", script).finish();
        assert_eq!(done.out(), "", "{done}");
        assert_eq!(
            fs::read_to_string(world.home.join(".claude/a")).expect("a"),
            "a\n"
        );
        assert_eq!(
            fs::read_to_string(world.home.join(".codex/b")).expect("b"),
            "b\n"
        );
        assert_eq!(
            fs::read_to_string(world.home.join(".claude.json")).expect("json"),
            "{1}\n"
        );
        assert!(!world.home.join("x").exists());

        // A session of its own: the defaults are chosen when it starts.
        let done = world
            .agentfs([
                "run",
                "--session",
                "strict",
                "--no-default-allows",
                "--",
                "sh",
                "-c",
            ])
            .arg("touch ~/.claude/c 2>/dev/null || touch ~/.cache/c 2>/dev/null || echo neither")
            .finish();
        assert_eq!(done.out(), "neither\n", "{done}");
    });
}

#[test]
fn caches_are_private_to_the_session_and_last() {
    as_everyone(|world| {
        fs::write(world.home.join(".cache/host"), "host\n").expect("a file");
        world.own(&world.home);
        let done = world
            .in_session("s", "cat ~/.cache/host; echo mine > ~/.cache/mine; echo changed > ~/.cache/host; mkdir -p ~/.local/bin && touch ~/.local/bin/planted")
            .finish();
        assert_eq!(done.ok().out(), "host\n");
        assert!(!world.home.join(".cache/mine").exists());
        assert!(
            !world.home.join(".local/bin").exists(),
            "nothing is planted"
        );
        assert_eq!(
            fs::read_to_string(world.home.join(".cache/host")).expect("host"),
            "host\n"
        );
        let again = world
            .in_session("s", "cat ~/.cache/mine ~/.cache/host; ls ~/.local/bin")
            .finish()
            .ok();
        assert_eq!(again.out(), "mine\nchanged\nplanted\n");
        let other = world
            .in_session("t", "cat ~/.cache/host; ls ~/.cache")
            .finish()
            .ok();
        assert_eq!(other.out(), "host\nhost\n", "another session has its own");
    });
}

#[test]
fn tmp_is_private_shared_by_the_terminals_and_gone_at_the_end() {
    as_everyone(|world| {
        let done = world
            .in_session("s", "echo x > /tmp/agentfs-test-x && ls /tmp && stat -c %a /tmp && echo y > /dev/shm/y && touch /run/z 2>&1; echo $?")
            .finish()
            .ok();
        assert_eq!(done.out(), "agentfs-test-x\n1777\n0\n", "{done}");
        assert!(!std::path::Path::new("/tmp/agentfs-test-x").exists());
        assert_eq!(world.in_session("s", "ls /tmp").finish().ok().out(), "");
    });
}

#[test]
fn a_project_under_tmp_works() {
    as_everyone(|world| {
        let base = std::path::PathBuf::from(format!(
            "/tmp/agentfs-base-{}-{}",
            std::process::id(),
            world.account.uid
        ));
        fs::create_dir_all(base.join("a/b")).expect("a directory");
        fs::write(base.join("a/b/f"), "f\n").expect("a file");
        world.own(&base);
        let done = world
            .in_session("s", "cat a/b/f; echo x > a/x; ls /tmp")
            .dir(&base)
            .finish();
        let name = base
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert_eq!(done.out(), format!("f\n{name}\n"), "{done}");
        assert!(!base.join("a/x").exists());
        fs::remove_dir_all(&base).expect("ours");
    });
}

#[test]
fn the_database_and_the_runtime_directory_are_not_there() {
    as_everyone(|world| {
        let script = format!(
            "ls -a; ls .agentfs 2>/dev/null; mkdir .agentfs 2>/dev/null && echo made; \
             ls /tmp/agentfs-{uid} /var/tmp/agentfs-{uid} 2>/dev/null; ls -A /run/user/{uid} 2>/dev/null; true",
            uid = world.account.uid
        );
        let done = world.in_session("s", &script).finish().ok();
        assert!(
            !done.out().contains(".agentfs") && !done.out().contains("made"),
            "{done}"
        );
        assert!(
            !done.out().contains("socket") && !done.out().contains("log"),
            "{done}"
        );
    });
}

#[test]
fn unfit_bases_are_refused() {
    as_everyone(|world| {
        for base in ["/", "/proc", "/sys", "/dev", "/tmp"] {
            let done = world
                .agentfs(["run", "--session", "s", "--base", base, "--", "true"])
                .finish();
            assert_eq!(done.code(), 125, "{done}");
            assert!(done.err().contains("base"), "{done}");
        }
    });
}

/// A user has 128 inotify instances for all programs together.
#[test]
fn a_session_without_inotify_follows_the_base_all_the_same() {
    // The limit is that of a user namespace, so that nobody else runs into it.
    const WITHOUT: &str = "echo 0 >/proc/sys/user/max_inotify_instances; exec \"$@\"";
    const SCRIPT: &str =
        "[ ! -e later ]; echo in; until [ -e later ]; do sleep 0.1; done; cat later";
    let world = match World::new(Who::Ordinary) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let mut running = world
        .run("unshare")
        .args(["--map-current-user", "--keep-caps", "sh", "-euc", WITHOUT])
        .arg("sh")
        .arg(world.binary())
        .args(["run", "--session", "s", "--", "sh", "-euc", SCRIPT])
        .start();
    eventually("the program runs or the session failed", || {
        !running.printed().0.is_empty() || running.ended().is_some()
    });
    fs::write(world.project.join("later"), "seen\n").unwrap();
    assert_eq!(running.wait().ok().out(), "in\nseen\n");
}
