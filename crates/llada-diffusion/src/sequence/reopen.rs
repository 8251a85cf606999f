//! Blocks that are edited once more when later text stands behind them: multi-block editing.
//!
//! ```text
//! frozen | b - 1 | b       b is denoised until it is done
//! frozen | b - 1 | b       rounds: both blocks are active, without an open position
//!        frozen  | b | b + 1
//! ```
//!
//! The report of LLaDA2.1 names the idea and publishes no rule; this one is ours, and off by default.
//! When a block is done, the blocks before it in the answer become active again with it, as many as
//! [`crate::Reopen::blocks`] says. A round is a step of all of them: tokens change as while a block
//! is edited, [`crate::Edit::Above`]. The first round that changes nothing is the last; otherwise
//! [`crate::Reopen::rounds`] ends them. The answer's first block has none before it and is not
//! re-opened.
//!
//! **Rows of re-opened blocks see all of them**, as if they were one wide block. If each saw its own
//! and earlier blocks only, an earlier block would learn nothing from the later one, and would
//! propose what it proposed when it was done. The keys and values of such rows belong to no finished
//! text: later blocks need them computed once more, block by block.

use super::denoise::Changes;
use super::{ActiveBlock, BlockOutcome, Sequence};

impl Sequence {
    /// Returns whether the active blocks are re-opened ones, whose rows all see each other.
    pub fn is_reopened(&self) -> bool {
        self.rounds.is_some()
    }

    /// Returns where a round leaves the re-opened blocks, and counts it.
    pub(super) fn round_outcome(&mut self, rounds: usize, changes: &[Changes]) -> BlockOutcome {
        let rounds = rounds + 1;
        self.rounds = Some(rounds);
        let most = self.policy.reopen.map_or(0, |reopen| reopen.rounds);
        let rests = changes.iter().all(|changes| changes.edits.is_empty());
        if rests || rounds >= most {
            BlockOutcome::Changed
        } else {
            BlockOutcome::Active
        }
    }

    /// Re-opens the blocks before one that is done, if there are any and it was not re-opened itself.
    /// Returns where that leaves it.
    pub(super) fn reopen(&mut self, outcome: BlockOutcome) -> BlockOutcome {
        if outcome == BlockOutcome::Active || self.rounds.take().is_some() {
            return outcome;
        }
        let done = self.first();
        let earlier = self.first_reopened(done)..done.start;
        if earlier.is_empty() {
            return outcome;
        }
        let first_block = self.block_size.of(self.prefill_len());
        for start in earlier.step_by(self.block_size.get()).rev() {
            let steps = self.counts.steps_per_block[self.block_size.of(start) - first_block];
            self.active.push_front(ActiveBlock {
                start,
                steps,
                ..ActiveBlock::default()
            });
        }
        self.rounds = Some(0);
        BlockOutcome::Active
    }

    /// Returns the start of the first block of the answer that is re-opened once `block` is done.
    pub(super) fn first_reopened(&self, block: &ActiveBlock) -> usize {
        let blocks = self.policy.reopen.map_or(0, |reopen| reopen.blocks);
        let rows = blocks.saturating_mul(self.block_size.get());
        block.start.saturating_sub(rows).max(self.prefill_len())
    }
}
