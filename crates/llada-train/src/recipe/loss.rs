//! What goes beyond the likelihood of masked tokens: `[cap]`, `[dpo]`, `[edit]`, `[levenshtein]`,
//! `[oput]`, `[ebpo]`. At most one of them is given, beside a `bdlm` or `mdlm` objective.

use std::path::PathBuf;

use llada_diffusion as method;
use llada_diffusion::Normalisation;
use serde::{Deserialize, Serialize};

use super::{Recipe, check, refuse};
use crate::error::Result;

/// Confidence-aware training (Eq. 6): right guesses are sharpened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// Weight of the mean entropy of right guesses; 0 measures it only.
    pub lambda: f32,
}

/// Preference training (Eq. 7 and 8) on rows with `chosen` and `rejected`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpo {
    /// How much a nat of margin counts. Default: 0.1.
    #[serde(default = "beta")]
    pub beta: f64,
    /// Masks drawn per answer and step; more of them make the margin less noisy. Default: 1.
    #[serde(default = "once")]
    pub draws: usize,
    /// Checkpoint that the policy is compared with. Default: the weights that the run starts from.
    pub reference: Option<PathBuf>,
    /// Whether it scores the pairs of all steps before the first one, and leaves memory before the optimiser
    /// needs it. Default: false.
    #[serde(default)]
    pub cache_reference: bool,
}

/// Wrong tokens beside masks, and drafts of the model's own (LLaDA2.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Share of the tokens left by the mask that is replaced by random ones. Default: 0.1.
    #[serde(default = "tenth")]
    pub rate: f32,
    /// Weight of the mean loss of replaced tokens. Default: 1.
    #[serde(default = "whole")]
    pub weight: f32,
    /// Share of the other tokens that is scored as it is. Default: 0.1.
    #[serde(default = "tenth")]
    pub keep_rate: f32,
    /// Weight of the mean loss of those. Default: 0.1.
    #[serde(default = "tenth")]
    pub keep_weight: f32,
    /// Looks at a text; each after the first is at a draft with the model's guesses. Default: 1.
    #[serde(default = "once")]
    pub turns: usize,
    /// Confidence from which a guess enters the next turn's draft. Default: 0.5.
    #[serde(default = "half")]
    pub threshold: f32,
}

/// Insertions and deletions (LLaDA2.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levenshtein {
    /// Share of the blocks that are drafts to repair; the others are masked. Default: 0.5.
    #[serde(default = "half")]
    pub share: f32,
    /// Share of a draft's tokens that is dropped, replaced, or has one added before it. Default: 0.1.
    #[serde(default = "tenth")]
    pub rate: f32,
    /// Weight of the mean loss where a draft is to change. Default: 1.
    #[serde(default = "whole")]
    pub weight: f32,
    /// Weight of the mean loss where it is to stay. Default: 1.
    #[serde(default = "whole")]
    pub keep_weight: f32,
    /// Looks at a text; each after the first is at the draft that the model makes of the one before. Default: 1.
    #[serde(default = "once")]
    pub turns: usize,
    /// Confidence from which a proposal changes the next turn's draft. Default: 0.5.
    #[serde(default = "half")]
    pub threshold: f32,
}

/// On-policy training (OPUT of DMax): masks filled with the model's guesses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oput {
    /// Share of the documents. Default: 0.5.
    #[serde(default = "half")]
    pub share: f32,
}

pub(super) fn validate(recipe: &Recipe) -> Result<()> {
    let given = [
        ("cap", recipe.cap.is_some()),
        ("dpo", recipe.dpo.is_some()),
        ("edit", recipe.edit.is_some()),
        ("levenshtein", recipe.levenshtein.is_some()),
        ("oput", recipe.oput.is_some()),
        ("ebpo", recipe.ebpo.is_some()),
    ];
    let mut given = given
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key));
    let Some(key) = given.next() else {
        return Ok(());
    };
    let is_ar = recipe.objective.kind == method::Objective::Ar;
    check(!is_ar, key, "has no meaning for objective.kind `ar`")?;
    if let Some(other) = given.next() {
        return refuse(key, &format!("and `{other}` exclude each other; keep one"));
    }
    validate_weights(recipe)?;
    validate_shares(recipe)?;
    validate_meaning(recipe)
}

