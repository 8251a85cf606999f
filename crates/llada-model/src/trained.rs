//! Which arrays training changes, by name.

use llada_tensor::{Gradient, Tensor, Weight};

use crate::{Gradients, Weights, names};

impl Weights<Gradient> {
    /// Lists the arrays that are trained, in the order of the walk: the gradient of a parameter's values
    /// under its name, those of a low-rank part as `lora_A.weight` and `lora_B.weight` of its module.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        let mut tensors = Vec::new();
        for (name, gradient) in self.params() {
            match gradient {
                Gradient::Frozen => {}
                Gradient::Values(values) => tensors.push((name, values)),
                Gradient::LowRank { a, b } => {
                    tensors.push((factor_name(&name, 'A'), a));
                    tensors.push((factor_name(&name, 'B'), b));
                }
            }
        }
        tensors
    }

    /// Lists the same arrays for writing.
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        let params = self.params_mut().into_iter();
        params
            .flat_map(|(_, gradient)| gradient.tensors_mut())
            .collect()
    }

    /// Returns how many of the first layers need no backward pass, because nothing is trained in them or
    /// before them.
    pub(crate) fn num_frozen_layers(&self) -> usize {
        if self.embedding != Gradient::Frozen {
            return 0;
        }
        let params = self.params().into_iter();
        let trained = params.filter(|(_, gradient)| **gradient != Gradient::Frozen);
        let layers = trained.filter_map(|(name, _)| names::layer(&name));
        layers.min().unwrap_or(self.layers.len())
    }
}

impl Weights<Weight> {
    /// Lists what is trained, for writing, in the order of [`Weights::tensors`] of the gradients.
    ///
    /// # Panics
    /// If the gradients are not those of these weights.
    pub fn trained_mut(&mut self, gradients: &Gradients) -> Vec<&mut Tensor> {
        let mut trained = Vec::new();
        let params = self.params_mut().into_iter().zip(gradients.params());
        for ((_, weight), (_, gradient)) in params {
            match gradient {
                Gradient::Frozen => {}
                Gradient::Values(_) => trained.push(weight.values_mut()),
                Gradient::LowRank { .. } => {
                    let low_rank = weight.low_rank_mut();
                    let low_rank = low_rank.expect("the gradient of a low-rank part is of one");
                    trained.extend([&mut low_rank.a, &mut low_rank.b]);
                }
            }
        }
        trained
    }
}

/// Returns the name of factor `which` of a weight's low-rank part, as PEFT has it.
pub(crate) fn factor_name(weight: &str, which: char) -> String {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    format!("{module}.lora_{which}.weight")
}
