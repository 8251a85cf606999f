//! The arithmetic mean of checkpoints (`training.md` section 6.4), written tensor by tensor.
//!
//! Every checkpoint stays in its memory map; what is held in memory is one tensor of the result. Sums
//! are in f64 and rounded once, so the order of the checkpoints does not matter.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

use llada_tensor::{BlockFormat, Tensor};
use serde_json::{Map, Value};

use crate::load::{Checkpoint, Source};
use crate::save::{Encode, write_params};
use crate::{Config, Error, SaveOptions, StorageDtype, Weights, bytes};

/// Elements that are averaged at a time.
const CHUNK: usize = 1 << 16;

/// Writes `config.json` and the mean of the weights of `checkpoints` into the existing directory `out`.
///
/// # Errors
/// If there is no checkpoint, one cannot be read, their configurations differ in anything but the
/// element type, or a file cannot be written.
pub fn write_mean(out: &Path, checkpoints: &[PathBuf], options: &SaveOptions) -> Result<(), Error> {
    let opened: Vec<_> = checkpoints
        .iter()
        .map(|path| Checkpoint::open(path))
        .collect::<Result<_, _>>()?;
    let Some(Checkpoint { config, .. }) = opened.first() else {
        return Err(refused(out, "needs at least one checkpoint".into()));
    };
    for (dir, other) in checkpoints.iter().zip(&opened) {
        require_same_config(&checkpoints[0], config, dir, &other.config)?;
    }
    let mut means = Weights::specs(config).map_into(|_, _| Mean(Vec::new()));
    for (dir, checkpoint) in checkpoints.iter().zip(&opened) {
        let (sources, _) = checkpoint.sources().map_err(|error| unfit(dir, error))?;
        let sources = sources.into_params();
        for ((_, mean), (_, (_, source))) in means.params_mut().into_iter().zip(sources) {
            mean.0.push(source);
        }
    }
    write_params(out, config, &means, options)
}

fn require_same_config(
    first_dir: &Path,
    first: &Config,
    dir: &Path,
    other: &Config,
) -> Result<(), Error> {
    let (first, other) = (settings(first), settings(other));
    let mut keys = first.keys().chain(other.keys());
    let Some(key) = keys.find(|&key| first.get(key) != other.get(key)) else {
        return Ok(());
    };
    let said = |settings: &Map<String, Value>| {
        settings.get(key).map_or("nothing".into(), Value::to_string)
    };
    let problem = format!(
        "cannot be merged with `{}`: config.json says {} for `{key}`, the other says {}",
        first_dir.display(),
        said(&other),
        said(&first),
    );
    Err(refused(dir, problem))
}

/// Returns everything that a configuration says but the element type of its file.
fn settings(config: &Config) -> Map<String, Value> {
    let mut config = config.clone();
    config.storage = StorageDtype::F32;
    serde_json::from_str(&config.to_json()).expect("a configuration is written as a JSON object")
}

fn unfit(dir: &Path, error: Error) -> Error {
    match error {
        Error::Tensors { .. } => refused(dir, error.to_string()),
        other => other,
    }
}

fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint {
        path: path.into(),
        problem,
    }
}

/// A parameter in each of the checkpoints.
struct Mean<'a>(Vec<Source<'a>>);

impl Encode for Mean<'_> {
    fn encode(&self, range: Range<usize>, dtype: StorageDtype) -> Cow<'_, [u8]> {
        let mut encoded = Vec::new();
        for start in range.clone().step_by(CHUNK) {
            let mean = self.mean(start..range.end.min(start + CHUNK));
            let len = mean.len();
            let mean = Tensor::from_f32(&[len], mean);
            encoded.extend_from_slice(&bytes::encode(&mean, 0..len, dtype));
        }
        encoded.into()
    }
}

impl Mean<'_> {
    fn mean(&self, range: Range<usize>) -> Vec<f32> {
        let mut sums = vec![0.0_f64; range.len()];
        for source in &self.0 {
            let values = values(source, range.clone());
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += f64::from(value));
        }
        let count = self.0.len() as f64;
        sums.iter().map(|sum| (sum / count) as f32).collect()
    }
}

