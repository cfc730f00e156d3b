//! What was measured, as data and as a table.
//!
//! A phase that failed in any round has no median and is shown as failed. Must
//! never measure anything.

use std::fmt::Write as _;

use serde::Serialize;

use super::host::Usage;
use super::inputs::{Manifest, Scale};
use super::phase::{self, Phase};
use super::requests::{self, Counts};
use super::stats;

/// All rounds of all targets.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) date: String,
    pub(super) revision: String,
    pub(super) machine: String,
    pub(super) rounds: usize,
    pub(super) quick: bool,
    pub(super) inputs: Manifest,
    pub(super) notes: Vec<String>,
    /// The first is the disk, which others are compared with.
    pub(super) targets: Vec<TargetResult>,
}

/// One column.
#[derive(Debug, Default, Serialize)]
pub(super) struct TargetResult {
    pub(super) name: String,
    pub(super) is_ours: bool,
    pub(super) is_kernel_overlay: bool,
    pub(super) phases: Vec<PhaseResult>,
    pub(super) geometric_mean_to_disk: Option<f64>,
    pub(super) geometric_mean_to_overlayfs: Option<f64>,
    /// From the last command's end to everything committed and the server gone.
    pub(super) leave_ms: Vec<f64>,
    pub(super) database: Option<Database>,
    pub(super) database_failure: Option<String>,
    pub(super) growth: Vec<Growth>,
    /// What the server had used when the last phase ended.
    pub(super) server: Usage,
}

/// One cell.
#[derive(Debug, Default, Serialize)]
pub(super) struct PhaseResult {
    pub(super) name: String,
    pub(super) ms: Vec<f64>,
    /// The server's processor time from this phase's start to the next one's.
    pub(super) server_cpu_ms: Vec<u64>,
    /// FUSE requests in the last round, where they were counted.
    pub(super) requests: Counts,
    pub(super) failures: Vec<String>,
    pub(super) median_ms: Option<f64>,
    pub(super) ratio_to_disk: Option<f64>,
    pub(super) ratio_to_overlayfs: Option<f64>,
}

/// A session's database when everything is committed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Database {
    /// The file and what is beside it (-wal, -shm).
    pub(super) file_bytes: u64,
    /// Pages in use.
    pub(super) used_bytes: u64,
    /// File contents in it.
    pub(super) data_bytes: u64,
}

/// What some phases alone add to a database.
#[derive(Debug, Serialize)]
pub(super) struct Growth {
    pub(super) phases: String,
    pub(super) bytes: Option<i64>,
    pub(super) failure: Option<String>,
}

impl TargetResult {
    /// The result of that phase, made where there is none yet.
    pub(super) fn phase(&mut self, name: &str) -> &mut PhaseResult {
        let place = self.phases.iter().position(|phase| phase.name == name);
        let place = place.unwrap_or_else(|| {
            self.phases.push(PhaseResult {
                name: name.to_owned(),
                ..PhaseResult::default()
            });
            self.phases.len() - 1
        });
        &mut self.phases[place]
    }

    fn median_of(&self, name: &str) -> Option<f64> {
        self.phases
            .iter()
            .find(|phase| phase.name == name)?
            .median_ms
    }
}

impl Report {
    /// Works medians, ratios and means out.
    pub(super) fn finish(&mut self) {
        for phase in self
            .targets
            .iter_mut()
            .flat_map(|target| &mut target.phases)
        {
            let sound = phase.failures.is_empty();
            phase.median_ms = stats::median(&phase.ms).filter(|_| sound);
        }
        let medians = |target: Option<&TargetResult>| -> Vec<(String, Option<f64>)> {
            let phases = target.into_iter().flat_map(|target| &target.phases);
            phases
                .map(|phase| (phase.name.clone(), phase.median_ms))
                .collect()
        };
        let disk = medians(self.targets.first());
        let overlay = medians(self.targets.iter().find(|target| target.is_kernel_overlay));
        let of = |medians: &[(String, Option<f64>)], name: &str| {
            medians.iter().find(|(other, _)| other == name)?.1
        };
        for target in &mut self.targets {
            for phase in &mut target.phases {
                phase.ratio_to_disk = stats::ratio(phase.median_ms, of(&disk, &phase.name));
                phase.ratio_to_overlayfs = stats::ratio(phase.median_ms, of(&overlay, &phase.name));
            }
            let mean = |ratio: fn(&PhaseResult) -> Option<f64>| {
                stats::geometric_mean(&target.phases.iter().filter_map(ratio).collect::<Vec<_>>())
            };
            target.geometric_mean_to_disk = mean(|phase| phase.ratio_to_disk);
            target.geometric_mean_to_overlayfs = mean(|phase| phase.ratio_to_overlayfs);
        }
    }

