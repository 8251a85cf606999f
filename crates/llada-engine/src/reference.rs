//! The oracle: decoding as it is defined, without any saving.
//!
//! Every step runs the whole text up to the end of the active block through the model, computes all
//! logits of the rows in question and picks tokens by plain arithmetic. No cache, no fused head, no
//! batch, no shared bookkeeping: what [`crate::Engine::generate`] must equal. Use it with an `f32`
//! model. It knows thresholds (`decoding.md` 2) and token editing (6).

use std::ops::Range;

use llada_diffusion::{Acceptance, Edit, FinishReason, Placed, block_causal_ranges, propose};
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
        fallbacks: 0,
        edits: 0,
    };
    for block in prompt_len / size..limit.div_ceil(size) {
        let ends = match oracle.plan.policy.edit {
            Edit::Off => oracle.fill(block)?,
            Edit::Above(above) => oracle.fill_and_edit(block, above)?,
            Edit::Revise { .. } => panic!("the oracle knows no insertions"),
        };
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
            let proposals = self.propose(&open, step)?;
            let written = self.accepted(&proposals, step);
            self.write(&written, step);
            self.record(block, step);
            if self.stops_in_block(&written) {
                self.steps_per_block.push(step + 1);
                return Ok(true);
            }
        }
        unreachable!("steps do not run out");
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
            let proposals = self.propose(&editable, step)?;
            let (open, placed): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|&(i, ..)| self.open[i]);
            let mut written = self.accepted(&open, step);
            let is_edit = |&(i, token, p): &Proposal| token != self.tokens[i] && p > above;
            let edits: Vec<Proposal> = placed.into_iter().filter(is_edit).collect();
            self.edits += edits.len();
            let rests = was_filled && edits.is_empty();
            written.extend(edits);
            self.write(&written, step);
            self.record(block, step);
            if rests {
                self.steps_per_block.push(step + 1);
                break;
            }
        }
        Ok(self.limit <= rows.end)
    }

    fn rows(&self, block: usize) -> Range<usize> {
        let size = self.plan.block_size.get();
        block * size..(block + 1) * size
    }

    /// Returns all proposals above the threshold, or the quota's number of best ones if that is more.
    fn accepted(&mut self, proposals: &[Proposal], step: usize) -> Vec<Proposal> {
        let mut best_first = proposals.to_vec();
        best_first.sort_by(|a, b| b.2.total_cmp(&a.2));
        let confident = proposals.iter().filter(|p| p.2 > self.threshold).count();
        let quota = self.plan.policy.quota.at(step, self.plan.block_size);
        let need = quota.min(proposals.len());
        self.fallbacks += usize::from(confident < need);
        best_first.truncate(confident.max(need));
        best_first
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
            finish_reason: stop.map_or(FinishReason::Length, |_| FinishReason::Stop),
            forwards: Forwards {
                denoise: self.trace.len(),
                ..Forwards::default()
            },
            cached_tokens: 0,
            fallbacks: self.fallbacks,
            edits: self.edits,
            steps_per_block: self.steps_per_block,
            trace: if keep_trace { self.trace } else { Vec::new() },
        }
    }

    /// Returns a proposal for each of the positions of one block.
    fn propose(&self, positions: &[usize], step: usize) -> Result<Vec<Proposal>, Error> {
        let logits = self.model.logits(&self.predictors(positions));
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
    /// text to the end of their block.
    fn predictors(&self, predicted: &[usize]) -> Tensor {
        let size = self.plan.block_size;
        let end = (size.of(predicted[0]) + 1) * size.get();
        let positions: Vec<u32> = (0..end as u32).collect();
        let outputs = predicted.iter();
        let outputs: Vec<u32> = outputs
            .map(|&i| self.plan.predicting_row(i) as u32)
            .collect();
        self.model.forward(&Input {
            ids: &self.tokens[..end],
            positions: &positions,
            ranges: &block_causal_ranges(end, size),
            outputs: &outputs,
        })
    }
}
