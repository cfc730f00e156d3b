//! Many sessions of one user at the same time, each with a database of its own over
//! one base. All must live at once, follow the base, keep apart, and go.

use std::fs;
use std::time::{Duration, Instant};

use agentfs_tests::World;
use anyhow::bail;

use super::figures::{self, Figures};
use super::wait_for;

/// For all of them together.
const LIMIT: Duration = Duration::from_secs(600);
/// A file that appears in the base when all are there.
const GO: &str = "all-are-there";
/// Run in each: writes what is its own, and waits for the base to change.
const SCRIPT: &str = "
    echo \"$1\" >own
    until [ -e \"$2\" ]; do sleep 1; done
    cat own shared
    echo \"$1\" >shared
";

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(super) fn run(world: &World, sessions: u32) -> anyhow::Result<()> {
    fs::write(world.project.join("shared"), "of the base\n")?;
    world.own(&world.project);
    let begin = Instant::now();
    let mut started: Vec<_> = (0..sessions)
        .map(|number| {
            let session = format!("s{number}");
            let run = world
                .agentfs(["run", "--quiet", "--session", &session, "--"])
                .args(["sh", "-euc", SCRIPT, "sh"])
                .args([number.to_string().as_str(), GO]);
            run.limit(LIMIT).start()
        })
        .collect();
    let all = sessions as usize;
    let mut live = Vec::new();
    while live.len() < all && begin.elapsed() < LIMIT {
        for running in &mut started {
            if running.ended().is_some() {
                let (out, err) = running.printed();
                bail!(
                    "one ended: {}",
                    String::from_utf8_lossy(&[out, err].concat())
                );
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        live = figures::servers(world)?;
    }
    if live.len() != all {
        bail!("{} of {sessions} sessions live", live.len());
    }
    let took = begin.elapsed();
    let mut resident_kib = Vec::new();
    for one in &live {
        resident_kib.push(Figures::of_server(one)?.resident_kib);
    }
    resident_kib.sort_unstable();
    fs::write(world.project.join(GO), "")?;
    for (number, running) in started.into_iter().enumerate() {
        let done = running.wait();
        if done.code() != 0 || done.out() != format!("{number}\nof the base\n") {
            bail!("session {number}: {done}");
        }
    }
    wait_for("the end of the servers", || {
        Ok(figures::processes(world.binary()) == 0)
    })?;
    for number in 0..sessions {
        let session = format!("s{number}");
        let checked = world.agentfs(["check", &session]).finish();
        let kept = world.agentfs(["fs", "cat", &session, "/shared"]).finish();
        if checked.code() != 0 || kept.out() != format!("{number}\n") {
            bail!("{checked}\n{kept}");
        }
    }
    println!(
        "{sessions} sessions at once: all there after {:.1} s; server {:.1} MiB, at most {:.1}",
        took.as_secs_f64(),
        mib(resident_kib[all / 2]),
        mib(resident_kib[all - 1]),
    );
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