    /// The table in Markdown, aligned for terminals too, and notes below it.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![self.head()];
        let names = self.targets.first().map(|disk| &disk.phases);
        for result in names.into_iter().flatten() {
            rows.push(self.row(&result.name));
        }
        rows.push(self.means());
        rows.push(self.databases());
        let mut text = aligned(&rows);
        text.push_str(&self.remarks());
        text
    }

    fn head(&self) -> Vec<String> {
        let mut head = vec!["ms".to_owned()];
        for (place, target) in self.targets.iter().enumerate() {
            head.push(target.name.clone());
            if place > 0 {
                head.push("x disk".to_owned());
            }
            if target.is_ours {
                head.push("x overlayfs".to_owned());
            }
        }
        head
    }

    fn row(&self, name: &str) -> Vec<String> {
        let phase = phase::find(name).ok();
        let mut row = vec![phase.map_or(name.to_owned(), |phase| title(phase, &self.inputs.scale))];
        for (place, target) in self.targets.iter().enumerate() {
            let result = target.phases.iter().find(|phase| phase.name == name);
            let median = target.median_of(name);
            row.push(match (result, median) {
                (_, Some(ms)) => milliseconds(ms),
                (Some(_), None) => "**failed**".to_owned(),
                (None, None) => String::new(),
            });
            let missed = target.is_ours
                && phase.zip(median).is_some_and(|(phase, ms)| {
                    let ratio = result.and_then(|result| result.ratio_to_disk);
                    phase.bar.is_met(ms, ratio) == Some(false)
                });
            if place > 0 {
                let ratio = factor(result.and_then(|result| result.ratio_to_disk));
                row.push(if missed { format!("{ratio} !") } else { ratio });
            }
            if target.is_ours {
                row.push(factor(result.and_then(|result| result.ratio_to_overlayfs)));
            }
        }
        row
    }

    fn means(&self) -> Vec<String> {
        let mut row = vec!["geometric mean".to_owned()];
        for (place, target) in self.targets.iter().enumerate() {
            let all = target.phases.len();
            let sound = target
                .phases
                .iter()
                .filter(|phase| phase.ratio_to_disk.is_some())
                .count();
            row.push(if sound < all {
                format!("{sound} of {all} phases")
            } else {
                String::new()
            });
            if place > 0 {
                row.push(factor(target.geometric_mean_to_disk));
            }
            if target.is_ours {
                row.push(factor(target.geometric_mean_to_overlayfs));
            }
        }
        row
    }

    fn databases(&self) -> Vec<String> {
        let mut row = vec!["database / live bytes in it, MiB".to_owned()];
        for (place, target) in self.targets.iter().enumerate() {
            row.push(target.database.map_or(String::new(), |database| {
                format!(
                    "{:.0} / {:.0}",
                    mib(database.file_bytes),
                    mib(database.data_bytes)
                )
            }));
            if place > 0 {
                let size = target.database.map(|database| database.file_bytes as f64);
                let live = target.database.map(|database| database.data_bytes as f64);
                row.push(factor(stats::ratio(size, live)));
            }
            if target.is_ours {
                row.push(String::new());
            }
        }
        row
    }

    fn remarks(&self) -> String {
        let mut text = String::new();
        let mut say = |line: String| {
            let _ = writeln!(text, "{line}"); // to a String: cannot fail
        };
        say(String::new());
        say(format!(
            "{}; {}; {}; medians of {} rounds{}. `!`: over the bar of that phase.",
            self.date,
            self.revision,
            self.machine,
            self.rounds,
            if self.quick { ", small inputs" } else { "" }
        ));
        for target in &self.targets {
            if let Some(leave) = stats::median(&target.leave_ms).filter(|_| target.is_ours) {
                say(format!(
                    "- {}: leaving (commit all, end) {} ms; server: {} ms of processor time, \
                     {} MiB at its peak",
                    target.name,
                    milliseconds(leave),
                    target.server.cpu_ms,
                    target.server.peak_resident_kib / 1024,
                ));
            }
            if let Some(why) = &target.database_failure {
                say(format!(
                    "- {}: the database cannot be measured: {why}",
                    target.name
                ));
            }
            for phase in target
                .phases
                .iter()
                .filter(|phase| !phase.requests.is_empty())
            {
                let total: u64 = phase.requests.values().sum();
                let kinds = requests::describe(&phase.requests);
                say(format!(
                    "- {}: {}: {total} requests: {kinds}",
                    target.name, phase.name
                ));
            }
            for growth in &target.growth {
                let outcome = match (growth.bytes, &growth.failure) {
                    (Some(bytes), _) => format!("{bytes} bytes"),
                    (None, Some(failure)) => format!("failed: {failure}"),
                    (None, None) => "not known".to_owned(),
                };
                say(format!(
                    "- {}: {} adds to the database: {outcome}",
                    target.name, growth.phases
                ));
            }
            for (why, phases) in failures(target) {
                say(format!(
                    "- {}: failed: {}: {why}",
                    target.name,
                    phases.join(", ")
                ));
            }
        }
        for note in &self.notes {
            say(format!("- {note}"));
        }
        text
    }
}

