//! A step: the proposals of one forward, judged block by block and applied together.
//!
//! Each active block is judged by its own history. In all but the first the quota waits until the
//! block before is nearly filled. Then the window moves: what is done leaves it in front, what stands
//! behind a stop token is given up, and the last block may admit the next. Or the blocks before the
//! one that is done are re-opened first.

use super::{ActiveBlock, Placed, Sequence};
use crate::FinishReason;
use crate::acceptance::Acceptance;
use crate::policy::Edit;
use crate::proposal::{Candidate, Proposals, candidate};
use crate::revise::{self, Cell, Rules};

/// Where a step leaves its block; of several, the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOutcome {
    /// It takes another step.
    Active,
    /// It is done, and its tokens are not those the forward saw. Or it was re-opened, so that its
    /// keys and values are those of rows that saw later blocks.
    Changed,
    /// It is done, and its tokens are those the forward saw: that forward's keys and values are final.
    Settled,
}

/// What a denoising step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenoiseStep {
    /// Open positions for which a proposal was accepted, ascending.
    pub written: Vec<usize>,
    /// Placed tokens for which another was accepted, ascending. Both lists number positions as the
    /// forward did, before insertions and deletions moved any.
    pub edited: Vec<usize>,
    /// Fewer proposals of a block passed than its quota, so the most confident were taken.
    pub fell_back: bool,
    /// Where the block stands, of several the first.
    pub block: BlockOutcome,
    /// Set if the text is finished.
    pub finish: Option<FinishReason>,
}

impl DenoiseStep {
    /// Returns whether the block is done. Later ones that were filled are done with it, and the next
    /// one, if any, is active.
    pub fn block_done(&self) -> bool {
        self.block != BlockOutcome::Active
    }

    /// Returns whether the block's keys and values must now be computed from its final tokens, for
    /// the blocks to come. A finished text needs none.
    pub fn needs_commit(&self) -> bool {
        self.block == BlockOutcome::Changed && self.finish.is_none()
    }
}

/// What a step accepts in a block, before it is applied.
pub(super) struct Changes {
    /// Proposals for open positions, accepted or not.
    open: Vec<Candidate>,
    fills: Vec<Candidate>,
    pub(super) edits: Vec<Candidate>,
    fell_back: bool,
}

impl Sequence {
    /// Applies the proposals for [`Sequence::predicted_positions`] as the policy says.
    ///
    /// # Panics
    /// If no block is active, or a predicted position has no proposal, or only banned ones: MASK, and
    /// with [`Edit::Revise`] also the two operations, so that a vocabulary needs other tokens than
    /// these.
    pub fn denoise_step<P>(&mut self, proposals: &P, is_stop: impl Fn(u32) -> bool) -> DenoiseStep
    where
        P: Proposals + ?Sized,
    {
        if let Edit::Revise {
            above,
            delete_token_id,
            split_token_id,
        } = self.policy.edit
        {
            let rules = self.rules(above, delete_token_id, split_token_id);
            return self.revise(proposals, &rules, is_stop);
        }
        let decided = self.active.iter().enumerate().map(|(index, block)| {
            let open = self.open_candidates(block, proposals);
            let (acceptance, need) = (self.policy.acceptance, self.need(index));
            let accepted = acceptance.accept(&open, need, block.history);
            self.changes(block, open, &accepted, self.edits(block, proposals))
        });
        let changes = decided.collect();
        self.replace(changes, is_stop)
    }

    /// Applies proposals from left to right only, as far as `admits` goes: for texts that must belong
    /// to a language. See [`Acceptance::accept_left_to_right`].
    ///
    /// The first open position's proposal is accepted in any case; the caller has chosen it so that
    /// the language admits it.
    ///
    /// # Panics
    /// As [`Sequence::denoise_step`]; with editing, for `admits` cannot be asked again; with an
    /// approximate window, for what it admits depends on all before; or if no block is active.
    pub fn constrained_step<P>(
        &mut self,
        proposals: &P,
        admits: impl FnMut(&Candidate) -> bool,
        is_stop: impl Fn(u32) -> bool,
    ) -> DenoiseStep
    where
        P: Proposals + ?Sized,
    {
        assert_eq!(self.policy.edit, Edit::Off, "what is admitted must stay");
        let is_single = !self.policy.window.is_approximate();
        assert!(is_single, "what is admitted follows what stands before it");
        let block = self.first();
        let open = self.open_candidates(block, proposals);
        let (acceptance, need) = (self.policy.acceptance, self.need(0));
        let accepted = acceptance.accept_left_to_right(&open, need, block.history, admits);
        let changes = self.changes(block, open, &accepted, Vec::new());
        self.replace(vec![changes], is_stop)
    }

