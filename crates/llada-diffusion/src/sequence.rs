//! A text being decoded: blocks filled one after the other, and where it ends.
//!
//! ```text
//! position   0 1 2 3   4 5 6 7   8 9 ..
//!            prompt----->_ _ _   _ _ ..      blocks of 4 counted from the prompt's first token;
//!                      ^ active block        the prompt's tail lies in the first active one
//! ```
//!
//! Whether a position is *open* (still to be filled) is a bitmap of its own, never read off the
//! token: MASK is only what the model is shown there. An active block always has all its rows, also
//! past the number of tokens asked for; the model was trained to see them.
//!
//! With a [`crate::Window`] several consecutive blocks may be active; without, it is one. With a
//! [`crate::Reopen`] it is one, and between two of them that one together with some before it.
//!
//! **The frozen prefix** holds the tokens that cannot change any more and may be streamed: without
//! editing all up to the first open position, also inside a block; with editing whole blocks only,
//! and none that may still be re-opened.
//!
//! **The end.** Let e be the first stop token of the frozen prefix, after the prompt. Once it exists
//! the text is finished, even inside a block: it will stay the first. Scanning starts *at the
//! prompt's end*, for chat prompts hold stop tokens of earlier turns. What comes after e is
//! discarded. With editing, a stop token in the active block may still be edited away. Where blocks
//! are re-opened, one that stands when they are done keeps the next block from beginning, so that
//! all is frozen.
//!
//! The state is plain data: a clone of it goes on as the original would. It knows of no model, cache
//! or clock. An engine asks it in turn for
//!
//! 1. [`Sequence::active_blocks`], the rows of the forward, and [`Sequence::is_reopened`], what they
//!    see;
//! 2. [`Sequence::predicted_positions`], those whose logits matter, and [`Sequence::adjustments`] of
//!    these logits;
//! 3. [`Sequence::denoise_step`], given the proposals: what changed, and what to do next.

use std::collections::VecDeque;
use std::ops::Range;

use crate::acceptance::{Acceptance, BlockHistory};
use crate::credit::Credits;
use crate::names::names;
use crate::policy::{Edit, Policy};
use crate::proposal::Adjustment;
use crate::revise::Revision;
use crate::{BlockSize, Error};

mod denoise;
mod reopen;

pub use denoise::{BlockOutcome, DenoiseStep};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// At a stop token, or where [`Sequence::stop_at`] said.
    Stop,
    /// At the number of tokens asked for.
    Length,
}

names!(FinishReason, "finish reason", { Stop => "stop", Length => "length" });

/// How a token came to its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Its probability in the state it was proposed in.
    pub confidence: f32,
    /// The step that placed it, counted from 0 in its block.
    pub step: usize,
}

impl Placed {
    /// Returns the logarithm of the confidence; of one that underflowed, that of the smallest normal number.
    pub fn logprob(&self) -> f32 {
        self.confidence.max(f32::MIN_POSITIVE).ln()
    }
}

/// What decoding a text took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodeCounts {
    /// Open positions filled.
    pub filled: usize,
    /// Placed tokens replaced, or positions deleted or inserted.
    pub edits: usize,
    /// Steps in which fewer proposals of a block passed than its quota.
    pub fallbacks: usize,
    /// Steps of each block, from the first with an open position. One step serves all active blocks.
    pub steps_per_block: Vec<usize>,
}

/// Tokens of a prompt and of the answer so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    tokens: Vec<u32>,
    open: Vec<bool>,
    /// `None` for the prompt and open positions.
    placed: Vec<Option<Placed>>,
    prompt_len: usize,
    max_new_tokens: usize,
    /// End of the answer as set by [`Sequence::stop_at`].
    cut: Option<usize>,
    block_size: BlockSize,
    mask_token_id: u32,
    policy: Policy,
    /// Consecutive, ascending; none after the last block of the text.
    active: VecDeque<ActiveBlock>,
    /// Steps since done blocks were re-opened; `None` while a block is filled.
    rounds: Option<usize>,
    counts: DecodeCounts,
}

/// What is remembered of a block while it is active, so that blocks cannot inherit from one another.
#[derive(Clone, Debug, Default, PartialEq)]
struct ActiveBlock {
    start: usize,
    /// Steps taken.
    steps: usize,
    /// Steps taken without an open position.
    post_edit_steps: usize,
    history: BlockHistory,
    credits: Credits,
    revision: Revision,
}

