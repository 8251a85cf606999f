//! What validation said of each step, read back from `metrics.jsonl`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Validation results by step, then by name. Lower is better: all are nats per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Validations(BTreeMap<u64, BTreeMap<String, f64>>);

#[derive(Deserialize)]
struct Row {
    step: u64,
    #[serde(default)]
    valid: BTreeMap<String, f64>,
}

/// Reads the validations of a run.
pub(crate) fn read(metrics: &Path) -> Result<Validations> {
    let text = std::fs::read_to_string(metrics).map_err(Error::io("read", metrics))?;
    let rows = text.lines().enumerate().map(|(index, line)| {
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
    pub(crate) fn best(
        &self,
        metric: &str,
        steps: impl IntoIterator<Item = u64>,
        count: usize,
    ) -> Vec<u64> {
        let score = |step| Some((self.get(step, metric)?, step));
        let mut scored: Vec<(f64, u64)> = steps.into_iter().filter_map(score).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        scored.dedup();
        scored.truncate(count);
        scored.into_iter().map(|(_, step)| step).collect()
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
    fn the_best_steps_are_those_with_the_lowest_scores_among_the_ones_asked_for() {
        let rows = "{\"step\":1,\"loss\":9}\n\
            {\"step\":2,\"valid\":{\"block_4\":3.0}}\n{\"step\":3,\"valid\":{\"block_4\":1.0}}\n\
            {\"step\":4,\"valid\":{\"block_4\":2.0}}\n{\"step\":5,\"valid\":{\"block_4\":2.0}}\n";
        let scores = read_rows(rows).unwrap();
        assert_eq!(scores.best("block_4", 1..=5, 3), [3, 5, 4]);
        assert_eq!(scores.best("block_4", [1, 2], 3), [2]);
        assert_eq!(scores.best("ar", 1..=5, 3), [0_u64; 0]);
        assert_eq!(scores.names().into_iter().collect::<Vec<_>>(), ["block_4"]);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let message = read_rows("{\"step\":1}\nnonsense\n")
            .unwrap_err()
            .to_string();
        assert!(message.contains("line 2"), "{message}");
    }
}
