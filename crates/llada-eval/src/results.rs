//! What was finished, one line per item, so that a run can be killed and resumed.
//!
//! `results.jsonl` holds only what the item, the model and the setting decide: a resumed run ends with
//! the same bytes as an uninterrupted one. What also depends on the machine and on the requests beside
//! it (time, forwards of prompts and commits) goes to `costs.jsonl`, row by row beside it. `run.json`
//! says what was asked, so that the rows of two runs never mix.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One finished item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The task.
    pub task: String,
    /// How it was decoded.
    pub setting: String,
    /// The item.
    pub id: String,
    /// Which of several answers to the item, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub sample: usize,
    /// The question as it was put; the context, if likelihoods were asked for.
    pub prompt: String,
    /// The answer; the choice, if likelihoods were asked for.
    pub answer: String,
    /// The part of the answer that counted.
    pub extracted: String,
    /// Whether it is right; `None` for a perplexity.
    pub correct: Option<bool>,
    /// `correct`, `wrong`, or how a program failed.
    pub verdict: String,
    /// Tokens written up to the first that ends the text, which is counted; scored tokens, if
    /// likelihoods were asked for.
    pub tokens: usize,
    /// Forwards that decided tokens; 0 for likelihoods.
    pub denoise_forwards: usize,
    /// Tokens per denoising forward.
    pub tpf: Option<f64>,
    /// Negative log-likelihoods in nats: of each choice, or of the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nll: Vec<f64>,
}

fn is_first(sample: &usize) -> bool {
    *sample == 0
}

/// What an item cost on this machine and in this company.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Engine time since the previous item, in seconds; the sum is the time of all.
    pub seconds: f64,
    /// Forwards of the prompt.
    pub prefill_forwards: usize,
    /// Forwards of finished blocks alone.
    pub commit_forwards: usize,
}

/// The files of a run.
#[derive(Debug)]
pub struct Results {
    dir: PathBuf,
    rows: Vec<(Record, Cost)>,
    records: File,
    costs: File,
}

impl Results {
    /// Starts a run in `dir`, or goes on with one that was asked for the same.
    ///
    /// # Errors
    /// If `dir` holds results of another run, or its files cannot be read and written.
    pub fn open(dir: &Path, run: &Value) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::write(dir))?;
        check_run(dir, run)?;
        let (records_path, costs_path) = (dir.join("results.jsonl"), dir.join("costs.jsonl"));
        let records: Vec<Record> = whole_lines(&records_path)?;
        let costs: Vec<Cost> = whole_lines(&costs_path)?;
        // A kill between the two files leaves one row more in the first; it is done again.
        let rows: Vec<_> = records.into_iter().zip(costs).collect();
        let records = rewritten(&records_path, rows.iter().map(|(record, _)| record))?;
        let costs = rewritten(&costs_path, rows.iter().map(|(_, cost)| cost))?;
        Ok(Self {
            dir: dir.to_owned(),
            rows,
            records,
            costs,
        })
    }

    /// Returns all finished items, in the order in which they were finished.
    pub fn rows(&self) -> &[(Record, Cost)] {
        &self.rows
    }

    /// Returns the finished items of a task under a setting, in the order of the data.
    pub fn of<'a>(
        &'a self,
        task: &'a str,
        setting: &'a str,
    ) -> impl Iterator<Item = &'a (Record, Cost)> {
        self.rows
            .iter()
            .filter(move |(row, _)| row.task == task && row.setting == setting)
    }

    /// Adds a finished item; it is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, record: Record, cost: Cost) -> Result<()> {
        append(&self.dir.join("results.jsonl"), &mut self.records, &record)?;
        append(&self.dir.join("costs.jsonl"), &mut self.costs, &cost)?;
        self.rows.push((record, cost));
        Ok(())
    }
}

/// Reads what a run was asked for and what it has finished, and changes nothing.
///
/// # Errors
/// If `dir` holds no run, or its files cannot be read.
pub fn read_run(dir: &Path) -> Result<(Value, Vec<(Record, Cost)>)> {
    let path = dir.join("run.json");
    let text = std::fs::read_to_string(&path).map_err(Error::read(&path))?;
    let run = serde_json::from_str(&text).map_err(|error| Error::row(&path, 0, error))?;
    let records: Vec<Record> = whole_lines(&dir.join("results.jsonl"))?;
    let costs: Vec<Cost> = whole_lines(&dir.join("costs.jsonl"))?;
    Ok((run, records.into_iter().zip(costs).collect()))
}

