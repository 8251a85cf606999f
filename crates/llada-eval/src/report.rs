//! The page of a run: a table, and for each task its score against tokens per forward.
//!
//! One file without requests to anywhere; it follows the reader's light or dark scheme.

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::results::replace;
use crate::stats::Paired;
use crate::summary::{Quality, Summary};

/// Size of a figure and the margins of its axes, in pixels.
const SIZE: (f64, f64) = (640.0, 320.0);
const MARGIN: (f64, f64) = (60.0, 40.0);

/// A comparison of a setting with the baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The task.
    pub task: String,
    /// The setting, which comes first in [`Paired`].
    pub setting: String,
    /// The comparison with the baseline's answers.
    #[serde(flatten)]
    pub paired: Paired,
}

/// What a page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// The model.
    pub title: &'a str,
    /// A row each.
    pub summaries: &'a [Summary],
    /// Settings beside the baseline, if there is one.
    pub comparisons: &'a [Comparison],
    /// What was asked for, for the record.
    pub run: &'a str,
}

/// Writes a page to `path`.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, page: &Page<'_>) -> Result<()> {
    let wrong = |error| Error::Report(Box::new(error));
    let mut environment = Environment::new();
    environment
        .add_template("report.html", include_str!("report.html"))
        .map_err(wrong)?;
    let template = environment.get_template("report.html").map_err(wrong)?;
    let rows: Vec<_> = page.summaries.iter().map(Summary::cells).collect();
    let html = template.render(context! {
        title => page.title,
        run => page.run,
        header => Summary::HEADER,
        rows => Serde(&rows),
        figures => Serde(&figures(page.summaries)),
        comparisons => Serde(page.comparisons),
    });
    replace(path, &html.map_err(wrong)?)
}

/// A figure in pixels, ready to be drawn.
#[derive(Debug, Serialize)]
struct Figure {
    task: String,
    width: f64,
    height: f64,
    quality: &'static str,
    points: Vec<Point>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    /// The points that no other beats, from left to right.
    line: String,
}

#[derive(Debug, Serialize)]
struct Point {
    setting: String,
    /// Its number, and those of points at the same place, of which only the first has a label.
    label: String,
    x: f64,
    y: f64,
    /// Ends of the interval.
    low: f64,
    high: f64,
    value: String,
}

#[derive(Debug, Serialize)]
struct Tick {
    at: f64,
    label: String,
}

/// Maps values to pixels.
struct Axis {
    values: (f64, f64),
    pixels: (f64, f64),
}

impl Axis {
    /// An axis over all values with a little room on both sides.
    fn over(values: impl Iterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        let room = ((high - low) * 0.08).max(0.02);
        Self {
            values: (low - room, high + room),
            pixels,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value - self.values.0) / (self.values.1 - self.values.0);
        let pixel = self.pixels.0 + share * (self.pixels.1 - self.pixels.0);
        (pixel * 10.0).round() / 10.0
    }

    /// Returns about five round values.
    fn ticks(&self) -> Vec<Tick> {
        let raw = (self.values.1 - self.values.0) / 5.0;
        let unit = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|by| by * unit)
            .into_iter()
            .find(|step| *step >= raw);
        let step = step.unwrap_or(raw);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let first = (self.values.0 / step).ceil() as i64;
        let values = (first..)
            .map(|index| index as f64 * step)
            .take_while(|v| *v <= self.values.1);
        values
            .map(|value| Tick {
                at: self.at(value),
                label: format!("{value:.decimals$}"),
            })
            .collect()
    }
}

/// Returns a figure for each task that has answers under at least two settings.
fn figures(summaries: &[Summary]) -> Vec<Figure> {
    let mut tasks: Vec<&str> = summaries
        .iter()
        .map(|summary| summary.task.as_str())
        .collect();
    tasks.dedup();
    tasks.sort_unstable();
    tasks.dedup();
    tasks
        .into_iter()
        .filter_map(|task| figure(task, summaries))
        .collect()
}

