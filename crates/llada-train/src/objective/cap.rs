//! Confidence-aware training (Eq. 6): sharpen the guesses that are right already.

use llada_diffusion::{cap_rows, cap_weight};
use llada_model::{Activations, Gradients, Model};

use super::{Pass, sums};
use crate::batch::MicroBatch;

/// A confidence-aware loss and its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CapLoss {
    /// Likelihood part plus lambda times mean entropy.
    pub loss: f64,
    /// Loss rows whose best guess is right.
    pub num_correct: u64,
    /// Mean entropy of those, in nats; 0 if there are none.
    pub mean_entropy: f64,
}

/// Adds the gradient of `sum of weight * nll + lambda * mean entropy of right guesses` to `grads`.
///
/// The mean is over this pass: right guesses are not known before the forward, so with several
/// micro-batches it is a mean per micro-batch.
pub fn cap(
    model: &Model,
    micro_batch: &MicroBatch,
    lambda: f32,
    activations: Activations,
    grads: &mut Gradients,
) -> CapLoss {
    let pass = Pass::forward(model, &micro_batch.rows, activations);
    let correct = cap_rows(&pass.correct());
    let num_correct = correct.len() as u64;
    let weight = cap_weight(lambda, num_correct);
    let mut entropy_weights = vec![0.0; micro_batch.weights.len()];
    correct
        .iter()
        .for_each(|&row| entropy_weights[row] = weight);
    let entropy: f64 = correct
        .iter()
        .map(|&row| f64::from(pass.head()[row].entropy))
        .sum();
    let mean_entropy = entropy / num_correct.max(1) as f64;
    let loss = sums(pass.head(), micro_batch).loss + f64::from(lambda) * mean_entropy;
    let entropy_weights = (weight != 0.0).then_some(&entropy_weights[..]);
    pass.backward(&micro_batch.weights, entropy_weights, grads);
    CapLoss {
        loss,
        num_correct,
        mean_entropy,
    }
}
