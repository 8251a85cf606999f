//! What the engine did, in numbers.

use std::time::Duration;

/// Counts and times since the engine was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Forwards of the model, each of many requests.
    pub forwards: u64,
    /// Rows of these forwards.
    pub rows: u64,
    /// Groups of rows by purpose, as in [`crate::Forwards`], summed over requests.
    pub prefill: u64,
    /// See `prefill`.
    pub denoise: u64,
    /// See `prefill`.
    pub commit: u64,
    /// Positions whose token the head decided or could have.
    pub head_rows: u64,
    /// Tokens accepted at open positions.
    pub accepted: u64,
    /// Steps in which the most confident proposals were taken because too few passed.
    pub fallbacks: u64,
    /// Placed tokens that were changed.
    pub edits: u64,
    /// Rows of prompts that were found in the cache.
    pub cached_rows: u64,
    /// Requests that gave up their pages for an older one.
    pub preemptions: u64,
    /// Number of finished blocks by the steps they took, from 0.
    pub steps_per_block: Vec<u64>,
    /// Distinct experts of each MoE layer, summed over forwards.
    pub experts_per_layer: Vec<u64>,
    /// Time spent in forwards of the model.
    pub forward_time: Duration,
    /// Time spent in heads and sampling.
    pub head_time: Duration,
    /// Time spent in everything else: planning, acceptance, events.
    pub other_time: Duration,
}

impl Stats {
    pub(crate) fn count_block(&mut self, steps: usize) {
        if self.steps_per_block.len() <= steps {
            self.steps_per_block.resize(steps + 1, 0);
        }
        self.steps_per_block[steps] += 1;
    }

    pub(crate) fn count_experts(&mut self, experts: &[u32]) {
        self.experts_per_layer.resize(experts.len(), 0);
        for (sum, &experts) in self.experts_per_layer.iter_mut().zip(experts) {
            *sum += u64::from(experts);
        }
    }
}
