//! What a run will need, from its recipe and `config.json` alone: nothing is loaded or allocated.
//!
//! The estimate counts what the code keeps: weights; f32 gradients and moments of what is trained; the
//! activations of the largest forward pass; and the buffers of its backward pass. It does not count
//! the documents, which are read whole.

use llada_diffusion::{Objective, RateScope};
use llada_model::{Config, MoeConfig, ParamSpec, StorageDtype, Weights};
use serde::Serialize;

use crate::error::Result;
use crate::recipe::{Compute, Dpo, KeepActivations, Recipe};
use crate::trainer::setup::{self, Trained};

/// Program, tokenizer, thread stacks and packed operands: measured on models of 0.2 to 26 M parameters.
const PROGRAM_BYTES: u64 = 24 << 20;
const F32: u64 = 4;
const BF16: u64 = 2;
/// Most rows whose logits the head holds at a time (`llada_tensor::head_rows`).
const HEAD_ROWS: u64 = 256;

/// What a run will need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Parameters of the model.
    pub parameters: u64,
    /// Numbers that are trained: of the parameters, or of the adapter beside them.
    pub trained: u64,
    /// Memory.
    pub bytes: Bytes,
    /// Tokens of documents per optimiser step, at most.
    pub tokens_per_step: u64,
    /// Rows of one forward pass, at most.
    pub rows_per_forward: u64,
    /// Optimiser steps.
    pub steps: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// The weights, those of an adapter and of a reference model included.
    pub weights: u64,
    /// The gradients of what is trained.
    pub gradients: u64,
    /// Both moments of the optimiser.
    pub optimizer: u64,
    /// The largest forward pass and the buffers of its backward pass.
    pub activations: u64,
    /// All of these and the program itself.
    pub total: u64,
}

/// Plans a run.
///
/// # Errors
/// If `config.json` cannot be read or is refused, or lacks what the objective needs.
pub fn plan(recipe: &Recipe) -> Result<Plan> {
    let config = setup::config(recipe)?;
    if recipe.objective.kind != Objective::Ar {
        crate::batch::Reading::of(&config)?;
    }
    let parameters = config.parameter_counts().total;
    let specs: Vec<ParamSpec> = Weights::specs(&config)
        .into_params()
        .into_iter()
        .map(|(_, spec)| spec)
        .collect();
    let trained = Trained::of(recipe, &config)?;
    let numbers = specs.iter().map(|spec| trained.num_elements(spec) as u64);
    let num_trained = numbers.sum::<u64>();
    let model = specs
        .iter()
        .map(|spec| bytes_at_rest(recipe, &config, spec));
    let adapter = recipe.lora.as_ref().map_or(0, |_| num_trained * F32);
    let weights = num_models(recipe) * model.sum::<u64>() + adapter;
    let (gradients, optimizer) = (num_trained * F32, num_trained * 2 * F32);
    let rows = Rows::of(recipe);
    let dropped = dropped_width(recipe, &trained, &specs);
    let activations = activations(recipe, &config, &rows, dropped) * F32;
    Ok(Plan {
        parameters,
        trained: num_trained,
        bytes: Bytes {
            weights,
            gradients,
            optimizer,
            activations,
            total: weights + gradients + optimizer + activations + PROGRAM_BYTES,
        },
        tokens_per_step: tokens_per_step(recipe),
        rows_per_forward: rows.all,
        steps: recipe.train.steps,
    })
}

/// Counts the model and its frozen reference, which has weights only, and none beside an adapter. One that leaves
/// before the optimiser comes is smaller than what comes, unless little is trained.
fn num_models(recipe: &Recipe) -> u64 {
    let is_apart = |dpo: &Dpo| match recipe.lora {
        Some(_) => dpo.reference.is_some(),
        None => !dpo.cache_reference || !recipe.model.freeze.is_empty(),
    };
    1 + u64::from(recipe.dpo.as_ref().is_some_and(is_apart))
}

/// Returns the width of the widest rows that an adapter sees through dropout.
fn dropped_width(recipe: &Recipe, trained: &Trained, specs: &[ParamSpec]) -> u64 {
    let has_dropout = recipe.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0);
    let adapted = specs
        .iter()
        .filter(|spec| has_dropout && trained.num_elements(spec) > 0);
    let widths = adapted.map(|spec| spec.shape[1] as u64);
    widths.max().unwrap_or(0)
}

