//! A step: the proposals of one forward, judged together and applied together.

use super::{Placed, Sequence};
use crate::FinishReason;
use crate::acceptance::Acceptance;
use crate::policy::Edit;
use crate::proposal::{Candidate, Proposals, candidate};
use crate::revise::{self, Cell, Rules};

/// Where a step leaves its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOutcome {
    /// It takes another step.
    Active,
    /// It is done, and its tokens are not those the forward saw.
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
    /// Fewer proposals passed than the quota, so the most confident were taken.
    pub fell_back: bool,
    /// Where the block stands.
    pub block: BlockOutcome,
    /// Set if the text is finished.
    pub finish: Option<FinishReason>,
}

impl DenoiseStep {
    /// Returns whether the block is done and the next one, if any, active.
    pub fn block_done(&self) -> bool {
        self.block != BlockOutcome::Active
    }

    /// Returns whether the block's keys and values must now be computed from its final tokens, for
    /// the blocks to come. A finished text needs none.
    pub fn needs_commit(&self) -> bool {
        self.block == BlockOutcome::Changed && self.finish.is_none()
    }
}

/// What a step accepts, before it is applied.
struct Changes {
    /// Proposals for open positions, accepted or not.
    open: Vec<Candidate>,
    fills: Vec<Candidate>,
    edits: Vec<Candidate>,
    fell_back: bool,
}

