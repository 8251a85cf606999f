//! The oracle: decoding as it is defined, without any saving.
//!
//! Every step runs the whole text up to the end of the active block through the model, computes all
//! logits of the rows in question and picks tokens by plain arithmetic. No cache, no fused head, no
//! batch, no shared bookkeeping: what [`crate::Engine::generate`] must equal. Use it with an `f32`
//! model. It knows thresholds, token editing, also of re-opened blocks, and windows (`docs/algorithms/decoding.md`).

use std::ops::Range;

use llada_diffusion::{
    Acceptance, Edit, FinishReason, Placed, block_causal_ranges, decode_ranges, propose,
};
use llada_model::{Input, Model};
use llada_tensor::Tensor;

use crate::plan::Plan;
use crate::sampling::{Choice, Sampler};
use crate::{Answer, Error, Forwards, Options, Request, Schedule, TraceStep};

/// Answers a request; see [`crate::Engine::generate`]. Only denoising forwards exist here.
///
/// # Errors
/// As [`crate::Engine::generate`].
///
/// # Panics
/// If the request asks for a policy that is not here: one besides thresholds, or insertions and
/// deletions.
pub fn generate(model: &Model, options: &Options, request: &Request) -> Result<Answer, Error> {
    let plan = Plan::new(request, options, &model.config)?;
    let Acceptance::Threshold(threshold) = plan.policy.acceptance else {
        panic!("the oracle knows thresholds only");
    };
    let (prompt_len, size) = (request.prompt.len(), plan.block_size.get());
    let limit = prompt_len + request.max_new_tokens;
    let mut tokens = request.prompt.clone();
    tokens.resize(limit.div_ceil(size) * size, plan.mask_token_id);
    let mut oracle = Oracle {
        model,
        sampler: Sampler {
            sampling: request.sampling.clone(),
        },
        threshold,
        open: (0..tokens.len()).map(|i| i >= prompt_len).collect(),
        placed: vec![None; tokens.len()],
        tokens,
        prompt_len,
        limit,
        plan,
        trace: Vec::new(),
        steps_per_block: Vec::new(),
        denoise: 0,
        fallbacks: 0,
        edits: 0,
    };
    let blocks = prompt_len / size..limit.div_ceil(size);
    if oracle.plan.policy.window.is_approximate() {
        oracle.fill_together(blocks)?;
        return Ok(oracle.answer(request.trace));
    }
    for block in blocks.clone() {
        let ends = match oracle.plan.policy.edit {
            Edit::Off => oracle.fill(block)?,
            Edit::Above(above) => oracle.fill_and_edit(block, above)?,
            Edit::Revise { .. } => panic!("the oracle knows no insertions"),
        };
        oracle.edit_again(blocks.start, block)?;
        if ends || oracle.stop_position().is_some() {
            break;
        }
    }
    Ok(oracle.answer(request.trace))
}

/// A text and what it took.
struct Oracle<'m> {
    model: &'m Model,
    plan: Plan,
    sampler: Sampler,
    threshold: f32,
    /// MASK at open positions.
    tokens: Vec<u32>,
    open: Vec<bool>,
    placed: Vec<Option<Placed>>,
    prompt_len: usize,
    /// End of the tokens asked for.
    limit: usize,
    trace: Vec<TraceStep>,
    steps_per_block: Vec<usize>,
    denoise: usize,
    fallbacks: usize,
    edits: usize,
}

/// A position, its token and the token's probability.
type Proposal = (usize, u32, f32);