/// Returns what a parameter takes: what an adapter is for stays in bf16 where products round to it.
fn bytes_at_rest(recipe: &Recipe, config: &Config, spec: &ParamSpec) -> u64 {
    let is_bf16 = recipe.lora.is_some()
        && recipe.model.precision == Compute::Bf16
        && config.storage == StorageDtype::Bf16
        && !spec.kind.is_always_f32();
    spec.num_elements() as u64 * if is_bf16 { BF16 } else { F32 }
}

fn tokens_per_step(recipe: &Recipe) -> u64 {
    let (train, longest) = (&recipe.train, recipe.data.max_len as u64);
    match (train.batch_documents, train.batch_tokens) {
        (Some(units), _) => (units * documents_of(recipe)) as u64 * longest,
        (None, tokens) => tokens.unwrap_or(0) as u64 + longest - 1, // the last document may exceed it
    }
}

/// Returns how many documents come of what is drawn.
fn documents_of(recipe: &Recipe) -> usize {
    let of_prompt = recipe.ebpo.as_ref().map(|ebpo| ebpo.group_size);
    of_prompt.unwrap_or_else(|| setup::unit(recipe).size())
}

/// Rows of the largest forward pass.
struct Rows {
    all: u64,
    /// Those whose last layer and logits are wanted.
    scored: u64,
}

impl Rows {
    /// A micro-batch is filled by the rows that its documents have at most: a clean half, and a noisy
    /// one per copy. Causal and whole-document passes have only one of them.
    fn of(recipe: &Recipe) -> Self {
        let objective = &recipe.objective;
        let draws = match &recipe.ebpo {
            Some(ebpo) => ebpo.levels.len() as u64,
            None => recipe.dpo.as_ref().map_or(1, |dpo| dpo.draws as u64),
        };
        let copies = draws * (1 + u64::from(objective.complementary));
        let of_document = recipe.data.max_len as u64 * (1 + copies);
        let of_unit = of_document * setup::unit(recipe).size() as u64;
        let budget = (recipe.train.micro_batch_rows as u64).max(of_unit);
        let rows = budget.min(tokens_per_step(recipe) * (1 + copies));
        let noisy = rows * copies / (1 + copies);
        let documents = noisy / recipe.data.max_len as u64;
        let masked = (noisy as f64 * masked_share(recipe, documents)) as u64;
        match objective.kind {
            Objective::Ar => Self {
                all: noisy,
                scored: noisy,
            },
            Objective::Mdlm => Self {
                all: noisy,
                scored: masked,
            },
            Objective::Bdlm => Self {
                all: rows,
                scored: masked,
            },
        }
    }
}

/// Returns the largest share of the rows of some noisy documents that is masked, but for rare draws.
///
/// A pass over one ratio can meet the upper end of the band. The ratios of many documents come to their mean, as the
/// inverse of the root of their number; those of a document's blocks are stratified and do so as the inverse
/// of theirs. Twins are masked half each, together.
fn masked_share(recipe: &Recipe, documents: u64) -> f64 {
    let objective = &recipe.objective;
    let mean = |ratios: &[f32]| {
        let sum: f64 = ratios.iter().copied().map(f64::from).sum();
        sum / ratios.len() as f64
    };
    match (&recipe.ebpo, objective.complementary) {
        (Some(ebpo), _) => mean(&ebpo.levels),
        (None, true) => 0.5,
        (None, false) => {
            let [_, highest] = objective.mask_ratio_band.map(f64::from);
            let mean = mean(&objective.mask_ratio_band);
            let blocks = ratios_of_document(recipe) as f64;
            mean + (highest - mean) / (blocks * (documents.max(1) as f64).sqrt())
        }
    }
}

/// Returns how many mask ratios a document has at least.
fn ratios_of_document(recipe: &Recipe) -> usize {
    let objective = &recipe.objective;
    let stages = objective.block_schedule.iter().map(|stage| stage.block);
    match (objective.kind, objective.rate_scope) {
        (Objective::Bdlm, RateScope::Block) => {
            let largest = stages.chain(objective.block_size).max();
            recipe.data.max_len.div_ceil(largest.unwrap_or(1).max(1))
        }
        _ => 1,
    }
}