fn validate_weights(recipe: &Recipe) -> Result<()> {
    let Recipe {
        cap,
        dpo,
        edit,
        levenshtein,
        ..
    } = recipe;
    let weights = [
        ("cap.lambda", cap.as_ref().map(|cap| cap.lambda)),
        ("edit.weight", edit.as_ref().map(|edit| edit.weight)),
        (
            "edit.keep_weight",
            edit.as_ref().map(|edit| edit.keep_weight),
        ),
        ("levenshtein.weight", levenshtein.as_ref().map(|l| l.weight)),
        (
            "levenshtein.keep_weight",
            levenshtein.as_ref().map(|l| l.keep_weight),
        ),
    ];
    for (key, weight) in weights {
        let is_weight = weight.is_none_or(|weight| weight.is_finite() && weight >= 0.0);
        check(is_weight, key, "must be a number of at least 0")?;
    }
    let beta = dpo.as_ref().map_or(1.0, |dpo| dpo.beta);
    check(
        beta.is_finite() && beta > 0.0,
        "dpo.beta",
        "must be a number greater than 0",
    )
}

fn validate_shares(recipe: &Recipe) -> Result<()> {
    let Recipe {
        edit,
        levenshtein,
        oput,
        ..
    } = recipe;
    let shares = [
        ("edit.rate", edit.as_ref().map(|edit| edit.rate)),
        ("edit.keep_rate", edit.as_ref().map(|edit| edit.keep_rate)),
        ("edit.threshold", edit.as_ref().map(|edit| edit.threshold)),
        ("levenshtein.share", levenshtein.as_ref().map(|l| l.share)),
        ("levenshtein.rate", levenshtein.as_ref().map(|l| l.rate)),
        (
            "levenshtein.threshold",
            levenshtein.as_ref().map(|l| l.threshold),
        ),
        ("oput.share", oput.as_ref().map(|oput| oput.share)),
    ];
    for (key, share) in shares {
        let is_share = share.is_none_or(|share| (0.0..=1.0).contains(&share));
        check(is_share, key, "must be between 0 and 1")?;
    }
    Ok(())
}

fn validate_meaning(recipe: &Recipe) -> Result<()> {
    let objective = &recipe.objective;
    if let Some(dpo) = &recipe.dpo {
        check(dpo.draws > 0, "dpo.draws", "must be at least 1")?;
        let problem = "must be `elbo_token` with `dpo`, which compares whole bounds";
        let is_bound = objective.normalisation == Normalisation::ElboToken;
        check(is_bound, "objective.normalisation", problem)?;
        let problem = "has no meaning with `dpo`: policy and reference must see the same rows";
        let is_noiseless = objective.mask_noise_steps == 0;
        check(is_noiseless, "objective.mask_noise_steps", problem)?;
    }
    if let Some(edit) = &recipe.edit {
        check(edit.turns > 0, "edit.turns", "must be at least 1")?;
    }
    let turns = recipe.levenshtein.as_ref().map_or(1, |l| l.turns);
    check(turns > 0, "levenshtein.turns", "must be at least 1")?;
    check(
        recipe.levenshtein.is_none() || !objective.complementary,
        "objective.complementary",
        "has no meaning with `levenshtein`: a draft has no twin",
    )
}

fn beta() -> f64 {
    0.1
}

fn once() -> usize {
    1
}

fn tenth() -> f32 {
    0.1
}

fn half() -> f32 {
    0.5
}

fn whole() -> f32 {
    1.0
}
