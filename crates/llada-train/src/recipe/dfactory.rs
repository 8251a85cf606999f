//! Import of dFactory's YAML: its SFT settings as a recipe, or a refusal of each key that has no
//! counterpart here.
//!
//! What only concerns its distributed runtime (sharding, workers, logging) changes no result and is
//! accepted without effect. The file must say `max_steps`: how many steps an epoch has depends on the data.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::{Table, Value as Toml};

use super::Recipe;
use crate::error::{Error, Result};

/// Keys with a counterpart of the same meaning: theirs, our section, our key.
const RENAMED: [(&str, &str, &str); 14] = [
    ("model.model_path", "model", "path"),
    ("model.tokenizer_path", "model", "tokenizer"),
    ("data.train_path", "data", "train"),
    ("data.max_seq_len", "data", "max_len"),
    ("train.block_size", "objective", "block_size"),
    ("train.lr", "optimizer", "lr"),
    ("train.lr_min", "optimizer", "lr_min"),
    ("train.lr_decay_style", "optimizer", "schedule"),
    ("train.weight_decay", "optimizer", "weight_decay"),
    ("train.max_grad_norm", "optimizer", "clip"),
    ("train.max_steps", "train", "steps"),
    ("train.global_batch_size", "train", "batch_documents"),
    ("train.seed", "train", "seed"),
    ("train.save_steps", "train", "checkpoint_every"),
];

/// Keys that, together with another or in another unit, become one of ours: see [`derive()`].
const DERIVED: [&str; 8] = [
    "data.noise_range_low",
    "data.noise_range_high",
    "train.beta1",
    "train.beta2",
    "train.lr_warmup_ratio",
    "train.confidence_beta",
    "train.enable_mixed_precision",
    "train.enable_gradient_checkpointing",
];

/// Keys that must have one value, because a recipe means nothing else by itself.
const FIXED: [(&str, &str); 8] = [
    ("data.text_keys", "messages"),
    ("data.enable_multisource", "false"),
    ("train.block_diffusion_mode", "true"),
    ("train.same_token_labels", "true"),
    ("train.optimizer", "adamw"),
    ("train.lr_start", "0"),
    ("train.lr_decay_ratio", "1"),
    ("train.enable_full_determinism", "false"),
];

/// Keys that only say how the work is spread over devices, saved or logged.
const WITHOUT_EFFECT: [&str; 26] = [
    "model.config_path",
    "model.attn_implementation",
    "model.moe_implementation",
    "model.basic_modules",
    "model.force_use_huggingface",
    "data.train_size",
    "data.datasets_type",
    "data.data_type",
    "data.dataloader_type",
    "data.num_workers",
    "data.prefetch_factor",
    "data.drop_last",
    "train.output_dir",
    "train.micro_batch_size",
    "train.data_parallel_mode",
    "train.expert_parallel_size",
    "train.ulysses_parallel_size",
    "train.tensor_parallel_size",
    "train.pipeline_parallel_size",
    "train.enable_full_shard",
    "train.enable_fsdp_offload",
    "train.init_device",
    "train.ckpt_manager",
    "train.save_hf_weights",
    "train.use_wandb",
    "train.wandb_project",
];

/// Values by section and key, joined by a dot.
type Given = BTreeMap<String, Value>;

impl Recipe {
    /// Reads a dFactory YAML file as a recipe.
    ///
    /// # Errors
    /// If the text is not YAML of sections with keys, some keys have no counterpart (all are named), or
    /// what they say is no valid recipe.
    pub fn from_dfactory(text: &str) -> Result<Self> {
        let sections: BTreeMap<String, BTreeMap<String, Value>> =
            serde_saphyr::from_str(text).map_err(|error| refused(&error.to_string()))?;
        let given: Given = sections
            .into_iter()
            .flat_map(|(section, keys)| {
                let named = move |(key, value)| (format!("{section}.{key}"), value);
                keys.into_iter().map(named)
            })
            .collect();
        let problems: Vec<_> = given
            .iter()
            .filter_map(|(key, value)| problem(key, value))
            .collect();
        if !problems.is_empty() {
            return Err(refused(&problems.join("; ")));
        }
        let mut table = defaults();
        rename(&mut table, &given)?;
        derive(&mut table, &given)?;
        let text = toml::to_string(&table).expect("a table of plain values can be written");
        Self::from_toml(&text)
    }
}

/// Their defaults where ours differ, and what their SFT always does.
fn defaults() -> Table {
    let text = "[model]\nprecision = \"bf16\"\n[data]\nmax_len = 2048\n[objective]\nkind = \"bdlm\"\n\
        block_size = 32\nmask_ratio_band = [0.3, 0.8]\nrate_scope = \"document\"\n\
        normalisation = \"masked_mean\"\n[optimizer]\nlr = 5e-5\nlr_min = 1e-7\n\
        schedule = \"constant\"\nweight_decay = 0.0\nbetas = [0.9, 0.999]\n[train]\nseed = 42\nactivations = \"recompute\"\n";
    toml::from_str(text).expect("the text above is TOML")
}

