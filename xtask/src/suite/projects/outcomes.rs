//! What became of each test, read from what test runners print, and what differs
//! between two runs. Must never take a line that it does not know for a success, nor a
//! runner that was cut off for one that came to its end.

use std::collections::BTreeMap;

/// Test to outcome, in the runner's words; `ok` is a success.
pub(super) type Outcomes = BTreeMap<String, String>;

/// libtest's, of several binaries, each of which says what it is about to run.
pub(super) fn cargo(said: &str) -> Result<Outcomes, String> {
    let mut outcomes = Outcomes::new();
    let mut binary = "";
    let (mut begun, mut ended) = (0, 0);
    for line in said.lines() {
        let line = line.trim_start();
        if let Some(running) = line.strip_prefix("Running ") {
            // "unittests src/lib.rs (target/debug/deps/walkdir-0123)"
            binary = running.split(" (").next().unwrap_or(running);
            begun += 1;
        }
        ended += usize::from(line.starts_with("test result: "));
        let test = line.strip_prefix("test ");
        if let Some((name, outcome)) = test.and_then(|test| test.split_once(" ... ")) {
            // "ignored, why"
            let outcome = outcome.split(',').next().unwrap_or(outcome);
            outcomes.insert(format!("{binary}: {name}"), outcome.to_owned());
        }
    }
    match begun == ended {
        true => Ok(outcomes),
        false => Err(format!("of {begun} binaries {ended} came to their end")),
    }
}

/// The Test Anything Protocol: "ok 1 what", "not ok 2 what", and, first or last, the
/// plan "1..2".
pub(super) fn tap(said: &str) -> Result<Outcomes, String> {
    let mut outcomes = Outcomes::new();
    let mut numbers = Vec::new();
    let mut plan = None;
    for line in said.lines() {
        if let Some(last) = line.strip_prefix("1..") {
            // "1..0 # skipped: why"
            let last = last.split_whitespace().next().unwrap_or("");
            let last = last.parse::<usize>().map_err(|e| format!("{line}: {e}"))?;
            if plan.replace(last).is_some() {
                return Err("two plans".into());
            }
            continue;
        }
        let (outcome, rest) = match (line.strip_prefix("not ok "), line.strip_prefix("ok ")) {
            (Some(rest), _) => ("not ok", rest),
            (None, Some(rest)) => ("ok", rest),
            (None, None) => continue,
        };
        // Something else that begins so has no number.
        if let Some(Ok(number)) = rest.split(' ').next().map(str::parse::<usize>) {
            numbers.push(number);
            outcomes.insert(rest.to_owned(), outcome.to_owned());
        }
    }
    let planned = plan.ok_or("it ended before it said how many tests there are")?;
    match numbers.iter().copied().eq(1..=planned) {
        true => Ok(outcomes),
        false => Err(format!(
            "of {planned} tests there are {} outcomes",
            numbers.len()
        )),
    }
}

/// Those that `outcomes.py` prints of CPython's results, which are written at the end.
pub(super) fn python(said: &str) -> Result<Outcomes, String> {
    let results = said
        .lines()
        .filter_map(|line| line.strip_prefix("outcome: "));
    let outcomes = results.filter_map(|result| {
        let (name, outcome) = result.rsplit_once(' ')?;
        Some((name.to_owned(), outcome.to_owned()))
    });
    Ok(outcomes.collect())
}

/// The tests that did not end the same way in both.
pub(super) fn differences<'a>(outside: &'a Outcomes, inside: &'a Outcomes) -> Vec<&'a str> {
    let mut names: Vec<_> = outside.keys().chain(inside.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter(|name| outside.get(*name) != inside.get(*name))
        .map(String::as_str)
        .collect()
}

/// What differs and is not on the list, and what is on it and does not differ.
/// Of the list, the lines that begin with `about` are meant; the rest of such a line
/// is the test's name.
pub(super) fn unexpected(
    list: &str,
    about: &str,
    outside: &Outcomes,
    inside: &Outcomes,
) -> Vec<String> {
    let allowed: Vec<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix(about))
        .map(str::trim)
        .collect();
    let differing = differences(outside, inside);
    let told = |outcomes: &Outcomes, name: &str| {
        let outcome = outcomes.get(name).map(String::as_str);
        outcome.unwrap_or("not there").to_owned()
    };
    let mut unexpected: Vec<_> = differing
        .iter()
        .filter(|name| !allowed.contains(name))
        .map(|name| {
            format!(
                "{about}{name}: {} outside, {} inside",
                told(outside, name),
                told(inside, name)
            )
        })
        .collect();
    // Not all tests are run every time.
    let ran = allowed.iter().filter(|name| outside.contains_key(**name));
    unexpected.extend(
        ran.filter(|name| !differing.contains(name))
            .map(|name| format!("{about}{name}: is on the list, and does not differ")),
    );
    unexpected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Outcomes {
        let pairs = pairs.iter();
        pairs
            .map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned()))
            .collect()
    }

    #[test]
    fn outcomes_of_each_runner_are_read() {
        let libtest = "     Running unittests src/lib.rs (target/debug/deps/x-1)\n\
                       test tests::a ... ok\ntest tests::b ... ignored, needs root\n\
                       test result: ok. 1 passed; 0 failed\n\
                       Running tests/c.rs (target/debug/deps/c-2)\ntest a ... FAILED\n";
        assert_eq!(
            cargo(&format!(
                "{libtest}test result: FAILED. 0 passed; 1 failed\n"
            ))
            .unwrap(),
            of(&[
                ("unittests src/lib.rs: tests::a", "ok"),
                ("unittests src/lib.rs: tests::b", "ignored"),
                ("tests/c.rs: a", "FAILED"),
            ])
        );
        let said = "TAP version 13\n# title\nok 1 it works\nnot ok 2 it does not\n1..2\n";
        assert_eq!(
            tap(said).unwrap(),
            of(&[("1 it works", "ok"), ("2 it does not", "not ok")])
        );
        let said = "0:00:01 [1/1] test_os\noutcome: test.test_os.A.b ok\n";
        assert_eq!(python(said).unwrap(), of(&[("test.test_os.A.b", "ok")]));
    }

    #[test]
    fn a_runner_that_was_cut_off_is_found_out() {
        // A test that throws: no plan, or fewer outcomes than planned.
        assert!(tap("TAP version 13\nok 1 it works\n# symlink\nError: ENOENT\n").is_err());
        assert!(tap("1..2\nok 1 it works\n").is_err());
        assert!(tap("ok 1 a\nok 3 c\n1..2\n").is_err());
        assert!(tap("ok 1 a\n1..1\nok 1 a\n1..1\n").is_err());
        assert_eq!(tap("ok 1 a\nok then\n1..1\n"), Ok(of(&[("1 a", "ok")])));
        let libtest = "Running a (x)\ntest a ... ok\n";
        assert!(cargo(libtest).is_err());
        assert!(cargo(&format!("{libtest}test result: ok. 1 passed\n")).is_ok());
    }

    #[test]
    fn the_list_is_held_against_what_differs() {
        let outside = of(&[("a", "ok"), ("b", "ok"), ("c", "ok")]);
        let inside = of(&[("a", "ok"), ("b", "FAILED"), ("d", "ok")]);
        assert_eq!(differences(&outside, &inside), ["b", "c", "d"]);
        let list = "# why\nroot p b\nroot p c\nroot p d\nuser p a\nroot p not run\n";
        assert!(unexpected(list, "root p ", &outside, &inside).is_empty());
        // None of the three is on the user's list, and what is does not differ.
        assert_eq!(unexpected(list, "user p ", &outside, &inside).len(), 4);
    }
}