impl Oracle<'_> {
    /// Fills a block; returns whether the text ends inside it.
    fn fill(&mut self, block: usize) -> Result<bool, Error> {
        let rows = self.rows(block);
        for step in 0.. {
            let open: Vec<usize> = rows.clone().filter(|&i| self.open[i]).collect();
            if open.is_empty() {
                self.steps_per_block.push(step);
                return Ok(false);
            }
            let proposals = self.propose(&open, step, &rows)?;
            let written = self.accepted(&proposals, self.quota(step));
            self.write(&written, step);
            self.record(block, step);
            self.denoise += 1;
            if self.stops_in_block(&written) {
                self.steps_per_block.push(step + 1);
                return Ok(true);
            }
        }
        unreachable!("steps do not run out");
    }

    /// Fills blocks from the same forwards, as far as the window lets them in, until the text ends.
    fn fill_together(&mut self, blocks: Range<usize>) -> Result<(), Error> {
        let window = self.plan.policy.window;
        let (mut first, mut end) = (blocks.start, blocks.start + 1);
        self.steps_per_block = vec![0];
        loop {
            while end < blocks.end
                && end - first < window.buffer_blocks
                && self.stop_position().is_none()
                && self.filled(end - 1) >= window.admit_threshold
            {
                end += 1;
            }
            let steps = self.steps_per_block.len().max(end - blocks.start);
            self.steps_per_block.resize(steps, 0);
            self.step_together(first..end, blocks.start)?;
            if self.stops_in_block(&[]) {
                return Ok(());
            }
            if let Some(stop) = self.stop_position() {
                end = end.min(self.plan.block_size.of(stop) + 1);
            }
            while self.filled(first) == 1.0 {
                first += 1;
            }
            end = end.max(first + 1);
        }
    }

    /// Takes a step in each of the active blocks; none sees what another writes in it.
    fn step_together(&mut self, active: Range<usize>, first_block: usize) -> Result<(), Error> {
        let fallbacks = self.fallbacks;
        let mut written = Vec::new();
        for block in active.clone() {
            let step = self.steps_per_block[block - first_block];
            let rows = self.rows(block);
            let open: Vec<usize> = rows.clone().filter(|&i| self.open[i]).collect();
            let may_fall_back = block == active.start
                || self.filled(block - 1) >= self.plan.policy.window.semi_complete;
            let need = if may_fall_back { self.quota(step) } else { 0 };
            let proposals = self.propose(&open, step, &rows)?;
            written.push((block, step, self.accepted(&proposals, need)));
        }
        for (block, step, written) in written {
            self.write(&written, step);
            self.record(block, step);
            self.steps_per_block[block - first_block] += 1;
        }
        self.denoise += 1;
        self.fallbacks = self.fallbacks.min(fallbacks + 1);
        Ok(())
    }

    /// Fills a block and edits it until it rests or its budget is spent (`decoding.md` 6).
    fn fill_and_edit(&mut self, block: usize, above: f32) -> Result<bool, Error> {
        let rows = self.rows(block);
        let editable: Vec<usize> = rows.clone().filter(|&i| i >= self.prompt_len).collect();
        let mut post = 0;
        for step in 0.. {
            let was_filled = !rows.clone().any(|i| self.open[i]);
            post += usize::from(was_filled);
            if post > self.plan.policy.max_post_edit_steps {
                self.steps_per_block.push(step);
                break;
            }
            let proposals = self.propose(&editable, step, &rows)?;
            let (open, placed): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|&(i, ..)| self.open[i]);
            let mut written = self.accepted(&open, self.quota(step));
            let is_edit = |&(i, token, p): &Proposal| token != self.tokens[i] && p > above;
            let edits: Vec<Proposal> = placed.into_iter().filter(is_edit).collect();
            self.edits += edits.len();
            let rests = was_filled && edits.is_empty();
            written.extend(edits);
            self.write(&written, step);
            self.record(block, step);
            self.denoise += 1;
            if rests {
                self.steps_per_block.push(step + 1);
                break;
            }
        }
        Ok(self.limit <= rows.end)
    }

    /// Edits the blocks before a filled one and that one, as the policy has it (`decoding.md`).
    fn edit_again(&mut self, first_block: usize, block: usize) -> Result<(), Error> {
        let policy = self.plan.policy;
        let (Some(reopen), Edit::Above(above)) = (policy.reopen, policy.edit) else {
            return Ok(());
        };
        let first = first_block.max(block.saturating_sub(reopen.blocks));
        let rounds = if first < block { reopen.rounds } else { 0 };
        for _ in 0..rounds {
            if self.round(first..block + 1, first_block, above)? {
                break;
            }
        }
        Ok(())
    }

    /// Edits filled blocks from one forward in which all their rows see each other; returns whether they rest.
    fn round(
        &mut self,
        blocks: Range<usize>,
        first_block: usize,
        above: f32,
    ) -> Result<bool, Error> {
        let mut written = Vec::new();
        let together = self.rows(blocks.start).start..self.rows(blocks.end).start;
        for block in blocks {
            let rows = self.rows(block);
            let editable: Vec<usize> = rows.filter(|&i| i >= self.prompt_len).collect();
            let step = self.steps_per_block[block - first_block];
            let mut edits = self.propose(&editable, step, &together)?;
            edits.retain(|&(i, token, p)| token != self.tokens[i] && p > above);
            written.push((block, step, edits));
        }
        let rests = written.iter().all(|(.., edits)| edits.is_empty());
        for (block, step, edits) in written {
            self.edits += edits.len();
            self.write(&edits, step);
            self.record(block, step);
            self.steps_per_block[block - first_block] += 1;
        }
        self.denoise += 1;
        Ok(rests)
    }

    /// Returns the share of a block's rows that are not open.
    fn filled(&self, block: usize) -> f32 {
        let rows = self.rows(block);
        let size = rows.len() as f32;
        rows.filter(|&i| !self.open[i]).count() as f32 / size
    }

    fn rows(&self, block: usize) -> Range<usize> {
        let size = self.plan.block_size.get();
        block * size..(block + 1) * size
    }

    /// Returns all proposals above the threshold, or the `quota` best ones if that is more.
    fn accepted(&mut self, proposals: &[Proposal], quota: usize) -> Vec<Proposal> {
        let mut best_first = proposals.to_vec();
        best_first.sort_by(|a, b| b.2.total_cmp(&a.2));
        let confident = proposals.iter().filter(|p| p.2 > self.threshold).count();
        let need = quota.min(proposals.len());
        self.fallbacks += usize::from(confident < need);
        best_first.truncate(confident.max(need));
        best_first
    }

    fn quota(&self, step: usize) -> usize {
        self.plan.policy.quota.at(step, self.plan.block_size)
    }

    fn write(&mut self, written: &[Proposal], step: usize) {
        for &(i, token, confidence) in written {
            self.tokens[i] = token;
            self.open[i] = false;
            self.placed[i] = Some(Placed { confidence, step });
        }
    }

    fn record(&mut self, block: usize, step: usize) {
        let ids = self.tokens[self.rows(block)].to_vec();
        self.trace.push(TraceStep { block, step, ids });
    }

    /// Returns the first stop token of the answer, whether or not the rows before it are filled.
    fn stop_position(&self) -> Option<usize> {
        let is_stop = |&i: &usize| !self.open[i] && self.plan.is_stop(self.tokens[i]);
        (self.prompt_len..self.tokens.len()).find(is_stop)
    }

    fn is_filled_to(&self, end: usize) -> bool {
        !self.open[self.prompt_len..end].contains(&true)
    }

    fn stops_in_block(&self, written: &[Proposal]) -> bool {
        let stop = self.stop_position();
        let is_finished = stop.is_some_and(|stop| self.is_filled_to(stop));
        match self.plan.schedule {
            Schedule::Exact => is_finished || self.is_filled_to(self.limit),
            Schedule::Reference { eos_early_stop } => {
                let wrote_stop = written.iter().any(|&(_, id, _)| self.plan.is_stop(id));
                eos_early_stop && is_finished && wrote_stop
            }
        }
    }

    fn answer(self, keep_trace: bool) -> Answer {
        let stop = self.stop_position().filter(|&stop| stop < self.limit);
        let end = stop.map_or(self.limit, |stop| stop + 1);
        let answer = self.prompt_len..end;
        let placed = self.placed[answer.clone()].iter();
        Answer {
            output_ids: self.tokens[answer].to_vec(),
            placed: placed
                .map(|placed| placed.expect("the answer is filled"))
                .collect(),
            alternatives: Vec::new(), // not known here
            finish_reason: stop.map_or(FinishReason::Length, |_| FinishReason::Stop),
            approximate: self.plan.policy.window.is_approximate(),
            forwards: Forwards {
                denoise: self.denoise,
                ..Forwards::default()
            },
            cached_tokens: 0,
            fallbacks: self.fallbacks,
            edits: self.edits,
            steps_per_block: self.steps_per_block,
            trace: if keep_trace { self.trace } else { Vec::new() },
        }
    }

    /// Returns a proposal for each of some positions among those that see each other.
    fn propose(
        &self,
        positions: &[usize],
        step: usize,
        together: &Range<usize>,
    ) -> Result<Vec<Proposal>, Error> {
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.model.logits(&self.predictors(positions, together));
        let proposal = |(row, &position): (usize, &usize)| {
            let mut logits = logits.row(row).to_vec();
            let before = (0..position).filter(|&i| !self.open[i]);
            self.sampler
                .adjust(&mut logits, before.map(|i| self.tokens[i]));
            let lambda = self.plan.policy.penalty_lambda;
            if self.plan.policy.edit != Edit::Off && !self.plan.block_size.starts_at(position) {
                logits[self.tokens[position - 1] as usize] -= lambda;
            }
            let banned = &[self.plan.mask_token_id][..];
            if self.sampler.sampling.temperature == 0.0 {
                let (token, confidence) = propose(&logits, banned)?;
                return Ok((position, token, confidence));
            }
            let choice = Choice {
                position,
                step,
                banned,
                allowed: None,
            };
            let drawn = self.sampler.choose(&logits, choice)?;
            Ok((position, drawn.token, drawn.confidence))
        };
        positions.iter().enumerate().map(proposal).collect()
    }

    /// Returns the hidden states of the rows that predict the positions, from a forward of the whole
    /// text to the end of those that see each other.
    fn predictors(&self, predicted: &[usize], together: &Range<usize>) -> Tensor {
        let Range { start, end } = *together;
        let positions: Vec<u32> = (0..end as u32).collect();
        let before = block_causal_ranges(start, self.plan.block_size);
        let ranges = [before, decode_ranges(start, end - start)].concat();
        let outputs = predicted.iter();
        let outputs: Vec<u32> = outputs
            .map(|&i| self.plan.predicting_row(i) as u32)
            .collect();
        self.model.forward(&Input {
            ids: &self.tokens[..end],
            positions: &positions,
            ranges: &ranges,
            outputs: &outputs,
            dropout: None,
        })
    }
}
