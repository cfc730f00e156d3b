//! What goes wrong around a session: its disk, its base, its database, its limits.
//!
//! The same is promised each time: the program gets an errno that says what it is,
//! the server's log (and whoever waits for the end) a sentence, the server stays up
//! or ends cleanly, and what was committed is there afterwards.

mod base;
mod database;
mod disk;
mod limits;

use std::fs;
use std::path::{Path, PathBuf};

use agentfs_tests::World;
use agentfs_tests::child::{Finished, Running};

use crate::session::{as_everyone, eventually, live};

/// A program in a session that goes on when it is told to.
struct Told<'a> {
    world: &'a World,
    running: Running,
    log: PathBuf,
}

/// What the scripts of these tests may say: `await STAGE`, which waits for
/// [`Told::go_on`], and `try COMMAND`, which prints what the command complained of.
const WORDS: &str = "await() { while [ ! -e \"$STAGES/$1\" ]; do sleep 0.02; done; }\n\
                     try() { \"$@\" 2>&1 || true; }\n";

impl<'a> Told<'a> {
    /// Starts a script in the session `s` and waits until it has printed `up`.
    fn start(world: &'a World, args: &[&str], script: &str) -> Self {
        let stages = world.dir.join("stages");
        fs::create_dir_all(&stages).unwrap();
        let script = format!("STAGES={}\n{WORDS}{script}", stages.display());
        let mut running = world
            .agentfs(["run"])
            .args(args)
            .args(["--session", "s", "--", "sh", "-c", &script])
            .start();
        eventually("it is up", || {
            let (out, err) = running.printed();
            let up = out.ends_with(b"up\n");
            assert!(
                up || running.ended().is_none(),
                "ended at once: {}",
                String::from_utf8_lossy(&err)
            );
            up
        });
        let session = live(world, "s").expect("a live session");
        Self {
            world,
            running,
            log: session["log"].as_str().expect("a log").into(),
        }
    }

    /// Lets the script pass `await stage`, and waits until it has printed `word`.
    fn go_on(&mut self, stage: &str, word: &str) {
        fs::write(self.world.dir.join("stages").join(stage), "").unwrap();
        let line = format!("{word}\n");
        eventually(word, || {
            let printed = self.running.printed().0;
            let said = printed.ends_with(line.as_bytes());
            assert!(
                said || self.running.ended().is_none(),
                "ended before it said {word}: {}",
                String::from_utf8_lossy(&printed)
            );
            said
        });
    }

    /// What it printed so far.
    fn out(&mut self) -> String {
        String::from_utf8_lossy(&self.running.printed().0).into_owned()
    }

    /// What the server has to say.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lets it end, and waits until the session has.
    fn end(self, stage: &str) -> Finished {
        fs::write(self.world.dir.join("stages").join(stage), "").unwrap();
        let done = self.running.wait();
        eventually("the session ends", || live(self.world, "s").is_none());
        done
    }
}

/// The session `s` is sound, and a command in it prints this.
fn check_afterwards(world: &World, command: &str, expected: &str) {
    let _ = world.agentfs_out(["check", "s"]);
    let done = world.in_session("s", command).finish().ok();
    assert_eq!(done.out(), expected, "{done}");
}

/// Runs a test with a disk of its own for `.agentfs`, as everyone.
fn on_a_disk(test: impl Fn(&World, &agentfs_tests::disk::Disk)) {
    as_everyone(|world| {
        let place = world.project.join(".agentfs");
        fs::create_dir(&place).unwrap();
        let owner = (world.account.uid, world.account.gid);
        let disk = agentfs_tests::disk::Disk::mount(&place, owner);
        test(world, &disk);
    });
}

/// A host's program, as root.
fn host(program: &str, args: &[&Path]) -> Finished {
    agentfs_tests::Run::new(program)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(args)
        .finish()
}