/// Says why a key cannot be honoured.
fn problem(key: &str, value: &Value) -> Option<String> {
    let renamed = RENAMED.iter().any(|(theirs, ..)| *theirs == key);
    if renamed || DERIVED.contains(&key) || WITHOUT_EFFECT.contains(&key) {
        return None;
    }
    let Some((_, wanted)) = FIXED.iter().find(|(fixed, _)| *fixed == key) else {
        return Some(format!("`{key}` has no counterpart in a recipe; remove it"));
    };
    let found = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or(String::new(), |n| n.to_string()),
        other => other.to_string(),
    };
    (found != *wanted).then(|| format!("`{key}` must be {wanted}, found {found}"))
}

fn rename(table: &mut Table, given: &Given) -> Result<()> {
    for (theirs, section, key) in RENAMED {
        if let Some(value) = given.get(theirs) {
            let value = Toml::try_from(value)
                .map_err(|error| refused(&format!("`{theirs}` has no usable value: {error}")))?;
            set(table, section, key, value);
        }
    }
    if given.contains_key("train.max_steps") {
        return Ok(());
    }
    Err(refused(
        "`train.max_steps` must be given: the steps of an epoch depend on the data",
    ))
}

fn derive(table: &mut Table, given: &Given) -> Result<()> {
    let pair = |low: &str, high: &str, or: [f64; 2]| -> Result<Toml> {
        let pair = vec![number(given, low, or[0])?, number(given, high, or[1])?];
        Ok(Toml::from(pair))
    };
    let band = pair("data.noise_range_low", "data.noise_range_high", [0.3, 0.8])?;
    set(table, "objective", "mask_ratio_band", band);
    let betas = pair("train.beta1", "train.beta2", [0.9, 0.999])?;
    set(table, "optimizer", "betas", betas);
    let steps = number(given, "train.max_steps", 0.0)?;
    let warmup = (number(given, "train.lr_warmup_ratio", 0.0)? * steps).round();
    set(
        table,
        "optimizer",
        "warmup_steps",
        Toml::from(warmup as i64),
    );
    let lambda = number(given, "train.confidence_beta", 0.0)?;
    if lambda != 0.0 {
        table.insert(
            "cap".into(),
            Table::from_iter([("lambda".into(), lambda.into())]).into(),
        );
    }
    if given.get("train.enable_mixed_precision") == Some(&Value::Bool(false)) {
        set(table, "model", "precision", "f32".into());
    }
    if given.get("train.enable_gradient_checkpointing") == Some(&Value::Bool(false)) {
        set(table, "train", "activations", "keep".into());
    }
    Ok(())
}

fn set(table: &mut Table, section: &str, key: &str, value: Toml) {
    if let Some(section) = table.get_mut(section).and_then(Toml::as_table_mut) {
        section.insert(key.to_owned(), value);
    }
}

fn number(given: &Given, key: &str, default: f64) -> Result<f64> {
    match given.get(key) {
        None => Ok(default),
        Some(value) => value
            .as_f64()
            .ok_or_else(|| refused(&format!("`{key}` must be a number, found {value}"))),
    }
}

fn refused(problem: &str) -> Error {
    Error::Import(problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "model:\n  model_path: ./mini\n  attn_implementation: sdpa\n\
        data:\n  train_path: rows.jsonl\n  noise_range_low: 0.3\n  noise_range_high: 0.8\n\
        train:\n  lr: 1.0e-5\n  lr_decay_style: cosine\n  lr_warmup_ratio: 0.03\n  max_steps: 200\n  \
        global_batch_size: 8\n  block_diffusion_mode: true\n  same_token_labels: true\n";

    #[test]
    fn what_has_a_counterpart_is_taken_over_with_their_defaults() {
        let recipe = Recipe::from_dfactory(FILE).unwrap();
        assert_eq!(recipe.optimizer.warmup_steps, 6);
        assert_eq!(recipe.optimizer.betas, [0.9, 0.999]);
        assert_eq!(recipe.objective.mask_ratio_band, [0.3, 0.8]);
        assert_eq!(recipe.train.batch_documents, Some(8));
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    }

    #[test]
    fn every_key_that_cannot_be_honoured_is_named() {
        let text = format!("{FILE}  optimizer: lion\n  log_steps: 5\n");
        let message = Recipe::from_dfactory(&text).unwrap_err().to_string();
        for key in ["train.optimizer", "train.log_steps"] {
            assert!(message.contains(key), "{message}");
        }
    }

    #[test]
    fn their_weight_of_confidence_is_that_of_cap() {
        let cap = |beta: &str| Recipe::from_dfactory(&format!("{FILE}  confidence_beta: {beta}\n"));
        assert_eq!(cap("2.0").unwrap().cap.unwrap().lambda, 2.0);
        assert_eq!(cap("0").unwrap().cap, None);
        let message = cap("-1").unwrap_err().to_string();
        assert!(message.contains("cap.lambda"), "{message}");
    }

    #[test]
    fn the_number_of_steps_must_be_said() {
        let text = FILE.replace("  max_steps: 200\n", "");
        let message = Recipe::from_dfactory(&text).unwrap_err().to_string();
        assert!(message.contains("train.max_steps"), "{message}");
    }
}
