//! From an autoregressive parent to a block-diffusion checkpoint (`model.md` section 9).
//!
//! The weights stay; what is added is a MASK token, and in `config.json` how the child is read: its
//! MASK id, block size and label alignment. With `shifted` labels the child at block size 1 *is* its
//! parent, before any training.

use std::path::Path;

use llada_diffusion::{BlockSize, LabelAlignment, Rng, Stream};
use llada_model::{Config, Family, KeepDtype, PartialDir, SaveOptions, load, write_model};
use llada_tensor::{Precision, Tensor, Weight};
use llada_text::{Role, Tokenizer};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Text of the MASK token when nobody names one.
const MASK_TEXT: &str = "<|mask|>";
/// Noise of a new embedding row, as a share of the spread of the others.
const NOISE: f32 = 0.1;

/// Which token becomes MASK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskChoice {
    /// The tokenizer's MASK token if it has one, else a new `<|mask|>`.
    Auto,
    /// The token with this text; a new one if there is none.
    Text(String),
    /// The token with this id: an existing special token, a row without token, or one past the end.
    Id(u32),
}

/// How a parent is converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Which token becomes MASK.
    pub mask: MaskChoice,
    /// Tokens per block that the child is made for.
    pub block_size: BlockSize,
    /// Which row predicts a position.
    pub label_alignment: LabelAlignment,
}

/// What a conversion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Id of the MASK token.
    pub mask_token_id: u32,
    /// Its text.
    pub mask_text: String,
    /// Whether embedding and head grew by a row for it.
    pub grown: bool,
    /// What the user should know although it is no error.
    pub warnings: Vec<String>,
}

/// Converts the checkpoint in `parent` and writes the child to the new directory `out`.
///
/// # Errors
/// If the parent cannot be loaded, its tokenizer does not fit, the MASK token cannot be placed, or
/// `out` exists or cannot be written; nothing is left behind then.
pub fn convert(parent: &Path, out: &Path, options: &ConvertOptions) -> Result<Converted> {
    let mut tokenizer = Tokenizer::load(parent)?;
    let loaded = load(parent, Precision::F32, KeepDtype::F32)?;
    let (config, mut weights) = (loaded.config, loaded.weights);
    tokenizer.check_vocab_size(config.vocab_size)?;
    let mask = place_mask(&tokenizer, &options.mask, config.vocab_size)?;
    tokenizer.add_special(&mask.text, mask.id)?;
    tokenizer.set_role(Role::Mask, &mask.text)?;
    if mask.is_new {
        write_mask_row(&mut weights.embedding, &mask, config.vocab_size);
        if let Some(head) = &mut weights.head {
            write_mask_row(head, &mask, config.vocab_size);
        }
    }
    let child = child_config(&config, &mask, options)?;
    let partial = PartialDir::create(out)?;
    write_model(partial.path(), &child, &weights, &SaveOptions::default())?;
    tokenizer.save(partial.path())?;
    partial.commit()?;
    let grown = child.vocab_size > config.vocab_size;
    let warnings = loaded.warnings;
    Ok(Converted {
        mask_token_id: mask.id,
        mask_text: mask.text,
        grown,
        warnings,
    })
}

/// The token that becomes MASK.
struct MaskToken {
    id: u32,
    text: String,
    /// Whether its embedding row has never stood for a token.
    is_new: bool,
}

fn place_mask(tokenizer: &Tokenizer, choice: &MaskChoice, vocab_size: usize) -> Result<MaskToken> {
    match choice {
        MaskChoice::Auto => match tokenizer.specials().mask {
            Some(id) => existing(tokenizer, id),
            None => by_text(tokenizer, MASK_TEXT),
        },
        MaskChoice::Text(text) => by_text(tokenizer, text),
        MaskChoice::Id(id) => by_id(tokenizer, *id, vocab_size),
    }
}

fn by_text(tokenizer: &Tokenizer, text: &str) -> Result<MaskToken> {
    match tokenizer.id(text) {
        Some(id) => existing(tokenizer, id),
        None => {
            let id = tokenizer.largest_id() + 1;
            Ok(MaskToken {
                id,
                text: text.into(),
                is_new: true,
            })
        }
    }
}