    pub(super) fn first(&self) -> &ActiveBlock {
        let first = self.active.front();
        first.expect("an unfinished text has an active block")
    }

    fn open_candidates<P>(&self, block: &ActiveBlock, proposals: &P) -> Vec<Candidate>
    where
        P: Proposals + ?Sized,
    {
        let banned = [self.mask_token_id];
        let open = self.open_rows(block);
        open.map(|i| candidate(proposals, i, &banned)).collect()
    }

    /// Returns the proposals that replace a placed token (2.1 paper, Eq. 2).
    fn edits<P>(&self, block: &ActiveBlock, proposals: &P) -> Vec<Candidate>
    where
        P: Proposals + ?Sized,
    {
        let Edit::Above(above) = self.policy.edit else {
            return Vec::new();
        };
        let banned = [self.mask_token_id];
        self.editable_rows(block)
            .filter(|&i| !self.open[i])
            .map(|i| candidate(proposals, i, &banned))
            .filter(|c| c.token != self.tokens[c.position] && c.confidence > above)
            .collect()
    }

    fn changes(
        &self,
        block: &ActiveBlock,
        open: Vec<Candidate>,
        accepted: &[usize],
        edits: Vec<Candidate>,
    ) -> Changes {
        let (acceptance, history) = (self.policy.acceptance, block.history);
        Changes {
            fills: accepted.iter().map(|&i| open[i]).collect(),
            edits,
            fell_back: acceptance.falls_back(&open, accepted, history),
            open,
        }
    }

    /// Returns how many positions an active block must fill at least.
    fn need(&self, index: usize) -> usize {
        let semi_complete = self.policy.window.semi_complete;
        let waits = index > 0 && self.filled(&self.active[index - 1]) < semi_complete;
        if waits {
            return 0;
        }
        let steps = self.active[index].steps;
        self.policy.quota.at(steps, self.block_size)
    }

    /// Applies changes of every active block that leave every position where it is.
    fn replace(&mut self, changes: Vec<Changes>, is_stop: impl Fn(u32) -> bool) -> DenoiseStep {
        for (block, changes) in self.active.iter().zip(&changes) {
            for change in changes.fills.iter().chain(&changes.edits) {
                self.tokens[change.position] = change.token;
                self.open[change.position] = false;
                self.placed[change.position] = Some(block.placement(change));
            }
        }
        let outcome = match self.rounds {
            None => self.outcome(&changes[0]),
            Some(rounds) => self.round_outcome(rounds, &changes),
        };
        self.close(&changes, outcome, is_stop)
    }

    /// Returns where the first block stands, and counts the forward against its budget for editing.
    fn outcome(&mut self, changes: &Changes) -> BlockOutcome {
        let was_filled = changes.open.is_empty();
        self.active[0].post_edit_steps += usize::from(was_filled);
        let budget = match self.policy.edit {
            Edit::Off => 0,
            Edit::Above(_) | Edit::Revise { .. } => self.policy.max_post_edit_steps,
        };
        if changes.fills.len() < changes.open.len() {
            BlockOutcome::Active
        } else if was_filled && changes.edits.is_empty() {
            BlockOutcome::Settled
        } else if self.active[0].post_edit_steps >= budget {
            BlockOutcome::Changed
        } else {
            BlockOutcome::Active
        }
    }

    /// Takes a step of insert and delete editing; it knows a single block.
    fn revise<P>(
        &mut self,
        proposals: &P,
        rules: &Rules,
        is_stop: impl Fn(u32) -> bool,
    ) -> DenoiseStep
    where
        P: Proposals + ?Sized,
    {
        let rows = self.editable_rows(self.first());
        let block = revise::Block {
            first: rows.start,
            tokens: &self.tokens[rows.clone()],
            open: &self.open[rows.clone()],
        };
        let decision = self.active[0].revision.decide(&block, rules, proposals);
        let before = block.tokens.to_vec();
        self.rebuild(&[&decision.fills[..], &decision.edits].concat(), rules);
        let has_writes = !(decision.fills.is_empty() && decision.edits.is_empty());
        let outcome = match (has_writes, decision.is_final) {
            (true, false) => BlockOutcome::Active,
            (true, true) if self.tokens[rows] != before => BlockOutcome::Changed,
            _ => BlockOutcome::Settled,
        };
        let changes = Changes {
            open: decision.open,
            fills: decision.fills,
            edits: decision.edits,
            fell_back: decision.fell_back,
        };
        self.close(&[changes], outcome, is_stop)
    }

