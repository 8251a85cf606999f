//! Checkpoints of a run: enough to go on as if nothing had happened.
//!
//! ```text
//! checkpoints/step-000100/
//!   config.json, model.safetensors, tokenizer files    the model, weights in f32
//!   optimizer.safetensors                              both moments of what is trained, by name
//!   state.json                                         counters and the place in the data
//! ```
//!
//! Of a run that trains an adapter, `adapter_config.json` and `adapter_model.safetensors` take the place of
//! the model: its base is where the recipe says.
//!
//! A directory appears under its name when it is complete, so a run that is killed while saving
//! or removing leaves complete checkpoints and, at worst, a `.partial` that the next start removes.

use std::path::{Path, PathBuf};

use llada_model::{PartialDir, SaveOptions, StorageDtype, write_adapter, write_model};
use llada_tensor::{Tensor, map_file};
use llada_text::Tokenizer;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::data::Cursor;
use crate::error::{Error, Result};
use crate::optimizer::{Moments, Optimizer};
use crate::step::Learner;

const MOMENTS: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Counters of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Steps taken, those without a scored token included.
    pub(crate) step: u64,
    /// Steps without a scored token.
    pub(crate) skipped_steps: u64,
    /// Tokens of the documents trained on.
    pub(crate) tokens: u64,
    /// Place in each source of the data; none before the first step.
    pub(crate) cursors: Vec<Cursor>,
    /// Time spent, in seconds.
    pub(crate) seconds: f64,
    /// Updates that the optimiser made.
    pub(crate) optimizer_steps: u64,
}

/// Which checkpoints stay when a new one is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retention {
    /// So many of the newest.
    pub(crate) last: usize,
    /// And those of these steps.
    pub(crate) best: Vec<u64>,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// Opens the directory, and removes what an interrupted save left behind.
    pub(crate) fn open(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let checkpoints = Self { dir };
        for path in list(&checkpoints.dir)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "partial")
            {
                std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(checkpoints)
    }

    /// Returns the newest checkpoint.
    pub(crate) fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(self.complete()?.pop().map(|(_, path)| path))
    }

    /// Writes a checkpoint, then removes all that are not to stay.
    pub(crate) fn save(
        &self,
        learner: &Learner,
        tokenizer: Option<&Tokenizer>,
        state: &State,
        retention: &Retention,
    ) -> Result<()> {
        let dir = self.dir.join(format!("step-{:06}", state.step));
        if dir.exists() {
            return Ok(()); // a step has one result, and it is there
        }
        let partial = PartialDir::create(&dir)?;
        write_to(partial.path(), learner, tokenizer, state)?;
        partial.commit()?;
        let complete = self.complete()?;
        for (step, path) in &complete[..complete.len().saturating_sub(retention.last)] {
            if !retention.best.contains(step) {
                remove(path)?;
            }
        }
        Ok(())
    }

    /// Lists complete checkpoints with their steps, oldest first.
    fn complete(&self) -> Result<Vec<(u64, PathBuf)>> {
        list_complete(&self.dir)
    }
}

/// Removes a checkpoint under the name of an incomplete one: if that is interrupted, the rest is none.
fn remove(path: &Path) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::rename(path, &partial).map_err(Error::io("remove", path))?;
    std::fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))
}

/// Lists the complete checkpoints in a directory with their steps, oldest first.
pub(crate) fn list_complete(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("step-")?.parse::<u64>().ok()
    };
    let mut complete: Vec<_> = list(dir)?
        .into_iter()
        .filter_map(|path| Some((step(&path)?, path)))
        .collect();
    complete.sort();
    Ok(complete)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    entries
        .map(|entry| Ok(entry.map_err(Error::io("read", dir))?.path()))
        .collect()
}

fn write_to(
    dir: &Path,
    learner: &Learner,
    tokenizer: Option<&Tokenizer>,
    state: &State,
) -> Result<()> {
    let Learner {
        model,
        optimizer,
        adapter,
        ..
    } = learner;
    match adapter {
        Some(adapter) => write_adapter(dir, &model.config, &model.weights, adapter)?,
        None => {
            let options = SaveOptions {
                dtype: Some(StorageDtype::F32),
                ..SaveOptions::default()
            };
            write_model(dir, &model.config, &model.weights, &options)?;
        }
    }
    if let Some(tokenizer) = tokenizer {
        tokenizer.save(dir)?;
    }
    write_moments(&dir.join(MOMENTS), optimizer)?;
    let state = State {
        optimizer_steps: optimizer.num_steps,
        ..state.clone()
    };
    let text = serde_json::to_string_pretty(&state).expect("counters can be written");
    write_synced(&dir.join(STATE), text.as_bytes())
}

/// Reads the counters of a checkpoint, and its moments into an optimiser of what it trained.
pub(crate) fn restore(dir: &Path, optimizer: &mut Optimizer) -> Result<State> {
    let path = dir.join(STATE);
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let state: State = serde_json::from_slice(&text)
        .map_err(|e| Error::unsuitable(&path, format!("is damaged: {e}")))?;
    optimizer.num_steps = state.optimizer_steps;
    read_moments(&dir.join(MOMENTS), optimizer)?;
    Ok(state)
}

fn write_moments(path: &Path, optimizer: &Optimizer) -> Result<()> {
    let damaged = |e| Error::unsuitable(path, format!("cannot be written: {e}"));
    let mut views = Vec::new();
    for moments in &optimizer.moments {
        for (which, tensor) in [("first", &moments.first), ("second", &moments.second)] {
            let bytes = bytemuck::cast_slice(tensor.f32s());
            let view = TensorView::new(Dtype::F32, tensor.shape().to_vec(), bytes);
            views.push((format!("{which}.{}", moments.name), view.map_err(damaged)?));
        }
    }
    safetensors::serialize_to_file(views, None, path).map_err(damaged)?; // tensor by tensor
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    file.sync_all().map_err(Error::io("write", path))
}

fn read_moments(path: &Path, optimizer: &mut Optimizer) -> Result<()> {
    let bytes = map_file(path).map_err(Error::io("read", path))?;
    let damaged = |e| Error::unsuitable(path, format!("is damaged: {e}"));
    let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
    for moments in &mut optimizer.moments {
        let Moments {
            name,
            first,
            second,
            ..
        } = moments;
        read_moment(path, &file, &format!("first.{name}"), first)?;
        read_moment(path, &file, &format!("second.{name}"), second)?;
    }
    Ok(())
}

fn read_moment(path: &Path, file: &SafeTensors<'_>, name: &str, tensor: &mut Tensor) -> Result<()> {
    let view = file
        .tensor(name)
        .ok()
        .filter(|view| view.dtype() == Dtype::F32 && view.shape() == tensor.shape())
        .ok_or_else(|| Error::unsuitable(path, format!("lacks a fitting `{name}`")))?;
    let words = view.data().chunks_exact(4);
    for (value, word) in tensor.f32s_mut().iter_mut().zip(words) {
        *value = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = std::fs::File::create(path)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all() // a rename must not outrun the data it names
    };
    write().map_err(Error::io("write", path))
}