/// Returns the numbers held at the peak: what the tape keeps, and the largest of the backward passes
/// that come on top: that of the head or of the last layer, beside what this one keeps, or that of a layer that
/// is computed again from its input and its attention's output. An adapter sees rows of `dropped` numbers
/// through dropout: beside them are these and their gradient.
fn activations(recipe: &Recipe, config: &Config, rows: &Rows, dropped: u64) -> u64 {
    let width = config.hidden_size as u64;
    let layers = config.num_hidden_layers;
    let saved = |layer: usize| {
        let scored = if layer + 1 == layers {
            rows.scored
        } else {
            rows.all
        };
        layer_saved(config, layer, rows.all, scored, recipe.model.precision)
    };
    let inputs = layers as u64 * rows.all * width + rows.scored * width;
    let (last, others) = (saved(layers - 1), (0..layers - 1).map(saved));
    let layer = layer_transient(config, rows.all) + 2 * rows.all * dropped;
    let (kept, recomputed) = match recipe.train.activations {
        KeepActivations::Keep => (others.sum(), 0),
        KeepActivations::Recompute => {
            let attended = attended(config, rows.all);
            let recomputed = others.max().map_or(0, |saved| saved - attended);
            ((layers as u64 - 1) * attended, recomputed)
        }
    };
    let begin = last + layer.max(head_transient(config, rows.scored));
    inputs + kept + begin.max(recomputed + layer)
}

/// What the backward of a layer needs: queries before and after their norm, keys, values, the attention's
/// output with its log-sum-exp, the stream after it, and the feed-forward part. Keys and values are as coarse as
/// products.
fn layer_saved(config: &Config, layer: usize, rows: u64, scored: u64, precision: Compute) -> u64 {
    let queries = (config.num_attention_heads * config.head_dim) as u64;
    let keys = (config.num_key_value_heads * config.head_dim) as u64;
    let [queries, keys] = [scored * queries, rows * keys];
    let unnormed = if config.use_qk_norm {
        queries + keys
    } else {
        0
    };
    let multiplied = match precision {
        Compute::F32 => queries + 2 * keys,
        Compute::Bf16 => queries + keys,
    };
    unnormed
        + multiplied
        + attended(config, scored)
        + scored * config.hidden_size as u64
        + mlp_saved(config, layer, scored)
}

/// The output of an attention and its log-sum-exps.
fn attended(config: &Config, rows: u64) -> u64 {
    rows * (config.num_attention_heads * (config.head_dim + 1)) as u64
}

fn mlp_saved(config: &Config, layer: usize, rows: u64) -> u64 {
    match config.moe.as_ref().filter(|_| config.is_moe_layer(layer)) {
        None => rows * 2 * config.intermediate_size as u64,
        Some(moe) => {
            let slots = rows * moe.num_experts_per_tok as u64;
            let routed = slots * (2 * expert_width(moe) + config.hidden_size as u64 + 4);
            let shared = rows * 2 * moe.shared_intermediate_size as u64;
            routed + shared + rows * moe.num_experts as u64
        }
    }
}

fn expert_width(moe: &MoeConfig) -> u64 {
    moe.moe_intermediate_size as u64
}

