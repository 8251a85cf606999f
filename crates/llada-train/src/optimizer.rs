//! AdamW over all that is trained: f32 weights and moments, decay on projection matrices only.

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

/// The moments of all that is trained.
#[derive(Clone, Debug)]
pub struct Optimizer {
    settings: AdamWSettings,
    /// In the order of [`Weights::tensors`] of the gradients.
    pub(crate) moments: Vec<Moments>,
    /// Updates made.
    pub(crate) num_steps: u64,
}

/// The moments of one array.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    /// Name of the array.
    pub(crate) name: String,
    weight_decay: f32,
    /// Mean of gradients.
    pub(crate) first: Tensor,
    /// Mean of squared gradients.
    pub(crate) second: Tensor,
}

impl Optimizer {
    /// Returns an optimiser, of all that has a gradient, that has seen nothing.
    pub fn new(config: &Config, gradients: &Gradients, settings: AdamWSettings) -> Self {
        let specs = Weights::specs(config).into_params().into_iter();
        let kinds = specs
            .zip(gradients.params())
            .flat_map(|((_, spec), (_, gradient))| {
                std::iter::repeat_n(spec.kind, gradient.tensors().len())
            });
        let moments = |((name, gradient), kind): ((String, &Tensor), ParamKind)| Moments {
            name,
            weight_decay: if kind.decays() {
                settings.weight_decay
            } else {
                0.0
            },
            first: Tensor::zeros(gradient.shape()),
            second: Tensor::zeros(gradient.shape()),
        };
        let moments = gradients.tensors().into_iter().zip(kinds).map(moments);
        Self {
            settings,
            moments: moments.collect(),
            num_steps: 0,
        }
    }

    /// Updates what is trained; gradients are multiplied by `grad_scale` first.
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
            ..
        } = self.settings;
        let trained = weights.trained_mut(grads).into_iter().zip(grads.tensors());
        for ((values, (_, grad)), moments) in trained.zip(&mut self.moments) {
            let step = AdamW {
                learning_rate,
                beta1,
                beta2,
                eps,
                weight_decay: moments.weight_decay,
                step_num: self.num_steps,
            };
            let Moments { first, second, .. } = moments;
            adamw_step(&step, values, grad, grad_scale, first, second);
        }
    }
}

/// Returns the global norm of the gradients, over all that is trained.
pub fn gradient_norm(grads: &Gradients) -> f64 {
    grads
        .tensors()
        .into_iter()
        .map(|(_, grad)| sum_of_squares(grad))
        .sum::<f64>()
        .sqrt()
}
