//! `[objective]`: what the model is trained to do.

use llada_diffusion as method;
use llada_diffusion::{
    Band, BlockSchedule, BlockSize, BlockStage, MaskDraw, NoiseSchedule, Normalisation, RateScope,
};
use serde::{Deserialize, Serialize};

use super::{by_name, check, refuse, yes};
use crate::error::Result;

/// What the model is trained to do.
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
    /// Blocks of a document that are denoised at the same time, for `bdlm`; above 1 their ratios rise
    /// within a group, whatever `rate_scope` says. Default: 1.
    #[serde(default = "one")]
    pub group_blocks: usize,
    /// What the loss is divided by: `elbo_token`, `masked_mean` or `sequence`. Default: `elbo_token`.
    #[serde(default = "elbo_token", with = "by_name")]
    pub normalisation: Normalisation,
    /// Steps at the start in which the embeddings of masked tokens get noise, falling to 0: for a model
    /// that has not seen MASK before. Default: 0.
    #[serde(default)]
    pub mask_noise_steps: u64,
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
        check(
            !(is_ar && self.mask_noise_steps > 0),
            "objective.mask_noise_steps",
            "has no meaning for `ar`, which masks nothing",
        )?;
        self.validate_groups()?;
        let twins_lose = self.complementary && self.mask_ratio_band[1] == 1.0;
        let divides = self.normalisation != Normalisation::MaskedMean;
        let problem = "must be `masked_mean` for `complementary` with a band that reaches 1: \
                       the twin of a full mask has ratio 0";
        check(!(twins_lose && divides), "objective.normalisation", problem)
    }

    fn validate_groups(&self) -> Result<()> {
        let (key, size) = ("objective.group_blocks", self.group_blocks);
        check(size > 0, key, "must be at least 1")?;
        let has_blocks = size == 1 || self.kind == method::Objective::Bdlm;
        check(has_blocks, key, "is for `bdlm` only")?;
        let is_mean = size == 1 || self.normalisation == Normalisation::MaskedMean;
        let problem = "must be `masked_mean` for groups of blocks: their ratios are not uniform";
        check(is_mean, "objective.normalisation", problem)
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

fn one() -> usize {
    1
}

fn full_band() -> [f32; 2] {
    [Band::FULL.lo(), Band::FULL.hi()]
}

fn elbo_token() -> Normalisation {
    Normalisation::ElboToken
}
