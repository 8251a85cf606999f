//! `[lora]`: an adapter that is trained in place of the weights.

use llada_model::TensorGroup;
use serde::{Deserialize, Serialize};

use super::{Recipe, check};
use crate::error::Result;

/// An adapter (LoRA, arXiv:2106.09685): `W x + alpha / rank * B (A dropout(x))`, of which A and B are trained
/// and W is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Rows of A and columns of B. Default: 32.
    #[serde(default = "rank")]
    pub rank: usize,
    /// What B A is multiplied by, times the rank. Default: 64.
    #[serde(default = "alpha")]
    pub alpha: f32,
    /// Share of the inputs of A that is dropped in training. Default: 0.05.
    #[serde(default = "dropout")]
    pub dropout: f32,
    /// Projections that have an A and a B: of `attention`, of `dense` layers, of `shared` experts, of routed
    /// `experts`. Default: all of these that the model has, but routed experts.
    pub targets: Option<Vec<Target>>,
}

/// Projections that may have an A and a B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Of attention: fused queries, keys and values, and the output.
    Attention,
    /// Of the feed-forward parts of dense layers.
    Dense,
    /// Of shared experts.
    Shared,
    /// Of routed experts.
    Experts,
}

impl From<Target> for TensorGroup {
    fn from(target: Target) -> Self {
        match target {
            Target::Attention => Self::Attention,
            Target::Dense => Self::Dense,
            Target::Shared => Self::Shared,
            Target::Experts => Self::Experts,
        }
    }
}

pub(super) fn validate(recipe: &Recipe) -> Result<()> {
    let Some(lora) = &recipe.lora else {
        return Ok(());
    };
    check(lora.rank > 0, "lora.rank", "must be at least 1")?;
    check(
        lora.alpha.is_finite() && lora.alpha > 0.0,
        "lora.alpha",
        "must be a number greater than 0",
    )?;
    check(
        (0.0..1.0).contains(&lora.dropout),
        "lora.dropout",
        "must be at least 0 and below 1",
    )?;
    let targets = lora.targets.as_deref();
    check(
        targets.is_none_or(|targets| !targets.is_empty()),
        "lora.targets",
        "must name something to train",
    )?;
    let has_experts = targets.is_some_and(|targets| targets.contains(&Target::Experts));
    check(
        !has_experts || lora.dropout == 0.0,
        "lora.dropout",
        "must be 0 with `experts` among `lora.targets`: nothing is dropped of what they see",
    )?;
    validate_base(recipe)
}

/// Checks that nothing else is to change the model that the adapter is for.
fn validate_base(recipe: &Recipe) -> Result<()> {
    check(
        recipe.model.path.is_some(),
        "model.path",
        "must name the checkpoint that `[lora]` trains an adapter for",
    )?;
    check(
        recipe.model.freeze.is_empty(),
        "model.freeze",
        "has no meaning with `[lora]`, which trains nothing but the adapter",
    )?;
    check(
        recipe.optimizer.expert_bias_rate == 0.0,
        "optimizer.expert_bias_rate",
        "must be 0 with `[lora]`, which trains nothing but the adapter",
    )
}

fn rank() -> usize {
    32
}

fn alpha() -> f32 {
    64.0
}

fn dropout() -> f32 {
    0.05
}
