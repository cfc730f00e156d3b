//! What nothing inside may do: each promise of docs/SANDBOX.md is a test that
//! tries to break it, as root and as an ordinary user.
//!
//! All attempts go through [`check`], which holds each to two things: it was
//! refused, and nothing outside is other than before, by what [`Outside`] sees.
//! It makes them again on a kernel that seems to have no Landlock, where the
//! other walls must do, and those that do no harm also outside: there they must
//! succeed, or they would prove nothing.

mod files;
mod itself;
mod machine;
mod outside;
mod processes;
mod race;
mod strangers;

use std::fmt::Write as _;

use agentfs_tests::Run;
use agentfs_tests::world::World;

use super::as_everyone;
use outside::Outside;

/// Python: what attempts use, and what makes them.
const ATTEMPTS: &str = include_str!("escape/attempts.py");
/// Python: runs a program with descriptors, or without Landlock.
const LAUNCH: &str = include_str!("escape/launch.py");

/// For whom an attempt succeeds outside, without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Succeeds {
    Everyone,
    Root,
    Nobody,
}

use Succeeds::{Everyone, Nobody, Root};

/// A name, statements of Python that must raise an error, and for whom they do
/// not outside.
type Attempt = (&'static str, &'static str, Succeeds);

/// What a set of attempts needs beside itself.
#[derive(Clone, Copy, Debug, Default)]
struct Setting {
    /// Descriptors that lead outside are passed on.
    descriptors: bool,
    /// These are Landlock's alone to stop; without it the banner says so.
    landlock_only: &'static [&'static str],
}

/// Makes attempts as everyone; see the head of this file.
fn check(attempts: &[Attempt], setting: Setting) {
    as_everyone(|world| {
        let is_root = world.account.uid == 0;
        let outside_too = |attempt: &&Attempt| match attempt.2 {
            Everyone => true,
            Root => is_root,
            Nobody => false,
        };
        inside(world, "plain", attempts, setting, &[]);
        inside(
            world,
            "no-landlock",
            attempts,
            setting,
            setting.landlock_only,
        );
        let chosen: Vec<_> = attempts.iter().filter(outside_too).copied().collect();
        let outside = Outside::new(world);
        let how = if setting.descriptors {
            "descriptors"
        } else {
            "plain"
        };
        let mut command = vec!["python3", "-c", LAUNCH, how];
        if is_root {
            // What it mounts goes with it.
            command.extend(["unshare", "--mount", "--propagation", "private"]);
        }
        command.extend(["python3", "-c", ATTEMPTS]);
        let chosen = outside.possible(&chosen);
        let done = outside
            .tell(world.run(command[0]).args(&command[1..]), &chosen)
            .finish();
        let failed = said(&done.out(), &["REFUSED", "STUCK", "MISSING"]);
        assert!(
            failed.is_empty(),
            "outside, as {}: {failed}\n{done}",
            world.account.name
        );
        assert_eq!(said_count(&done.out(), "ALLOWED"), chosen.len(), "{done}");
    });
}

/// Makes attempts inside a session, which must be refused but for `spared`.
fn inside(world: &World, how: &str, attempts: &[Attempt], setting: Setting, spared: &[&str]) {
    let outside = Outside::new(world);
    let attempts = outside.possible(attempts);
    let mut command = vec![
        "python3".to_owned(),
        "-c".to_owned(),
        LAUNCH.to_owned(),
        how.to_owned(),
    ];
    if setting.descriptors {
        command.extend(["python3", "-c", LAUNCH, "descriptors"].map(str::to_owned));
    }
    command.push(world.binary().display().to_string());
    command.extend(["run", "--session", how, "--allow"].map(str::to_owned));
    command.push(outside.allowed.display().to_string());
    command.extend(["--", "python3", "-c", ATTEMPTS].map(str::to_owned));
    let done = outside
        .tell(world.run(&command[0]).args(&command[1..]), &attempts)
        .finish();
    let who = format!("{how}, as {}", world.account.name);
    let out = done.out();
    let mut escaped = String::new();
    for line in said(&out, &["ALLOWED", "STUCK", "MISSING"]).lines() {
        if !spared.iter().any(|name| line == format!("ALLOWED {name}")) {
            let _ = writeln!(escaped, "{line}");
        }
    }
    assert!(escaped.is_empty(), "{who}: {escaped}\n{done}");
    let spared = spared
        .iter()
        .filter(|name| out.contains(&format!("ALLOWED {name}\n")));
    let refused = said_count(&out, "REFUSED") + spared.count();
    assert_eq!(
        refused,
        attempts.len(),
        "{who}: every attempt was made: {done}"
    );
    // To show that a connection does not lead out, one has to be made.
    let connected = setting.descriptors || (how != "plain" && !setting.landlock_only.is_empty());
    outside.expect_as_before(&who, !connected);
}

/// The lines that begin with one of these words.
fn said(out: &str, words: &[&str]) -> String {
    let lines = out
        .lines()
        .filter(|line| words.iter().any(|word| line.starts_with(word)));
    lines.fold(String::new(), |all, line| all + line + "\n")
}

fn said_count(out: &str, word: &str) -> usize {
    said(out, &[word]).lines().count()
}

/// Runs a program of the world's user through [`LAUNCH`].
fn launched(world: &World, how: &str) -> Run {
    world.run("python3").args(["-c", LAUNCH, how])
}

/// The other side of the wall: what programs need still works.
#[test]
fn what_is_not_forbidden_works() {
    as_everyone(|world| {
        let script = "set -e; echo x > f; chmod 600 f; chmod g+s .; ln f g; ln -s f s; mkfifo p; mkdir d; \
             (sleep 5 & kill $!; wait) 2>/dev/null || true; \
             echo inside > /proc/self/comm; head -c 10 /dev/urandom >/dev/null; : > /dev/null; \
             cat /proc/self/status /proc/meminfo /sys/kernel/mm/transparent_hugepage/enabled >/dev/null 2>&1 || true; \
             cat /etc/passwd > /dev/null; getent passwd root >/dev/null; ps > /dev/null 2>&1 || true; \
             unshare -U true; echo all";
        let done = world.in_session("s", script).finish();
        assert_eq!(done.out(), "all\n", "{done}");
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: not root")]
fn root_inside_manages_files_and_users() {
    use agentfs_tests::user::Who;
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let script = "set -e; echo x > f; chown 12:34 f; stat -c %u:%g f; chmod 000 f; cat f; \
                  su -s /bin/sh nobody -c 'id -un; cat f 2>/dev/null || echo denied' </dev/null; mkdir j; \
                  chroot / true; echo all";
    let done = world.in_session("s", script).finish();
    assert_eq!(done.out(), "12:34\nx\nnobody\ndenied\nall\n", "{done}");
}
