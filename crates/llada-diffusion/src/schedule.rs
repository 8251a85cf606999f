//! Schedules over a run: the block size, and the learning rate.
//!
//! **Warm-up, stable, decay of the block size.** A parent that writes token by token is turned into
//! one that denoises blocks by growing the block, 1 -> 4 -> 32 -> 64 -> 4096 (warm-up); it is trained
//! for most tokens with the whole text as one block (stable), where Eq. 1 becomes Eq. 2; and then
//! brought back to a size that is practical to serve, 4096 -> 2048 -> ... -> 32 (decay). The report
//! does not give the token budgets, so they are configuration: an ordered list of stages.
//!
//! Optimiser state and learning rate run on across stages: the learning rate has its own schedule,
//! by optimiser steps, and knows nothing of blocks.

use crate::names::names;
use crate::{BlockSize, Error};

/// A stretch of training with one block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStage {
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Tokens trained on before the next stage begins.
    pub tokens: u64,
}

/// The block size as a function of tokens seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSchedule {
    stages: Vec<BlockStage>,
}

impl BlockSchedule {
    /// Returns the schedule of stages in order.
    ///
    /// # Errors
    /// If there is no stage, a stage has no tokens, or the sum of tokens overflows.
    pub fn new(stages: Vec<BlockStage>) -> Result<Self, Error> {
        if stages.is_empty() {
            return Err(Error::EmptySchedule);
        }
        if let Some(stage) = stages.iter().position(|stage| stage.tokens == 0) {
            return Err(Error::EmptyStage { stage });
        }
        let total = stages
            .iter()
            .try_fold(0u64, |sum, stage| sum.checked_add(stage.tokens));
        total.ok_or(Error::TokenOverflow).map(|_| Self { stages })
    }

    /// Returns the stages in order.
    pub fn stages(&self) -> &[BlockStage] {
        &self.stages
    }

    /// Returns the tokens of all stages.
    pub fn total_tokens(&self) -> u64 {
        self.stages.iter().map(|stage| stage.tokens).sum()
    }

    /// Returns the block size after `tokens_seen` tokens; past the end it stays the last one.
    pub fn block_size_at(&self, tokens_seen: u64) -> BlockSize {
        let mut end = 0;
        let stage = self.stages.iter().find(|stage| {
            end += stage.tokens;
            tokens_seen < end
        });
        stage
            .unwrap_or(&self.stages[self.stages.len() - 1])
            .block_size
    }
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decay {
    /// It does not.
    Constant,
    /// In a straight line.
    Linear,
    /// By half a cosine.
    #[default]
    Cosine,
}

names!(Decay, "learning-rate decay", {
    Constant => "constant",
    Linear => "linear",
    Cosine => "cosine",
});

/// The learning rate as a function of the optimiser step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    peak: f32,
    min: f32,
    warmup_steps: u64,
    total_steps: u64,
    decay: Decay,
}

impl LearningRate {
    /// Returns a schedule that rises to `peak` over `warmup_steps` and falls to `min` at
    /// `total_steps`.
    ///
    /// # Errors
    /// Unless 0 <= min <= peak, both finite, and the warm-up is within the run.
    pub fn new(
        peak: f32,
        min: f32,
        warmup_steps: u64,
        total_steps: u64,
        decay: Decay,
    ) -> Result<Self, Error> {
        if !(0.0 <= min && min <= peak && peak.is_finite()) {
            return Err(Error::LearningRate { peak, min });
        }
        if warmup_steps > total_steps {
            return Err(Error::Warmup {
                warmup_steps,
                total_steps,
            });
        }
        Ok(Self {
            peak,
            min,
            warmup_steps,
            total_steps,
            decay,
        })
    }

