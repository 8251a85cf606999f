//! A request between two forwards: its text, what it has cost, and what goes out next.
//!
//! The rows before the active block are clean, those of the block hold tokens and MASKs; with a window
//! several blocks may be active. With labels shifted, the block's first position is predicted by the
//! last clean row. That row sees nothing of the block, so its hidden state is kept from the forward
//! that computed it for all the block's steps. Autoregression is shifted labels and blocks of one: the
//! active row predicts nothing.

use std::ops::Range;

use llada_diffusion::{
    BlockOutcome, Candidate, DenoiseStep, Edit, FinishReason, Placed, Proposals, Sequence,
};
use llada_tensor::HeadRow;

use crate::alternatives::Alternatives;
use crate::plan::Plan;
use crate::sampling::{Choice, Sampler, best};
use crate::scheduler::{Group, Stand};
use crate::{Answer, Error, Event, Forwards, Hooks, Request, RequestId, Stats, TraceStep};

/// State of a request.
#[derive(Debug)]
pub(crate) struct Decoding {
    plan: Plan,
    text: Sequence,
    sampler: Sampler,
    hooks: Hooks,
    /// Hidden state `[D]` of the last clean row, with labels shifted.
    last_row: Vec<f32>,
    /// Rows that were clean when it was computed.
    last_row_clean: usize,
    /// End of the ids sent.
    sent: usize,
    forwards: Forwards,
    cached_tokens: Option<usize>,
    alternatives: Alternatives,
    trace: Option<Vec<TraceStep>>,
    draft: bool,
}

/// What a forward proposes.
#[derive(Debug)]
pub(crate) enum Proposed {
    /// A token for every predicted position.
    Chosen(Vec<Candidate>),
    /// Logits, for a policy whose bans depend on the state.
    Open(LogitRows),
}

/// Adjusted logits `[V]` of every predicted position.
#[derive(Debug)]
pub(crate) struct LogitRows {
    sampler: Sampler,
    step: usize,
    rows: Vec<(usize, Vec<f32>)>,
}

impl Proposals for LogitRows {
    fn best(&self, position: usize, banned: &[u32]) -> Option<Candidate> {
        let (_, logits) = self.rows.iter().find(|(row, _)| *row == position)?;
        let choice = Choice {
            position,
            step: self.step,
            banned,
            allowed: None,
        };
        self.sampler.choose(logits, choice).ok()
    }
}

impl Decoding {
    pub(crate) fn new(plan: Plan, request: &Request, hooks: Hooks) -> Result<Self, Error> {
        if hooks.constraint.is_some() {
            plan.check_constrained()?;
        }
        let text = Sequence::new(
            &request.prompt,
            request.max_new_tokens,
            plan.block_size,
            plan.mask_token_id,
            plan.policy,
        )?;
        Ok(Self {
            sampler: Sampler {
                sampling: request.sampling.clone(),
            },
            plan,
            sent: text.prompt_len(),
            text,
            hooks,
            last_row: Vec::new(),
            last_row_clean: 0,
            forwards: Forwards::default(),
            cached_tokens: None,
            alternatives: Alternatives::new(request.top_logprobs),
            trace: request.trace.then(Vec::new),
            draft: request.draft,
        })
    }

    /// Returns the rows that the request may come to need.
    pub(crate) fn max_rows(&self) -> usize {
        self.text.tokens().len()
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        self.text.tokens()
    }

    /// Returns the length of the prompt and of what cannot change any more of the answer.
    pub(crate) fn frozen_len(&self) -> usize {
        self.text.frozen_len()
    }

