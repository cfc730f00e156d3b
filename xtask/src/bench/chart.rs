//! The table as a picture: one group of bars per phase, times the plain disk on
//! a logarithmic axis. Must never hide a phase that failed.

use std::fmt::Write as _;

use super::phase;
use super::report::{Report, TargetResult, title};

const LABEL_WIDTH: f64 = 270.0;
const PLOT_WIDTH: f64 = 560.0;
const BAR_HEIGHT: f64 = 7.0;
const GROUP_GAP: f64 = 7.0;
const TOP: f64 = 64.0;
/// The axis, in times the disk.
const AXIS: (f64, f64) = (0.125, 64.0);
const COLOURS: [&str; 6] = [
    "#9aa0a6", "#5b8db8", "#c98f4a", "#a06fb0", "#2e9d63", "#83c9a3",
];

/// Draws it as SVG.
pub(super) fn draw(report: &Report) -> String {
    let others: Vec<_> = report.targets.iter().skip(1).collect();
    let rows = report.targets.first().map_or(0, |disk| disk.phases.len());
    let group = BAR_HEIGHT * others.len() as f64 + GROUP_GAP;
    // One more group for the mean.
    let bottom = TOP + group * (rows + 1) as f64 + GROUP_GAP;
    let mut svg = String::new();
    head(&mut svg, report, &others, bottom);
    let names = report.targets.first().map(|disk| &disk.phases);
    for (row, result) in names.into_iter().flatten().enumerate() {
        let label = phase::find(&result.name).map_or(result.name.clone(), |phase| {
            title(phase, &report.inputs.scale)
        });
        let ratios = others.iter().map(|target| {
            let found = target.phases.iter().find(|phase| phase.name == result.name);
            found.and_then(|phase| phase.ratio_to_disk)
        });
        bars(&mut svg, &label, TOP + group * row as f64, ratios, report);
    }
    let means = others.iter().map(|target| target.geometric_mean_to_disk);
    bars(
        &mut svg,
        "geometric mean",
        TOP + group * rows as f64 + GROUP_GAP,
        means,
        report,
    );
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, report: &Report, others: &[&TargetResult], bottom: f64) {
    let (width, height) = (LABEL_WIDTH + PLOT_WIDTH + 50.0, bottom + 30.0);
    let disk = report.targets.first().map_or("disk", |disk| &disk.name);
    put(
        svg,
        &format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Time in units of {} (shorter is better; \
         logarithmic)</text>",
            escape(disk)
        ),
    );
    let mut x = 10.0;
    for (place, target) in others.iter().enumerate() {
        put(
            svg,
            &format!(
                "<rect x=\"{x:.0}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{}\"/>\
             <text x=\"{:.0}\" y=\"41\">{}</text>",
                colour(place, others.len()),
                x + 14.0,
                escape(&target.name)
            ),
        );
        x += 32.0 + 6.5 * target.name.len() as f64;
    }
    let mut tick = AXIS.0;
    while tick <= AXIS.1 {
        let (x, strong) = (place_of(tick), (tick - 1.0).abs() < f64::EPSILON);
        put(
            svg,
            &format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{bottom:.0}\" stroke=\"{}\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{tick}</text>",
                TOP - 4.0,
                if strong { "#444" } else { "#ddd" },
                bottom + 14.0
            ),
        );
        tick *= 2.0;
    }
}

fn bars(
    svg: &mut String,
    label: &str,
    top: f64,
    ratios: impl ExactSizeIterator<Item = Option<f64>>,
    report: &Report,
) {
    let count = ratios.len();
    put(
        svg,
        &format!(
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LABEL_WIDTH - 8.0,
            top + BAR_HEIGHT * count as f64 / 2.0 + 4.0,
            escape(label)
        ),
    );
    for (place, ratio) in ratios.enumerate() {
        let y = top + BAR_HEIGHT * place as f64;
        let name = report
            .targets
            .get(place + 1)
            .map_or("", |target| &target.name);
        let Some(ratio) = ratio else {
            put(
                svg,
                &format!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" fill=\"#c00\">{}: failed</text>",
                    place_of(1.0) + 3.0,
                    y + BAR_HEIGHT,
                    escape(name)
                ),
            );
            continue;
        };
        let (from, to) = (place_of(1.0), place_of(ratio));
        put(
            svg,
            &format!(
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\">\
             <title>{}: {ratio:.2}</title></rect>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"7\" fill=\"#555\">{ratio:.2}</text>",
                from.min(to),
                (to - from).abs().max(1.0),
                BAR_HEIGHT - 1.0,
                colour(place, count),
                escape(name),
                from.max(to) + 2.0,
                y + BAR_HEIGHT - 1.0
            ),
        );
    }
}

/// Ours come last, and have the last colours.
fn colour(place: usize, count: usize) -> &'static str {
    let shift = COLOURS.len().saturating_sub(count);
    let place = if place + 2 >= count {
        place + shift
    } else {
        place
    };
    COLOURS[place % COLOURS.len()]
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
}
