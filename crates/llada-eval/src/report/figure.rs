//! Score against tokens per forward, in pixels.

use serde::Serialize;

use super::{BASELINE, Run};
use crate::summary::{Quality, Summary};

/// Size of a figure and the margins of its axes, in pixels.
const SIZE: (f64, f64) = (640.0, 320.0);
const MARGIN: (f64, f64) = (60.0, 40.0);
/// Colours of runs, as the page defines them.
const COLOURS: usize = 4;

/// A figure in pixels, ready to be drawn.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    task: String,
    width: f64,
    height: f64,
    quality: &'static str,
    points: Vec<Point>,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    series: Vec<Series>,
}

/// A run in a figure.
#[derive(Debug, Serialize)]
struct Series {
    /// The run's name; empty if there is only one.
    name: String,
    /// Index of the run.
    run: usize,
    /// Number of its colour.
    colour: usize,
    /// The points that no other of the run beats, from left to right.
    line: String,
}

#[derive(Debug, Serialize)]
struct Point {
    /// Index of its run.
    run: usize,
    colour: usize,
    /// Whether it is the baseline, which is drawn hollow.
    is_baseline: bool,
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

    /// Returns three to eight round values.
    fn ticks(&self) -> Vec<Tick> {
        let raw = (self.values.1 - self.values.0) / 8.0;
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
pub(super) fn figures(runs: &[Run]) -> Vec<Figure> {
    let mut tasks: Vec<&str> = Vec::new();
    for row in runs.iter().flat_map(|run| &run.summaries) {
        if !tasks.contains(&row.task.as_str()) {
            tasks.push(&row.task);
        }
    }
    tasks
        .into_iter()
        .filter_map(|task| figure(task, runs))
        .collect()
}

/// A row of a figure.
struct Drawn<'a> {
    run: usize,
    tpf: f64,
    row: &'a Summary,
}

/// Returns the rows of a task that have tokens per forward, run by run and from left to right.
fn drawn<'a>(task: &str, runs: &'a [Run]) -> Vec<Drawn<'a>> {
    let rows = runs.iter().enumerate();
    let rows = rows.flat_map(|(run, of)| of.summaries.iter().map(move |row| (run, row)));
    let of_task = rows.filter(|(_, row)| row.task == task);
    let mut drawn: Vec<Drawn<'_>> = of_task
        .filter_map(|(run, row)| {
            Some(Drawn {
                run,
                tpf: row.tpf?,
                row,
            })
        })
        .collect();
    drawn.sort_by(|a, b| a.run.cmp(&b.run).then(a.tpf.total_cmp(&b.tpf)));
    drawn
}

fn figure(task: &str, runs: &[Run]) -> Option<Figure> {
    let drawn = drawn(task, runs);
    if drawn.len() < 2 {
        return None;
    }
    let is_share = drawn[0].row.quality == Quality::Accuracy;
    let scale = if is_share { 100.0 } else { 1.0 };
    let x = Axis::over(drawn.iter().map(|it| it.tpf), (MARGIN.0, SIZE.0 - 20.0));
    let ends = drawn.iter().flat_map(|it| it.row.ci95);
    let y = Axis::over(ends.map(|end| end * scale), (SIZE.1 - MARGIN.1, 15.0));
    let point = |Drawn { run, tpf, row }: &Drawn<'_>| Point {
        run: *run,
        colour: run % COLOURS,
        is_baseline: row.setting == BASELINE,
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
        series: series(&points, runs),
        x_ticks: x.ticks(),
        y_ticks: y.ticks(),
        points,
    })
}

/// Returns a line per run that has points.
fn series(points: &[Point], runs: &[Run]) -> Vec<Series> {
    let of_run = points.chunk_by(|a, b| a.run == b.run);
    let one = |points: &[Point]| Series {
        name: match runs {
            [_] => String::new(),
            _ => runs[points[0].run].title.clone(),
        },
        run: points[0].run,
        colour: points[0].colour,
        line: front(points),
    };
    of_run.map(one).collect()
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
    use super::super::tests::{run, summary};
    use super::*;

    #[test]
    fn points_at_one_place_share_a_label_and_beaten_ones_are_not_on_the_line() {
        let rows = [
            summary("a", Some(1.0), 0.9),
            summary("b", Some(1.0), 0.9),
            summary("beaten", Some(2.0), 0.3),
            summary("c", Some(3.0), 0.5),
        ];
        let figure = figures(&[run("m", &rows)]).remove(0);
        let labels: Vec<&str> = figure
            .points
            .iter()
            .map(|point| point.label.as_str())
            .collect();
        assert_eq!(labels, ["1, 2", "", "3", "4"]);
        let beaten = &figure.points[2];
        assert!(
            !figure.series[0]
                .line
                .contains(&format!("{},{}", beaten.x, beaten.y)),
            "{:?}",
            figure.series
        );
    }

    #[test]
    fn runs_of_one_task_share_a_figure_and_have_a_line_each() {
        let slow = run(
            "slow",
            &[summary("a", Some(1.0), 0.9), summary("b", Some(2.0), 0.8)],
        );
        let fast = run("fast", &[summary("a", Some(3.0), 0.9)]);
        let figures = figures(&[slow, fast]);
        let names: Vec<&str> = figures[0]
            .series
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!((figures.len(), names), (1, vec!["slow", "fast"]));
        assert_eq!(figures[0].points.len(), 3);
        assert_ne!(figures[0].series[0].line, figures[0].series[1].line);
    }

    #[test]
    fn more_is_further_right_and_higher_up() {
        let rows = [
            summary("slow", Some(1.0), 0.9),
            summary("fast", Some(3.0), 0.5),
        ];
        let figures = figures(&[run("m", &rows)]);
        let [slow, fast] = &figures[0].points[..] else {
            panic!("two points")
        };
        assert!(slow.x < fast.x && slow.y < fast.y && slow.high < slow.low);
    }
}
