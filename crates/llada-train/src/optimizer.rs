//! AdamW over all parameters: f32 weights and moments, decay on projection matrices only.

use llada_model::{Config, Gradients, ParamKind, Weights};
use llada_tensor::{AdamW, Tensor, Weight, adamw_step, sum_of_squares};

/// Settings that stay the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the two moments per step.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decay of projection matrices.
    pub weight_decay: f32,
}

/// The moments of every parameter.
#[derive(Clone, Debug)]
pub struct Optimizer {
    settings: AdamWSettings,
    kinds: Vec<ParamKind>,
    /// Mean of gradients, per parameter.
    pub(crate) first: Weights<Tensor>,
    /// Mean of squared gradients, per parameter.
    pub(crate) second: Weights<Tensor>,
    /// Updates made.
    pub(crate) num_steps: u64,
}

impl Optimizer {
    /// Returns an optimiser that has seen nothing.
    pub fn new(config: &Config, settings: AdamWSettings) -> Self {
        let specs = Weights::specs(config);
        let zeros = specs.map(|_, spec| Tensor::zeros(&spec.shape));
        let kinds = specs
            .into_params()
            .into_iter()
            .map(|(_, spec)| spec.kind)
            .collect();
        Self {
            settings,
            kinds,
            first: zeros.clone(),
            second: zeros,
            num_steps: 0,
        }
    }

    /// Updates the trainable weights; gradients are multiplied by `grad_scale` first.
    pub fn update(
        &mut self,
        weights: &mut Weights<Weight>,
        grads: &Gradients,
        grad_scale: f32,
        learning_rate: f32,
    ) {
        self.num_steps += 1;
        let AdamWSettings {
            betas: [beta1, beta2],
            eps,
            weight_decay,
        } = self.settings;
        let (first, second) = (self.first.params_mut(), self.second.params_mut());
        let moments = first.into_iter().zip(second);
        let params = weights.params_mut().into_iter().zip(grads.params());
        for ((((_, weight), (_, grad)), moments), kind) in params.zip(moments).zip(&self.kinds) {
            let ((_, first), (_, second)) = moments;
            if kind.is_trainable() {
                let weight_decay = if kind.decays() { weight_decay } else { 0.0 };
                let step_num = self.num_steps;
                let step = AdamW {
                    learning_rate,
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    step_num,
                };
                adamw_step(&step, weight.values_mut(), grad, grad_scale, first, second);
            }
        }
    }
}

/// Returns the global norm of the gradients, over all parameters.
pub fn gradient_norm(grads: &Gradients) -> f64 {
    grads
        .params()
        .into_iter()
        .map(|(_, grad)| sum_of_squares(grad))
        .sum::<f64>()
        .sqrt()
}
