//! Confidence-aware training (Eq. 6): sharpen the guesses that are right already.
//!
//! The mean entropy is over the right guesses of the *whole* batch, C, and which guesses are right is
//! not known before the forward. With one micro-batch the recorded pass waits until it is counted,
//! at no cost. With several, all but the first are scored once more, without recording: the price of
//! the exact denominator is less than one forward, a quarter of a step at most.

use llada_diffusion::{cap_rows, cap_weight};
use llada_model::{Activations, Gradients, Model};

use super::pass::correct;
use super::{Pass, Sums, score};
use crate::batch::MicroBatch;

/// A confidence-aware loss and its parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CapLoss {
    /// The likelihood part.
    pub likelihood: Sums,
    /// Likelihood part plus lambda times mean entropy.
    pub loss: f64,
    /// Loss rows.
    pub num_rows: u64,
    /// Loss rows whose best guess is right.
    pub num_correct: u64,
    /// Mean entropy of those, in nats; 0 if there are none.
    pub mean_entropy: f64,
}

/// Adds the gradient of `sum of weight * nll + lambda * mean entropy of right guesses` to `grads`.
/// Both parts are over all micro-batches.
pub fn cap(
    model: &Model,
    micro_batches: &[MicroBatch],
    lambda: f32,
    activations: Activations,
    grads: &mut Gradients,
) -> CapLoss {
    let mut loss = CapLoss::default();
    let Some((first, others)) = micro_batches.split_first() else {
        return loss;
    };
    let recorded = Pass::forward(model, first, activations);
    loss.num_correct = num_correct(&recorded.correct());
    for micro_batch in others {
        let head = score(model, micro_batch);
        loss.num_correct += num_correct(&correct(&micro_batch.rows, &head));
    }
    let weight = cap_weight(lambda, loss.num_correct);
    let mut entropy = sharpen(recorded, first, weight, &mut loss, grads);
    for micro_batch in others {
        let pass = Pass::forward(model, micro_batch, activations);
        entropy += sharpen(pass, micro_batch, weight, &mut loss, grads);
    }
    loss.mean_entropy = entropy / loss.num_correct.max(1) as f64;
    loss.loss = loss.likelihood.loss + f64::from(lambda) * loss.mean_entropy;
    loss
}

/// Goes back through a pass; returns the sum of entropies of its right guesses.
fn sharpen(
    pass: Pass<'_>,
    micro_batch: &MicroBatch,
    weight: f32,
    loss: &mut CapLoss,
    grads: &mut Gradients,
) -> f64 {
    let correct = cap_rows(&pass.correct());
    let mut weights = vec![0.0; micro_batch.weights.len()];
    correct.iter().for_each(|&row| weights[row] = weight);
    let entropy = |&row: &usize| f64::from(pass.head()[row].entropy);
    let sum = correct.iter().map(entropy).sum();
    loss.likelihood += pass.sums();
    loss.num_rows += micro_batch.weights.len() as u64;
    let weights = (weight != 0.0).then_some(&weights[..]);
    pass.backward(&micro_batch.weights, weights, grads);
    sum
}

fn num_correct(correct: &[bool]) -> u64 {
    cap_rows(correct).len() as u64
}
