//! A chart as an HTML figure with inline SVG. Colours come from the page's style sheet.

use std::fmt::Write;

/// Line colours of the style sheet, `c0` to `c9`.
pub(super) const COLOURS: usize = 10;

/// Size of a drawing, in its own units.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 220.0;
/// Margins, of which the left and lower hold labels.
const LEFT: f64 = 48.0;
const BOTTOM: f64 = 22.0;
const MARGIN: f64 = 8.0;
/// Lines across the chart, about.
const TICKS: f64 = 5.0;
/// Points drawn of a line; more are averaged into so many.
const MAX_POINTS: usize = 300;

/// How values become heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// Powers of ten, where all values are positive.
    Log,
}

/// Lines over the same steps.
#[derive(Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: String,
    pub(super) unit: &'a str,
    pub(super) scale: Scale,
    pub(super) lines: Vec<Line<'a>>,
}

/// A line with its name in the legend; none for a line alone.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: &'a [(f64, f64)],
}

impl Chart<'_> {
    /// Returns the figure: title, legend with the newest values, drawing.
    pub(super) fn to_html(&self) -> String {
        let (title, unit) = (escape(self.title.trim()), escape(self.unit));
        let mut html =
            format!("<figure><h2>{title}<small>{unit}</small></h2>\n<div class=\"legend\">");
        for (index, line) in self.lines.iter().enumerate() {
            let last = line.points.last().map_or("–".into(), |(_, y)| number(*y));
            let (colour, name) = (index % COLOURS, escape(line.name));
            html += &format!("<span><i class=\"c{colour}\"></i>{name} {last}</span>");
        }
        html + "</div>\n" + &self.to_svg() + "</figure>\n"
    }

    fn to_svg(&self) -> String {
        let lines: Vec<_> = self.lines.iter().map(|line| thinned(line.points)).collect();
        let all = || lines.iter().flatten();
        let positive = all().all(|(_, y)| *y > 0.0);
        let log = self.scale == Scale::Log && positive;
        let x = Axis::over(all().map(|(x, _)| *x), false, LEFT, WIDTH - MARGIN);
        let y = Axis::over(all().map(|(_, y)| *y), log, HEIGHT - BOTTOM, MARGIN);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
        svg += &grid(&x, &y);
        for (index, points) in lines.iter().enumerate() {
            svg += &drawn(points, &x, &y, index % COLOURS);
        }
        svg + "</svg>"
    }
}

/// From values along one axis to places in the drawing.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    start: f64,
    end: f64,
}

impl Axis {
    /// Spans all finite values; a single value lies in the middle.
    fn over(values: impl Iterator<Item = f64>, log: bool, start: f64, end: f64) -> Self {
        let values = values.map(|value| if log { value.log10() } else { value });
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = match low < high {
            true => (low, high),
            false if low.is_finite() => (low - 0.5, low + 0.5),
            false => (0.0, 1.0), // there is nothing to draw
        };
        Self {
            low,
            high,
            log,
            start,
            end,
        }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
    }

    /// Returns round values inside the span, about [`TICKS`] of them, with their labels.
    fn ticks(&self) -> Vec<(f64, String)> {
        if self.log {
            let values = powers(self.low, self.high).into_iter();
            return values.map(|value| (value, number(value))).collect();
        }
        let step = round_step((self.high - self.low) / TICKS);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        let values = (first..=last).map(|index| index as f64 * step);
        values.map(|value| (value, label(value, step))).collect()
    }
}

/// Returns 1, 2 and 5 times the powers of ten between two exponents.
fn powers(low: f64, high: f64) -> Vec<f64> {
    let exponents = low.floor() as i32..=high.floor() as i32;
    let values = exponents.flat_map(|e| [1.0, 2.0, 5.0].map(|factor| factor * 10_f64.powi(e)));
    values
        .filter(|value| (low..=high).contains(&value.log10()))
        .collect()
}

/// Writes a value with as many digits as its distance to the next label needs.
fn label(value: f64, step: f64) -> String {
    let decimals = -step.log10().floor();
    match decimals <= 5.0 && value.abs() < 1e6 {
        true => format!("{value:.*}", decimals.max(0.0) as usize),
        false => format!("{value:.1e}"),
    }
}