impl Sequence {
    /// Returns the state before the first step: the prompt, then MASK to the end of the last block.
    ///
    /// # Errors
    /// If the prompt holds MASK, no tokens are asked for, the length overflows, or the policy's
    /// numbers mean nothing.
    pub fn new(
        prompt: &[u32],
        max_new_tokens: usize,
        block_size: BlockSize,
        mask_token_id: u32,
        policy: Policy,
    ) -> Result<Self, Error> {
        policy.check(mask_token_id)?;
        check_prompt(prompt, mask_token_id)?;
        let prompt_len = prompt.len();
        let len = padded_len(prompt_len, max_new_tokens, block_size)?;
        let mut tokens = prompt.to_vec();
        tokens.resize(len, mask_token_id);
        let mut sequence = Self {
            tokens,
            open: (0..len).map(|i| i >= prompt_len).collect(),
            placed: vec![None; len],
            prompt_len,
            max_new_tokens,
            cut: None,
            block_size,
            mask_token_id,
            policy,
            active: VecDeque::new(),
            rounds: None,
            counts: DecodeCounts::default(),
        };
        sequence.admit(sequence.prefill_len());
        Ok(sequence)
    }

    /// Makes the blocks from `next` on active, as many as the window admits.
    fn admit(&mut self, next: usize) {
        let starts = (next..self.tokens.len()).step_by(self.block_size.get());
        for start in starts {
            let filled = self.active.back().map_or(0.0, |block| self.filled(block));
            if !self.policy.window.admits(self.active.len(), filled) {
                return;
            }
            let mut block = ActiveBlock {
                start,
                ..ActiveBlock::default()
            };
            block.revision = Revision::new(self.editable_rows(&block).len());
            self.active.push_back(block);
        }
    }

    /// Returns all tokens, MASK at open positions.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns whether each position is open.
    pub fn open(&self) -> &[bool] {
        &self.open
    }

    /// Returns how each token was placed; `None` for the prompt and open positions.
    pub fn placed(&self) -> &[Option<Placed>] {
        &self.placed
    }

    /// Returns the number of tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Returns the tokens per block.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Returns how the text is decoded.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns what decoding took so far.
    pub fn counts(&self) -> &DecodeCounts {
        &self.counts
    }

    /// Returns the steps taken in the active block that holds `position`; 0 if none does.
    pub fn step_at(&self, position: usize) -> usize {
        let mut active = self.active.iter();
        let block = active.find(|block| self.rows(block).contains(&position));
        block.map_or(0, |block| block.steps)
    }

    /// Returns the number of prompt tokens in whole blocks: what a prefill computes.
    pub fn prefill_len(&self) -> usize {
        self.prompt_len - self.prompt_len % self.block_size.get()
    }

    /// Returns the number of tokens in blocks that are done, the prompt's included: all before the
    /// first active block.
    pub fn clean_len(&self) -> usize {
        let first = self.active.front();
        first.map_or(self.tokens.len(), |block| block.start)
    }