/// Every reason for a failure, once, with the phases that failed for it.
fn failures(target: &TargetResult) -> Vec<(&str, Vec<&str>)> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for phase in &target.phases {
        for why in &phase.failures {
            match reasons.iter_mut().find(|(other, _)| other == why) {
                Some((_, phases)) if phases.contains(&phase.name.as_str()) => {}
                Some((_, phases)) => phases.push(&phase.name),
                None => reasons.push((why, vec![&phase.name])),
            }
        }
    }
    reasons
}

/// A phase's title with this run's numbers.
pub(super) fn title(phase: &Phase, scale: &Scale) -> String {
    let numbers = [
        ("{files}", scale.files),
        ("{edited}", scale.edited_files),
        ("{written}", scale.written_mib),
        ("{base}", scale.base_file_mib),
        ("{appends}", scale.appends),
        ("{small}", scale.small_files),
        ("{fsyncs}", scale.fsyncs),
        ("{transactions}", scale.transactions),
        ("{random_read}", scale.random_read_mib),
        ("{random_write}", scale.random_write_mib),
        ("{c_files}", scale.c_files),
    ];
    let mut title = phase.title.to_owned();
    for (name, number) in numbers {
        title = title.replace(name, &number.to_string());
    }
    title
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}

fn factor(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
}

/// A Markdown table: first column left, others right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, width) in widths.iter().enumerate() {
            let cell = row.get(column).map_or("", String::as_str);
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = if column == 0 {
                    write!(text, "|{:-<1$}", "", width + 2)
                } else {
                    write!(text, "|{:->1$}", ":", width + 2)
                };
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, times: &[(&str, &[f64])]) -> TargetResult {
        let mut target = TargetResult {
            name: name.to_owned(),
            ..TargetResult::default()
        };
        for (phase, ms) in times {
            target.phase(phase).ms = ms.to_vec();
        }
        target
    }

    fn report(targets: Vec<TargetResult>) -> Report {
        let mut report = Report {
            date: "a day".to_owned(),
            revision: "a revision".to_owned(),
            machine: "a machine".to_owned(),
            rounds: 3,
            quick: false,
            inputs: serde_json::from_value(serde_json::json!({
                "generation": 1, "scale": Scale::FULL, "from_registry": false,
                "tree_bytes": 1, "needles": 1, "moved_files": 1, "entries": 1,
            }))
            .unwrap(),
            notes: vec!["a note".to_owned()],
            targets,
        };
        report.finish();
        report
    }

    #[test]
    fn ratios_are_of_medians_to_the_first_and_to_overlayfs() {
        let disk = target("ext4", &[("untar", &[10.0, 30.0, 20.0]), ("cp-r", &[10.0])]);
        let mut overlay = target("overlayfs", &[("untar", &[40.0]), ("cp-r", &[10.0])]);
        overlay.is_kernel_overlay = true;
        let mut ours = target("agentfs", &[("untar", &[80.0]), ("cp-r", &[10.0])]);
        ours.is_ours = true;
        let report = report(vec![disk, overlay, ours]);
        let ours = &report.targets[2];
        assert_eq!(ours.phases[0].ratio_to_disk, Some(4.0));
        assert_eq!(ours.phases[0].ratio_to_overlayfs, Some(2.0));
        assert!((ours.geometric_mean_to_disk.unwrap() - 2.0).abs() < 1e-9);
        let table = report.table();
        let row = table.lines().find(|line| line.contains("untar")).unwrap();
        assert!(row.contains("4.00 !"), "{row}");
        assert!(row.contains("untar 4000 files"), "{row}");
    }

    #[test]
    fn a_phase_that_failed_once_is_shown_as_failed_and_counted() {
        let disk = target("ext4", &[("untar", &[10.0]), ("cp-r", &[10.0])]);
        let mut other = target("other", &[("untar", &[10.0]), ("cp-r", &[20.0])]);
        other
            .phase("untar")
            .failures
            .push("it lost a file".to_owned());
        let table = report(vec![disk, other]).table();
        assert!(table.contains("**failed**"), "{table}");
        assert!(table.contains("1 of 2 phases"), "{table}");
        assert!(
            table.contains("other: failed: untar: it lost a file"),
            "{table}"
        );
    }

    #[test]
    fn tables_are_aligned_markdown() {
        let rows = [["a", "b"], ["long one", "1"]].map(|row| row.map(str::to_owned).to_vec());
        let expected = "| a        |   b |\n|----------|----:|\n| long one |   1 |\n";
        assert_eq!(aligned(&rows), expected);
    }

    #[test]
    fn titles_hold_the_numbers_of_the_run() {
        for phase in phase::PHASES {
            let title = title(phase, &Scale::QUICK);
            assert!(!title.contains(['{', '}']), "{title}");
        }
    }
}
