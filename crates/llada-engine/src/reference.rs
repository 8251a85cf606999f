//! The oracle: block diffusion as it is defined, without any saving.
//!
//! Every step runs the whole text up to the end of the active block through the model, computes all
//! logits of the open rows and picks tokens by plain arithmetic. No cache, no fused head, no shared
//! bookkeeping: what [`crate::Engine::generate`] must equal. Use it with an `f32` model.

use std::ops::Range;

use llada_diffusion::{FinishReason, block_causal_ranges, propose};
use llada_model::{Input, Model};
use llada_tensor::Tensor;

use crate::plan::Plan;
use crate::sampling::Sampler;
use crate::{Answer, Error, Forwards, Options, Request, Sampling, Schedule, TraceStep};

/// Answers a request; see [`crate::Engine::generate`]. Only denoising forwards exist here.
///
/// # Errors
/// As [`crate::Engine::generate`].
pub fn generate(model: &Model, options: &Options, request: &Request) -> Result<Answer, Error> {
    let plan = Plan::new(request, options, &model.config)?;
    let (prompt_len, size) = (request.prompt.len(), plan.block_size.get());
    let limit = prompt_len + request.max_new_tokens;
    let num_blocks = limit.div_ceil(size);

    let mut tokens = request.prompt.clone();
    tokens.resize(num_blocks * size, plan.mask_token_id);
    let open = (0..tokens.len()).map(|i| i >= prompt_len).collect();
    let mut text = Text {
        tokens,
        open,
        prompt_len,
        limit,
    };
    let mut trace = Vec::new();
    'blocks: for block in prompt_len / size..num_blocks {
        let rows = block * size..(block + 1) * size;
        for step in 0.. {
            let open = text.open_rows(rows.clone());
            if open.is_empty() {
                break;
            }
            let proposals = propose_all(model, &plan, request.sampling, &text, &open, step)?;
            let written = text.write(&plan, &open, &proposals, step);
            trace.push(TraceStep {
                block,
                step,
                ids: text.tokens[rows.clone()].to_vec(),
            });
            if text.stops_in_block(&plan, &written) {
                break 'blocks;
            }
        }
        if text.stop_position(&plan).is_some() {
            break;
        }
    }
    Ok(text.answer(&plan, trace, request.trace))
}

/// Tokens with MASK at open positions.
struct Text {
    tokens: Vec<u32>,
    open: Vec<bool>,
    prompt_len: usize,
    /// End of the tokens asked for.
    limit: usize,
}

impl Text {
    fn open_rows(&self, rows: Range<usize>) -> Vec<usize> {
        rows.filter(|&i| self.open[i]).collect()
    }

    /// Fills all rows above the threshold, or the quota's number of best rows if that is more;
    /// returns the tokens written.
    fn write(
        &mut self,
        plan: &Plan,
        open: &[usize],
        proposals: &[(u32, f32)],
        step: usize,
    ) -> Vec<u32> {
        let acceptance = plan.acceptance;
        let mut best_first: Vec<usize> = (0..open.len()).collect();
        best_first.sort_by(|&a, &b| proposals[b].1.total_cmp(&proposals[a].1));
        let is_confident = |p: &(u32, f32)| p.1 > acceptance.confidence_threshold;
        let confident = proposals.iter().filter(|p| is_confident(p)).count();
        let need = acceptance.quota.at(step, plan.block_size).min(open.len());
        let mut written = Vec::new();
        for &i in &best_first[..confident.max(need)] {
            self.tokens[open[i]] = proposals[i].0;
            self.open[open[i]] = false;
            written.push(proposals[i].0);
        }
        written
    }

    /// Returns the first stop token of the answer, whether or not the rows before it are filled.
    fn stop_position(&self, plan: &Plan) -> Option<usize> {
        let is_stop = |&i: &usize| !self.open[i] && plan.is_stop(self.tokens[i]);
        (self.prompt_len..self.tokens.len()).find(is_stop)
    }

    fn is_filled_to(&self, end: usize) -> bool {
        !self.open[self.prompt_len..end].contains(&true)
    }

    fn stops_in_block(&self, plan: &Plan, written: &[u32]) -> bool {
        let stop = self.stop_position(plan);
        let is_finished = stop.is_some_and(|stop| self.is_filled_to(stop));
        match plan.schedule {
            Schedule::Exact => is_finished || self.is_filled_to(self.limit),
            Schedule::Reference { eos_early_stop } => {
                eos_early_stop && is_finished && written.iter().any(|&id| plan.is_stop(id))
            }
        }
    }

    fn answer(&self, plan: &Plan, trace: Vec<TraceStep>, keep_trace: bool) -> Answer {
        let stop = self.stop_position(plan).filter(|&stop| stop < self.limit);
        let end = stop.map_or(self.limit, |stop| stop + 1);
        Answer {
            output_ids: self.tokens[self.prompt_len..end].to_vec(),
            finish_reason: stop.map_or(FinishReason::Length, |_| FinishReason::Stop),
            forwards: Forwards {
                denoise: trace.len(),
                ..Forwards::default()
            },
            trace: if keep_trace { trace } else { Vec::new() },
        }
    }
}

/// Returns a token and its probability for each of the open rows of one block.
fn propose_all(
    model: &Model,
    plan: &Plan,
    sampling: Sampling,
    text: &Text,
    open: &[usize],
    step: usize,
) -> Result<Vec<(u32, f32)>, Error> {
    let logits = model.logits(&predictors(model, plan, text, open));
    let mask = plan.mask_token_id;
    let sampler = Sampler {
        sampling,
        banned: Some(mask),
    };
    let pick = |(row, &position)| {
        if sampling.temperature == 0.0 {
            Ok(propose(logits.row(row), mask)?)
        } else {
            let drawn = sampler.draw(logits.row(row), position, step)?;
            Ok((drawn.token, drawn.confidence))
        }
    };
    open.iter().enumerate().map(pick).collect()
}

/// Returns the hidden states of the rows that predict the open ones, from a forward of the whole text
/// to the end of their block.
fn predictors(model: &Model, plan: &Plan, text: &Text, open: &[usize]) -> Tensor {
    let size = plan.block_size;
    let end = (size.of(open[0]) + 1) * size.get();
    let positions: Vec<u32> = (0..end as u32).collect();
    let outputs: Vec<u32> = open
        .iter()
        .map(|&i| plan.predicting_row(i) as u32)
        .collect();
    let input = Input {
        ids: &text.tokens[..end],
        positions: &positions,
        ranges: &block_causal_ranges(end, size),
        outputs: &outputs,
    };
    model.forward(&input, None)
}
