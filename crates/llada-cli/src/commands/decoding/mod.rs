//! What the commands that decode share: requests from flags and rows, JSON from answers.

mod answer;
mod draft;
mod rows;

use std::path::Path;

use llada_engine::{Hooks, Method, Options, Request};
use llada_model::{Config, GgufFile};
use llada_request::{Checkpoint, EditIds, Settings};
use llada_tensor::Precision;
use llada_text::Tokenizer;

pub(super) use self::answer::to_json;
pub(super) use self::draft::{Slots, Speller};
pub(super) use self::rows::{Prompt, Row};
use super::gguf::read_tokenizer;
use crate::args::{IdArgs, PrecisionArg, PrecisionArgs};
use crate::failure;

/// A request, what its text is made with, and where it was written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) hooks: Hooks,
    pub(super) settings: Settings,
    /// `file:line` of its row, for messages.
    pub(super) place: Option<String>,
}

/// Reads the configuration and the tokenizer of a checkpoint, which may be lacking.
pub(super) fn open(
    dir: &Path,
    ids: &IdArgs,
    precision: &PrecisionArgs,
    ar: bool,
) -> anyhow::Result<Checkpoint> {
    let config = Config::of_checkpoint(dir)?;
    let mut options = Options::with_kv_precision(&config, kv_precision(dir, precision)?);
    options.mask_token_id = ids.mask_id.or(options.mask_token_id);
    if let Some(id) = ids.eos_id {
        options.eos_token_ids = vec![id];
    }
    let method = match ar {
        true => Method::Autoregression,
        false => Method::BlockDiffusion,
    };
    let edit_ids = EditIds {
        delete: ids.delete_id.or(config.delete_token_id),
        split: ids.split_id.or(config.split_token_id),
    };
    let vocab_size = config.vocab_size;
    Ok(Checkpoint::new(
        tokenizer(dir)?,
        options,
        method,
        edit_ids,
        vocab_size,
    ))
}

/// Returns the precision of a checkpoint's keys and values: the one asked for, or bf16 where products or
/// weights are coarse anyway.
pub(super) fn kv_precision(dir: &Path, args: &PrecisionArgs) -> anyhow::Result<Precision> {
    if let Some(precision) = args.kv_precision {
        return Ok(precision.into());
    }
    match args.products == PrecisionArg::Bf16 || is_quantised(dir)? {
        true => Ok(Precision::Bf16),
        false => Ok(Precision::F32),
    }
}

fn is_quantised(path: &Path) -> anyhow::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let file = GgufFile::open(path)?;
    let is_quantised = file
        .tensors()
        .any(|(_, tensor)| tensor.format.is_quantised());
    Ok(is_quantised)
}

/// Makes the request that a row asks for. What the row leaves out, `defaults` say.
pub(super) fn job(checkpoint: &Checkpoint, row: Row, defaults: &Settings) -> anyhow::Result<Job> {
    let place = row.place.clone();
    let job = placeless(checkpoint, row, defaults).map_err(failure::usage);
    let job = failure::at(place.as_deref(), job)?;
    Ok(Job {
        request: job.request,
        hooks: job.hooks,
        settings: job.settings,
        place,
    })
}

fn placeless(
    checkpoint: &Checkpoint,
    row: Row,
    defaults: &Settings,
) -> llada_request::Result<llada_request::Job> {
    let prompt = match row.prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => checkpoint.encode(&text)?,
    };
    checkpoint.job(prompt, row.settings.or(defaults))
}

/// Loads the tokenizer of a checkpoint that has one.
pub(super) fn tokenizer(dir: &Path) -> anyhow::Result<Option<Tokenizer>> {
    if dir.is_file() {
        return read_tokenizer(dir);
    }
    match Tokenizer::load(dir) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(_) if !has_tokenizer(dir) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_tokenizer(dir: &Path) -> bool {
    ["tokenizer.json", "vocab.json", "encoder.json"]
        .iter()
        .any(|name| dir.join(name).exists())
}