    pub(crate) fn stand(&self) -> Stand<'_> {
        let (tokens, block_size) = (self.text.tokens(), self.plan.block_size);
        let clean = &tokens[..self.text.clean_len()];
        let last = self.text.predicted_positions().last().copied();
        let row = last.map(|position| self.plan.predicting_row(position));
        // No row looks into a later block: past the last row that predicts, none is needed.
        let end = row
            .filter(|&row| row >= clean.len())
            .map(|row| block_size.rows(block_size.of(row), tokens.len()).end);
        Stand {
            block_size,
            clean,
            frozen: self.frozen_len().min(clean.len()),
            end: end.unwrap_or(clean.len()),
            needs_last_row: self.plan.is_shifted(),
            step_rows: self.max_active_rows(),
        }
    }

    /// Returns the most rows that can become clean in one step.
    fn max_active_rows(&self) -> usize {
        let blocks = self.plan.policy.max_active_blocks();
        blocks.saturating_mul(self.plan.block_size.get())
    }

    /// Counts a group of this request before its forward.
    pub(crate) fn count(&mut self, group: &Group, shared: usize, stats: &mut Stats) {
        if self.cached_tokens.is_none() {
            self.cached_tokens = Some(shared);
            stats.cached_rows += shared as u64;
        }
        let pending = group
            .clean
            .min(group.rows.end)
            .saturating_sub(group.rows.start);
        let is_prefill =
            group.rows.start < self.text.prefill_len() || pending > self.max_active_rows();
        if pending > 0 && is_prefill {
            self.forwards.prefill += 1;
            stats.prefill += 1;
        } else if pending > 0 && !group.decides {
            self.forwards.commit += 1;
            stats.commit += 1;
        }
        // After a preemption clean rows are computed again that say nothing new.
        let is_news = group.rows.end > group.clean
            || (self.computes_last_row(group) && self.last_row_clean != group.clean);
        if group.decides && is_news {
            self.forwards.denoise += 1;
            stats.denoise += 1;
        }
    }

    /// Returns the first of a group's rows that see each other, whatever their blocks.
    pub(crate) fn together(&self, group: &Group) -> usize {
        match self.text.is_reopened() {
            true => group.clean,
            false => group.rows.end,
        }
    }

    /// Returns whether a group holds the row that predicts the block's first position.
    fn computes_last_row(&self, group: &Group) -> bool {
        let last = group.clean.checked_sub(1);
        self.plan.is_shifted() && last.is_some_and(|row| group.rows.contains(&row))
    }

    /// Returns the rows of a group whose hidden states are needed, ascending.
    pub(crate) fn outputs(&self, group: &Group) -> Vec<usize> {
        let last_clean = self.computes_last_row(group).then(|| group.clean - 1);
        let deciding = self.text.predicted_positions().into_iter();
        let deciding = deciding
            .map(|position| self.plan.predicting_row(position))
            .filter(|&row| group.decides && row >= group.clean);
        last_clean.into_iter().chain(deciding).collect()
    }

    /// Appends the hidden states that predict [`Sequence::predicted_positions`] to `rows`, and keeps
    /// the last clean row's. `hidden` returns the state of a row of the group's forward.
    pub(crate) fn gather<'h>(
        &mut self,
        group: &Group,
        hidden: impl Fn(usize) -> &'h [f32],
        rows: &mut Vec<f32>,
    ) {
        if self.computes_last_row(group) {
            self.last_row_clean = group.clean;
            self.last_row = hidden(group.clean - 1).to_vec();
        }
        if !group.decides {
            return;
        }
        for position in self.text.predicted_positions() {
            let row = self.plan.predicting_row(position);
            rows.extend_from_slice(if row < group.clean {
                &self.last_row
            } else {
                hidden(row)
            });
        }
    }

    /// Returns whether the fused head says all that this request needs to know.
    pub(crate) fn is_plain(&self) -> bool {
        self.sampler.is_plain()
            && !self.alternatives.are_kept()
            && self.hooks.constraint.is_none()
            && self.text.adjustments().is_empty()
            && !matches!(self.plan.policy.edit, Edit::Revise { .. })
    }

    pub(crate) fn num_predicted(&self) -> usize {
        self.text.predicted_positions().len()
    }

    /// Returns proposals from the fused head.
    pub(crate) fn propose_best(&self, rows: &[HeadRow]) -> Result<Proposed, Error> {
        let positions = self.text.predicted_positions().into_iter();
        let candidates = rows.iter().zip(positions).map(|(row, i)| best(row, i));
        Ok(Proposed::Chosen(candidates.collect::<Result<_, _>>()?))
    }

    /// Returns proposals from whole logits, a row per predicted position.
    pub(crate) fn propose<'r>(
        &mut self,
        logits: impl Iterator<Item = &'r [f32]>,
    ) -> Result<Proposed, Error> {
        let positions = self.text.predicted_positions();
        let rows: Vec<_> = positions
            .into_iter()
            .zip(logits.map(<[f32]>::to_vec))
            .collect();
        let rows = self.adjust(rows)?;
        self.alternatives.propose(&rows, self.plan.mask_token_id);
        if matches!(self.plan.policy.edit, Edit::Revise { .. }) {
            return Ok(Proposed::Open(LogitRows {
                sampler: self.sampler.clone(),
                step: self.text.step_at(self.text.clean_len()),
                rows,
            }));
        }
        let first_open = self.text.open_positions().first().copied();
        let mut constraint = self.hooks.constraint.as_mut();
        let banned = [self.plan.mask_token_id];
        let mut candidates = Vec::with_capacity(rows.len());
        for (position, logits) in &rows {
            let constraint = constraint.take_if(|_| Some(*position) == first_open);
            let allowed = match constraint {
                Some(constraint) => Some(constraint.allowed().map_err(Error::Constraint)?),
                None => None,
            };
            let choice = Choice {
                position: *position,
                step: self.text.step_at(*position),
                banned: &banned,
                allowed: allowed.as_deref(),
            };
            candidates.push(self.sampler.choose(logits, choice)?);
        }
        Ok(Proposed::Chosen(candidates))
    }

    /// Adds to the logits what the request and the policy ask for.
    fn adjust(&self, mut rows: Vec<(usize, Vec<f32>)>) -> Result<Vec<(usize, Vec<f32>)>, Error> {
        let adjustments = self.text.adjustments();
        for (position, logits) in &mut rows {
            let position = *position;
            let before = (0..position).filter(|&i| !self.text.open()[i]);
            self.sampler
                .adjust(logits, before.map(|i| self.text.tokens()[i]));
            for adjustment in adjustments.iter().filter(|a| a.position == position) {
                logits[adjustment.token as usize] += adjustment.delta;
            }
            if !logits.iter().all(|z| z.is_finite()) {
                return Err(Error::NotFinite { position });
            }
        }
        Ok(rows)
    }

    /// Takes a step. Returns why the text is finished, if it is, and whether the first active block is
    /// done and nothing more is asked of its rows: the keys and values of this forward are final, and
    /// its last row predicts nothing.
    pub(crate) fn advance(
        &mut self,
        id: RequestId,
        proposed: &Proposed,
        stats: &mut Stats,
        events: &mut Vec<Event>,
    ) -> (Option<FinishReason>, bool) {
        let active = self.text.active_blocks();
        let active: Vec<_> = active
            .map(|rows| (self.text.step_at(rows.start), rows))
            .collect();
        let done = self.apply(proposed);
        let is_decided = |i| done.written.contains(&i) || done.edited.contains(&i);
        self.alternatives.decide(is_decided);
        stats.accepted += done.written.len() as u64;
        stats.edits += done.edited.len() as u64;
        stats.fallbacks += u64::from(done.fell_back);
        for (step, rows) in active {
            if rows.end <= self.text.frozen_len() {
                stats.count_block(step + 1);
            }
            self.show(id, rows, step, events);
        }
        let finish = self.commit(id, self.plan.end(&self.text, &done), events);
        let needs_nothing = done.block == BlockOutcome::Settled && !self.plan.is_shifted();
        (finish, needs_nothing)
    }

    fn apply(&mut self, proposed: &Proposed) -> DenoiseStep {
        let stop_ids = &self.plan.stop_ids;
        let is_stop = |id| stop_ids.contains(&id);
        match (proposed, &mut self.hooks.constraint) {
            (Proposed::Open(logits), _) => self.text.denoise_step(logits, is_stop),
            (Proposed::Chosen(candidates), None) => {
                self.text.denoise_step(&candidates[..], is_stop)
            }
            (Proposed::Chosen(candidates), Some(constraint)) => {
                let admits = |candidate: &Candidate| constraint.consume(candidate.token);
                self.text.constrained_step(&candidates[..], admits, is_stop)
            }
        }
    }

    /// Records a block's step and sends it as a draft, as far as that was asked for.
    fn show(&mut self, id: RequestId, rows: Range<usize>, step: usize, events: &mut Vec<Event>) {
        let (block, ids) = (
            self.plan.block_size.of(rows.start),
            &self.text.tokens()[rows.clone()],
        );
        if let Some(trace) = &mut self.trace {
            trace.push(TraceStep {
                block,
                step,
                ids: ids.to_vec(),
            });
        }
        if self.draft {
            events.push(Event::Draft {
                request: id,
                block,
                step,
                start: rows.start,
                ids: ids.to_vec(),
                placed: self.text.placed()[rows.clone()].to_vec(),
                open: rows.filter(|&i| self.text.open()[i]).collect(),
            });
        }
    }

    /// Sends what became final, and ends the text where its stop rule says.
    fn commit(
        &mut self,
        id: RequestId,
        mut finish: Option<FinishReason>,
        events: &mut Vec<Event>,
    ) -> Option<FinishReason> {
        let is_stop = |id| self.plan.is_stop(id);
        let mut end = self.text.answer(is_stop).end.max(self.sent);
        let tokens = self.text.tokens();
        let new = &tokens[self.sent..end];
        let searched = new.len() - usize::from(new.last().is_some_and(|&id| is_stop(id)));
        let cut = self
            .hooks
            .stop
            .as_mut()
            .and_then(|stop| stop(&new[..searched]));
        if let Some(len) = cut {
            end = self.sent + len.min(searched);
        }
        if end > self.sent {
            events.push(Event::Committed {
                request: id,
                ids: tokens[self.sent..end].to_vec(),
                placed: self.placed(self.sent..end),
                alternatives: self.alternatives.of(self.sent..end),
            });
            self.sent = end;
        }
        if cut.is_some() {
            self.text.stop_at(end);
            finish = Some(FinishReason::Stop);
        }
        finish
    }

    /// Returns how final ids of the answer came to their places.
    fn placed(&self, positions: Range<usize>) -> Vec<Placed> {
        let placed = self.text.placed()[positions].iter();
        placed
            .map(|placed| placed.expect("what is final was placed"))
            .collect()
    }

    pub(crate) fn answer(self, finish_reason: FinishReason) -> Answer {
        let answer = self.text.prompt_len()..self.sent;
        let counts = self.text.counts();
        Answer {
            output_ids: self.text.tokens()[answer.clone()].to_vec(),
            placed: self.placed(answer.clone()),
            alternatives: self.alternatives.of(answer),
            finish_reason,
            approximate: self.plan.policy.window.is_approximate(),
            forwards: self.forwards,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            fallbacks: counts.fallbacks,
            edits: counts.edits,
            steps_per_block: counts.steps_per_block.clone(),
            trace: self.trace.unwrap_or_default(),
        }
    }
}
