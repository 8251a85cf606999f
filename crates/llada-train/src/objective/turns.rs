//! Editing (LLaDA2.1 and 2.2): masked tokens, wrong tokens, and drafts of the model's own.
//!
//! **Multi-turn forward.** A decoder corrects its own mistakes, not random ones. So the open positions
//! that the model is sure of are filled with its guesses, right or wrong, and the draft is looked at
//! again: wrong guesses, right guesses and positions still open each have a mean loss over the batch.
//! Gradients are of each turn alone; nothing is differentiated through a guess. A turn costs a step's
//! forward and backward, its z-loss included; its guesses are those of the turn before, at no cost.
//!
//! **On-policy training** (OPUT of DMax, arXiv:2604.08302) is one such turn whose first look has no
//! gradient: all masks of some documents are filled, and the loss stays that of the masked positions.

use std::collections::HashMap;

use llada_diffusion::{Operations, Rng, Role, Stream, TrainRows};
use llada_model::{Activations, Gradients, Model};
use llada_tensor::HeadRow;

use super::pass::{nll, pass_and_backward};
use super::relabel::relabel;
use super::{Measures, Sums, score, sums, weighted_nll};
use crate::batch::{Batch, EditWeights, MicroBatch, weigh_edits};

/// How often, and how sure the model has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turns {
    /// Looks at a draft, at least 1.
    pub num: usize,
    /// Confidence from which a guess is filled in.
    pub threshold: f32,
    /// What wrong and right tokens weigh.
    pub weights: EditWeights,
    /// Ids of the operations, if drafts are also of another length than their text.
    pub operations: Option<Operations>,
}

/// Sums over the rows of one role.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    nll: f64,
    num_correct: u64,
    num_rows: u64,
}

impl Turns {
    /// Adds the gradient of all turns' losses to `grads`.
    pub(super) fn accumulate(
        &self,
        model: &Model,
        batch: &Batch,
        activations: Activations,
        grads: &mut Gradients,
    ) -> (Sums, Measures) {
        let mut tallies = [Tally::default(); 3];
        let mut losses = Vec::with_capacity(self.num);
        let mut total = Sums::default();
        let mut drafts = batch.micro_batches.clone();
        for turn in 1..=self.num {
            let mut looked = Sums::default();
            for draft in &mut drafts {
                let (head, routers) = pass_and_backward(model, draft, activations, grads);
                looked += Sums {
                    routers,
                    ..sums(&head, draft)
                };
                if turn == 1 {
                    tally(draft, &head, &mut tallies);
                }
                if turn < self.num {
                    self.fill(model, draft, &head);
                }
            }
            losses.push(looked.loss);
            total += match turn {
                1 => looked,
                _ => looked.without_likelihood(), // that of the masks is of the first look
            };
            self.weigh(&mut drafts);
        }
        (total, measures(&tallies, &losses))
    }

    /// Fills in what the model is sure of.
    fn fill(&self, model: &Model, draft: &mut MicroBatch, head: &[HeadRow]) {
        let is_confident = |head: &HeadRow| (head.argmax_logit - head.lse).exp() >= self.threshold;
        if let Some(operations) = self.operations {
            let is_sure = |head: &HeadRow| is_confident(head) && head.argmax != operations.mask;
            let proposal = |head: &HeadRow| is_sure(head).then_some(head.argmax);
            let proposals: Vec<_> = head.iter().map(proposal).collect();
            return relabel(draft, &proposals, operations);
        }
        let roles = &draft.roles;
        let is_sure = |row: usize| roles[row] == Role::Masked && is_confident(&head[row]);
        let filled = fill(model, &mut draft.rows, head, is_sure);
        for row in filled {
            let is_right = draft.rows.loss_rows[row].target == head[row].argmax;
            draft.roles[row] = if is_right { Role::Right } else { Role::Wrong };
        }
    }

    /// Weighs what a later turn looks at: of masked tokens it takes the mean.
    fn weigh(&self, drafts: &mut [MicroBatch]) {
        let roles = drafts.iter().flat_map(|draft| &draft.roles);
        let masked = roles.filter(|&&role| role == Role::Masked).count();
        for draft in &mut *drafts {
            draft.weights.fill(1.0 / masked.max(1) as f32);
        }
        weigh_edits(drafts, self.weights);
    }
}

