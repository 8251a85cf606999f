//! Preference training on evidence bounds (Eq. 7 and 8).
//!
//! A pair is two documents of a micro-batch that follow each other, the preferred answer first. Their
//! rows carry the weights of the bound, 1/t over the number of noise draws, without a denominator.
//! Policy and reference score the same rows: they share every mask, or the margin would be noise.

use llada_diffusion::{Elbos, dpo_loss, dpo_margin};
use llada_model::{Activations, Gradients, Model};
use llada_tensor::HeadRow;

use super::pass::nll;
use super::{Pass, Sums, score, sums};
use crate::batch::{Batch, MicroBatch};

/// What a policy is compared with, and how strictly.
#[derive(Debug)]
pub struct Preference {
    /// The frozen model.
    pub reference: Reference,
    /// How much a nat of margin counts.
    pub beta: f64,
}

/// The model that a policy is compared with.
#[derive(Debug)]
pub enum Reference {
    /// It scores every batch.
    Model(Box<Model>),
    /// It has scored all that will be asked: batches bring its bounds ([`Batch::reference`]).
    ///
    /// [`Batch::reference`]: crate::batch::Batch::reference
    Known,
}

/// Sums over pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DpoSums {
    /// Of -log sigmoid(beta * margin).
    pub loss: f64,
    /// Of how much more than the reference the policy prefers the chosen answer, in nats.
    pub margin: f64,
    /// Pairs with a margin above 0.
    pub num_right: u64,
    /// Pairs.
    pub num_pairs: u64,
    /// Of the policy's bounds on the log-likelihood of chosen answers, in nats.
    pub chosen: f64,
    /// The same of rejected answers.
    pub rejected: f64,
    /// Of the policy's scored rows.
    pub likelihood: Sums,
}

impl std::ops::AddAssign for DpoSums {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.margin += other.margin;
        self.num_right += other.num_right;
        self.num_pairs += other.num_pairs;
        self.chosen += other.chosen;
        self.rejected += other.rejected;
        self.likelihood += other.likelihood;
    }
}

impl DpoSums {
    /// Returns the means over pairs by the names they are logged under.
    pub fn means(&self) -> [(&'static str, f64); 5] {
        let mean = |sum: f64| sum / self.num_pairs.max(1) as f64;
        [
            ("dpo_loss", mean(self.loss)),
            ("dpo_margin", mean(self.margin)),
            ("dpo_accuracy", mean(self.num_right as f64)),
            ("dpo_chosen_elbo", mean(self.chosen)),
            ("dpo_rejected_elbo", mean(self.rejected)),
        ]
    }
}

impl Preference {
    /// Adds the gradient of the pairs' losses, each times `scale`, to `grads`. `known` are the reference's
    /// bounds for all pairs of the batch, if it is no model that scores them.
    pub fn accumulate(
        &self,
        model: &Model,
        micro_batch: &MicroBatch,
        known: &[Elbos],
        scale: f64,
        activations: Activations,
        grads: &mut Gradients,
    ) -> DpoSums {
        let reference = self.reference.bounds(micro_batch, known);
        let pass = Pass::forward(model, micro_batch, activations);
        let policy = bounds(micro_batch, pass.head());
        let judged = self.judge(&policy, &reference);
        let first = first_pair(micro_batch);
        // The bound is minus the weighted sum, hence the sign: the loss falls as `chosen` rises.
        let factor = |doc: u32| {
            let slope = judged[(doc / 2 - first) as usize].1;
            scale * if is_chosen(doc) { -slope } else { slope }
        };
        let rows = micro_batch.rows.loss_rows.iter().zip(&micro_batch.weights);
        let weights: Vec<f32> = rows
            .map(|(row, &weight)| (f64::from(weight) * factor(row.doc)) as f32)
            .collect();
        let sums = pass.sums();
        pass.backward(&weights, None, grads);
        total(judged, sums)
    }

    /// Measures pairs without learning from them.
    pub fn measure(&self, model: &Model, micro_batch: &MicroBatch, known: &[Elbos]) -> DpoSums {
        let head = score(model, micro_batch);
        let reference = self.reference.bounds(micro_batch, known);
        let judged = self.judge(&bounds(micro_batch, &head), &reference);
        total(judged, sums(&head, micro_batch))
    }

    /// Returns each pair's share of the sums, and the derivative of its loss by its margin.
    fn judge(&self, policy: &[Elbos], reference: &[Elbos]) -> Vec<(DpoSums, f64)> {
        let judge = |(&policy, &reference): (&Elbos, &Elbos)| {
            let margin = dpo_margin(policy, reference);
            let (loss, slope) = dpo_loss(margin, self.beta);
            let sums = DpoSums {
                loss,
                margin,
                num_right: u64::from(margin > 0.0),
                num_pairs: 1,
                chosen: policy.chosen,
                rejected: policy.rejected,
                ..DpoSums::default()
            };
            (sums, slope)
        };
        policy.iter().zip(reference).map(judge).collect()
    }
}

impl Reference {
    /// Returns the bounds of the pairs of a micro-batch, from its first scored one on.
    fn bounds(&self, micro_batch: &MicroBatch, known: &[Elbos]) -> Vec<Elbos> {
        match self {
            Self::Model(model) => bounds(micro_batch, &score(model, micro_batch)),
            Self::Known => known[first_pair(micro_batch) as usize..].to_vec(),
        }
    }
}

/// Returns a model's bounds for every pair of a batch.
pub(crate) fn pair_bounds(model: &Model, batch: &Batch) -> Vec<Elbos> {
    let mut all = vec![NOTHING; batch.drawn.len()];
    for micro_batch in &batch.micro_batches {
        let found = bounds(micro_batch, &score(model, micro_batch));
        all[first_pair(micro_batch) as usize..][..found.len()].copy_from_slice(&found);
    }
    all
}

/// The bounds of a pair without a masked token.
const NOTHING: Elbos = Elbos {
    chosen: 0.0,
    rejected: 0.0,
};

/// Returns a model's bounds on the log-likelihood of each pair's answers (Eq. 7), given what its head
/// says of the loss rows.
fn bounds(micro_batch: &MicroBatch, head: &[HeadRow]) -> Vec<Elbos> {
    let first = first_pair(micro_batch);
    let mut bounds = Vec::new();
    let rows = micro_batch.rows.loss_rows.iter().zip(&micro_batch.weights);
    for ((row, &weight), head) in rows.zip(head) {
        let pair = (row.doc / 2 - first) as usize;
        bounds.resize(bounds.len().max(pair + 1), NOTHING);
        let bound = match is_chosen(row.doc) {
            true => &mut bounds[pair].chosen,
            false => &mut bounds[pair].rejected,
        };
        *bound -= nll(head) * f64::from(weight);
    }
    bounds
}

fn first_pair(micro_batch: &MicroBatch) -> u32 {
    micro_batch
        .rows
        .loss_rows
        .first()
        .map_or(0, |row| row.doc / 2)
}

fn is_chosen(doc: u32) -> bool {
    doc.is_multiple_of(2)
}

fn total(judged: Vec<(DpoSums, f64)>, likelihood: Sums) -> DpoSums {
    let mut total = DpoSums {
        likelihood,
        ..DpoSums::default()
    };
    judged.into_iter().for_each(|(sums, _)| total += sums);
    total
}
