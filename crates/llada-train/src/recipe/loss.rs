//! `[cap]` and `[dpo]`: losses beyond the likelihood of masked tokens. At most one of them is given.

use std::path::PathBuf;

use llada_diffusion as method;
use llada_diffusion::Normalisation;
use serde::{Deserialize, Serialize};

use super::{Recipe, check};
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
    #[serde(default = "draws")]
    pub draws: usize,
    /// Checkpoint that the policy is compared with. Default: the weights that the run starts from.
    pub reference: Option<PathBuf>,
}

pub(super) fn validate(recipe: &Recipe) -> Result<()> {
    let is_ar = recipe.objective.kind == method::Objective::Ar;
    if let Some(cap) = &recipe.cap {
        check(!is_ar, "cap", "has no meaning for objective.kind `ar`")?;
        let is_weight = cap.lambda.is_finite() && cap.lambda >= 0.0;
        check(is_weight, "cap.lambda", "must be a number of at least 0")?;
    }
    let Some(dpo) = &recipe.dpo else {
        return Ok(());
    };
    check(
        recipe.cap.is_none(),
        "dpo",
        "and `cap` exclude each other; keep one",
    )?;
    check(!is_ar, "dpo", "has no meaning for objective.kind `ar`")?;
    let is_weight = dpo.beta.is_finite() && dpo.beta > 0.0;
    check(is_weight, "dpo.beta", "must be a number greater than 0")?;
    check(dpo.draws > 0, "dpo.draws", "must be at least 1")?;
    let problem = "must be `elbo_token` with `dpo`, which compares whole bounds";
    let is_bound = recipe.objective.normalisation == Normalisation::ElboToken;
    check(is_bound, "objective.normalisation", problem)
}

fn beta() -> f64 {
    0.1
}

fn draws() -> usize {
    1
}