fn by_id(tokenizer: &Tokenizer, id: u32, vocab_size: usize) -> Result<MaskToken> {
    if tokenizer.text(id).is_some() {
        return existing(tokenizer, id);
    }
    let next = tokenizer.largest_id() + 1;
    if id != next {
        let problem = format!(
            "has no token, and the tokenizer can add only id {next} (the model has {vocab_size} rows)"
        );
        return Err(Error::MaskToken {
            mask: format!("id {id}"),
            problem,
        });
    }
    Ok(MaskToken {
        id,
        text: MASK_TEXT.into(),
        is_new: true,
    })
}

/// Takes a token that is there already, unless text can produce it.
fn existing(tokenizer: &Tokenizer, id: u32) -> Result<MaskToken> {
    let text = tokenizer.text(id).unwrap_or_default();
    if !tokenizer.specials().contains(id) {
        let problem = "is an ordinary token, which texts contain; choose a special or a new one";
        return Err(Error::MaskToken {
            mask: format!("`{text}`"),
            problem: problem.into(),
        });
    }
    Ok(MaskToken {
        id,
        text,
        is_new: false,
    })
}

/// Writes the row of a new MASK token, [V, D] -> [max(V, id + 1), D]: the mean of the parent's rows
/// plus a little noise, so that it starts inside the cloud of known tokens without being one.
fn write_mask_row(matrix: &mut Weight, mask: &MaskToken, vocab_size: usize) {
    let [_, width] = matrix.values().dims2();
    let (mean, spread) = mean_and_spread(matrix.values());
    let rng = Rng::new(0, Stream::Init);
    let noise = |column: usize| NOISE * spread * rng.normal(0, u64::from(mask.id), column as u32);
    let row = (0..width).map(|column| mean[column] + noise(column));
    let rows = vocab_size.max(mask.id as usize + 1);
    let mut values = matrix.values().f32s().to_vec();
    values.resize(rows * width, 0.0);
    let start = mask.id as usize * width;
    values.splice(start..start + width, row);
    *matrix = Weight::new(Tensor::from_f32(&[rows, width], values), matrix.precision());
}

/// Returns the mean row and the standard deviation of entries around it.
fn mean_and_spread(matrix: &Tensor) -> (Vec<f32>, f32) {
    let [rows, width] = matrix.dims2();
    let mut sums = vec![0.0_f64; width];
    for row in matrix.f32s().chunks_exact(width) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let mean: Vec<f64> = sums.iter().map(|sum| sum / rows as f64).collect();
    let entries = matrix.f32s().iter().zip(mean.iter().cycle());
    let squares: f64 = entries
        .map(|(&x, mean)| (f64::from(x) - mean).powi(2))
        .sum();
    let spread = (squares / matrix.len() as f64).sqrt() as f32;
    (mean.iter().map(|&x| x as f32).collect(), spread)
}

/// Returns the child's configuration, validated like one that is read from a file.
fn child_config(parent: &Config, mask: &MaskToken, options: &ConvertOptions) -> Result<Config> {
    let mut config = parent.clone();
    config.vocab_size = config.vocab_size.max(mask.id as usize + 1);
    config.mask_token_id = Some(mask.id);
    config.block_size = Some(options.block_size.get());
    config.label_alignment = Some(options.label_alignment);
    let mut text = config.to_json();
    if parent.family == Family::BailingMoe && parent.use_qk_norm {
        text = as_llada2(&text)?;
    }
    Ok(Config::from_json(&text)?)
}

/// Renames a Ling-2.0 configuration: the tensors of the two families are the same.
fn as_llada2(text: &str) -> Result<String> {
    let mut raw: Map<String, Value> =
        serde_json::from_str(text).map_err(|source| llada_model::Error::Json {
            file: "config.json".into(),
            source,
        })?;
    raw.insert("architectures".into(), vec!["LLaDA2MoeModelLM"].into());
    raw.insert("model_type".into(), "llada2_moe".into());
    for key in ["auto_map", "num_nextn_predict_layers"] {
        raw.remove(key); // the parent's code and its dropped prediction layers
    }
    Ok(Value::Object(raw).to_string())
}

#[cfg(test)]
mod tests;