/// Writes what is run, or compares it with what was run before.
fn check_run(dir: &Path, run: &Value) -> Result<()> {
    let path = dir.join("run.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return replace(&path, &format!("{run:#}\n"));
        }
        Err(error) => return Err(Error::read(&path)(error)),
    };
    let before: Value = serde_json::from_str(&text).map_err(|error| Error::row(&path, 0, error))?;
    match difference("", &before, run) {
        None => Ok(()),
        Some(message) => Err(Error::OtherRun {
            dir: dir.to_owned(),
            message,
        }),
    }
}

/// Says the first thing in which two runs differ, inside of what both have.
fn difference(name: &str, before: &Value, now: &Value) -> Option<String> {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
            names.sort_unstable();
            names.dedup();
            let value = |of: &Map<String, Value>, name: &str| of.get(name).cloned();
            names.into_iter().find_map(|name| {
                let [before, now] = [before, now].map(|of| value(of, name).unwrap_or_default());
                difference(name, &before, &now)
            })
        }
        _ => (before != now).then(|| format!("`{name}` was {before}, now {now}")),
    }
}

/// Reads a file of JSON lines; a last line that a kill cut off is left out.
fn whole_lines<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::read(path)(error)),
    };
    let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
    let parse =
        |(row, line)| serde_json::from_str(line).map_err(|error| Error::row(path, row, error));
    whole.lines().enumerate().map(parse).collect()
}

/// Writes rows beside the file, renames, and opens it for more.
fn rewritten<'a, T: Serialize + 'a>(
    path: &Path,
    rows: impl Iterator<Item = &'a T>,
) -> Result<File> {
    let mut text = String::new();
    for row in rows {
        text += &line(path, row)?;
    }
    replace(path, &text)?;
    OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(Error::write(path))
}

fn append<T: Serialize>(path: &Path, file: &mut File, row: &T) -> Result<()> {
    file.write_all(line(path, row)?.as_bytes())
        .map_err(Error::write(path))
}

fn line<T: Serialize>(path: &Path, row: &T) -> Result<String> {
    let text = serde_json::to_string(row).map_err(|error| Error::write(path)(error.into()))?;
    Ok(text + "\n")
}

/// Writes the records of answers made elsewhere to `results.jsonl` in `dir`, in place of what was there.
///
/// # Errors
/// If it cannot be written.
pub fn write_records(dir: &Path, records: &[Record]) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(Error::write(dir))?;
    rewritten(&dir.join("results.jsonl"), records.iter()).map(drop)
}

/// Writes a file beside its place and renames it.
///
/// # Errors
/// If it cannot be written; what was there stays.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text).map_err(Error::write(&beside))?;
    std::fs::rename(&beside, path).map_err(Error::write(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(id: usize) -> Record {
        Record {
            task: "t".into(),
            setting: "s".into(),
            id: id.to_string(),
            sample: 0,
            prompt: "p".into(),
            answer: "a".into(),
            extracted: "a".into(),
            correct: Some(id.is_multiple_of(2)),
            verdict: "wrong".into(),
            tokens: 3,
            denoise_forwards: 2,
            tpf: Some(1.5),
            nll: vec![0.1 + 0.2],
        }
    }

    fn finish(dir: &Path) -> Vec<u8> {
        let mut results = Results::open(dir, &json!({"n": 5})).unwrap();
        for id in results.of("t", "s").count()..5 {
            results.push(record(id), Cost::default()).unwrap();
        }
        std::fs::read(dir.join("results.jsonl")).unwrap()
    }

    #[test]
    fn a_run_killed_at_any_byte_of_either_file_resumes_to_the_same_file() {
        let whole = tempfile::tempdir().unwrap();
        let expected = finish(whole.path());
        let costs = std::fs::read(whole.path().join("costs.jsonl")).unwrap();
        for (name, full) in [("results.jsonl", &expected), ("costs.jsonl", &costs)] {
            for cut in (0..full.len()).step_by(7) {
                std::fs::write(whole.path().join(name), &full[..cut]).unwrap();
                assert_eq!(finish(whole.path()), expected, "{name} cut at {cut}");
            }
        }
    }

    #[test]
    fn another_runs_results_are_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        Results::open(dir.path(), &json!({"limit": 5})).unwrap();
        let error = Results::open(dir.path(), &json!({"limit": 6}))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`limit` was 5, now 6"), "{error}");
        let files = |size| json!({"limit": 5, "files": {"a": [1], "b": [size]}});
        let dir = tempfile::tempdir().unwrap();
        Results::open(dir.path(), &files(2)).unwrap();
        let error = Results::open(dir.path(), &files(3))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`b` was [2], now [3]"), "{error}");
    }
}
