//! Block diffusion over a cache of keys and values.
//!
//! ```text
//! cached clean blocks   pending clean rows         active block
//! [k0 k1 .. ]           [prompt blocks, or         [tokens and MASKs]
//!                        the block just filled]
//! ```
//!
//! A step makes one forward of the pending rows and the active block. Rows of a block see all blocks
//! up to their own, never later ones, so the pending rows come out as if they had been alone: their
//! keys and values are final and enter the cache, those of the active block are overwritten by the
//! next step. Prefill and commit are the same thing, pending rows, and cost no forward of their own
//! ([`CommitMode::Separate`] gives them one; the output is the same).
//!
//! Head and last layer work only for rows that predict an open position. With labels shifted, the
//! first position of the active block is predicted by the last clean row before it. That row is
//! pending in the block's first step; its hidden state is carried along for the others, in which it is
//! part of the cache and sees nothing new.

use std::ops::Range;

use llada_diffusion::{FinishReason, Sequence};
use llada_tensor::Tensor;

use crate::plan::Plan;
use crate::sampling::Sampler;
use crate::{Answer, CommitMode, Engine, Error, Forwards, Request, TraceStep};

/// A request between two steps.
struct Decoding {
    plan: Plan,
    sequence: Sequence,
    sampler: Sampler,
    /// Steps taken in the active block.
    step: usize,
    /// Hidden state `[D]` that predicts the active block's first position, with labels shifted.
    carried: Vec<f32>,
    forwards: Forwards,
    trace: Option<Vec<TraceStep>>,
}

pub(crate) fn generate(
    engine: &mut Engine<'_>,
    request: &Request,
    on_final: &mut dyn FnMut(&[u32]),
) -> Result<Answer, Error> {
    let plan = Plan::new(request, &engine.options, &engine.model.config)?;
    let mut decoding = Decoding::new(plan, request)?;
    engine.cache.truncate(0);
    let mut streamed = request.prompt.len();
    loop {
        let finish = engine.denoise(&mut decoding)?;
        let end = decoding.answer().end;
        if end > streamed {
            on_final(&decoding.sequence.tokens()[streamed..end]);
            streamed = end;
        }
        if let Some(finish_reason) = finish {
            return Ok(decoding.finish(finish_reason));
        }
    }
}

impl Decoding {
    fn new(plan: Plan, request: &Request) -> Result<Self, Error> {
        let sequence = Sequence::new(
            &request.prompt,
            request.max_new_tokens,
            plan.block_size,
            plan.mask_token_id,
        )?;
        let banned = Some(plan.mask_token_id);
        Ok(Self {
            plan,
            sequence,
            sampler: Sampler {
                sampling: request.sampling,
                banned,
            },
            step: 0,
            carried: Vec::new(),
            forwards: Forwards::default(),
            trace: request.trace.then(Vec::new),
        })
    }

    fn answer(&self) -> Range<usize> {
        self.sequence.answer(|id| self.plan.is_stop(id))
    }

    fn record(&mut self, block: Range<usize>) {
        if let Some(trace) = &mut self.trace {
            let ids = self.sequence.tokens()[block.clone()].to_vec();
            trace.push(TraceStep {
                block: self.plan.block_size.of(block.start),
                step: self.step,
                ids,
            });
        }
    }

    fn finish(self, finish_reason: FinishReason) -> Answer {
        let output_ids = self.sequence.tokens()[self.answer()].to_vec();
        let trace = self.trace.unwrap_or_default();
        Answer {
            output_ids,
            finish_reason,
            forwards: self.forwards,
            trace,
        }
    }
}

impl Engine<'_> {
    /// Takes one step of the active block; returns why the text is finished, if it is.
    fn denoise(&mut self, decoding: &mut Decoding) -> Result<Option<FinishReason>, Error> {
        let block = decoding
            .sequence
            .active_block()
            .expect("an unfinished text has open positions");
        let open = decoding.sequence.open_positions();
        let hidden = self.predictors(decoding, &block, &open);
        let (plan, step) = (&decoding.plan, decoding.step);
        let candidates = decoding
            .sampler
            .candidates(self.model, &hidden, &open, step)?;
        let sequence = &mut decoding.sequence;
        let done = sequence.denoise_step(&candidates, plan.acceptance, |id| plan.is_stop(id));
        let finish = plan.end(sequence, &done);
        decoding.record(block);
        decoding.step = if done.block_filled { 0 } else { step + 1 };
        Ok(finish)
    }

    /// Returns the hidden states that predict the `open` positions, [open, D], and brings the cache up
    /// to the active block.
    fn predictors(
        &mut self,
        decoding: &mut Decoding,
        block: &Range<usize>,
        open: &[usize],
    ) -> Tensor {
        let rows: Vec<usize> = open
            .iter()
            .map(|&i| decoding.plan.predicting_row(i))
            .collect();
        let cached = self.cache.len();
        // With labels shifted and only the first position open, the active rows predict nothing.
        let is_active = rows.last().is_some_and(|&row| row >= block.start);
        let end = if is_active { block.end } else { block.start };
        self.count(decoding, block.start, end);

        let width = self.model.config.hidden_size;
        let mut hidden = Vec::with_capacity(rows.len() * width);
        if rows.first().is_some_and(|&row| row < cached) {
            hidden.extend_from_slice(&decoding.carried);
        }
        for part in self.parts(block.start, end) {
            hidden.extend_from_slice(self.forward(decoding, part, block.start, &rows).f32s());
        }
        if rows.first().is_some_and(|&row| row < block.start) {
            decoding.carried.clear();
            decoding.carried.extend_from_slice(&hidden[..width]);
        }
        Tensor::from_f32(&[rows.len(), width], hidden)
    }

    /// Returns the forwards of a step: rows from the end of the cache to `end`.
    fn parts(&self, block_start: usize, end: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let cached = self.cache.len();
        let parts = match self.options.commit {
            CommitMode::Fused => [cached..end, end..end],
            CommitMode::Separate => [cached..block_start, block_start..end],
        };
        parts.into_iter().filter(|part| !part.is_empty())
    }

    /// Runs the rows at `positions` and commits those before the active block.
    fn forward(
        &mut self,
        decoding: &Decoding,
        positions: Range<usize>,
        block_start: usize,
        wanted: &[usize],
    ) -> Tensor {
        let clean = positions.end.min(block_start) - positions.start.min(block_start);
        let tokens = decoding.sequence.tokens();
        let input = self
            .batch
            .rows(tokens, positions, decoding.plan.block_size, wanted);
        let hidden = self.model.forward(&input, Some(&mut self.cache));
        self.cache.advance(clean);
        hidden
    }

    fn count(&self, decoding: &mut Decoding, block_start: usize, end: usize) {
        let (cached, forwards) = (self.cache.len(), &mut decoding.forwards);
        let is_pending = cached < block_start;
        let is_alone = self.options.commit == CommitMode::Separate && block_start < end;
        if is_pending && block_start == decoding.sequence.prefill_len() {
            forwards.prefill += 1;
        } else if is_pending && is_alone {
            forwards.commit += 1;
        }
        forwards.denoise += usize::from(cached < end);
    }
}
