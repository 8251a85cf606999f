//! A forward pass over training rows, kept until its loss is known.

use llada_diffusion::{LossRow, TrainRows};
use llada_model::{Activations, Dropout, Gradients, Input, Model, Tape};
use llada_tensor::{HeadRow, Tensor, gather_rows, scatter_add_rows};

use super::{Sums, sums};
use crate::balance::RouterTotals;
use crate::batch::MicroBatch;

/// A recorded forward pass, and what the head says of each loss row.
#[derive(Debug)]
pub struct Pass<'a> {
    body: Body<'a>,
    head: Vec<HeadRow>,
}

/// A recorded forward pass up to the head.
#[derive(Debug)]
struct Body<'a> {
    model: &'a Model,
    micro_batch: &'a MicroBatch,
    outputs: Outputs,
    dropout: Option<Dropout>,
    tape: Tape,
    /// Hidden states of the loss rows, `[loss rows, D]`.
    hidden: Tensor,
    targets: Vec<u32>,
}

impl<'a> Pass<'a> {
    /// Computes the rows and scores the loss rows.
    pub fn forward(
        model: &'a Model,
        micro_batch: &'a MicroBatch,
        activations: Activations,
    ) -> Self {
        let body = Body::forward(model, micro_batch, activations);
        let head = model.head_rows(&body.hidden, Some(&body.targets), None);
        Self { body, head }
    }

    /// Returns what the head says, per loss row.
    pub fn head(&self) -> &[HeadRow] {
        &self.head
    }

    /// Returns whether each loss row's best guess is right.
    pub fn correct(&self) -> Vec<bool> {
        correct(&self.body.micro_batch.rows, &self.head)
    }

    /// Returns the sums over loss rows, with the weights of the micro-batch.
    pub fn sums(&self) -> Sums {
        Sums {
            routers: self.body.routers(),
            ..sums(&self.head, self.body.micro_batch)
        }
    }

    /// Adds the gradient of the sum of weighted negative log-likelihoods and entropies (and of the
    /// z-loss) to `grads`.
    ///
    /// # Panics
    /// Unless there is a weight per loss row.
    pub fn backward(
        self,
        nll_weights: &[f32],
        entropy_weights: Option<&[f32]>,
        grads: &mut Gradients,
    ) {
        let Self { body, head } = self;
        let drows = body.model.head_backward(
            &body.hidden,
            &body.targets,
            &head,
            nll_weights,
            entropy_weights,
            grads,
        );
        body.backward(&drows, grads);
    }
}

impl<'a> Body<'a> {
    fn forward(model: &'a Model, micro_batch: &'a MicroBatch, activations: Activations) -> Self {
        let outputs = Outputs::of(&micro_batch.rows.loss_rows);
        let rows = &micro_batch.rows;
        let dropout = &micro_batch.dropout;
        let dropout = dropout.as_ref().map(|dropout| dropout.of(rows));
        let input = outputs.input(rows, dropout.as_ref());
        let (hidden, mut tape) = model.record(embed(model, micro_batch), &input, activations);
        tape.set_router_z_weight(micro_batch.router_z_weight);
        let hidden = gather_rows(&hidden, &outputs.slots);
        Self {
            model,
            micro_batch,
            targets: targets(rows),
            outputs,
            dropout,
            tape,
            hidden,
        }
    }

    fn routers(&self) -> RouterTotals {
        RouterTotals(self.tape.router_stats().to_vec())
    }

    /// Adds the gradient of all but the head, given that of the loss rows' hidden states.
    fn backward(self, drows: &Tensor, grads: &mut Gradients) {
        let [_, width] = drows.dims2();
        let mut dhidden = Tensor::zeros(&[self.outputs.rows.len(), width]);
        scatter_add_rows(&mut dhidden, &self.outputs.slots, drows);
        let rows = &self.micro_batch.rows;
        let input = self.outputs.input(rows, self.dropout.as_ref());
        self.model.backward(&input, self.tape, &dhidden, grads);
    }
}

/// Computes the rows of a micro-batch, adds the gradient of the sum of weighted negative
/// log-likelihoods (and of the z-loss) to `grads`, and returns what the head says of each loss row and
/// what the routers did: a [`Pass`] whose weights are known from the start.
///
/// # Panics
/// Unless there is a weight per loss row.
pub(super) fn pass_and_backward(
    model: &Model,
    micro_batch: &MicroBatch,
    activations: Activations,
    grads: &mut Gradients,
) -> (Vec<HeadRow>, RouterTotals) {
    let body = Body::forward(model, micro_batch, activations);
    let routers = body.routers();
    let weights = &micro_batch.weights;
    let (head, drows) = model.head_rows_and_backward(&body.hidden, &body.targets, weights, grads);
    body.backward(&drows, grads);
    (head, routers)
}

/// Computes the rows without recording, and returns what the head says of each loss row.
pub fn score(model: &Model, micro_batch: &MicroBatch) -> Vec<HeadRow> {
    let rows = &micro_batch.rows;
    let outputs = Outputs::of(&rows.loss_rows);
    let hidden = model.forward_embedded(embed(model, micro_batch), &outputs.input(rows, None));
    let hidden = gather_rows(&hidden, &outputs.slots);
    model.head_rows(&hidden, Some(&targets(rows)), None)
}

/// Returns the embeddings of the rows, with the noise of the micro-batch.
fn embed(model: &Model, micro_batch: &MicroBatch) -> Tensor {
    let mut embedded = model.embed(&micro_batch.rows.ids);
    if let Some(noise) = &micro_batch.mask_noise {
        noise.add(&micro_batch.rows, &mut embedded);
    }
    embedded
}

fn targets(rows: &TrainRows) -> Vec<u32> {
    rows.loss_rows.iter().map(|row| row.target).collect()
}

/// Returns whether each loss row's best guess is right, given what the head says of it.
pub(super) fn correct(rows: &TrainRows, head: &[HeadRow]) -> Vec<bool> {
    let rows = rows.loss_rows.iter().zip(head);
    rows.map(|(row, head)| head.argmax == row.target).collect()
}

/// Returns a row's negative log-likelihood in nats.
pub(crate) fn nll(row: &HeadRow) -> f64 {
    f64::from(row.lse) - f64::from(row.target_logit)
}

/// The rows whose hidden states are scored: each once and in order, however often it is scored.
#[derive(Debug)]
struct Outputs {
    rows: Vec<u32>,
    /// Place in `rows` of each loss row.
    slots: Vec<u32>,
}

impl Outputs {
    fn of(loss_rows: &[LossRow]) -> Self {
        let mut rows: Vec<u32> = loss_rows.iter().map(|row| row.row).collect();
        rows.sort_unstable();
        rows.dedup();
        let slot = |row: &LossRow| rows.partition_point(|&other| other < row.row) as u32;
        let slots = loss_rows.iter().map(slot).collect();
        Self { rows, slots }
    }

    fn input<'a>(&'a self, rows: &'a TrainRows, dropout: Option<&'a Dropout>) -> Input<'a> {
        let TrainRows {
            ids,
            positions,
            ranges,
            ..
        } = rows;
        Input {
            ids,
            positions,
            ranges,
            outputs: &self.rows,
            dropout,
        }
    }
}
