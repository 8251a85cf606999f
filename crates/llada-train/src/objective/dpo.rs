//! Preference training on evidence bounds (Eq. 7 and 8).

use llada_diffusion::{Elbos, dpo_loss, dpo_margin};
use llada_model::{Activations, Gradients, Model};

use super::pass::{nll, score};
use super::{Pass, sums};
use crate::batch::MicroBatch;

/// The two answers to a prompt, each with its noise. Weights are 1 / t, without a denominator.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The preferred answer.
    pub chosen: &'a MicroBatch,
    /// The other one.
    pub rejected: &'a MicroBatch,
}

/// A preference loss and its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpoLoss {
    /// -log sigmoid(beta * margin).
    pub loss: f64,
    /// How much more than the reference the policy prefers the chosen answer, in nats.
    pub margin: f64,
    /// The policy's bounds.
    pub policy: Elbos,
}

/// Returns a model's bound on the log-likelihood of an answer (Eq. 7, one noise sample).
pub fn elbo(model: &Model, answer: &MicroBatch) -> f64 {
    let rows = score(model, &answer.rows);
    -rows
        .iter()
        .zip(&answer.weights)
        .map(|(row, &weight)| nll(row) * f64::from(weight))
        .sum::<f64>()
}

/// Adds the gradient of the preference loss to `grads`.
///
/// `reference` holds the frozen model's bounds under the same noise.
pub fn dpo(
    model: &Model,
    pair: Pair<'_>,
    reference: Elbos,
    beta: f64,
    activations: Activations,
    grads: &mut Gradients,
) -> DpoLoss {
    let chosen = Pass::forward(model, &pair.chosen.rows, activations);
    let rejected = Pass::forward(model, &pair.rejected.rows, activations);
    let policy = Elbos {
        chosen: -sums(chosen.head(), pair.chosen).loss,
        rejected: -sums(rejected.head(), pair.rejected).loss,
    };
    let margin = dpo_margin(policy, reference);
    let (loss, slope) = dpo_loss(margin, beta);
    // The bound is minus the weighted sum, hence the sign.
    chosen.backward(&scaled(&pair.chosen.weights, -slope), None, grads);
    rejected.backward(&scaled(&pair.rejected.weights, slope), None, grads);
    DpoLoss {
        loss,
        margin,
        policy,
    }
}

fn scaled(weights: &[f32], factor: f64) -> Vec<f32> {
    weights
        .iter()
        .map(|&weight| (f64::from(weight) * factor) as f32)
        .collect()
}