/// Returns some elements of a parameter; those of one that no file has are zero.
pub(crate) fn values(source: &Source<'_>, range: Range<usize>) -> Vec<f32> {
    let mut values = Vec::with_capacity(range.len());
    match source {
        Source::Zeros => values.resize(range.len(), 0.0),
        Source::Rows(pieces) => {
            let mut start = 0; // first element of the piece
            for &(format, bytes) in pieces {
                let end = start + bytes.len() / format.block_bytes() * format.block_values();
                let overlap = range.start.clamp(start, end)..range.end.clamp(start, end);
                let wanted = overlap.start - start..overlap.end - start;
                append(&mut values, format, bytes, wanted);
                start = end;
            }
        }
    }
    values
}

/// Appends elements `wanted` of `bytes`, which are read in whole blocks.
fn append(values: &mut Vec<f32>, format: BlockFormat, bytes: &[u8], wanted: Range<usize>) {
    let (len, size) = (format.block_values(), format.block_bytes());
    let blocks = wanted.start / len..wanted.end.div_ceil(len);
    let mut read = vec![0.0; blocks.len() * len];
    format.dequantise(&bytes[blocks.start * size..blocks.end * size], &mut read);
    let first = blocks.start * len;
    values.extend_from_slice(&read[wanted.start - first..wanted.end - first]);
}

#[cfg(test)]
mod tests {
    use llada_tensor::{Precision, Weight};

    use super::*;
    use crate::{KeepDtype, load, save};

    fn config() -> Config {
        Config::from_json(include_str!("../../../testdata/golden/model/config.json")).unwrap()
    }

    fn saved(dir: &Path, config: &Config, seed: u64) -> PathBuf {
        let path = dir.join(format!("seed-{seed}"));
        let weights = Weights::random(config, seed, Precision::F32);
        save(&path, config, &weights, &f32_files()).unwrap();
        path
    }

    fn f32_files() -> SaveOptions {
        SaveOptions {
            dtype: Some(StorageDtype::F32),
            ..SaveOptions::default()
        }
    }

    fn merged(dir: &Path, checkpoints: &[PathBuf]) -> Vec<u8> {
        std::fs::create_dir_all(dir).unwrap();
        write_mean(dir, checkpoints, &f32_files()).unwrap();
        std::fs::read(dir.join("model.safetensors")).unwrap()
    }

    #[test]
    fn the_mean_of_one_checkpoint_is_that_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let only = saved(dir.path(), &config(), 1);
        let expected = std::fs::read(only.join("model.safetensors")).unwrap();
        assert_eq!(merged(&dir.path().join("merged"), &[only]), expected);
    }

    #[test]
    fn the_order_of_checkpoints_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let mut inputs: Vec<_> = (1..=4).map(|s| saved(dir.path(), &config(), s)).collect();
        let forwards = merged(&dir.path().join("forwards"), &inputs);
        inputs.reverse();
        assert_eq!(merged(&dir.path().join("backwards"), &inputs), forwards);
    }

    #[test]
    fn every_element_is_the_mean_of_its_elements() {
        let dir = tempfile::tempdir().unwrap();
        let inputs: Vec<_> = (1..=3).map(|s| saved(dir.path(), &config(), s)).collect();
        merged(&dir.path().join("merged"), &inputs);
        let read = |path: &Path| load(path, Precision::F32, KeepDtype::F32).unwrap().weights;
        let all: Vec<_> = inputs.iter().map(|path| read(path)).collect();
        let mean = read(&dir.path().join("merged"));
        let all: Vec<_> = all.iter().map(Weights::params).collect();
        for (index, (name, mean)) in mean.params().into_iter().enumerate() {
            let values = |params: &Vec<(String, &Weight)>| params[index].1.values().f32s().to_vec();
            let all: Vec<Vec<f32>> = all.iter().map(values).collect();
            for (element, &found) in mean.values().f32s().iter().enumerate() {
                let sum: f64 = all.iter().map(|values| f64::from(values[element])).sum();
                assert_eq!(found, (sum / 3.0) as f32, "{name} {element}");
            }
        }
    }

    #[test]
    fn different_configurations_are_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = settings(&config());
        other.insert("rms_norm_eps".into(), 1e-3.into());
        let other = Config::from_json(&Value::Object(other).to_string()).unwrap();
        let inputs = [
            saved(dir.path(), &config(), 1),
            saved(dir.path(), &other, 2),
        ];
        let message = write_mean(dir.path(), &inputs, &f32_files())
            .unwrap_err()
            .to_string();
        assert!(message.contains("rms_norm_eps"), "{message}");
        assert!(message.contains("seed-2"), "{message}");
    }
}
