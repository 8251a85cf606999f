//! Drafts in a batch: which noisy rows hold other tokens than text or MASK, and what they weigh.

use llada_diffusion::{
    Draft, LevenshteinNoise, Operations, Original, ReplaceNoise, Replacements, Role, Row,
};

use super::{MicroBatch, Noisy, Prepared};
use crate::data::Drawn;

/// How drafts are made, and what they weigh.
#[derive(Clone, Debug)]
pub struct Editing {
    /// What is wrong in them.
    pub noise: DraftNoise,
    /// Tokens to be wrong with.
    pub replacements: Replacements,
    /// What they weigh.
    pub weights: EditWeights,
}

/// What is wrong in a draft.
#[derive(Clone, Copy, Debug)]
pub enum DraftNoise {
    /// Tokens (LLaDA2.1).
    Replace(ReplaceNoise),
    /// Tokens and their number (LLaDA2.2).
    Levenshtein(LevenshteinNoise, Operations),
}

/// Weights of the mean losses over wrong and over right tokens of drafts, beside the loss of masked
/// ones. Each mean is over the whole batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EditWeights {
    /// Of wrong tokens.
    pub wrong: f32,
    /// Of right tokens that are scored.
    pub right: f32,
}

impl Editing {
    /// Makes a draft of every noisy copy of a document.
    pub(super) fn draw(&self, document: &mut Prepared, drawn: Drawn, seed: u64, mask_id: u32) {
        let block_size = document.block_size;
        for Noisy { turn, noise, draft } in &mut document.copies {
            let of = Original {
                seed,
                epoch: drawn.epoch,
                document: drawn.document as u64,
                ids: &turn.ids,
                supervised: &turn.supervised,
                replacements: &self.replacements,
            };
            *draft = Some(match self.noise {
                DraftNoise::Replace(replace) => replace.draw(&of, noise, mask_id),
                DraftNoise::Levenshtein(edit, operations) => {
                    let draft = edit.draw(&of, noise, block_size, operations);
                    leave_draft_out(&mut turn.supervised, &draft);
                    draft
                }
            });
        }
    }
}

/// Takes positions of a draft off the tokens that may be masked, which denominators count.
fn leave_draft_out(supervised: &mut [bool], draft: &Draft) {
    for (supervised, role) in supervised.iter_mut().zip(&draft.roles) {
        *supervised &= matches!(role, None | Some(Role::Masked));
    }
}

impl MicroBatch {
    /// Puts a document's drafts into the rows it added, from row `first` on.
    pub(super) fn push_drafts(&mut self, document: &Prepared, first: usize) {
        let drafts: Vec<&Draft> = document.copies.iter().map(Noisy::draft).collect();
        self.rows
            .rewrite_noisy(first, |row| drafts[row.copy as usize].ids[row.pos as usize]);
        for row in &mut self.rows.loss_rows[self.roles.len()..] {
            let (draft, position) = (drafts[row.copy as usize], row.position as usize);
            row.target = draft.targets[position];
            let role = draft.roles[position].expect("only rows with a role are scored");
            self.roles.push(role);
        }
        let text = |row: &Row| {
            let (copy, place) = (&document.copies[row.copy as usize], row.pos as usize);
            let is_learned = copy.turn.supervised[place] || copy.draft().roles[place].is_some();
            is_learned.then(|| copy.turn.ids[place])
        };
        let rows = self.rows.rows[first..].iter();
        self.texts
            .extend(rows.map(|row| if row.clean { None } else { text(row) }));
    }
}

/// Gives the wrong and right tokens of a batch's drafts their weights.
pub(crate) fn weigh_edits(micro_batches: &mut [MicroBatch], weights: EditWeights) {
    let count = |role| {
        let roles = micro_batches
            .iter()
            .flat_map(|micro_batch| &micro_batch.roles);
        roles.filter(|&&other| other == role).count().max(1) as f32
    };
    let (wrong, right) = (
        weights.wrong / count(Role::Wrong),
        weights.right / count(Role::Right),
    );
    for MicroBatch { roles, weights, .. } in micro_batches {
        for (role, weight) in roles.iter().zip(weights) {
            match role {
                Role::Masked => {}
                Role::Wrong => *weight = wrong,
                Role::Right => *weight = right,
            }
        }
    }
}

#[cfg(test)]
mod tests;