impl Sequence {
    /// Applies the proposals for [`Sequence::predicted_positions`] as the policy says.
    ///
    /// # Panics
    /// If a predicted position has no proposal, or only banned ones: MASK, and with
    /// [`Edit::Revise`] also the two operations, so that a vocabulary needs other tokens than these.
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
        let open = self.open_candidates(proposals);
        let (acceptance, history) = (self.policy.acceptance, self.block.history);
        let accepted = acceptance.accept(&open, self.need(), history);
        let edits = self.edits(proposals);
        self.replace(self.changes(open, &accepted, edits), is_stop)
    }

    /// Applies proposals from left to right only, as far as `admits` goes: for texts that must belong
    /// to a language. See [`Acceptance::accept_left_to_right`].
    ///
    /// The first open position's proposal is accepted in any case; the caller has chosen it so that
    /// the language admits it.
    ///
    /// # Panics
    /// As [`Sequence::denoise_step`], or with editing: `admits` cannot be asked again.
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
        let open = self.open_candidates(proposals);
        let (acceptance, history) = (self.policy.acceptance, self.block.history);
        let accepted = acceptance.accept_left_to_right(&open, self.need(), history, admits);
        self.replace(self.changes(open, &accepted, Vec::new()), is_stop)
    }

    fn open_candidates<P: Proposals + ?Sized>(&self, proposals: &P) -> Vec<Candidate> {
        let banned = [self.mask_token_id];
        let open = self.open_positions().into_iter();
        open.map(|i| candidate(proposals, i, &banned)).collect()
    }

    /// Returns the proposals that replace a placed token (2.1 paper, Eq. 2).
    fn edits<P: Proposals + ?Sized>(&self, proposals: &P) -> Vec<Candidate> {
        let Edit::Above(above) = self.policy.edit else {
            return Vec::new();
        };
        let banned = [self.mask_token_id];
        self.editable_rows()
            .filter(|&i| !self.open[i])
            .map(|i| candidate(proposals, i, &banned))
            .filter(|c| c.token != self.tokens[c.position] && c.confidence > above)
            .collect()
    }

    fn changes(&self, open: Vec<Candidate>, accepted: &[usize], edits: Vec<Candidate>) -> Changes {
        let (acceptance, history) = (self.policy.acceptance, self.block.history);
        Changes {
            fills: accepted.iter().map(|&i| open[i]).collect(),
            edits,
            fell_back: acceptance.falls_back(&open, accepted, history),
            open,
        }
    }

    fn need(&self) -> usize {
        self.policy.quota.at(self.block.steps, self.block_size)
    }

    /// Applies changes that leave every position where it is.
    fn replace(&mut self, changes: Changes, is_stop: impl Fn(u32) -> bool) -> DenoiseStep {
        for &change in changes.fills.iter().chain(&changes.edits) {
            let Candidate {
                position, token, ..
            } = change;
            self.tokens[position] = token;
            self.open[position] = false;
            self.placed[position] = Some(self.placement(change));
        }
        let outcome = self.outcome(&changes);
        self.close(changes, outcome, is_stop)
    }

    fn placement(&self, change: Candidate) -> Placed {
        Placed {
            confidence: change.confidence,
            step: self.block.steps,
        }
    }

    /// Returns where the block stands, and counts the forward against its budget for editing.
    fn outcome(&mut self, changes: &Changes) -> BlockOutcome {
        let was_filled = changes.open.is_empty();
        self.block.post_edit_steps += usize::from(was_filled);
        let budget = match self.policy.edit {
            Edit::Off => 0,
            Edit::Above(_) | Edit::Revise { .. } => self.policy.max_post_edit_steps,
        };
        if changes.fills.len() < changes.open.len() {
            BlockOutcome::Active
        } else if was_filled && changes.edits.is_empty() {
            BlockOutcome::Settled
        } else if self.block.post_edit_steps >= budget {
            BlockOutcome::Changed
        } else {
            BlockOutcome::Active
        }
    }

    /// Takes a step of insert and delete editing.
    fn revise<P>(
        &mut self,
        proposals: &P,
        rules: &Rules,
        is_stop: impl Fn(u32) -> bool,
    ) -> DenoiseStep
    where
        P: Proposals + ?Sized,
    {
        let rows = self.editable_rows();
        let block = revise::Block {
            first: rows.start,
            tokens: &self.tokens[rows.clone()],
            open: &self.open[rows.clone()],
        };
        let decision = self.block.revision.decide(&block, rules, proposals);
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
        self.close(changes, outcome, is_stop)
    }

    fn rules(&self, above: f32, delete_token_id: u32, split_token_id: u32) -> Rules {
        Rules {
            acceptance: self.policy.acceptance,
            history: self.block.history,
            need: self.need(),
            above,
            max_post_edit_steps: self.policy.max_post_edit_steps,
            max_updates: self.block_size.get() + self.policy.max_post_edit_steps,
            mask_token_id: self.mask_token_id,
            delete_token_id,
            split_token_id,
        }
    }

    /// Applies changes that may move positions.
    fn rebuild(&mut self, writes: &[Candidate], rules: &Rules) {
        let rows = self.editable_rows();
        let revision = &self.block.revision;
        let old = rows.clone().map(|i| Cell {
            token: self.tokens[i],
            placed: self.placed[i],
            is_original: revision.is_original(i - rows.start),
        });
        let write = |row| {
            let write = writes.iter().find(|w| w.position == rows.start + row)?;
            Some((write.token, self.placement(*write)))
        };
        let cells = revise::rebuild(&old.collect::<Vec<_>>(), write, rules);
        self.block.revision.set_original(&cells);
        for (i, cell) in rows.zip(cells) {
            self.tokens[i] = cell.token;
            self.open[i] = cell.placed.is_none();
            self.placed[i] = cell.placed;
        }
    }

    /// Books a step, and goes to the next block if this one is done.
    fn close(
        &mut self,
        changes: Changes,
        block: BlockOutcome,
        is_stop: impl Fn(u32) -> bool,
    ) -> DenoiseStep {
        self.count(&changes);
        if matches!(self.policy.acceptance, Acceptance::Credit(_)) {
            self.block.credits.add(&changes.open);
        }
        for fill in &changes.fills {
            self.block.history.add(fill.confidence);
        }
        self.block.steps += 1;
        if block != BlockOutcome::Active {
            self.enter(self.block.start + self.block_size.get());
        }
        let positions = |changes: &[Candidate]| changes.iter().map(|c| c.position).collect();
        DenoiseStep {
            written: positions(&changes.fills),
            edited: positions(&changes.edits),
            fell_back: changes.fell_back,
            block,
            finish: self.finish(is_stop),
        }
    }

    fn count(&mut self, changes: &Changes) {
        let counts = &mut self.counts;
        counts.filled += changes.fills.len();
        counts.edits += changes.edits.len();
        counts.fallbacks += usize::from(changes.fell_back);
        let first = self.block_size.of(self.prompt_len);
        let index = self.block_size.of(self.block.start) - first;
        counts.steps_per_block.resize(index + 1, 0);
        counts.steps_per_block[index] += 1;
    }
}
