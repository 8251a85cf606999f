//! What validation said of each step, read back from `metrics.jsonl`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::trainer::log::complete_lines;

/// Which of two values of a validation is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

impl Better {
    /// Returns which values of a validation are better.
    ///
    /// # Errors
    /// If its name is unknown, or its values say nothing of that, as those of rejected answers.
    pub(crate) fn of(metric: &str) -> Result<Self> {
        let block_size = metric.strip_prefix("block_").map(str::parse::<usize>);
        match (metric, block_size) {
            ("ar" | "dpo_loss", _) | (_, Some(Ok(_))) => Ok(Self::Lower),
            ("dpo_accuracy" | "dpo_margin" | "dpo_chosen_elbo" | "ebpo_reward" | "ebpo_tpf", _) => {
                Ok(Self::Higher)
            }
            _ => Err(Error::UnknownMetric(metric.into())),
        }
    }

    /// Orders two values, the better first.
    fn order(self, a: f64, b: f64) -> Ordering {
        match self {
            Self::Lower => a.total_cmp(&b),
            Self::Higher => b.total_cmp(&a),
        }
    }
}

/// Validation results by step, then by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Validations(BTreeMap<u64, BTreeMap<String, f64>>);

#[derive(Deserialize)]
struct Row {
    step: u64,
    #[serde(default)]
    valid: BTreeMap<String, f64>,
}

/// Reads the validations of a run. A last line without an end is being written and left out.
pub(crate) fn read(metrics: &Path) -> Result<Validations> {
    let text = std::fs::read_to_string(metrics).map_err(Error::io("read", metrics))?;
    let rows = complete_lines(&text)
        .lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str::<Row>(line).map_err(|error| Error::Row {
                path: metrics.into(),
                line: index + 1,
                problem: format!("is no line of a run's metrics: {error}"),
            })
        });
    let rows = rows.collect::<Result<Vec<_>>>()?.into_iter();
    let validated = rows.filter(|row| !row.valid.is_empty());
    Ok(Validations(
        validated.map(|row| (row.step, row.valid)).collect(),
    ))
}

impl Validations {
    /// Lists the names under which something was measured.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.0
            .values()
            .flat_map(|row| row.keys().map(String::as_str))
            .collect()
    }

    /// Returns what a step scored.
    pub(crate) fn get(&self, step: u64, metric: &str) -> Option<f64> {
        self.0.get(&step)?.get(metric).copied()
    }

    /// Returns the best `count` of some steps, best first; steps that were not measured are left out,
    /// and of equals the later is better.
    ///
    /// # Errors
    /// If nothing is known of the metric; see [`Better::of`].
    pub(crate) fn best(
        &self,
        metric: &str,
        steps: impl IntoIterator<Item = u64>,
        count: usize,
    ) -> Result<Vec<u64>> {
        let better = Better::of(metric)?;
        let score = |step| Some((self.get(step, metric)?, step));
        let mut scored: Vec<(f64, u64)> = steps.into_iter().filter_map(score).collect();
        scored.sort_by(|a, b| better.order(a.0, b.0).then(b.1.cmp(&a.1)));
        scored.dedup();
        scored.truncate(count);
        Ok(scored.into_iter().map(|(_, step)| step).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_rows(rows: &str) -> Result<Validations> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, rows).unwrap();
        read(&path)
    }

    #[test]
    fn the_best_steps_are_those_with_the_best_scores_among_the_ones_asked_for() {
        let rows = "{\"step\":1,\"loss\":9}\n\
            {\"step\":2,\"valid\":{\"block_4\":3.0}}\n{\"step\":3,\"valid\":{\"block_4\":1.0}}\n\
            {\"step\":4,\"valid\":{\"block_4\":2.0}}\n{\"step\":5,\"valid\":{\"block_4\":2.0}}\n";
        let scores = read_rows(rows).unwrap();
        assert_eq!(scores.best("block_4", 1..=5, 3).unwrap(), [3, 5, 4]);
        assert_eq!(scores.best("block_4", [1, 2], 3).unwrap(), [2]);
        assert_eq!(scores.best("ar", 1..=5, 3).unwrap(), [0_u64; 0]);
        assert_eq!(scores.names().into_iter().collect::<Vec<_>>(), ["block_4"]);
    }

    #[test]
    fn of_an_accuracy_the_highest_is_best() {
        let rows = "{\"step\":1,\"valid\":{\"dpo_accuracy\":0.5,\"dpo_loss\":0.7}}\n\
            {\"step\":2,\"valid\":{\"dpo_accuracy\":0.9,\"dpo_loss\":0.3}}\n";
        let scores = read_rows(rows).unwrap();
        for metric in ["dpo_accuracy", "dpo_loss"] {
            assert_eq!(scores.best(metric, 1..=2, 1).unwrap(), [2], "{metric}");
        }
    }

    #[test]
    fn a_metric_without_a_direction_is_refused_with_the_known_ones() {
        for metric in ["dpo_rejected_elbo", "block_x", "loss"] {
            let message = Better::of(metric).unwrap_err().to_string();
            assert!(
                message.contains(metric) && message.contains("`block_N`"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_half_written_last_line_is_left_out() {
        let scores = read_rows("{\"step\":1,\"valid\":{\"ar\":3.0}}\n{\"step\":2,\"va").unwrap();
        assert_eq!(scores.get(1, "ar"), Some(3.0));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let message = read_rows("{\"step\":1}\nnonsense\n")
            .unwrap_err()
            .to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}
