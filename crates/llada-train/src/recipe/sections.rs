//! The sections of a recipe: every key with its unit and default.

use std::path::{Path, PathBuf};

use llada_diffusion as method;
use llada_diffusion::{
    Band, BlockSchedule, BlockSize, BlockStage, Decay, LearningRate, MaskDraw, NoiseSchedule,
    Normalisation, RateScope,
};
use llada_model::{Activations, StorageDtype};
use llada_tensor::Precision;
use serde::{Deserialize, Serialize};

use super::by_name;
use crate::error::{Error, Result};

/// `[model]`: which weights the run starts from. Give `path`, or `config` and `tokenizer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Checkpoint directory to start from.
    pub path: Option<PathBuf>,
    /// `config.json` of a model to start from random weights.
    pub config: Option<PathBuf>,
    /// Directory of the tokenizer. Default: `path`.
    pub tokenizer: Option<PathBuf>,
    /// Seed of random weights. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Element type of matrix products; weights and their updates are always f32. Default: `f32`.
    #[serde(default)]
    pub precision: Compute,
}

/// Where the first weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init<'a> {
    /// A checkpoint directory.
    Checkpoint(&'a Path),
    /// A `config.json` and the seed.
    Random(&'a Path),
}

/// Element type of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16 operands, f32 sums.
    Bf16,
}

impl From<Compute> for Precision {
    fn from(compute: Compute) -> Self {
        match compute {
            Compute::F32 => Self::F32,
            Compute::Bf16 => Self::Bf16,
        }
    }
}

impl Model {
    /// Returns where the first weights come from.
    ///
    /// # Errors
    /// Unless exactly one of `path` and `config` is given.
    pub fn init(&self) -> Result<Init<'_>> {
        match (&self.path, &self.config) {
            (Some(path), None) => Ok(Init::Checkpoint(path)),
            (None, Some(config)) => Ok(Init::Random(config)),
            _ => refuse(
                "model.path",
                "or `model.config` must be given, and not both",
            ),
        }
    }

    /// Returns the directory of the tokenizer, if one is known.
    pub fn tokenizer_dir(&self) -> Option<&Path> {
        self.tokenizer.as_deref().or(self.path.as_deref())
    }
}

/// One path or a list of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "Vec<PathBuf>")]
pub struct Paths(pub Vec<PathBuf>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Paths {
    fn from(paths: OneOrMany) -> Self {
        match paths {
            OneOrMany::One(path) => Self(vec![path]),
            OneOrMany::Many(paths) => Self(paths),
        }
    }
}

impl From<Paths> for Vec<PathBuf> {
    fn from(paths: Paths) -> Self {
        paths.0
    }
}

/// `[data]`: what the model is trained and validated on. See [`crate::data`] for the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// JSONL file or files to train on.
    pub train: Paths,
    /// JSONL file or files to validate on. Default: none.
    #[serde(default)]
    pub valid: Paths,
    /// Longest document in tokens; longer texts are cut into several. Default: 512.
    #[serde(default = "max_len")]
    pub max_len: usize,
    /// Whether `text` rows end with EOS (answers always do). Default: true.
    #[serde(default = "yes")]
    pub append_eos: bool,
}

impl Data {
    pub(super) fn validate(&self) -> Result<()> {
        check(
            !self.train.0.is_empty(),
            "data.train",
            "must name at least one file",
        )?;
        check(
            self.max_len >= 2,
            "data.max_len",
            "must be at least 2 tokens",
        )
    }
}

/// `[objective]`: what the model is trained to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// `ar` (next token), `bdlm` (denoise blocks) or `mdlm` (denoise whole documents).
    #[serde(with = "by_name")]
    pub kind: method::Objective,
    /// Tokens per block, for `bdlm` with one block size.
    pub block_size: Option<usize>,
    /// Block sizes in order, for `bdlm` with several; the last one stays until the end.
    #[serde(default)]
    pub block_schedule: Vec<Stage>,
    /// Lowest and highest share of tokens that is masked. Default: [0.001, 1.0].
    #[serde(default = "full_band")]
    pub mask_ratio_band: [f32; 2],
    /// What shares a mask ratio: `block` or `document`. Default: `block`.
    #[serde(default, with = "by_name")]
    pub rate_scope: RateScope,
    /// `independent` tokens, or `exact_k` of them per ratio. Default: `independent`.
    #[serde(default, with = "by_name")]
    pub mask_draw: MaskDraw,
    /// What the loss is divided by: `elbo_token`, `masked_mean` or `sequence`. Default: `elbo_token`.
    #[serde(default = "elbo_token", with = "by_name")]
    pub normalisation: Normalisation,
    /// Whether each document is trained on twice, with a mask and its complement. Default: false.
    #[serde(default)]
    pub complementary: bool,
    /// Whether `ar` also scores the prompts of prompt/response rows. Default: false.
    #[serde(default)]
    pub loss_on_prompt: bool,
    /// Whether answers are filled up with EOS to the end of their block and learn it. Default: true.
    #[serde(default = "yes")]
    pub eos_fill: bool,
}

/// A stretch of training with one block size. Give `steps` or `tokens`, the same in all stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Tokens per block.
    pub block: usize,
    /// Optimiser steps before the next stage.
    pub steps: Option<u64>,
    /// Tokens of documents before the next stage.
    pub tokens: Option<u64>,
}

/// The block size as a function of what has been trained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Stages are counted in optimiser steps.
    BySteps(BlockSchedule),
    /// Stages are counted in tokens.
    ByTokens(BlockSchedule),
}