fn figure(task: &str, summaries: &[Summary]) -> Option<Figure> {
    let of_task = summaries.iter().filter(|summary| summary.task == task);
    let mut drawn: Vec<(f64, &Summary)> = of_task.filter_map(|row| Some((row.tpf?, row))).collect();
    if drawn.len() < 2 {
        return None;
    }
    drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
    let is_share = drawn[0].1.quality == Quality::Accuracy;
    let scale = if is_share { 100.0 } else { 1.0 };
    let x = Axis::over(drawn.iter().map(|row| row.0), (MARGIN.0, SIZE.0 - 20.0));
    let ends = drawn
        .iter()
        .flat_map(|(_, row)| row.ci95)
        .map(|end| end * scale);
    let y = Axis::over(ends, (SIZE.1 - MARGIN.1, 15.0));
    let point = |(tpf, row): &(f64, &Summary)| Point {
        setting: row.setting.clone(),
        label: String::new(),
        x: x.at(*tpf),
        y: y.at(row.score * scale),
        low: y.at(row.ci95[0] * scale),
        high: y.at(row.ci95[1] * scale),
        value: format!("TPF {tpf:.2}, score {:.2}", row.score * scale),
    };
    let mut points: Vec<Point> = drawn.iter().map(point).collect();
    label(&mut points);
    Some(Figure {
        task: task.to_owned(),
        width: SIZE.0,
        height: SIZE.1,
        quality: if is_share {
            "right answers, %"
        } else {
            "nats per token"
        },
        line: front(&points),
        x_ticks: x.ticks(),
        y_ticks: y.ticks(),
        points,
    })
}

/// Numbers the points from 1; those too near to each other to be told apart share a label.
fn label(points: &mut [Point]) {
    for index in 0..points.len() {
        let (x, y) = (points[index].x, points[index].y);
        let is_near = |point: &Point| (point.x - x).abs() < 16.0 && (point.y - y).abs() < 12.0;
        let labelled = |point: &&mut Point| !point.label.is_empty() && is_near(point);
        let number = (index + 1).to_string();
        match points[..index].iter_mut().find(labelled) {
            Some(point) => point.label += &format!(", {number}"),
            None => points[index].label = number,
        }
    }
}

/// Joins the points that no other beats in one of score and TPF without losing in the other.
fn front(points: &[Point]) -> String {
    let beats = |a: &Point, b: &Point| a.x >= b.x && a.y <= b.y && (a.x > b.x || a.y < b.y);
    let best = points
        .iter()
        .filter(|point| !points.iter().any(|other| beats(other, point)));
    let line: Vec<String> = best
        .map(|point| format!("{},{}", point.x, point.y))
        .collect();
    line.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(setting: &str, tpf: Option<f64>, score: f64) -> Summary {
        Summary {
            task: "sums".into(),
            setting: setting.into(),
            n: 10,
            quality: Quality::Accuracy,
            score,
            ci95: [score - 0.05, score + 0.05],
            correct: 5,
            tokens: 100,
            denoise_forwards: 50,
            forwards: 60,
            tpf,
            tpf_all: tpf,
            seconds: 1.0,
            tokens_per_second: Some(100.0),
        }
    }

    fn page(summaries: &[Summary]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        let page = Page {
            title: "<child>",
            summaries,
            comparisons: &[],
            run: "{}",
        };
        write(&path, &page).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_page_asks_nothing_of_the_network_and_escapes_names() {
        let html = page(&[summary("a<b", Some(1.0), 0.9), summary("c", Some(2.0), 0.8)]);
        assert!(
            html.contains("a&lt;b") && html.contains("&lt;child&gt;"),
            "{html}"
        );
        assert!(!html.contains("src=") && !html.contains("http:") && !html.contains("https:"));
        assert_eq!(html.matches("<circle").count(), 2);
    }

    #[test]
    fn a_single_setting_has_no_curve() {
        assert!(!page(&[summary("a", Some(1.0), 0.9), summary("b", None, 0.5)]).contains("<svg"));
    }

    #[test]
    fn points_at_one_place_share_a_label_and_beaten_ones_are_not_on_the_line() {
        let rows = [
            summary("a", Some(1.0), 0.9),
            summary("b", Some(1.0), 0.9),
            summary("beaten", Some(2.0), 0.3),
            summary("c", Some(3.0), 0.5),
        ];
        let figure = figures(&rows).remove(0);
        let labels: Vec<&str> = figure
            .points
            .iter()
            .map(|point| point.label.as_str())
            .collect();
        assert_eq!(labels, ["1, 2", "", "3", "4"]);
        let beaten = &figure.points[2];
        assert!(
            !figure.line.contains(&format!("{},{}", beaten.x, beaten.y)),
            "{}",
            figure.line
        );
    }

    #[test]
    fn more_is_further_right_and_higher_up() {
        let figures = figures(&[
            summary("slow", Some(1.0), 0.9),
            summary("fast", Some(3.0), 0.5),
        ]);
        let [slow, fast] = &figures[0].points[..] else {
            panic!("two points")
        };
        assert!(slow.x < fast.x && slow.y < fast.y && slow.high < slow.low);
    }
}
