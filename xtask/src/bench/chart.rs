//! The table as a picture for a README: one row per phase, a mark per target,
//! times the plain disk on a logarithmic axis, the bar as a shaded reach.
//!
//! Shapes as well as colours tell targets apart, and the picture brings its own
//! background, light or dark as the reader has it. Must never hide a phase that
//! failed, nor draw a mark beyond the axis as if it lay on it.

use std::fmt::Write as _;

use super::phase::{self, Bar};
use super::report::{PhaseResult, Report, TargetResult, title};

const LABEL_WIDTH: f64 = 286.0;
const PLOT_WIDTH: f64 = 520.0;
/// Ours in figures, right of the plot.
const FIGURE_WIDTH: f64 = 84.0;
/// Where the marks of failed phases stand, when there are any.
const FAILED_WIDTH: f64 = 72.0;
const ROW: f64 = 22.0;
const TOP: f64 = 92.0;
/// The axis, in times the disk.
const AXIS: (f64, f64) = (0.125, 64.0);

const STYLE: &str = "\
.back{fill:#fff;stroke:#d1d9e0}.text{fill:#1f2328}.faint{fill:#59636e}\
.grid{stroke:#d1d9e0}.one{stroke:#59636e;stroke-width:1.5}.stripe{fill:#818b981a}\
.reach{fill:#1a7f3724}.limit{stroke:#1a7f37;stroke-width:1.5;stroke-dasharray:3 2}\
.bad{fill:#d1242f}.mark{fill:none;stroke-width:2}.full{fill:#1a7f37}.c0{stroke:#1a7f37}\
.c1{stroke:#0969da}.c2{stroke:#bc4c00}.c3{stroke:#8250df}.c4{stroke:#bf3989}\
@media(prefers-color-scheme:dark){\
.back{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.faint{fill:#9198a1}\
.grid{stroke:#2a313c}.one{stroke:#9198a1}.stripe{fill:#656c7626}\
.reach{fill:#3fb95026}.limit{stroke:#3fb950}.bad{fill:#f85149}\
.full{fill:#3fb950}.c0{stroke:#3fb950}\
.c1{stroke:#58a6ff}.c2{stroke:#f0883e}.c3{stroke:#bc8cff}.c4{stroke:#f778ba}}";

/// How a target is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    /// Ours: the first filled, others hollow.
    Circle {
        full: bool,
    },
    /// Kernel overlayfs.
    Square,
    /// Everything else, by turn.
    Triangle,
    Cross,
    Diamond,
}

/// One row: what it is called, what it may cost, and each target's ratio.
struct Row {
    label: String,
    limit: Option<f64>,
    ratios: Vec<Option<f64>>,
}

