//! `[ebpo]`: policy optimisation on answers of the model's own.

use llada_diffusion as method;
use llada_diffusion::{Band, Clip, NoiseSchedule, Normalisation};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::{Recipe, check, refuse};
use crate::error::Result;

/// Policy optimisation with ratios of bounds (EBPO, LLaDA2.1). `data` are the rows of a task, and
/// `train.batch_documents` counts prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ebpo {
    /// Task of `llada eval` whose verdict is the reward, 1 or 0: a name, or a file ending in `.toml`.
    pub task: String,
    /// Answers to a prompt, which are compared with each other. Default: 8.
    #[serde(default = "group_size")]
    pub group_size: usize,
    /// Temperature at which they are drawn. Default: 1.
    #[serde(default = "temperature")]
    pub temperature: f32,
    /// Updates of the weights per batch of answers. Default: 2.
    #[serde(default = "updates")]
    pub updates: usize,
    /// Mask ratios t_n at which answers are scored. Default: [0.3, 0.6, 0.9].
    #[serde(default = "levels")]
    pub levels: Vec<f32>,
    /// What the bound at each level weighs in the logarithm of the ratio: w_n times t_n. Default: equal
    /// weights with sum 1, whose sum is the bound.
    pub level_weights: Option<Vec<f64>>,
    /// How far below 1 the ratio of a bad answer is followed. Default: 0.2.
    #[serde(default = "eps")]
    pub eps_low: f64,
    /// How far above 1 the ratio of a good answer is followed. Default: 0.2.
    #[serde(default = "eps")]
    pub eps_high: f64,
    /// Settings of a request, as in a request file, with which the model will be served: answers are drawn
    /// under them, and held-out prompts answered. Default: those of a request that has none.
    #[serde(default)]
    pub decoder: Table,
}

impl Ebpo {
    /// Returns how each copy of an answer is masked, given how documents are.
    ///
    /// # Errors
    /// If a level is not a mask ratio.
    pub fn noises(&self, schedule: NoiseSchedule) -> Result<Vec<NoiseSchedule>> {
        let at = |&level: &f32| {
            let band = Band::new(level, level)?;
            Ok(NoiseSchedule { band, ..schedule })
        };
        self.levels.iter().map(at).collect()
    }

    /// Returns the weight of each level.
    pub fn weights(&self) -> Vec<f64> {
        let equal = || vec![1.0 / self.levels.len() as f64; self.levels.len()];
        self.level_weights.clone().unwrap_or_else(equal)
    }

    /// Returns how far ratios are followed.
    pub fn clip(&self) -> Clip {
        Clip {
            low: self.eps_low,
            high: self.eps_high,
        }
    }
}

pub(super) fn validate(recipe: &Recipe) -> Result<()> {
    let Some(ebpo) = &recipe.ebpo else {
        return Ok(());
    };
    validate_numbers(ebpo)?;
    validate_decoder(ebpo)?;
    validate_objective(recipe)?;
    check(
        recipe.model.path.is_some(),
        "model.path",
        "must name a checkpoint with `ebpo`: random weights have no answer that is right",
    )?;
    check(
        recipe.model.tokenizer.is_none(),
        "model.tokenizer",
        "has no meaning with `ebpo`: prompts and answers are in the tokens of `model.path`",
    )?;
    check(
        recipe.lora.as_ref().is_none_or(|lora| lora.dropout == 0.0),
        "lora.dropout",
        "must be 0 with `ebpo`: a policy that drops its inputs is not the one that answered",
    )?;
    check(
        recipe.train.batch_documents.is_some(),
        "train.batch_documents",
        "must be given with `ebpo`, in place of `train.batch_tokens`: it counts prompts",
    )
}

fn validate_numbers(ebpo: &Ebpo) -> Result<()> {
    let is_positive = |number: f64| number.is_finite() && number > 0.0;
    check(
        ebpo.group_size > 1,
        "ebpo.group_size",
        "must be at least 2: answers are compared",
    )?;
    check(ebpo.updates > 0, "ebpo.updates", "must be at least 1")?;
    check(
        is_positive(f64::from(ebpo.temperature)),
        "ebpo.temperature",
        "must be a number greater than 0, or all answers to a prompt are the same",
    )?;
    let is_ratio = |&level: &f32| 0.0 < level && level <= 1.0;
    check(
        !ebpo.levels.is_empty() && ebpo.levels.iter().all(is_ratio),
        "ebpo.levels",
        "must be mask ratios above 0 and at most 1, at least one",
    )?;
    let weights = ebpo.weights();
    check(
        weights.len() == ebpo.levels.len() && weights.iter().all(|&weight| is_positive(weight)),
        "ebpo.level_weights",
        "must be a number greater than 0 for each of `ebpo.levels`",
    )?;
    check(
        is_positive(ebpo.eps_low) && ebpo.eps_low < 1.0,
        "ebpo.eps_low",
        "must be greater than 0 and below 1",
    )?;
    check(
        is_positive(ebpo.eps_high),
        "ebpo.eps_high",
        "must be a number greater than 0",
    )
}

/// Checks that the decoder says nothing that another key says. What it may say, the decoder knows.
fn validate_decoder(ebpo: &Ebpo) -> Result<()> {
    for (setting, problem) in [
        (
            "temperature",
            "must not have `temperature`; answers are drawn at `ebpo.temperature`",
        ),
        (
            "seed",
            "must not have `seed`; draws follow from `train.seed`",
        ),
        (
            "block_length",
            "must not have `block_length`, which is `objective.block_size`",
        ),
    ] {
        check(!ebpo.decoder.contains_key(setting), "ebpo.decoder", problem)?;
    }
    Ok(())
}

fn validate_objective(recipe: &Recipe) -> Result<()> {
    let objective = &recipe.objective;
    let is_bdlm = objective.kind == method::Objective::Bdlm;
    check(
        is_bdlm,
        "objective.kind",
        "must be `bdlm` with `ebpo`, which scores blocks",
    )?;
    if objective.block_size.is_none() {
        return refuse(
            "objective.block_size",
            "must be given with `ebpo`: blocks are scored as decoded",
        );
    }
    let [lo, hi] = objective.mask_ratio_band;
    check(
        lo == Band::FULL.lo() && hi == Band::FULL.hi(),
        "objective.mask_ratio_band",
        "has no meaning with `ebpo`, whose mask ratios are `ebpo.levels`",
    )?;
    check(
        objective.normalisation == Normalisation::ElboToken,
        "objective.normalisation",
        "must be `elbo_token` with `ebpo`, which compares whole bounds",
    )?;
    let keys = [
        ("objective.complementary", !objective.complementary),
        ("objective.group_blocks", objective.group_blocks == 1),
        (
            "objective.mask_noise_steps",
            objective.mask_noise_steps == 0,
        ),
    ];
    for (key, is_default) in keys {
        check(is_default, key, "has no meaning with `ebpo`; leave it out")?;
    }
    Ok(())
}

fn group_size() -> usize {
    8
}

fn temperature() -> f32 {
    1.0
}

fn updates() -> usize {
    2
}

fn levels() -> Vec<f32> {
    vec![0.3, 0.6, 0.9]
}

fn eps() -> f64 {
    0.2
}