    fn rules(&self, above: f32, delete_token_id: u32, split_token_id: u32) -> Rules {
        Rules {
            acceptance: self.policy.acceptance,
            history: self.first().history,
            need: self.need(0),
            above,
            max_post_edit_steps: self.policy.max_post_edit_steps,
            max_updates: (self.block_size.get()).saturating_add(self.policy.max_post_edit_steps),
            mask_token_id: self.mask_token_id,
            delete_token_id,
            split_token_id,
        }
    }

    /// Applies changes that may move positions.
    fn rebuild(&mut self, writes: &[Candidate], rules: &Rules) {
        let (rows, block) = (self.editable_rows(self.first()), self.first());
        let old = rows.clone().map(|i| Cell {
            token: self.tokens[i],
            placed: self.placed[i],
            is_original: block.revision.is_original(i - rows.start),
        });
        let write = |row| {
            let write = writes.iter().find(|w| w.position == rows.start + row)?;
            Some((write.token, block.placement(write)))
        };
        let cells = revise::rebuild(&old.collect::<Vec<_>>(), write, rules);
        self.active[0].revision.set_original(&cells);
        for (i, cell) in rows.zip(cells) {
            self.tokens[i] = cell.token;
            self.open[i] = cell.placed.is_none();
            self.placed[i] = cell.placed;
        }
    }

    /// Books a step, and goes to the next blocks if the first is done.
    fn close(
        &mut self,
        changes: &[Changes],
        outcome: BlockOutcome,
        is_stop: impl Fn(u32) -> bool,
    ) -> DenoiseStep {
        self.count(changes);
        for (block, changes) in self.active.iter_mut().zip(changes) {
            block.book(changes, self.policy.acceptance);
        }
        let first = self.reopen(outcome);
        self.slide(first, &is_stop);
        let positions = |of: fn(&Changes) -> &[Candidate]| {
            let changes = changes.iter().flat_map(of);
            changes.map(|c| c.position).collect()
        };
        DenoiseStep {
            written: positions(|changes| &changes.fills),
            edited: positions(|changes| &changes.edits),
            fell_back: changes.iter().any(|changes| changes.fell_back),
            block: first,
            finish: self.finish(is_stop),
        }
    }

    fn count(&mut self, changes: &[Changes]) {
        let prefill_len = self.prefill_len();
        let counts = &mut self.counts;
        counts.fallbacks += usize::from(changes.iter().any(|changes| changes.fell_back));
        for (block, changes) in self.active.iter().zip(changes) {
            counts.filled += changes.fills.len();
            counts.edits += changes.edits.len();
            let index = self.block_size.of(block.start - prefill_len);
            if index == counts.steps_per_block.len() {
                counts.steps_per_block.push(0);
            }
            counts.steps_per_block[index] += 1;
        }
    }

    /// Returns the end of the last active block.
    fn active_end(&self) -> usize {
        let last = self.active_blocks().last();
        last.map_or(self.tokens.len(), |rows| rows.end)
    }

    /// Moves the window, given where the first block stands: what is done leaves it, what follows a
    /// stop token is given up, and what its last block admits comes in. While a stop token may still
    /// be edited away nothing is given up, but nothing is begun behind it either.
    fn slide(&mut self, first: BlockOutcome, is_stop: impl Fn(u32) -> bool) {
        let answer = self.clean_len().max(self.prompt_len)..self.active_end();
        let mut placed = answer.filter(|&i| !self.open[i]);
        let stop = placed.find(|&i| is_stop(self.tokens[i]));
        let may_change = self.policy.reopen.is_some();
        if let (Some(stop), false) = (stop, may_change) {
            self.active.retain(|block| block.start <= stop);
        }
        let next = self.active_end();
        if first != BlockOutcome::Active {
            self.active.pop_front();
            while let Some(block) = self.active.front()
                && self.open_rows(block).next().is_none()
            {
                self.active.pop_front();
            }
        }
        if stop.is_none() || (self.active.is_empty() && !may_change) {
            self.admit(next);
        }
    }
}

impl ActiveBlock {
    fn placement(&self, change: &Candidate) -> Placed {
        Placed {
            confidence: change.confidence,
            step: self.steps,
        }
    }

    /// Remembers a step.
    fn book(&mut self, changes: &Changes, acceptance: Acceptance) {
        if matches!(acceptance, Acceptance::Credit(_)) {
            self.credits.add(&changes.open);
        }
        for fill in &changes.fills {
            self.history.add(fill.confidence);
        }
        self.steps += 1;
    }
}