/// Draws it as SVG.
pub(super) fn draw(report: &Report) -> String {
    let others: Vec<_> = report.targets.iter().skip(1).collect();
    let marks = marks(&others);
    let rows = rows(report, &others);
    let fails = rows.iter().any(|row| row.ratios.contains(&None));
    let plot_end = LABEL_WIDTH + PLOT_WIDTH;
    let width = plot_end + FIGURE_WIDTH + if fails { FAILED_WIDTH } else { 0.0 };
    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = String::new();
    head(&mut svg, report, (width, bottom + 48.0));
    legend(&mut svg, &others, &marks);
    for (number, row) in rows.iter().enumerate() {
        let top = TOP + ROW * number as f64;
        if number % 2 == 1 {
            put(
                &mut svg,
                &format!(
                    "<rect class=\"stripe\" x=\"8\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{ROW}\"/>",
                    width - 16.0
                ),
            );
        }
        if let Some(limit) = row.limit {
            reach(&mut svg, limit, top);
        }
    }
    axis(&mut svg, bottom);
    for (number, row) in rows.iter().enumerate() {
        if let Some(limit) = row.limit {
            let (x, top) = (place_of(limit), TOP + ROW * number as f64);
            put(
                &mut svg,
                &format!(
                    "<line class=\"limit\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{:.1}\"/>",
                    top + ROW
                ),
            );
        }
    }
    for (number, row) in rows.iter().enumerate() {
        row_of_marks(&mut svg, row, TOP + ROW * number as f64, &others, &marks);
    }
    let ours = others.iter().any(|target| target.is_ours);
    for (shown, x, what) in [
        (ours, plot_end + FIGURE_WIDTH - 12.0, "agentfs"),
        (
            fails,
            plot_end + FIGURE_WIDTH + FAILED_WIDTH - 12.0,
            "failed",
        ),
    ] {
        if shown {
            let y = TOP - 8.0;
            text(&mut svg, (x, y), "faint", "end", what);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn marks(others: &[&TargetResult]) -> Vec<(Mark, usize)> {
    let (mut ours, mut rest) = (0, 0);
    others
        .iter()
        .map(|target| {
            if target.is_ours {
                ours += 1;
                (Mark::Circle { full: ours == 1 }, 0)
            } else if target.is_kernel_overlay {
                (Mark::Square, 1)
            } else {
                rest += 1;
                [(Mark::Triangle, 2), (Mark::Cross, 3), (Mark::Diamond, 4)][(rest - 1) % 3]
            }
        })
        .collect()
}

fn rows(report: &Report, others: &[&TargetResult]) -> Vec<Row> {
    let disk = report.targets.first().map(|disk| &disk.phases);
    let mut rows: Vec<_> = disk
        .into_iter()
        .flatten()
        .map(|on_disk| {
            let phase = phase::find(&on_disk.name).ok();
            let found = |target: &&TargetResult| {
                let mut phases = target.phases.iter();
                phases
                    .find(|other| other.name == on_disk.name)?
                    .ratio_to_disk
            };
            Row {
                label: phase.map_or(on_disk.name.clone(), |phase| {
                    title(phase, &report.inputs.scale)
                }),
                limit: phase.and_then(|phase| limit(phase.bar, on_disk)),
                ratios: others.iter().map(found).collect(),
            }
        })
        .collect();
    rows.push(Row {
        label: "geometric mean".to_owned(),
        limit: Some(MEAN_BAR),
        ratios: others
            .iter()
            .map(|target| target.geometric_mean_to_disk)
            .collect(),
    });
    rows
}

/// What the mean of all phases may be, in times the disk.
const MEAN_BAR: f64 = 1.6;

fn limit(bar: Bar, on_disk: &PhaseResult) -> Option<f64> {
    match bar {
        Bar::Ratio(most) => Some(most),
        Bar::Milliseconds(most) => on_disk.median_ms.map(|ms| most / ms.max(1e-3)),
    }
}

fn head(svg: &mut String, report: &Report, (width, height): (f64, f64)) {
    let disk = report.targets.first().map_or("disk", |disk| &disk.name);
    let disk = escape(disk);
    put(
        svg,
        &format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" role=\"img\" font-size=\"12\" \
             font-family=\"-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif\">\n\
             <title>Time of each phase in units of {disk}</title>\n\
             <style>{STYLE}</style>\n\
             <rect class=\"back\" x=\".5\" y=\".5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"8\"/>\n\
             <text class=\"text\" x=\"16\" y=\"28\" font-size=\"16\" font-weight=\"600\">\
             Time in units of {disk}</text>",
            width - 1.0,
            height - 1.0
        ),
    );
    let about = "further left is faster; shaded: what agentfs may cost";
    text(svg, (width - 16.0, 28.0), "faint", "end", about);
    let rounds = if report.rounds == 1 {
        "round"
    } else {
        "rounds"
    };
    let about = format!(
        "{}, median of {} {rounds}; {}{}",
        report.date,
        report.rounds,
        report.machine,
        if report.quick { "; small inputs" } else { "" }
    );
    text(svg, (16.0, height - 10.0), "faint", "start", &about);
}

fn legend(svg: &mut String, others: &[&TargetResult], marks: &[(Mark, usize)]) {
    let mut x = 24.0;
    for (target, mark) in others.iter().zip(marks) {
        draw_mark(svg, *mark, (x, 52.0), &target.name);
        text(svg, (x + 12.0, 56.0), "text", "start", &target.name);
        x += 40.0 + 6.8 * target.name.chars().count() as f64;
    }
}

fn reach(svg: &mut String, limit: f64, top: f64) {
    let (from, to) = (place_of(AXIS.0), place_of(limit));
    put(
        svg,
        &format!(
            "<rect class=\"reach\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{ROW}\"/>",
            to - from
        ),
    );
}

fn axis(svg: &mut String, bottom: f64) {
    let mut tick = AXIS.0;
    while tick <= AXIS.1 {
        let is_one = (tick - 1.0).abs() < f64::EPSILON;
        let (x, class) = (place_of(tick), if is_one { "one" } else { "grid" });
        let label = if tick < 1.0 {
            format!("1/{:.0}", 1.0 / tick)
        } else {
            format!("{tick:.0}")
        };
        put(
            svg,
            &format!(
                "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom:.0}\"/>"
            ),
        );
        for y in [TOP - 8.0, bottom + 16.0] {
            text(svg, (x, y), "faint", "middle", &label);
        }
        tick *= 2.0;
    }
}

fn row_of_marks(
    svg: &mut String,
    row: &Row,
    top: f64,
    others: &[&TargetResult],
    marks: &[(Mark, usize)],
) {
    let middle = top + ROW / 2.0;
    let base = middle + 4.0;
    text(svg, (LABEL_WIDTH - 16.0, base), "text", "end", &row.label);
    let mut failed = 0.0;
    let ours = others.iter().position(|target| target.is_ours);
    // The first of ours last, on top of the others.
    let mut order: Vec<_> = (0..others.len()).collect();
    order.sort_by_key(|place| Some(*place) == ours);
    for place in order {
        let (target, mark) = (others[place], marks[place]);
        let Some(ratio) = row.ratios[place] else {
            let x = LABEL_WIDTH + PLOT_WIDTH + FIGURE_WIDTH + FAILED_WIDTH - 18.0 - failed;
            draw_mark(svg, mark, (x, middle), &format!("{}: failed", target.name));
            failed += 16.0;
            continue;
        };
        let about = format!("{}: {ratio:.2}", target.name);
        draw_mark(svg, mark, (place_of(ratio), middle), &about);
    }
    let beyond = |is_beyond: fn(f64) -> bool| -> Vec<f64> {
        let ratios = row.ratios.iter().flatten().copied();
        ratios.filter(|ratio| is_beyond(*ratio)).collect()
    };
    let (left, right) = (
        beyond(|ratio| ratio < AXIS.0),
        beyond(|ratio| ratio > AXIS.1),
    );
    if !left.is_empty() {
        let what: Vec<_> = left.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let what = format!("\u{2190} {}", what.join(", "));
        text(
            svg,
            (place_of(AXIS.0) + 10.0, base),
            "faint",
            "start",
            &what,
        );
    }
    if !right.is_empty() {
        let what: Vec<_> = right.iter().map(|ratio| format!("{ratio:.0}")).collect();
        let what = format!("{} \u{2192}", what.join(", "));
        text(svg, (place_of(AXIS.1) - 10.0, base), "faint", "end", &what);
    }
    let at = (LABEL_WIDTH + PLOT_WIDTH + FIGURE_WIDTH - 12.0, base);
    match ours.map(|place| row.ratios[place]) {
        Some(Some(ratio)) => {
            let met = row.limit.is_none_or(|limit| ratio <= limit);
            let class = if met { "text" } else { "bad" };
            text(svg, at, class, "end", &format!("{ratio:.2}"));
        }
        Some(None) => text(svg, at, "bad", "end", "failed"),
        None => {}
    }
}

fn draw_mark(svg: &mut String, (mark, colour): (Mark, usize), (x, y): (f64, f64), about: &str) {
    let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
    let (class, shape) = match mark {
        Mark::Circle { full: true } => ("mark full", "<circle r=\"5.5\"/>"),
        Mark::Circle { full: false } => ("mark", "<circle r=\"5.5\"/>"),
        Mark::Square => ("mark", "<path d=\"M-4.5-4.5h9v9h-9z\"/>"),
        Mark::Triangle => ("mark", "<path d=\"M0-5.5L5.5 4.5H-5.5z\"/>"),
        Mark::Cross => ("mark", "<path d=\"M-4.5-4.5l9 9m0-9l-9 9\"/>"),
        Mark::Diamond => ("mark", "<path d=\"M0-6L6 0 0 6-6 0z\"/>"),
    };
    put(
        svg,
        &format!(
            "<g class=\"{class} c{colour}\" transform=\"translate({x} {y})\">{shape}\
             <title>{}</title></g>",
            escape(about)
        ),
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, anchor: &str, what: &str) {
    put(
        svg,
        &format!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(what)
        ),
    );
}

fn place_of(ratio: f64) -> f64 {
    let clamped = ratio.clamp(AXIS.0, AXIS.1);
    LABEL_WIDTH + PLOT_WIDTH * (clamped / AXIS.0).ln() / (AXIS.1 / AXIS.0).ln()
}

fn put(svg: &mut String, line: &str) {
    let _ = writeln!(svg, "{line}"); // to a String: cannot fail
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_ends_where_it_ends() {
        assert!((place_of(AXIS.0) - LABEL_WIDTH).abs() < 1e-9);
        assert!((place_of(AXIS.1) - LABEL_WIDTH - PLOT_WIDTH).abs() < 1e-9);
        let (one, two, four) = (place_of(1.0), place_of(2.0), place_of(4.0));
        assert!((four - two - (two - one)).abs() < 1e-9);
        assert!(place_of(1e9) <= LABEL_WIDTH + PLOT_WIDTH);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        assert_eq!(escape("a<b>&c"), "a&lt;b&gt;&amp;c");
    }

    #[test]
    fn a_bar_in_milliseconds_is_put_on_the_axis() {
        let on_disk = PhaseResult {
            median_ms: Some(4.0),
            ..PhaseResult::default()
        };
        assert_eq!(limit(Bar::Milliseconds(20.0), &on_disk), Some(5.0));
        assert_eq!(limit(Bar::Ratio(2.5), &on_disk), Some(2.5));
        let failed = PhaseResult::default();
        assert_eq!(limit(Bar::Milliseconds(20.0), &failed), None);
    }

    #[test]
    fn ours_are_told_apart_and_so_are_rivals() {
        let target = |is_ours, is_kernel_overlay| TargetResult {
            is_ours,
            is_kernel_overlay,
            ..TargetResult::default()
        };
        let (overlay, other, ours) = (
            target(false, true),
            target(false, false),
            target(true, false),
        );
        let found = marks(&[&overlay, &other, &other, &ours, &ours]);
        assert_eq!(
            found,
            [
                (Mark::Square, 1),
                (Mark::Triangle, 2),
                (Mark::Cross, 3),
                (Mark::Circle { full: true }, 0),
                (Mark::Circle { full: false }, 0),
            ]
        );
    }
}
