//! The phases, in their order, and what each may cost.
//!
//! Must never time anything: the work is in `work`.

use std::time::Duration;

use super::work::{self, Scene};

/// One line of the table.
pub(super) struct Phase {
    /// For `--phases` and JSON.
    pub(super) name: &'static str,
    /// For the table.
    pub(super) title: &'static str,
    /// What it may cost.
    pub(super) bar: Bar,
    /// Whether the caches are dropped before.
    pub(super) cold: bool,
    /// Phases that make what this one works on.
    pub(super) needs: &'static [&'static str],
    /// Does it and gives the time that counts.
    pub(super) work: fn(&Scene) -> anyhow::Result<Duration>,
}

/// What a phase may cost at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    /// Times the plain disk.
    Ratio(f64),
    /// Milliseconds, whatever the disk needs.
    Milliseconds(f64),
}

impl Bar {
    /// Whether a time meets it; none where there is nothing to compare.
    pub(super) fn is_met(self, ms: f64, ratio_to_disk: Option<f64>) -> Option<bool> {
        match self {
            Self::Ratio(most) => Some(ratio_to_disk? <= most),
            Self::Milliseconds(most) => Some(ms <= most),
        }
    }
}

/// No request reaches the server.
const CACHED: Bar = Bar::Ratio(1.1);
/// Many small files are made or removed.
const NAMES: Bar = Bar::Ratio(2.5);
/// Everything else.
const ANY: Bar = Bar::Ratio(4.0);
/// Copying nothing makes these cheap, whatever the size.
const AT_ONCE: Bar = Bar::Milliseconds(20.0);

const fn phase(
    name: &'static str,
    title: &'static str,
    bar: Bar,
    work: fn(&Scene) -> anyhow::Result<Duration>,
) -> Phase {
    Phase {
        name,
        title,
        bar,
        cold: false,
        needs: &[],
        work,
    }
}

impl Phase {
    const fn cold(mut self) -> Self {
        self.cold = true;
        self
    }

    const fn needs(mut self, needs: &'static [&'static str]) -> Self {
        self.needs = needs;
        self
    }
}

/// All phases, in the order in which they run.
pub(super) const PHASES: &[Phase] = &[
    phase("walk-cold", "walk (find, sizes), cold", ANY, work::walk).cold(),
    phase("walk-warm", "walk, warm", CACHED, work::walk).needs(&["walk-cold"]),
    phase("grep-first", "grep -r, first", ANY, work::grep).cold(),
    phase("grep-second", "grep -r, second", CACHED, work::grep).needs(&["grep-first"]),
    phase(
        "git-status-first",
        "git status, first",
        ANY,
        work::git_status,
    )
    .cold(),
    phase(
        "git-status-second",
        "git status, second",
        CACHED,
        work::git_status,
    )
    .needs(&["git-status-first"]),
    phase(
        "git-clone",
        "git clone of the tree into it",
        NAMES,
        work::git_clone,
    ),
    phase("untar", "untar {files} files", NAMES, work::untar),
    phase("cp-r", "cp -r of them", NAMES, work::copy).needs(&["untar"]),
    phase("rm-rf", "rm -rf of both", ANY, work::remove).needs(&["untar", "cp-r"]),
    phase("sed-i", "sed -i on {edited} base files", ANY, work::edit),
    phase(
        "mv-base-dir",
        "mv of a base directory",
        AT_ONCE,
        work::move_directory,
    ),
    phase(
        "write-large",
        "write {written} MiB + fsync",
        ANY,
        work::write_large,
    ),
    phase(
        "read-large-cold",
        "read it back, cold",
        ANY,
        work::read_large,
    )
    .cold()
    .needs(&["write-large"]),
    phase(
        "read-large-hot",
        "read it back, hot",
        CACHED,
        work::read_large,
    )
    .needs(&["write-large", "read-large-cold"]),
    phase(
        "one-byte",
        "one byte into a {base} MiB base file + fsync",
        AT_ONCE,
        work::write_one_byte,
    ),
    phase(
        "read-base-large",
        "read a {base} MiB base file",
        ANY,
        work::read_base_large,
    )
    .cold(),
    phase("appends", "{appends} appends of 100 B", ANY, work::append),
    phase(
        "create",
        "create {small} files of 1 KB",
        NAMES,
        work::create,
    ),
    phase("stat", "stat them three times", CACHED, work::stat).needs(&["create"]),
    phase("unlink", "unlink them", NAMES, work::unlink).needs(&["create"]),
    phase(
        "fsyncs",
        "{fsyncs} x write 4 KiB + fsync",
        ANY,
        work::fsyncs,
    ),
    phase(
        "sqlite",
        "{transactions} SQLite transactions",
        ANY,
        work::sqlite,
    ),
    phase(
        "random-read",
        "random read {random_read} MiB in 4 KiB",
        ANY,
        work::random_read,
    )
    .cold()
    .needs(&["write-large"]),
    phase(
        "random-write",
        "random write {random_write} MiB in 4 KiB + fsync",
        ANY,
        work::random_write,
    )
    .needs(&["write-large"]),
    phase("make", "make -j2 of {c_files} C files", ANY, work::make),
];

