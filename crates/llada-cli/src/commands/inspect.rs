//! `llada inspect`: what a checkpoint is, its logits, and golden parity.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use llada_diffusion::{BlockSize, block_causal_ranges, causal_ranges, full_ranges};
use llada_model::{Config, GgufFile, GgufTensor, Input, ParamSpec, Weights};
use llada_tensor::{KeyRanges, Precision};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{load_model, models};
use crate::args::{InspectArgs, InspectCommand, LogitsArgs, ParityArgs};
use crate::{failure, ui};

/// Bytes above which the text of a key is not shown.
const LONG_TEXT: usize = 100;

pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    match (&args.what, &args.path) {
        (Some(InspectCommand::Logits(args)), _) => logits(args),
        (Some(InspectCommand::Parity(args)), _) => parity(args),
        (None, Some(path)) => describe(&models::texts(path)?, args.json),
        (None, None) => Err(failure::usage(
            "expected a config.json, a checkpoint directory, a GGUF file or a Hub id\n\nhint: llada inspect assets/tinystories-656k",
        )),
    }
}

/// Prints architecture, sizes and parameter counts.
fn describe(path: &Path, as_json: bool) -> anyhow::Result<()> {
    if path
        .extension()
        .is_some_and(|extension| extension == "gguf")
    {
        return print(gguf_description(path)?, as_json);
    }
    let (dir, config) = if path.is_dir() {
        (path, Config::from_dir(path)?)
    } else {
        let text = std::fs::read_to_string(path).map_err(|error| {
            failure::usage(format!("cannot read `{}`: {error}", path.display()))
        })?;
        (
            path.parent().unwrap_or(path),
            Config::from_json(&text).map_err(failure::usage)?,
        )
    };
    print(description(&config, has_weights(dir)), as_json)
}

/// Describes a GGUF file: beside the model, its keys, its formats and its tensors.
fn gguf_description(path: &Path) -> anyhow::Result<Value> {
    let file = GgufFile::open(path).map_err(failure::usage)?;
    let config = Config::of_checkpoint(path).map_err(failure::usage)?;
    let mut description = description(&config, true);
    let mut formats: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, tensor) in file.tensors() {
        *formats.entry(tensor.format.name()).or_default() += tensor.num_bytes();
    }
    let tensor = |(name, tensor): (&str, &GgufTensor)| {
        let (format, shape, bytes) = (tensor.format.name(), &tensor.shape, tensor.num_bytes());
        let entry = json!({ "type": format, "shape": shape, "bytes": bytes });
        (name.to_owned(), entry)
    };
    let keys = file.metadata().iter();
    description["bytes_by_type"] = json!(formats);
    description["keys"] = keys
        .map(|(key, value)| (key.to_owned(), key_value(value)))
        .collect();
    description["tensors"] = Value::Object(file.tensors().map(tensor).collect());
    Ok(description)
}

/// Returns a key's value; of lists and long texts, how long they are.
fn key_value(value: &llada_model::Value) -> Value {
    use llada_model::Value::{Bool, Float, Floats, Int, Ints, Text, Texts};
    let list = |len: usize| json!(format!("{len} entries"));
    match value {
        Int(int) => json!(int),
        Float(float) => json!(float),
        Bool(on) => json!(on),
        Text(text) if text.len() > LONG_TEXT => json!(format!("{} bytes", text.len())),
        Text(text) => json!(text),
        Ints(ints) => list(ints.len()),
        Floats(floats) => list(floats.len()),
        Texts(texts) => list(texts.len()),
    }
}

fn print(description: Value, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return ui::line(serde_json::to_string_pretty(&description)?);
    }
    let Value::Object(entries) = description else {
        return Ok(());
    };
    for (key, value) in entries.iter().filter(|(key, _)| *key != "tensors") {
        match value {
            Value::Object(inner) => {
                for (name, value) in inner {
                    ui::line(format!("{key}.{name}: {}", plain(value)))?;
                }
            }
            value => ui::line(format!("{key}: {}", plain(value)))?,
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(count) => indicatif::HumanCount(count).to_string(),
            None => number.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Null => "not set".into(),
        other => other.to_string(),
    }
}

fn has_weights(dir: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"]
        .iter()
        .any(|name| dir.join(name).exists())
}

fn description(config: &Config, has_weights: bool) -> Value {
    let counts = config.parameter_counts();
    let specs = Weights::<ParamSpec>::specs(config);
    json!({
        "architecture": config.family.architecture(),
        "parameters": {
            "total": counts.total,
            "active": counts.active,
            "embedding": counts.embedding,
            "head": counts.head,
        },
        "config": {
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "num_experts": config.moe.as_ref().map_or(0, |moe| moe.num_experts),
            "num_experts_per_tok": config.moe.as_ref().map_or(0, |moe| moe.num_experts_per_tok),
            "max_position_embeddings": config.max_position_embeddings,
            "mask_token_id": config.mask_token_id,
            "block_size": config.block_size,
            "label_alignment": config.label_alignment.map(|alignment| alignment.to_string()),
            "eos_token_ids": config.eos_token_ids,
        },
        "weights": if has_weights { "present" } else { "absent" },
        "tensors": specs
            .params()
            .into_iter()
            .map(|(name, spec)| (name, json!(spec.shape)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

/// Writes the logits of every row.
fn logits(args: &LogitsArgs) -> anyhow::Result<()> {
    let model = load_model(&models::whole(&args.model)?, Precision::F32)?;
    let vocab_size = model.config.vocab_size;
    if let Some(id) = args.ids.iter().find(|id| **id as usize >= vocab_size) {
        return Err(failure::usage(format!(
            "--ids: {id} is not below the vocabulary size {vocab_size}"
        )));
    }
    let ranges = visibility(&args.visibility, args.ids.len())?;
    let rows: Vec<u32> = (0..).take(args.ids.len()).collect();
    let input = Input {
        ids: &args.ids,
        positions: &rows,
        ranges: &ranges,
        outputs: &rows,
        dropout: None,
    };
    let logits = model.logits(&model.forward(&input));
    let bytes: Vec<u8> = logits.f32s().iter().flat_map(|z| z.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, logits.shape().to_vec(), &bytes)?;
    safetensors::serialize_to_file([("logits", view)], None, &args.out)
        .with_context(|| format!("cannot write `{}`", args.out.display()))
}

/// Parses `causal`, `full` or `block:B`.
fn visibility(text: &str, len: usize) -> anyhow::Result<Vec<KeyRanges>> {
    match text.split_once(':') {
        None if text == "causal" => Ok(causal_ranges(len)),
        None if text == "full" => Ok(full_ranges(len)),
        Some(("block", size)) => {
            let size: usize = size.parse().map_err(|_| {
                failure::usage(format!(
                    "--visibility block:B: expected a number, found `{size}`"
                ))
            })?;
            Ok(block_causal_ranges(
                len,
                BlockSize::new(size).map_err(failure::usage)?,
            ))
        }
        _ => Err(failure::usage(format!(
            "--visibility: expected causal, full or block:B, found `{text}`"
        ))),
    }
}

/// Runs the golden cases and prints how far each is.
fn parity(args: &ParityArgs) -> anyhow::Result<()> {
    let forward: BTreeMap<String, f32> = llada_model::forward_parity(&args.golden)?;
    let generate = llada_engine::generate_parity(&args.golden)?;
    let train = llada_train::parity::train_parity(&args.golden)?;
    let report = json!({ "forward": forward, "generate": generate, "train": train });
    ui::line(if args.json {
        report.to_string()
    } else {
        serde_json::to_string_pretty(&report)?
    })
}
