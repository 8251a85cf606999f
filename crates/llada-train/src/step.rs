//! One optimiser step: forward and backward over the micro-batches, clip, update.

use llada_model::{Activations, AdapterConfig, Gradients, Model};
use llada_tensor::map_parallel;

use crate::balance::{RouterTotals, update_expert_bias};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::objective::{Loss, Measures};
use crate::optimizer::{AdamWSettings, Optimizer, gradient_norm};

/// A model in training.
#[derive(Debug)]
pub struct Learner {
    /// The model; what is trained of its weights is f32.
    pub model: Model,
    /// The moments of what is trained.
    pub optimizer: Optimizer,
    /// What files say of the adapter, if it is an adapter that is trained.
    pub adapter: Option<AdapterConfig>,
    gradients: Gradients,
}

/// How one step is taken.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Largest global gradient norm.
    pub clip: f32,
    /// What is kept for the backward pass.
    pub activations: Activations,
    /// How far the bias of an expert moves towards an even load; 0 leaves it.
    pub expert_bias_rate: f32,
}

/// What one step measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The loss, normalised as the recipe says, in nats.
    pub loss: f64,
    /// Mean negative log-likelihood of scored tokens, in nats.
    pub nll: f64,
    /// The same by mask ratio in tenths; `None` where nothing was scored.
    pub nll_by_mask_ratio: [Option<f64>; 10],
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// What the routers did.
    pub routers: RouterTotals,
    /// What else the loss measured.
    pub measures: Measures,
}

impl Learner {
    /// Returns a learner of what has a gradient in `gradients`, which are those of the model.
    pub fn new(model: Model, gradients: Gradients, settings: AdamWSettings) -> Self {
        let optimizer = Optimizer::new(&model.config, &gradients, settings);
        Self {
            model,
            optimizer,
            adapter: None,
            gradients,
        }
    }

    /// Updates the model once. A batch without a scored token changes nothing and returns `None`.
    ///
    /// # Errors
    /// If loss or gradient is not finite; the weights are left as they were.
    pub fn train_step(
        &mut self,
        batch: &Batch,
        loss: &Loss,
        settings: &StepSettings,
    ) -> Result<Option<StepReport>> {
        if batch.micro_batches.is_empty() {
            return Ok(None);
        }
        let Self {
            model,
            optimizer,
            gradients,
            ..
        } = self;
        map_parallel(gradients.tensors_mut(), |_, gradient| {
            gradient.f32s_mut().fill(0.0);
        });
        let (sums, measures) = loss.accumulate(model, batch, settings.activations, gradients);
        let grad_norm = gradient_norm(gradients);
        let step = optimizer.num_steps + 1;
        require_finite("the loss", sums.loss, step, batch)?;
        require_finite("the gradient norm", grad_norm, step, batch)?;
        let grad_scale = (f64::from(settings.clip) / grad_norm).min(1.0) as f32;
        optimizer.update(
            &mut model.weights,
            gradients,
            grad_scale,
            settings.learning_rate,
        );
        if settings.expert_bias_rate > 0.0 {
            update_expert_bias(&mut model.weights, &sums.routers, settings.expert_bias_rate);
        }
        let nll = sums.nll / batch.counts.masked.max(1) as f64;
        Ok(Some(StepReport {
            loss: sums.loss,
            nll,
            nll_by_mask_ratio: sums.buckets.map(|bucket| bucket.mean()),
            grad_norm,
            routers: sums.routers,
            measures,
        }))
    }
}

fn require_finite(what: &'static str, value: f64, step: u64, batch: &Batch) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    let documents = batch
        .drawn
        .iter()
        .map(|drawn| drawn.document as u64)
        .collect();
    let epoch = batch.drawn.last().map_or(0, |drawn| drawn.epoch);
    Err(Error::NonFinite {
        step,
        what,
        value,
        documents,
        epoch,
    })
}