/// The phase of that name.
pub(super) fn find(name: &str) -> anyhow::Result<&'static Phase> {
    PHASES
        .iter()
        .find(|phase| phase.name == name)
        .ok_or_else(|| {
            let names: Vec<_> = PHASES.iter().map(|phase| phase.name).collect();
            anyhow::anyhow!("there is no phase `{name}`; phases: {}", names.join(", "))
        })
}

/// What to run for the phases asked for (all where none are): each with whether
/// it was asked for or only is needed by another.
pub(super) fn plan(asked: &[String]) -> anyhow::Result<Vec<(&'static Phase, bool)>> {
    let mut needed = Vec::new();
    for name in asked {
        let phase = find(name)?;
        needed.push(phase.name);
        needed.extend(phase.needs);
    }
    let planned = PHASES.iter().filter_map(|phase| {
        let is_asked = asked.is_empty() || asked.iter().any(|name| name == phase.name);
        (is_asked || needed.contains(&phase.name)).then_some((phase, is_asked))
    });
    Ok(planned.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plan: &[(&'static Phase, bool)]) -> Vec<(&'static str, bool)> {
        plan.iter()
            .map(|(phase, asked)| (phase.name, *asked))
            .collect()
    }

    #[test]
    fn all_phases_run_when_none_is_asked_for() {
        let plan = plan(&[]).unwrap();
        assert_eq!(plan.len(), PHASES.len());
        assert!(plan.iter().all(|(_, asked)| *asked));
    }

    #[test]
    fn what_a_phase_needs_runs_before_it_without_being_asked_for() {
        let plan = plan(&["rm-rf".to_owned(), "make".to_owned()]).unwrap();
        let expected = [
            ("untar", false),
            ("cp-r", false),
            ("rm-rf", true),
            ("make", true),
        ];
        assert_eq!(names(&plan), expected);
    }

    #[test]
    fn an_unknown_phase_is_refused_with_those_there_are() {
        let error = plan(&["untra".to_owned()])
            .err()
            .map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("`untra`") && error.contains("untar")));
    }

    #[test]
    fn needs_come_earlier_and_are_complete() {
        for (place, phase) in PHASES.iter().enumerate() {
            for need in phase.needs {
                let earlier = PHASES[..place].iter().find(|other| other.name == *need);
                let earlier = earlier.unwrap_or_else(|| panic!("{} before {need}", phase.name));
                assert!(
                    earlier
                        .needs
                        .iter()
                        .all(|deeper| phase.needs.contains(deeper))
                );
            }
        }
    }

    #[test]
    fn a_bar_is_met_at_its_limit_and_not_beyond() {
        assert_eq!(Bar::Ratio(2.5).is_met(100.0, Some(2.5)), Some(true));
        assert_eq!(Bar::Ratio(2.5).is_met(100.0, Some(2.51)), Some(false));
        assert_eq!(Bar::Ratio(2.5).is_met(100.0, None), None);
        assert_eq!(Bar::Milliseconds(20.0).is_met(20.0, None), Some(true));
        assert_eq!(Bar::Milliseconds(20.0).is_met(20.1, Some(1.0)), Some(false));
    }
}