    /// Returns the positions of each block being denoised, ascending; none after the last one.
    pub fn active_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        self.active.iter().map(|block| self.rows(block))
    }

    /// Returns the open positions of the active blocks, ascending.
    pub fn open_positions(&self) -> Vec<usize> {
        let active = self.active.iter();
        active.flat_map(|block| self.open_rows(block)).collect()
    }

    /// Returns the positions to propose tokens for, ascending: the open ones of the active blocks, or
    /// with editing all but the prompt's.
    pub fn predicted_positions(&self) -> Vec<usize> {
        match self.policy.edit {
            Edit::Off => self.open_positions(),
            Edit::Above(_) | Edit::Revise { .. } => {
                let active = self.active.iter();
                active.flat_map(|block| self.editable_rows(block)).collect()
            }
        }
    }

    /// Returns what the policy adds to the logits of [`Sequence::predicted_positions`], by ascending
    /// position: credit, and the penalty on the left neighbour's token.
    ///
    /// An open neighbour's token is MASK, so that MASK's own share shrinks there, as at the source.
    pub fn adjustments(&self) -> Vec<Adjustment> {
        let positions = self.predicted_positions().into_iter();
        positions
            .flat_map(|i| self.credit(i).chain(self.penalty(i)))
            .collect()
    }

    fn credit(&self, position: usize) -> impl Iterator<Item = Adjustment> {
        let is_credited =
            self.open[position] && matches!(self.policy.acceptance, Acceptance::Credit(_));
        let credits = is_credited.then_some(&self.active).into_iter().flatten();
        credits.flat_map(move |block| block.credits.adjustments(position))
    }

    fn penalty(&self, position: usize) -> Option<Adjustment> {
        let lambda = self.policy.penalty_lambda;
        let has_penalty = self.policy.edit != Edit::Off && lambda != 0.0;
        (has_penalty && !self.block_size.starts_at(position)).then(|| Adjustment {
            position,
            token: self.tokens[position - 1],
            delta: -lambda,
        })
    }

    /// Returns the length of the frozen prefix, the prompt included.
    pub fn frozen_len(&self) -> usize {
        let frozen = match self.policy.edit {
            Edit::Off => self.first_open(self.clean_len()),
            Edit::Above(_) | Edit::Revise { .. } => {
                let last = self.active.back();
                last.map_or(self.tokens.len(), |last| self.first_reopened(last))
            }
        };
        frozen.max(self.prompt_len)
    }

    /// Returns why the text is finished, or `None` while it is not.
    pub fn finish(&self, is_stop: impl Fn(u32) -> bool) -> Option<FinishReason> {
        match self.stop_position(is_stop) {
            Some(stop) if stop < self.limit() => Some(FinishReason::Stop),
            _ if self.frozen_len() < self.limit() => None,
            _ if self.cut.is_some() => Some(FinishReason::Stop),
            _ => Some(FinishReason::Length),
        }
    }

    /// Returns the positions of the answer that are final: the frozen prefix after the prompt, to the
    /// stop token (included) or the number of tokens asked for.
    ///
    /// It only ever grows, so it can be streamed; of a finished text it is the whole answer.
    pub fn answer(&self, is_stop: impl Fn(u32) -> bool) -> Range<usize> {
        let stop = self.stop_position(is_stop);
        let end = stop.map_or(self.frozen_len(), |stop| stop + 1);
        self.prompt_len..end.min(self.limit())
    }

    /// Ends the answer before position `end`, where a stop string was found in the frozen prefix.
    ///
    /// An earlier end of the answer stays. `end` is brought into the frozen part of the answer.
    pub fn stop_at(&mut self, end: usize) {
        let frozen = self.frozen_len().min(self.limit());
        self.cut = Some(end.max(self.prompt_len).min(frozen));
    }

    fn stop_position(&self, is_stop: impl Fn(u32) -> bool) -> Option<usize> {
        let frozen = &self.tokens[..self.frozen_len()];
        finished(frozen, &self.open, self.prompt_len, is_stop)
    }

    /// Returns the end of the tokens that may be in the answer.
    fn limit(&self) -> usize {
        self.cut.unwrap_or(self.prompt_len + self.max_new_tokens)
    }

    /// Returns the first open position from `start` on, or the end of the text.
    fn first_open(&self, start: usize) -> usize {
        let mut positions = start..self.tokens.len();
        positions
            .find(|&i| self.open[i])
            .unwrap_or(self.tokens.len())
    }

    fn rows(&self, block: &ActiveBlock) -> Range<usize> {
        block.start..block.start + self.block_size.get()
    }

    /// Returns the positions of an active block after the prompt.
    fn editable_rows(&self, block: &ActiveBlock) -> Range<usize> {
        let rows = self.rows(block);
        rows.start.max(self.prompt_len).min(rows.end)..rows.end
    }

    fn open_rows(&self, block: &ActiveBlock) -> impl Iterator<Item = usize> {
        self.rows(block).filter(|&i| self.open[i])
    }

    /// Returns the share of a block's rows that are not open.
    fn filled(&self, block: &ActiveBlock) -> f32 {
        let filled = self.rows(block).filter(|&i| !self.open[i]).count();
        filled as f32 / self.block_size.get() as f32
    }
}

/// Returns the first stop token at or after `prompt_len` if no open position lies before it.
pub fn finished(
    tokens: &[u32],
    open: &[bool],
    prompt_len: usize,
    is_stop: impl Fn(u32) -> bool,
) -> Option<usize> {
    let answer = prompt_len..tokens.len();
    answer
        .take_while(|&i| !open[i])
        .find(|&i| is_stop(tokens[i]))
}

fn check_prompt(prompt: &[u32], mask_token_id: u32) -> Result<(), Error> {
    match prompt.iter().position(|&id| id == mask_token_id) {
        Some(position) => Err(Error::MaskInPrompt {
            mask_token_id,
            position,
        }),
        None => Ok(()),
    }
}

/// Returns the end of the block that holds the last token asked for.
fn padded_len(
    prompt_len: usize,
    max_new_tokens: usize,
    block_size: BlockSize,
) -> Result<usize, Error> {
    if max_new_tokens == 0 {
        return Err(Error::NoNewTokens);
    }
    prompt_len
        .checked_add(max_new_tokens)
        .and_then(|len| len.checked_next_multiple_of(block_size.get()))
        .ok_or(Error::TooLong {
            prompt_len,
            max_new_tokens,
        })
}
