//! `[optimizer]`: AdamW and the learning rate.

use llada_diffusion::{Decay, LearningRate};
use serde::{Deserialize, Serialize};

use super::{by_name, check};
use crate::error::Result;

/// AdamW. Weight decay applies to projection matrices only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Highest learning rate.
    pub lr: f32,
    /// Learning rate at the last step. Default: 0.
    #[serde(default)]
    pub lr_min: f32,
    /// How it falls after the warm-up: `constant`, `linear` or `cosine`. Default: `cosine`.
    #[serde(default, with = "by_name")]
    pub schedule: Decay,
    /// Steps over which it rises from lr / warmup_steps. Default: 0.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Decay of the two moments per step. Default: [0.9, 0.95].
    #[serde(default = "betas")]
    pub betas: [f32; 2],
    /// Added to the root of the second moment. Default: 1e-8.
    #[serde(default = "eps")]
    pub eps: f32,
    /// Share of a matrix lost per step and unit of learning rate. Default: 0.1.
    #[serde(default = "weight_decay")]
    pub weight_decay: f32,
    /// Largest global gradient norm; larger ones are scaled down. Default: 1.
    #[serde(default = "clip")]
    pub clip: f32,
    /// How far the bias of an expert moves per step towards an even load. Default: 0, it stays.
    #[serde(default)]
    pub expert_bias_rate: f32,
    /// Weight of the mean squared log-sum-exp of router logits in the loss. Default: 0.
    #[serde(default)]
    pub router_z_loss: f32,
}

impl Optimizer {
    pub(super) fn validate(&self) -> Result<()> {
        let is_share = |beta: f32| (0.0..1.0).contains(&beta);
        check(
            self.betas.into_iter().all(is_share),
            "optimizer.betas",
            "must be in 0..1",
        )?;
        check(self.eps > 0.0, "optimizer.eps", "must be greater than 0")?;
        check(
            self.weight_decay >= 0.0,
            "optimizer.weight_decay",
            "must be at least 0",
        )?;
        check(self.clip > 0.0, "optimizer.clip", "must be greater than 0")?;
        let is_rate = |rate: f32| (0.0..f32::INFINITY).contains(&rate);
        check(
            is_rate(self.expert_bias_rate),
            "optimizer.expert_bias_rate",
            "must be at least 0",
        )?;
        check(
            is_rate(self.router_z_loss),
            "optimizer.router_z_loss",
            "must be at least 0",
        )
    }

    /// Returns the learning rate over a run of `steps` steps.
    ///
    /// # Errors
    /// If the rates or the warm-up are out of range.
    pub fn schedule(&self, steps: u64) -> Result<LearningRate> {
        Ok(LearningRate::new(
            self.lr,
            self.lr_min,
            self.warmup_steps,
            steps,
            self.schedule,
        )?)
    }
}

fn betas() -> [f32; 2] {
    [0.9, 0.95]
}

fn eps() -> f32 {
    1e-8
}

fn weight_decay() -> f32 {
    0.1
}

fn clip() -> f32 {
    1.0
}
