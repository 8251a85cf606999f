//! From the lines of `metrics.jsonl` to one series per number.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::trainer::log::complete_lines;

/// Step and value, in order of the steps.
pub(super) type Points = Vec<(f64, f64)>;

/// What a run measured.
#[derive(Debug)]
pub(super) struct Run {
    /// Name of its directory.
    pub(super) name: String,
    /// By key, then by part of the key; a plain number has one part without name.
    series: BTreeMap<String, Vec<(String, Points)>>,
}

impl Run {
    /// Reads a run directory. A last line without an end is being written and left out.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let mut run = Self {
            name: name_of(dir),
            series: BTreeMap::new(),
        };
        for (index, line) in complete_lines(&text).lines().enumerate() {
            let damaged = |problem: String| Error::Row {
                path: path.clone(),
                line: index + 1,
                problem,
            };
            let row: Map<String, Value> = serde_json::from_str(line)
                .map_err(|error| damaged(format!("is no line of a run's metrics: {error}")))?;
            let step = row.get("step").and_then(Value::as_f64);
            let step = step.ok_or_else(|| damaged("has no `step`".into()))?;
            row.iter()
                .for_each(|(key, value)| run.add(step, key, value));
        }
        for parts in run.series.values_mut() {
            parts.sort_by_key(|(name, _)| (name.len(), name.clone())); // block_4 before block_16
        }
        Ok(run)
    }

    fn add(&mut self, step: f64, key: &str, value: &Value) {
        match value {
            Value::Object(parts) => {
                for (part, value) in parts {
                    match value {
                        Value::Array(_) => self.add(step, &format!("{key}.{part}"), value),
                        value => self.push(step, key, part, value),
                    }
                }
            }
            Value::Array(parts) => {
                for (index, value) in parts.iter().enumerate() {
                    self.push(step, key, &part_name(key, index), value);
                }
            }
            value => self.push(step, key, "", value),
        }
    }

    fn push(&mut self, step: f64, key: &str, part: &str, value: &Value) {
        let Some(value) = value.as_f64() else { return };
        let parts = self.series.entry(key.to_owned()).or_default();
        let index = parts.iter().position(|(name, _)| name == part);
        let index = index.unwrap_or_else(|| {
            parts.push((part.to_owned(), Points::new()));
            parts.len() - 1
        });
        parts[index].1.push((step, value));
    }

    /// Lists what was measured.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.series.keys().map(String::as_str)
    }

    /// Lists the series of a key with their names.
    pub(super) fn parts(&self, key: &str) -> impl Iterator<Item = (&str, &[(f64, f64)])> {
        let parts = self.series.get(key).into_iter().flatten();
        parts.map(|(name, points)| (name.as_str(), points.as_slice()))
    }

    /// Returns the newest value of a plain number.
    pub(super) fn last(&self, key: &str) -> Option<f64> {
        let (_, points) = self.parts(key).next()?;
        Some(points.last()?.1)
    }
}

/// Mask ratios come in tenths; parts of other lists are numbered.
fn part_name(key: &str, index: usize) -> String {
    match key {
        "nll_by_mask_ratio" => format!("0.{index}–{:.1}", (index + 1) as f64 / 10.0),
        _ => index.to_string(),
    }
}

fn name_of(dir: &Path) -> String {
    let name = dir.canonicalize().ok();
    let name = name.as_deref().unwrap_or(dir).file_name();
    name.map_or_else(
        || dir.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