/// Returns the 1, 2 or 5 times a power of ten that is next to `step`, from above.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0];
    let fitting = factors.into_iter().find(|factor| factor * power >= step);
    fitting.unwrap_or(10.0) * power
}

fn grid(x: &Axis, y: &Axis) -> String {
    let mut svg = String::new();
    let (right, bottom) = (WIDTH - MARGIN, HEIGHT - BOTTOM);
    for (tick, label) in y.ticks() {
        let at = y.place(tick);
        let (end, base) = (LEFT - 6.0, at + 3.5);
        svg += &format!(
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{end}\" y=\"{base:.1}\" text-anchor=\"end\">{label}</text>\n"
        );
    }
    let whole_steps = x
        .ticks()
        .into_iter()
        .filter(|(tick, _)| tick.fract() == 0.0);
    for (tick, label) in whole_steps {
        let (at, base) = (x.place(tick), bottom + 14.0);
        svg += &format!("<text x=\"{at:.1}\" y=\"{base}\" text-anchor=\"middle\">{label}</text>\n");
    }
    svg
}

/// Draws a line, and where there are few points the points too.
fn drawn(points: &[(f64, f64)], x: &Axis, y: &Axis, colour: usize) -> String {
    let mut svg = format!("<polyline class=\"c{colour}\" points=\"");
    let placed: Vec<_> = points
        .iter()
        .map(|(px, py)| (x.place(*px), y.place(*py)))
        .collect();
    for (px, py) in &placed {
        let _ = write!(svg, "{px:.1},{py:.1} "); // writing to a text cannot fail
    }
    svg += "\"/>\n";
    if placed.len() <= 20 {
        for (px, py) in &placed {
            let _ = write!(
                svg,
                "<circle class=\"c{colour}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2.2\"/>"
            );
        }
    }
    svg
}

/// Averages neighbours until few enough points are left.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let group = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let count = points.len() as f64;
        let sums = points.iter().fold((0.0, 0.0), |sums, point| {
            (sums.0 + point.0, sums.1 + point.1)
        });
        (sums.0 / count, sums.1 / count)
    };
    points.chunks(group).map(mean).collect()
}

/// Writes a number with about four digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if value != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.1e}");
    }
    let digits = (3.0 - size.max(1.0).log10().floor()).clamp(0.0, 3.0) as usize;
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Makes a text safe inside HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        let cases = [
            (0.0, "0"),
            (2.5, "2.5"),
            (1234.4, "1234"),
            (0.0125, "0.013"),
            (6e-5, "6.0e-5"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::over([0.13, 0.97].into_iter(), false, 0.0, 1.0);
        let labels: Vec<_> = axis.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["0.2", "0.4", "0.6", "0.8"]);
    }

    #[test]
    fn close_values_have_labels_that_differ() {
        let axis = Axis::over([2.1556, 2.1559].into_iter(), false, 0.0, 1.0);
        let mut labels: Vec<_> = axis.ticks().into_iter().map(|(_, label)| label).collect();
        let count = labels.len();
        labels.dedup();
        assert!(count > 2 && labels.len() == count, "{labels:?}");
    }

    #[test]
    fn a_logarithmic_axis_has_round_labels() {
        let axis = Axis::over([1.5, 30.0].into_iter(), true, 0.0, 1.0);
        let labels: Vec<_> = axis.ticks().into_iter().map(|(_, label)| label).collect();
        assert_eq!(labels, ["2", "5", "10", "20"]);
    }

    #[test]
    fn a_constant_lies_in_the_middle() {
        let axis = Axis::over([4.0, 4.0].into_iter(), false, 0.0, 100.0);
        assert_eq!(axis.place(4.0), 50.0);
    }

    #[test]
    fn long_lines_are_averaged() {
        let points: Vec<_> = (0..1000)
            .map(|i| (f64::from(i), f64::from(i % 2)))
            .collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 250);
        assert!(thin.iter().all(|(_, y)| *y == 0.5));
    }
}