    /// Returns the learning rate of `step`, counted from 0.
    ///
    /// The warm-up starts at peak / W, not at 0: the first step is a step. Past the end the rate
    /// stays where it arrived.
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warmup_steps {
            return (f64::from(self.peak) * (step + 1) as f64 / self.warmup_steps as f64) as f32;
        }
        let kept = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - self.progress(step),
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * self.progress(step)).cos()),
        };
        let (min, peak) = (f64::from(self.min), f64::from(self.peak));
        (min + (peak - min) * kept) as f32
    }

    /// Returns the share of the decay that is behind `step`, 0 to 1.
    fn progress(&self, step: u64) -> f64 {
        let decay_steps = (self.total_steps - self.warmup_steps).max(1);
        ((step - self.warmup_steps) as f64 / decay_steps as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(size: usize, tokens: u64) -> BlockStage {
        BlockStage {
            block_size: BlockSize::new(size).unwrap(),
            tokens,
        }
    }

    #[test]
    fn the_block_size_changes_exactly_when_a_stage_is_used_up() {
        let schedule = BlockSchedule::new(vec![stage(1, 10), stage(4, 5), stage(32, 1)]).unwrap();
        let at = |tokens| schedule.block_size_at(tokens).get();
        assert_eq!(
            [0, 9, 10, 14, 15, 16, 1000].map(at),
            [1, 1, 4, 4, 32, 32, 32]
        );
        assert_eq!(schedule.total_tokens(), 16);
    }

    #[test]
    fn every_stage_lasts_as_long_as_its_budget() {
        let stages = vec![
            stage(1, 3),
            stage(4, 2),
            stage(16, 7),
            stage(8, 1),
            stage(4, 4),
        ];
        let schedule = BlockSchedule::new(stages.clone()).unwrap();
        let sizes = (0..schedule.total_tokens()).map(|token| schedule.block_size_at(token));
        let expected = stages
            .iter()
            .flat_map(|stage| std::iter::repeat_n(stage.block_size, stage.tokens as usize));
        assert!(sizes.eq(expected));
    }

    #[test]
    fn schedules_that_train_on_nothing_are_refused() {
        assert_eq!(BlockSchedule::new(vec![]), Err(Error::EmptySchedule));
        let empty = BlockSchedule::new(vec![stage(1, 10), stage(4, 0)]);
        assert_eq!(empty, Err(Error::EmptyStage { stage: 1 }));
        let overflow = BlockSchedule::new(vec![stage(1, u64::MAX), stage(4, 1)]);
        assert_eq!(overflow, Err(Error::TokenOverflow));
    }

    #[test]
    fn the_first_step_of_a_warm_up_is_not_lost() {
        let rate = LearningRate::new(0.8, 0.0, 4, 8, Decay::Constant).unwrap();
        let expected = [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8];
        assert!(
            (0..8)
                .map(|step| rate.at(step))
                .eq(expected.map(|x: f32| x))
        );
    }

    #[test]
    fn linear_and_cosine_decay_go_from_peak_to_min() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let rate = LearningRate::new(1.0, 0.1, 2, 12, decay).unwrap();
            assert_eq!(
                (rate.at(2), rate.at(12), rate.at(99)),
                (1.0, 0.1, 0.1),
                "{decay}"
            );
            assert!(
                (rate.at(7) - 0.55).abs() < 1e-6,
                "half way at half time: {decay}"
            );
            assert!(
                (2..12).all(|step| rate.at(step + 1) < rate.at(step)),
                "{decay}"
            );
        }
        let cosine = LearningRate::new(1.0, 0.0, 0, 4, Decay::Cosine).unwrap();
        assert!((cosine.at(1) - 0.853_553).abs() < 1e-6);
    }

    #[test]
    fn impossible_learning_rates_are_refused() {
        let new = |peak, min, warmup| LearningRate::new(peak, min, warmup, 10, Decay::Linear);
        for (peak, min) in [
            (0.1, 0.2),
            (0.1, -0.1),
            (f32::NAN, 0.0),
            (f32::INFINITY, 0.0),
        ] {
            assert!(
                matches!(new(peak, min, 0), Err(Error::LearningRate { .. })),
                "{peak} {min}"
            );
        }
        assert_eq!(
            new(0.1, 0.0, 11),
            Err(Error::Warmup {
                warmup_steps: 11,
                total_steps: 10
            })
        );
        assert!(new(0.1, 0.0, 10).is_ok());
    }
}
