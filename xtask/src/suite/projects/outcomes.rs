//! What became of each test, read from what test runners print, and what differs
//! between two runs. Must never take a line that it does not know for a success.

use std::collections::BTreeMap;

/// Test to outcome, in the runner's words; `ok` is a success.
pub(super) type Outcomes = BTreeMap<String, String>;

/// libtest's, of several binaries.
pub(super) fn cargo(said: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let mut binary = "";
    for line in said.lines() {
        let line = line.trim_start();
        if let Some(running) = line.strip_prefix("Running ") {
            // "unittests src/lib.rs (target/debug/deps/walkdir-0123)"
            binary = running.split(" (").next().unwrap_or(running);
        }
        let test = line.strip_prefix("test ");
        if let Some((name, outcome)) = test.and_then(|test| test.split_once(" ... ")) {
            // "ignored, why"
            let outcome = outcome.split(',').next().unwrap_or(outcome);
            outcomes.insert(format!("{binary}: {name}"), outcome.to_owned());
        }
    }
    outcomes
}

/// The Test Anything Protocol: "ok 1 what", "not ok 2 what".
pub(super) fn tap(said: &str) -> Outcomes {
    let line = |line: &str| {
        let (outcome, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => ("not ok", rest),
            None => ("ok", line.strip_prefix("ok ")?),
        };
        Some((rest.to_owned(), outcome.to_owned()))
    };
    said.lines().filter_map(line).collect()
}

/// Those that `outcomes.py` prints of CPython's results.
pub(super) fn python(said: &str) -> Outcomes {
    let results = said
        .lines()
        .filter_map(|line| line.strip_prefix("outcome: "));
    results
        .filter_map(|result| {
            let (name, outcome) = result.rsplit_once(' ')?;
            Some((name.to_owned(), outcome.to_owned()))
        })
        .collect()
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
            cargo(libtest),
            of(&[
                ("unittests src/lib.rs: tests::a", "ok"),
                ("unittests src/lib.rs: tests::b", "ignored"),
                ("tests/c.rs: a", "FAILED"),
            ])
        );
        let said = "TAP version 13\n# title\nok 1 it works\nnot ok 2 it does not\n1..2\n";
        assert_eq!(
            tap(said),
            of(&[("1 it works", "ok"), ("2 it does not", "not ok")])
        );
        let said = "0:00:01 [1/1] test_os\noutcome: test.test_os.A.b ok\n";
        assert_eq!(python(said), of(&[("test.test_os.A.b", "ok")]));
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
