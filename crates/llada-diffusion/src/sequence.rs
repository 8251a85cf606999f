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
//! **The end.** Let e be the first stop token after the prompt. The text is finished as soon as no
//! position before e is open, even inside a block: filled positions never change, so e stays the
//! first. Scanning starts *at the prompt's end*, for chat prompts hold stop tokens of earlier turns.
//! What comes after e is discarded.
//!
//! [`Sequence::denoise_step`] is a pure step: the state and a proposal per open row go in, the writes
//! and what to do next come out. It knows of no model, cache or clock.

use std::ops::Range;

use crate::acceptance::{Acceptance, Candidate, accept};
use crate::names::names;
use crate::{BlockSize, Error};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// At a stop token.
    Stop,
    /// At the number of tokens asked for.
    Length,
}

names!(FinishReason, "finish reason", { Stop => "stop", Length => "length" });

/// What a denoising step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenoiseStep {
    /// Positions filled, ascending.
    pub written: Vec<usize>,
    /// The threshold accepted less than the quota, so the most confident were taken.
    pub fell_back: bool,
    /// The block has no open position left.
    pub block_filled: bool,
    /// Set if the text is finished.
    pub finish: Option<FinishReason>,
}

impl DenoiseStep {
    /// Returns whether the block's keys and values must now be computed from its clean tokens, for
    /// the blocks to come. A finished text needs none.
    pub fn needs_commit(&self) -> bool {
        self.block_filled && self.finish.is_none()
    }
}

/// Tokens of a prompt and of the answer so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    tokens: Vec<u32>,
    open: Vec<bool>,
    prompt_len: usize,
    max_new_tokens: usize,
    block_size: BlockSize,
    mask_token_id: u32,
    /// Steps taken in the active block.
    step: usize,
}

impl Sequence {
    /// Returns the state before the first step: the prompt, then MASK to the end of the last block.
    ///
    /// # Errors
    /// If the prompt holds MASK, no tokens are asked for, or the length overflows.
    pub fn new(
        prompt: &[u32],
        max_new_tokens: usize,
        block_size: BlockSize,
        mask_token_id: u32,
    ) -> Result<Self, Error> {
        let prompt_len = prompt.len();
        if let Some(position) = prompt.iter().position(|&id| id == mask_token_id) {
            return Err(Error::MaskInPrompt {
                mask_token_id,
                position,
            });
        }
        if max_new_tokens == 0 {
            return Err(Error::NoNewTokens);
        }
        let len = prompt_len
            .checked_add(max_new_tokens)
            .and_then(|len| len.checked_next_multiple_of(block_size.get()))
            .ok_or(Error::TooLong {
                prompt_len,
                max_new_tokens,
            })?;
        let mut tokens = prompt.to_vec();
        tokens.resize(len, mask_token_id);
        let open = (0..len).map(|i| i >= prompt_len).collect();
        Ok(Self {
            tokens,
            open,
            prompt_len,
            max_new_tokens,
            block_size,
            mask_token_id,
            step: 0,
        })
    }

    /// Returns all tokens, MASK at open positions.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns whether each position is open.
    pub fn open(&self) -> &[bool] {
        &self.open
    }

    /// Returns the number of tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Returns the tokens per block.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Returns the number of prompt tokens in whole blocks: what a prefill computes.
    pub fn prefill_len(&self) -> usize {
        self.block_size
            .rows(self.block_size.of(self.prompt_len), usize::MAX)
            .start
    }

    /// Returns the positions of the block with the first open position; `None` if all are filled.
    pub fn active_block(&self) -> Option<Range<usize>> {
        let first_open = self.open.iter().position(|&open| open)?;
        Some(
            self.block_size
                .rows(self.block_size.of(first_open), self.tokens.len()),
        )
    }

    /// Returns the open positions of the active block, ascending: the rows to propose tokens for.
    pub fn open_positions(&self) -> Vec<usize> {
        let rows = self.active_block().unwrap_or_default();
        rows.filter(|&i| self.open[i]).collect()
    }

    /// Accepts some of `candidates`, a proposal for each of [`Sequence::open_positions`].
    ///
    /// # Panics
    /// If the candidates are not for these positions, or one proposes MASK.
    pub fn denoise_step(
        &mut self,
        candidates: &[Candidate],
        acceptance: Acceptance,
        is_stop: impl Fn(u32) -> bool,
    ) -> DenoiseStep {
        assert!(
            candidates
                .iter()
                .map(|c| c.position)
                .eq(self.open_positions()),
            "a candidate for each open position of the active block"
        );
        let Acceptance {
            confidence_threshold,
            quota,
        } = acceptance;
        let need = quota.at(self.step, self.block_size).min(candidates.len());
        let accepted = accept(candidates, confidence_threshold, need);
        let confident = |&i: &usize| candidates[i].confidence > confidence_threshold;
        let fell_back = !accepted.iter().all(confident);
        let written: Vec<usize> = accepted
            .iter()
            .map(|&i| self.write(candidates[i]))
            .collect();
        let block_filled = written.len() == candidates.len();
        self.step = if block_filled { 0 } else { self.step + 1 };
        DenoiseStep {
            written,
            fell_back,
            block_filled,
            finish: self.finish(is_stop),
        }
    }

    fn write(
        &mut self,
        Candidate {
            position, token, ..
        }: Candidate,
    ) -> usize {
        assert_ne!(token, self.mask_token_id, "MASK is no proposal");
        self.tokens[position] = token;
        self.open[position] = false;
        position
    }

    /// Returns why the text is finished, or `None` while it is not.
    pub fn finish(&self, is_stop: impl Fn(u32) -> bool) -> Option<FinishReason> {
        match finished(&self.tokens, &self.open, self.prompt_len, is_stop) {
            Some(stop) if stop < self.limit() => Some(FinishReason::Stop),
            _ if self.first_open() >= self.limit() => Some(FinishReason::Length),
            _ => None,
        }
    }

    /// Returns the positions of the answer that are final: up to the first open position, and to the
    /// stop token (included) or the number of tokens asked for.
    ///
    /// It only ever grows, so it can be streamed; of a finished text it is the whole answer.
    pub fn answer(&self, is_stop: impl Fn(u32) -> bool) -> Range<usize> {
        let stop = finished(&self.tokens, &self.open, self.prompt_len, is_stop);
        let end = stop.map_or(self.first_open(), |stop| stop + 1);
        self.prompt_len..end.min(self.limit())
    }

    /// Returns the end of the tokens asked for.
    fn limit(&self) -> usize {
        self.prompt_len + self.max_new_tokens
    }

    fn first_open(&self) -> usize {
        self.open
            .iter()
            .position(|&open| open)
            .unwrap_or(self.open.len())
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