/// Buffers of a layer's backward: gradients of the stream, of the fused projection and of the inner rows.
fn layer_transient(config: &Config, rows: u64) -> u64 {
    let fused =
        ((config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim) as u64;
    let inner = match &config.moe {
        Some(moe) => {
            let slot = expert_width(moe) + 2 * config.hidden_size as u64;
            moe.num_experts_per_tok as u64 * slot
        }
        None => config.intermediate_size as u64,
    };
    rows * (4 * config.hidden_size as u64 + (2 * fused).max(inner))
}

/// Buffers of the head: logits of a chunk of rows, hidden rows and their gradient.
fn head_transient(config: &Config, scored: u64) -> u64 {
    let logits = scored.min(HEAD_ROWS) * config.vocab_size as u64;
    logits + 3 * scored * config.hidden_size as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(config: &str, changes: &[&str]) -> Recipe {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../llada-model/testdata/hub");
        let text = format!(
            "[model]\nconfig = \"{dir}/{config}\"\n[data]\ntrain = \"rows.jsonl\"\n\
             [objective]\nkind = \"ar\"\n[optimizer]\nlr = 1e-5\n\
             [train]\nsteps = 8\nbatch_tokens = 4096\n"
        );
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        Recipe::parse(&text, &changes).unwrap()
    }

    #[test]
    fn the_published_models_need_sixteen_bytes_per_parameter_and_their_activations() {
        for (file, parameters) in [
            ("llada2_mini.json", 16_255_643_392),
            ("dfactory_flash.json", 102_889_705_216),
        ] {
            let plan = plan(&recipe(file, &[])).unwrap();
            assert_eq!(plan.parameters, parameters);
            let states = plan.bytes.weights + plan.bytes.gradients + plan.bytes.optimizer;
            assert_eq!(states, 4 * parameters + 12 * plan.trained);
            let expert_biases = parameters - plan.trained;
            assert!(expert_biases < 10_000, "{expert_biases}");
            assert!(plan.bytes.total > states + plan.bytes.activations);
        }
    }

    #[test]
    fn the_recipes_of_adapters_train_little_beside_the_published_models() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        for (size, config) in [
            ("mini", "llada2_mini.json"),
            ("flash", "dfactory_flash.json"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let config = format!("{root}/crates/llada-model/testdata/hub/{config}");
            let config = std::fs::read_to_string(config).unwrap();
            let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
            config["mask_token_id"] = 156_895.into();
            config["label_alignment"] = "same".into();
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            let path = format!("{root}/recipes/llada2-{size}-lora.toml");
            let text = std::fs::read_to_string(path).unwrap();
            let base = format!("model.path={}", dir.path().display());
            let plan = plan(&Recipe::parse(&text, &[base]).unwrap()).unwrap();
            assert!(plan.trained < plan.parameters / 1000, "{plan:?}");
            assert_eq!(plan.bytes.optimizer, 8 * plan.trained);
            let of_base = plan.bytes.weights - 4 * plan.trained;
            assert!(of_base.abs_diff(2 * plan.parameters) < plan.parameters / 100);
            if size == "mini" {
                let attention = 20 * ((2048 + 3072) + (2048 + 2048));
                let (dense, shared) = (3 * (2048 + 5120), 19 * 3 * (2048 + 512));
                assert_eq!(plan.trained, 32 * (attention + dense + shared));
            }
        }
    }

    #[test]
    fn recomputing_and_smaller_forward_passes_need_less() {
        let bytes = |changes: &[&str]| plan(&recipe("llada2_mini.json", changes)).unwrap().bytes;
        let kept = bytes(&[]).activations;
        assert!(bytes(&["train.activations=recompute"]).activations < kept / 2);
        assert!(bytes(&["train.micro_batch_rows=1024"]).activations < kept);
    }

    #[test]
    fn few_ratios_may_all_be_high() {
        let share = |changes: &[&str], documents| {
            let block = [
                "objective.kind=bdlm",
                "objective.block_size=32",
                "data.max_len=1024",
            ];
            let recipe = recipe("llada2_mini.json", &[&block, changes].concat());
            masked_share(&recipe, documents)
        };
        let band = "objective.mask_ratio_band=[0.2, 0.8]";
        let whole = "objective.rate_scope=document";
        assert!((share(&[band, whole], 1) - 0.8).abs() < 1e-6);
        assert!((share(&[band, whole], 9) - 0.6).abs() < 1e-6);
        assert!((share(&[band], 1) - 0.5 - 0.3 / 32.0).abs() < 1e-6);
        assert_eq!(
            share(&[band, whole, "objective.complementary=true"], 1),
            0.5
        );
    }

    #[test]
    fn a_diffusion_objective_needs_a_diffusion_model() {
        let parent = "../../../../assets/tinystories-656k/config.json";
        let changes = ["objective.kind=bdlm", "objective.block_size=32"];
        let error = plan(&recipe(parent, &changes)).unwrap_err();
        assert!(matches!(error, crate::Error::NotDiffusion(_)), "{error}");
    }
}
