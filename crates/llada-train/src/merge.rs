//! Merging: a mean of checkpoints, or an adapter into its base.
//!
//! Top-k checkpoint merge (`training.md` section 6.4): the arithmetic mean of the best checkpoints of a
//! run. It replaces the decay of the learning rate (WSM, arXiv:2507.17634); it is no moving average
//! and knows no optimiser.

use std::path::{Path, PathBuf};

use llada_model::{Adapter, PartialDir, SaveOptions, StorageDtype, write_mean};

use crate::checkpoint::list_complete;
use crate::error::{Error, Result};
use crate::validations::{self, Better};

/// Files that decide how text becomes ids.
const TOKENIZER_FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// A checkpoint of a run and what validation said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Its directory.
    pub path: PathBuf,
    /// Its step.
    pub step: u64,
    /// Its validation.
    pub score: f64,
}

/// Writes the mean of `checkpoints` to the new directory `out`, with the tokenizer they share.
///
/// Expert biases are averaged too and written in f32.
///
/// # Errors
/// If a checkpoint cannot be read or holds an adapter, configurations, tensors or tokenizers differ, or
/// `out` exists or cannot be written; nothing is left behind then.
pub fn merge(checkpoints: &[PathBuf], out: &Path, dtype: StorageDtype) -> Result<()> {
    for checkpoint in checkpoints {
        if checkpoint.join("adapter_config.json").is_file() {
            let problem =
                "holds an adapter, of which a mean is no mean of models; merge it into its base";
            return Err(Error::unsuitable(checkpoint, problem));
        }
    }
    let options = SaveOptions {
        dtype: Some(dtype),
        ..SaveOptions::default()
    };
    let partial = PartialDir::create(out)?;
    copy_tokenizer(checkpoints, partial.path())?;
    write_mean(partial.path(), checkpoints, &options)?;
    Ok(partial.commit()?)
}

/// Writes a base with an adapter merged into its weights to the new directory `out`, in `dtype` or that of
/// the base, with the tokenizer of the base.
///
/// # Errors
/// If base or adapter cannot be read, they do not fit, or `out` exists or cannot be written; nothing is
/// left behind then.
pub fn merge_adapter(
    base: &Path,
    adapter: &Path,
    out: &Path,
    dtype: Option<StorageDtype>,
) -> Result<()> {
    let adapter = Adapter::open(adapter)?;
    let options = SaveOptions {
        dtype,
        ..SaveOptions::default()
    };
    let partial = PartialDir::create(out)?;
    copy_tokenizer(&[base.to_path_buf()], partial.path())?;
    llada_model::merge_adapter(partial.path(), base, &adapter, &options)?;
    Ok(partial.commit()?)
}

/// Copies the tokenizer that all checkpoints must have alike.
fn copy_tokenizer(checkpoints: &[PathBuf], out: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        if let Some(contents) = shared_file(checkpoints, name)? {
            let path = out.join(name);
            std::fs::write(&path, contents).map_err(Error::io("write", &path))?;
        }
    }
    Ok(())
}

/// Returns a file that all checkpoints must have alike, `None` if all lack it.
fn shared_file(checkpoints: &[PathBuf], name: &str) -> Result<Option<Vec<u8>>> {
    let read = |dir: &PathBuf| -> Result<Option<Vec<u8>>> {
        let path = dir.join(name);
        path.exists()
            .then(|| std::fs::read(&path).map_err(Error::io("read", &path)))
            .transpose()
    };
    let Some((first, others)) = checkpoints.split_first() else {
        return Ok(None);
    };
    let contents = read(first)?;
    for other in others {
        if read(other)? != contents {
            let problem = format!(
                "cannot be merged with `{}`: their `{name}` differ",
                first.display()
            );
            return Err(Error::unsuitable(other, problem));
        }
    }
    Ok(contents)
}

/// Finds the `count` checkpoints of a run that validation `metric` calls best, best first.
///
/// # Errors
/// If nothing is known of the metric, the run has no metrics or checkpoints, the metric was not
/// measured, or too few of the checkpoints that are still there were validated.
pub fn best_checkpoints(run: &Path, metric: &str, count: usize) -> Result<Vec<Scored>> {
    Better::of(metric)?;
    let scores = validations::read(&run.join("metrics.jsonl"))?;
    if !scores.names().contains(metric) {
        let names: Vec<_> = scores.names().into_iter().collect();
        let problem = format!("has no validation `{metric}`; it has {}", listed(&names));
        return Err(Error::unsuitable(run, problem));
    }
    let kept = list_complete(&run.join("checkpoints"))?;
    let best = scores.best(metric, kept.iter().map(|(step, _)| *step), count)?;
    if best.len() < count {
        let problem = format!(
            "has {} checkpoints with `{metric}`, and {count} are wanted; ask for fewer, or train \
             with `train.keep_best`",
            best.len()
        );
        return Err(Error::unsuitable(run, problem));
    }
    let scored = |step| {
        let (_, path) = kept.iter().find(|(kept, _)| *kept == step)?;
        Some(Scored {
            path: path.clone(),
            step,
            score: scores.get(step, metric)?,
        })
    };
    Ok(best.into_iter().filter_map(scored).collect())
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        names => format!("`{}`", names.join("`, `")),
    }
}
