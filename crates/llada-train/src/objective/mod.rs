//! Losses over one or more recorded forward passes, and their gradients.
//!
//! A loss only decides the weights that a row's negative log-likelihood and entropy have; the rest
//! is [`Pass`]. Next-token, block and document denoising are one weighted sum ([`weighted_nll`]);
//! confidence-aware training ([`cap()`]) adds entropies, preference training ([`dpo()`]) joins two
//! passes.

mod cap;
mod dpo;
mod pass;

use llada_model::{Activations, Gradients, Model};
use llada_tensor::HeadRow;

pub use self::cap::{CapLoss, cap};
pub use self::dpo::{DpoLoss, Pair, dpo, elbo};
pub(crate) use self::pass::nll as nll_of;
use self::pass::pass_and_backward;
pub use self::pass::{Pass, score};
use crate::batch::MicroBatch;

/// Sums over the loss rows of a forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of weight times negative log-likelihood: this pass's share of the loss.
    pub loss: f64,
    /// Of negative log-likelihoods alone, in nats.
    pub nll: f64,
    /// Of negative log-likelihoods, by mask ratio in tenths.
    pub buckets: [Bucket; 10],
}

/// The loss rows that were drawn under similar mask ratios.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Sum of their negative log-likelihoods, in nats.
    pub nll: f64,
    /// How many they are.
    pub rows: u64,
}

impl Bucket {
    /// Returns the mean, if there is a row.
    pub fn mean(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.nll / self.rows as f64)
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.nll += other.nll;
        for (bucket, other) in self.buckets.iter_mut().zip(other.buckets) {
            bucket.nll += other.nll;
            bucket.rows += other.rows;
        }
    }
}

/// Adds the gradient of the weighted sum of negative log-likelihoods (Eq. 1, 2 and 5) to `grads`.
pub fn weighted_nll(
    model: &Model,
    micro_batch: &MicroBatch,
    activations: Activations,
    grads: &mut Gradients,
) -> Sums {
    let MicroBatch { rows, weights, .. } = micro_batch;
    let head = pass_and_backward(model, rows, activations, weights, grads);
    sums(&head, micro_batch)
}

fn sums(head: &[HeadRow], micro_batch: &MicroBatch) -> Sums {
    let mut sums = Sums::default();
    let rows = micro_batch.weights.iter().zip(&micro_batch.rates);
    for (nll, (&weight, &rate)) in head.iter().map(nll_of).zip(rows) {
        sums.loss += nll * f64::from(weight);
        sums.nll += nll;
        let last = sums.buckets.len() - 1;
        let bucket = &mut sums.buckets[((rate * 10.0) as usize).min(last)];
        bucket.nll += nll;
        bucket.rows += 1;
    }
    sums
}

#[cfg(test)]
mod tests;
