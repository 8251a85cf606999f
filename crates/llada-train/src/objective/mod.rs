//! Losses over one or more recorded forward passes, and their gradients.
//!
//! A loss only decides the weights that a row's negative log-likelihood and entropy have; the rest
//! is [`Pass`]. Next-token, block and document denoising are one weighted sum ([`weighted_nll`]);
//! confidence-aware training ([`cap()`]) adds entropies, preference training ([`Preference`]) weighs
//! the two answers of a pair against each other, editing ([`Turns`]) looks at drafts, policy optimisation
//! ([`Ebpo`]) weighs the model's own answers by their advantage. [`Loss`] is the choice among them. Noise on MASK and the z-loss of routers belong to the pass, whatever the loss.

mod cap;
mod dpo;
mod ebpo;
mod pass;
mod relabel;
mod turns;

use std::collections::BTreeMap;

use llada_diffusion::Role;
use llada_model::{Activations, Gradients, Model};
use llada_tensor::HeadRow;

pub use self::cap::{CapLoss, cap};
pub(crate) use self::dpo::pair_bounds;
pub use self::dpo::{DpoSums, Preference, Reference};
pub use self::ebpo::Ebpo;
pub(crate) use self::pass::nll as nll_of;
use self::pass::pass_and_backward;
pub use self::pass::{Pass, score};
pub use self::turns::{OnPolicy, Turns};
use crate::balance::RouterTotals;
use crate::batch::{Batch, MicroBatch};

/// What a batch is scored by.
#[derive(Debug)]
pub enum Loss {
    /// Weighted negative log-likelihoods (Eq. 1, 2 and 5).
    Likelihood,
    /// The same, and lambda times the mean entropy of right guesses (Eq. 6).
    Cap {
        /// Weight of the mean entropy.
        lambda: f32,
    },
    /// Preference of one answer over another (Eq. 7 and 8). For batches of pairs.
    Dpo(Preference),
    /// Masked, wrong and right tokens of drafts (LLaDA2.1 and 2.2). For batches of drafts.
    Edit(Turns),
    /// Masked tokens, some of them filled by the model itself.
    OnPolicy(OnPolicy),
    /// Answers of the model's own, by their advantage (LLaDA2.1). For batches of answers.
    Ebpo(Ebpo),
}

/// What is logged of a step beside its loss, by name.
pub type Measures = BTreeMap<&'static str, f64>;

impl Loss {
    /// Adds the gradient of a batch's loss to `grads`; returns the sums over its loss rows and what
    /// else is to be logged.
    pub fn accumulate(
        &self,
        model: &Model,
        batch: &Batch,
        activations: Activations,
        grads: &mut Gradients,
    ) -> (Sums, Measures) {
        match self {
            Self::Likelihood => {
                let mut sums = Sums::default();
                for micro_batch in &batch.micro_batches {
                    sums += weighted_nll(model, micro_batch, activations, grads);
                }
                (sums, Measures::new())
            }
            Self::Cap { lambda } => {
                let cap = cap(model, &batch.micro_batches, *lambda, activations, grads);
                let share = cap.num_correct as f64 / cap.num_rows.max(1) as f64;
                let measures = [("cap_correct", share), ("cap_entropy", cap.mean_entropy)];
                let sums = Sums {
                    loss: cap.loss,
                    ..cap.likelihood
                };
                (sums, measures.into())
            }
            Self::Dpo(preference) => {
                let mut dpo = DpoSums::default();
                let (scale, known) = (1.0 / batch.drawn.len() as f64, &batch.reference);
                for micro_batch in &batch.micro_batches {
                    dpo +=
                        preference.accumulate(model, micro_batch, known, scale, activations, grads);
                }
                let measures = dpo.means().into();
                let sums = Sums {
                    loss: dpo.loss * scale,
                    ..dpo.likelihood
                };
                (sums, measures)
            }
            Self::Edit(turns) => turns.accumulate(model, batch, activations, grads),
            Self::OnPolicy(on_policy) => on_policy.accumulate(model, batch, activations, grads),
            Self::Ebpo(ebpo) => ebpo.accumulate(model, batch, activations, grads),
        }
    }
}

/// Sums over the loss rows of a forward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Of weight times negative log-likelihood: this pass's share of the loss.
    pub loss: f64,
    /// Of negative log-likelihoods alone, in nats.
    pub nll: f64,
    /// What the routers did.
    pub routers: RouterTotals,
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

impl Sums {
    fn without_likelihood(self) -> Self {
        Self {
            nll: 0.0,
            buckets: [Bucket::default(); 10],
            ..self
        }
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.nll += other.nll;
        self.routers.add(&other.routers.0);
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
    let (head, routers) = pass_and_backward(model, micro_batch, activations, grads);
    Sums {
        routers,
        ..sums(&head, micro_batch)
    }
}

/// Returns the sums over loss rows. In drafts, likelihoods are those of masked tokens.
fn sums(head: &[HeadRow], micro_batch: &MicroBatch) -> Sums {
    let MicroBatch {
        weights,
        rates,
        roles,
        ..
    } = micro_batch;
    let mut sums = Sums::default();
    for (row, nll) in head.iter().map(nll_of).enumerate() {
        sums.loss += nll * f64::from(weights[row]);
        if roles.get(row).is_none_or(|&role| role == Role::Masked) {
            sums.nll += nll;
            let last = sums.buckets.len() - 1;
            let bucket = &mut sums.buckets[((rates[row] * 10.0) as usize).min(last)];
            bucket.nll += nll;
            bucket.rows += 1;
        }
    }
    sums
}

#[cfg(test)]
mod tests;
