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
use crate::balance::RouterTotals;
use crate::batch::MicroBatch;

/// Sums over the loss rows of a forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of weight times negative log-likelihood: this pass's share of the loss.
    pub loss: f64,
    /// Of negative log-likelihoods alone, in nats.
    pub nll: f64,
    /// What the routers did.
    pub routers: RouterTotals,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.nll += other.nll;
        self.routers.add(&other.routers.0);
    }
}

/// Adds the gradient of the weighted sum of negative log-likelihoods (Eq. 1, 2 and 5) to `grads`.
pub fn weighted_nll(
    model: &Model,
    micro_batch: &MicroBatch,
    activations: Activations,
    grads: &mut Gradients,
) -> Sums {
    let (head, routers) = pass_and_backward(model, micro_batch, activations, grads);
    Sums {
        routers: RouterTotals(routers),
        ..sums(&head, &micro_batch.weights)
    }
}

fn sums(head: &[HeadRow], weights: &[f32]) -> Sums {
    let mut sums = Sums::default();
    for (nll, &weight) in head.iter().map(nll_of).zip(weights) {
        sums.loss += nll * f64::from(weight);
        sums.nll += nll;
    }
    sums
}

#[cfg(test)]
mod tests;