/// Puts the best guess of the loss rows that `accept` into their noisy rows; returns which were.
/// A guess of MASK fills nothing, nor can a position be filled whose row serves nobody.
fn fill(
    model: &Model,
    rows: &mut TrainRows,
    head: &[HeadRow],
    accept: impl Fn(usize) -> bool,
) -> Vec<usize> {
    let noisy = rows.rows.iter().enumerate().filter(|(_, row)| !row.clean);
    let places: HashMap<_, _> = noisy
        .map(|(place, row)| ((row.doc, row.copy, row.pos), place))
        .collect();
    let mut filled = Vec::new();
    for (index, (row, head)) in rows.loss_rows.iter().zip(head).enumerate() {
        let is_token = Some(head.argmax) != model.config.mask_token_id;
        let place = places.get(&(row.doc, row.copy, row.position));
        if let (true, true, Some(&place)) = (accept(index), is_token, place) {
            rows.ids[place] = head.argmax;
            filled.push(index);
        }
    }
    filled
}

/// Adds what the head says of a draft's rows, by their role.
fn tally(draft: &MicroBatch, head: &[HeadRow], tallies: &mut [Tally; 3]) {
    let rows = draft.rows.loss_rows.iter().zip(head);
    for (&role, (row, head)) in draft.roles.iter().zip(rows) {
        let tally = &mut tallies[role as usize];
        tally.nll += nll(head);
        tally.num_correct += u64::from(head.argmax == row.target);
        tally.num_rows += 1;
    }
}

fn measures(tallies: &[Tally; 3], losses: &[f64]) -> Measures {
    let mean = |role, of: fn(&Tally) -> f64| {
        let tally: &Tally = &tallies[role as usize];
        of(tally) / tally.num_rows.max(1) as f64
    };
    let accuracy: fn(&Tally) -> f64 = |tally| tally.num_correct as f64;
    let mut measures = Measures::from([
        ("edit_nll", mean(Role::Wrong, |tally| tally.nll)),
        ("edit_accuracy", mean(Role::Wrong, accuracy)),
        ("keep_nll", mean(Role::Right, |tally| tally.nll)),
        ("keep_accuracy", mean(Role::Right, accuracy)),
    ]);
    if let [_, later @ ..] = losses
        && !later.is_empty()
    {
        measures.insert("later_turns_loss", later.iter().sum());
    }
    measures
}

/// Which documents are trained on the model's own guesses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OnPolicy {
    /// Share of the documents.
    pub share: f32,
    /// Seed that chooses them.
    pub seed: u64,
}

impl OnPolicy {
    /// Adds the gradient of the loss of masked positions to `grads`, some of them filled.
    pub(super) fn accumulate(
        &self,
        model: &Model,
        batch: &Batch,
        activations: Activations,
        grads: &mut Gradients,
    ) -> (Sums, Measures) {
        let rng = Rng::new(self.seed, Stream::Data);
        let is_chosen = |doc: u32| {
            let drawn = batch.drawn[doc as usize];
            rng.uniform(drawn.epoch, drawn.document as u64, 0) < self.share
        };
        let (mut sums, mut num_wrong, mut num_filled) = (Sums::default(), 0, 0);
        for micro_batch in &batch.micro_batches {
            let mut draft = micro_batch.clone();
            if draft.rows.loss_rows.iter().any(|row| is_chosen(row.doc)) {
                let head = score(model, &draft);
                let docs: Vec<u32> = draft.rows.loss_rows.iter().map(|row| row.doc).collect();
                let filled = fill(model, &mut draft.rows, &head, |row| is_chosen(docs[row]));
                let is_wrong =
                    |&&row: &&usize| draft.rows.loss_rows[row].target != head[row].argmax;
                num_wrong += filled.iter().filter(is_wrong).count();
                num_filled += filled.len();
            }
            sums += weighted_nll(model, &draft, activations, grads);
        }
        let wrong = num_wrong as f64 / num_filled.max(1) as f64;
        (sums, [("oput_wrong", wrong)].into())
    }
}
