//! `[train]`: how long, in which batches, and what is written when.

use llada_model::{Activations, StorageDtype};
use serde::{Deserialize, Serialize};

use super::check;
use crate::error::Result;

/// How long, in which batches, and what is written when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u64,
    /// Documents per step. Give this or `batch_tokens`.
    pub batch_documents: Option<usize>,
    /// Tokens per step: documents are added until they have so many.
    pub batch_tokens: Option<usize>,
    /// Rows of one forward pass at most (one document may have more). Default: 2048, of which the
    /// activations of a small model's layer fit the caches.
    #[serde(default = "micro_batch_rows")]
    pub micro_batch_rows: usize,
    /// Whether layer activations are kept (`keep`) or computed twice (`recompute`). Default: `keep`.
    #[serde(default)]
    pub activations: KeepActivations,
    /// Seed of noise and order. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Seconds after which the run ends early, with everything saved. Default: no limit.
    pub max_seconds: Option<f64>,
    /// Steps between validations; 0 validates only after the last step. Default: 0.
    #[serde(default)]
    pub eval_every: u64,
    /// Block sizes of the validation bound; `ar` runs validate the exact likelihood. Default: [].
    #[serde(default)]
    pub eval_block_sizes: Vec<usize>,
    /// Validation documents; 0 takes all. Default: 128.
    #[serde(default = "eval_documents")]
    pub eval_documents: usize,
    /// Noise levels per block in validation. Default: 8.
    #[serde(default = "eval_draws")]
    pub eval_draws: usize,
    /// Steps between checkpoints; 0 writes only the last one. Default: 0.
    #[serde(default)]
    pub checkpoint_every: u64,
    /// Newest checkpoints kept. Default: 2.
    #[serde(default = "keep_last")]
    pub keep_last: usize,
    /// Checkpoints kept besides, those that `keep_best_metric` calls best. Default: 0.
    #[serde(default)]
    pub keep_best: usize,
    /// Validation by which checkpoints are compared, such as `block_32` (the lowest) or
    /// `dpo_accuracy` (the highest). Needed for `keep_best`.
    pub keep_best_metric: Option<String>,
    /// Element type of `final/`: `f32` or `bf16`. Default: `f32`; with `[lora]` that of the base.
    pub export_dtype: Option<ExportDtype>,
}

/// What is kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepActivations {
    /// Everything.
    #[default]
    Keep,
    /// Layer inputs only.
    Recompute,
}

impl From<KeepActivations> for Activations {
    fn from(keep: KeepActivations) -> Self {
        match keep {
            KeepActivations::Keep => Self::Keep,
            KeepActivations::Recompute => Self::Recompute,
        }
    }
}

/// Element type of the exported model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    /// The weights as they were trained.
    F32,
    /// Rounded to half the size.
    Bf16,
}

impl From<ExportDtype> for StorageDtype {
    fn from(dtype: ExportDtype) -> Self {
        match dtype {
            ExportDtype::F32 => Self::F32,
            ExportDtype::Bf16 => Self::Bf16,
        }
    }
}

impl Train {
    pub(super) fn validate(&self) -> Result<()> {
        check(self.steps > 0, "train.steps", "must be at least 1")?;
        let sizes = [self.batch_documents, self.batch_tokens];
        let is_one = sizes.iter().flatten().count() == 1 && !sizes.contains(&Some(0));
        check(
            is_one,
            "train.batch_documents",
            "or `train.batch_tokens` must be given, above 0",
        )?;
        check(
            self.micro_batch_rows > 0,
            "train.micro_batch_rows",
            "must be at least 1",
        )?;
        let is_time = self.max_seconds.is_none_or(|seconds| seconds > 0.0);
        check(is_time, "train.max_seconds", "must be greater than 0")?;
        check(
            self.eval_draws > 0,
            "train.eval_draws",
            "must be at least 1",
        )?;
        check(self.keep_last > 0, "train.keep_last", "must be at least 1")?;
        self.validate_keep_best()?;
        let is_block = !self.eval_block_sizes.contains(&0);
        check(
            is_block,
            "train.eval_block_sizes",
            "must be at least 1 token each",
        )
    }
}

impl Train {
    /// Checks that the checkpoints to choose from will have been validated.
    fn validate_keep_best(&self) -> Result<()> {
        if self.keep_best == 0 {
            let problem = "is for `train.keep_best` above 0";
            return check(
                self.keep_best_metric.is_none(),
                "train.keep_best_metric",
                problem,
            );
        }
        check(
            self.keep_best_metric.is_some(),
            "train.keep_best_metric",
            "must be given for `train.keep_best`, such as `block_32`",
        )?;
        let is_validated =
            self.eval_every > 0 && self.checkpoint_every.is_multiple_of(self.eval_every);
        check(
            is_validated,
            "train.checkpoint_every",
            "must be a multiple of `train.eval_every` for `train.keep_best`: only validated \
             checkpoints can be compared",
        )
    }
}

fn micro_batch_rows() -> usize {
    2048
}

fn eval_documents() -> usize {
    128
}

fn eval_draws() -> usize {
    8
}

fn keep_last() -> usize {
    2
}
