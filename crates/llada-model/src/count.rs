//! How many parameters a configuration has, without making them (`model.md` section 10).

use crate::{Config, ParamKind, ParamSpec, Weights};

/// Numbers of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterCounts {
    /// All of them, expert biases included.
    pub total: u64,
    /// Those that one token uses: of the routed experts, only the active share.
    pub active: u64,
    /// Of the input embedding.
    pub embedding: u64,
    /// Of the output head; 0 when it is the embedding.
    pub head: u64,
}

impl Config {
    /// Counts the parameters of the largest layer, which in a mixture of experts is any routed one.
    pub(crate) fn largest_layer(&self) -> usize {
        let size = |layer| {
            let prefix = format!("model.layers.{layer}.");
            let specs = Weights::specs(self).into_params();
            specs
                .iter()
                .filter(|(name, _)| name.starts_with(&prefix))
                .map(|(_, s)| s.num_elements())
                .sum()
        };
        [0, self.num_hidden_layers - 1]
            .into_iter()
            .map(size)
            .max()
            .unwrap_or(0)
    }

    /// Counts the parameters.
    pub fn parameter_counts(&self) -> ParameterCounts {
        let specs = Weights::specs(self).into_params();
        let sum = |wanted: &dyn Fn(&ParamSpec) -> bool| -> u64 {
            specs
                .iter()
                .filter(|(_, spec)| wanted(spec))
                .map(|(_, s)| s.num_elements() as u64)
                .sum()
        };
        let total = sum(&|_| true);
        let routed = sum(&|spec| spec.name.contains(".experts."));
        let idle = self.moe.as_ref().map_or(0, |moe| {
            // Experts are alike, so the division is exact.
            routed / moe.num_experts as u64 * (moe.num_experts - moe.num_experts_per_tok) as u64
        });
        ParameterCounts {
            total,
            active: total - idle,
            embedding: sum(&|spec| spec.kind == ParamKind::Embedding),
            head: sum(&|spec| spec.kind == ParamKind::Head),
        }
    }
}