impl Blocks {
    /// Returns the block size of the step that follows `steps` steps on `tokens` tokens.
    pub fn at(&self, steps: u64, tokens: u64) -> BlockSize {
        match self {
            Self::BySteps(schedule) => schedule.block_size_at(steps),
            Self::ByTokens(schedule) => schedule.block_size_at(tokens),
        }
    }
}

impl Objective {
    pub(super) fn validate(&self) -> Result<()> {
        self.noise()?;
        self.blocks()?;
        let is_ar = self.kind == method::Objective::Ar;
        check(
            !(is_ar && self.complementary),
            "objective.complementary",
            "has no meaning for `ar`",
        )?;
        check(
            is_ar || !self.loss_on_prompt,
            "objective.loss_on_prompt",
            "is for `ar` only",
        )?;
        let twins_lose = self.complementary && self.mask_ratio_band[1] == 1.0;
        let divides = self.normalisation != Normalisation::MaskedMean;
        let problem = "must be `masked_mean` for `complementary` with a band that reaches 1: \
                       the twin of a full mask has ratio 0";
        check(!(twins_lose && divides), "objective.normalisation", problem)
    }

    /// Returns how documents are corrupted.
    ///
    /// # Errors
    /// If the band of mask ratios is invalid.
    pub fn noise(&self) -> Result<NoiseSchedule> {
        let [lo, hi] = self.mask_ratio_band;
        let band = Band::new(lo, hi)?;
        Ok(NoiseSchedule {
            scope: self.rate_scope,
            band,
            draw: self.mask_draw,
        })
    }

    /// Returns the schedule of block sizes: of one token for `ar`, of any size for `mdlm`, which
    /// takes the document's.
    ///
    /// # Errors
    /// If a size or a budget is invalid, missing, or given without need.
    pub fn blocks(&self) -> Result<Blocks> {
        let one = |size| BlockStage {
            block_size: size,
            tokens: u64::MAX,
        };
        let key = "objective.block_size";
        match (self.kind, self.block_size, &self.block_schedule[..]) {
            (method::Objective::Bdlm, Some(size), []) => Ok(Blocks::BySteps(BlockSchedule::new(
                vec![one(BlockSize::new(size)?)],
            )?)),
            (method::Objective::Bdlm, None, stages @ [_, ..]) => scheduled(stages),
            (method::Objective::Bdlm, ..) => refuse(
                key,
                "or `objective.block_schedule` must be given for `bdlm`, and not both",
            ),
            (_, None, []) => Ok(Blocks::BySteps(BlockSchedule::new(vec![one(
                BlockSize::ONE,
            )])?)),
            _ => refuse(key, "and `objective.block_schedule` are for `bdlm` only"),
        }
    }
}

fn scheduled(stages: &[Stage]) -> Result<Blocks> {
    let unit = |budget: fn(&Stage) -> Option<u64>| -> Option<Vec<(usize, u64)>> {
        stages
            .iter()
            .map(|stage| Some((stage.block, budget(stage)?)))
            .collect()
    };
    let build = |budgets: Vec<(usize, u64)>| -> Result<BlockSchedule> {
        let stage = |(block, tokens)| -> Result<BlockStage> {
            Ok(BlockStage {
                block_size: BlockSize::new(block)?,
                tokens,
            })
        };
        Ok(BlockSchedule::new(
            budgets.into_iter().map(stage).collect::<Result<_>>()?,
        )?)
    };
    let (has_steps, has_tokens) = (
        stages.iter().any(|s| s.steps.is_some()),
        stages.iter().any(|s| s.tokens.is_some()),
    );
    match (unit(|s| s.steps), unit(|s| s.tokens)) {
        (Some(budgets), _) if !has_tokens => Ok(Blocks::BySteps(build(budgets)?)),
        (_, Some(budgets)) if !has_steps => Ok(Blocks::ByTokens(build(budgets)?)),
        _ => refuse(
            "objective.block_schedule",
            "must give `steps` in all stages, or `tokens`",
        ),
    }
}

/// `[optimizer]`: AdamW. Weight decay applies to projection matrices only.
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
        check(self.clip > 0.0, "optimizer.clip", "must be greater than 0")
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

/// `[train]`: how long, in which batches, and what is written when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u64,
    /// Documents per step. Give this or `batch_tokens`.
    pub batch_documents: Option<usize>,
    /// Tokens per step: documents are added until they have so many.
    pub batch_tokens: Option<usize>,
    /// Rows of one forward pass at most (one document may have more). Default: 8192.
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
    /// Checkpoints kept. Default: 2.
    #[serde(default = "keep_last")]
    pub keep_last: usize,
    /// Element type of `final/`: `f32` or `bf16`. Default: `f32`.
    #[serde(default)]
    pub export_dtype: ExportDtype,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportDtype {
    /// The weights as they were trained.
    #[default]
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
        let is_block = !self.eval_block_sizes.contains(&0);
        check(
            is_block,
            "train.eval_block_sizes",
            "must be at least 1 token each",
        )
    }
}

fn check(holds: bool, key: &'static str, problem: &str) -> Result<()> {
    if holds { Ok(()) } else { refuse(key, problem) }
}

fn refuse<T>(key: &'static str, problem: &str) -> Result<T> {
    Err(Error::Setting {
        key,
        problem: problem.into(),
    })
}

fn yes() -> bool {
    true
}

fn max_len() -> usize {
    512
}

fn full_band() -> [f32; 2] {
    [Band::FULL.lo(), Band::FULL.hi()]
}

fn elbo_token() -> Normalisation {
    Normalisation::ElboToken
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

fn micro_batch_rows() -> usize {
    8192
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
