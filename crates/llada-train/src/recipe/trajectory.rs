//! `[trajectory]`: fewer steps to answers that a decoder has written.

use std::num::NonZeroU32;

use llada_diffusion as method;
use llada_diffusion::{Band, MaskDraw, Normalisation, RateScope, TrajectoryNoise};
use serde::{Deserialize, Serialize};

use super::{Recipe, check};
use crate::error::Result;

/// States of recorded decodings in place of random masks: what several of their steps placed is learned at
/// once. Rows are as `llada data record` writes them. Alone, or with `[cap]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trajectory {
    /// Recorded steps that are learned as one, at most. Default: 4.
    #[serde(default = "four")]
    pub most_steps: NonZeroU32,
}

impl Trajectory {
    /// Returns which states are learned.
    pub fn noise(&self) -> TrajectoryNoise {
        let most_steps = self.most_steps;
        TrajectoryNoise { most_steps }
    }
}

pub(super) fn validate(recipe: &Recipe) -> Result<()> {
    if recipe.trajectory.is_none() {
        return Ok(());
    }
    let objective = &recipe.objective;
    check(
        objective.kind == method::Objective::Bdlm && objective.block_size.is_some(),
        "objective.block_size",
        "must be given with `trajectory`, for `bdlm`: it is that of the recorded decoding",
    )?;
    check(
        objective.normalisation == Normalisation::MaskedMean,
        "objective.normalisation",
        "must be `masked_mean` with `trajectory`, whose states have no mask ratio",
    )?;
    let [lo, hi] = objective.mask_ratio_band;
    let is_full = lo == Band::FULL.lo() && hi == Band::FULL.hi();
    let problem =
        "has no meaning with `trajectory`, whose masks are the states of a recorded decoding";
    for (key, is_absent) in [
        ("objective.mask_ratio_band", is_full),
        (
            "objective.rate_scope",
            objective.rate_scope == RateScope::default(),
        ),
        (
            "objective.mask_draw",
            objective.mask_draw == MaskDraw::default(),
        ),
        ("objective.complementary", !objective.complementary),
        ("objective.group_blocks", objective.group_blocks == 1),
        ("dpo", recipe.dpo.is_none()),
        ("edit", recipe.edit.is_none()),
        ("levenshtein", recipe.levenshtein.is_none()),
        ("oput", recipe.oput.is_none()),
        ("ebpo", recipe.ebpo.is_none()),
    ] {
        check(is_absent, key, problem)?;
    }
    Ok(())
}

fn four() -> NonZeroU32 {
    NonZeroU32::new(4).expect("4 is not 0")
}
