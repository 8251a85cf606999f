//! The page of a run: a table, and for each task its score against tokens per forward.
//!
//! One file without requests to anywhere; it follows the reader's light or dark scheme.

mod figure;

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::Serialize;
use serde_json::{Value, json};

use self::figure::figures;
use crate::error::{Error, Result};
use crate::results::{Cost, Record, replace};
use crate::stats::{self, Paired};
use crate::summary::{Summary, shares_right};

/// The setting of the rows that others are compared with.
pub const BASELINE: &str = "baseline";

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

/// A run: what its rows amount to.
#[derive(Debug)]
pub struct Run {
    /// The model.
    pub title: String,
    /// A row each: settings of one task stand together, the baseline last.
    pub summaries: Vec<Summary>,
    /// Settings beside the baseline, if there is one.
    pub comparisons: Vec<Comparison>,
    /// What was asked for, for the record.
    pub asked: String,
}

impl Run {
    /// Sums up finished items.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(title: String, rows: &[(Record, Cost)], asked: &Value) -> Result<Self> {
        let order = order(rows);
        let summary = |(task, setting): &(&str, &str)| Summary::of(of(rows, task, setting));
        let summaries = order.iter().map(summary).collect::<Result<Vec<_>>>()?;
        if summaries.is_empty() {
            return Err(Error::NoItems);
        }
        let compare = |(task, setting): &(&str, &str)| {
            let own = shares_right(of(rows, task, setting));
            let pairs = own.into_iter().zip(shares_right(of(rows, task, BASELINE)));
            Some(Comparison {
                task: (*task).to_owned(),
                setting: (*setting).to_owned(),
                paired: stats::paired(&pairs.collect::<Vec<_>>())?,
            })
        };
        let others = order.iter().filter(|(_, setting)| *setting != BASELINE);
        Ok(Self {
            comparisons: others.filter_map(compare).collect(),
            asked: format!("{asked:#}"),
            title,
            summaries,
        })
    }
}

/// Returns the rows of a task under a setting.
fn of<'a>(
    rows: &'a [(Record, Cost)],
    task: &'a str,
    setting: &'a str,
) -> impl Iterator<Item = &'a (Record, Cost)> {
    let is_row = move |(row, _): &&(Record, Cost)| row.task == task && row.setting == setting;
    rows.iter().filter(is_row)
}

/// Returns tasks and settings in the order of a table.
fn order(rows: &[(Record, Cost)]) -> Vec<(&str, &str)> {
    let mut tasks: Vec<&str> = Vec::new();
    let mut found: Vec<(&str, &str)> = Vec::new();
    for (row, _) in rows {
        let key = (row.task.as_str(), row.setting.as_str());
        if !tasks.contains(&key.0) {
            tasks.push(key.0);
        }
        if !found.contains(&key) {
            found.push(key);
        }
    }
    let place = |task: &str| tasks.iter().position(|known| *known == task);
    found.sort_by_key(|(task, setting)| (place(task), *setting == BASELINE));
    found
}

/// Writes a page with one or several runs to `path`; answers to the same task share a figure.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, title: &str, runs: &[Run]) -> Result<()> {
    let wrong = |error| Error::Report(Box::new(error));
    let mut environment = Environment::new();
    environment
        .add_template("report.html", include_str!("report.html"))
        .map_err(wrong)?;
    let template = environment.get_template("report.html").map_err(wrong)?;
    let run = |run: &Run| {
        let rows: Vec<_> = run.summaries.iter().map(Summary::cells).collect();
        json!({ "title": run.title, "rows": rows, "comparisons": run.comparisons, "asked": run.asked })
    };
    let html = template.render(context! {
        title => title,
        header => Summary::HEADER,
        runs => Serde(&runs.iter().map(run).collect::<Vec<_>>()),
        figures => Serde(&figures(runs)),
    });
    replace(path, &html.map_err(wrong)?)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn summary(setting: &str, tpf: Option<f64>, score: f64) -> Summary {
        Summary {
            task: "sums".into(),
            setting: setting.into(),
            n: 10,
            samples: 1,
            pass_at: std::collections::BTreeMap::new(),
            quality: crate::summary::Quality::Accuracy,
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

    pub(super) fn run(title: &str, summaries: &[Summary]) -> Run {
        Run {
            title: title.into(),
            summaries: summaries.to_vec(),
            comparisons: Vec::new(),
            asked: "{}".into(),
        }
    }

    fn page(runs: &[Run]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.html");
        write(&path, "<child>", runs).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_page_asks_nothing_of_the_network_and_escapes_names() {
        let html = page(&[run(
            "<child>",
            &[summary("a<b", Some(1.0), 0.9), summary("c", Some(2.0), 0.8)],
        )]);
        assert!(
            html.contains("a&lt;b") && html.contains("&lt;child&gt;"),
            "{html}"
        );
        assert!(!html.contains("src=") && !html.contains("http:") && !html.contains("https:"));
        assert_eq!(html.matches("<circle").count(), 2);
    }

    #[test]
    fn a_single_setting_has_no_curve() {
        let rows = [summary("a", Some(1.0), 0.9), summary("b", None, 0.5)];
        assert!(!page(&[run("m", &rows)]).contains("<svg"));
    }

    #[test]
    fn rows_of_a_task_stand_together_with_the_baseline_last() {
        let row = |task: &str, setting: &str, correct| {
            let record = json!({"task": task, "setting": setting, "id": "0", "prompt": "", "answer": "",
                "extracted": "", "correct": correct, "verdict": "", "tokens": 1, "denoise_forwards": 1});
            (serde_json::from_value(record).unwrap(), Cost::default())
        };
        let rows = [
            row("sums", "z", true),
            row("sums", "a", true),
            row("other", "a", true),
            row("sums", BASELINE, false),
            row("other", BASELINE, true),
        ];
        let run = Run::new("m".into(), &rows, &json!({})).unwrap();
        let order: Vec<_> = run
            .summaries
            .iter()
            .map(|it| format!("{} {}", it.task, it.setting))
            .collect();
        assert_eq!(
            order,
            [
                "sums z",
                "sums a",
                "sums baseline",
                "other a",
                "other baseline"
            ]
        );
        let by: Vec<f64> = run
            .comparisons
            .iter()
            .map(|it| it.paired.difference)
            .collect();
        assert_eq!(by, [1.0, 1.0, 0.0]);
    }
}
