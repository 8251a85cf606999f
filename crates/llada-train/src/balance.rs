//! The load of experts: what it is, and the bias that evens it out.
//!
//! The router of a mixture adds a bias to each expert's score when it chooses, and for nothing else.
//! Once per step, outside the gradient, the bias goes up where an expert had less than the mean load
//! and down where it had more (`training.md` 9, the zero-mean variant of Ling-V2):
//!
//! ```text
//! d_e = sign(mean(n) - n_e)        n_e: rows routed to expert e, over all micro-batches
//! b_e += rate * (d_e - mean(d))
//! ```
//!
//! Counted are the rows that are computed, which elision makes fewer; what is elided does not change
//! within a run.

use llada_model::{Mlp, RouterStats, Weights};
use llada_tensor::Weight;
use serde::Serialize;

/// What the routers did in a step, one entry per layer with experts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterTotals(pub Vec<RouterStats>);

impl RouterTotals {
    /// Adds what the routers did in another forward pass.
    pub fn add(&mut self, stats: &[RouterStats]) {
        if self.0.is_empty() {
            self.0 = stats.to_vec();
            return;
        }
        for (total, stats) in self.0.iter_mut().zip(stats) {
            let loads = total
                .tokens_per_expert
                .iter_mut()
                .zip(&stats.tokens_per_expert);
            loads.for_each(|(total, load)| *total += load);
            total.squared_lse += stats.squared_lse;
        }
    }

    /// Returns the figures that are logged; `None` for a model without experts.
    pub fn metrics(&self) -> Option<ExpertLoad> {
        let by_layer = |figure: fn(&[u64]) -> f64| {
            let layers = self.0.iter().map(|stats| figure(&stats.tokens_per_expert));
            layers.collect::<Vec<_>>()
        };
        (!self.0.is_empty()).then(|| ExpertLoad {
            max_over_mean: by_layer(max_over_mean),
            entropy: by_layer(entropy),
            dead: by_layer(|loads| loads.iter().filter(|&&load| load == 0).count() as f64),
            squared_lse: self.0.iter().map(|stats| stats.squared_lse).sum(),
        })
    }
}

/// How evenly experts are used in a step, per layer with experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpertLoad {
    /// Load of the busiest expert, over the mean.
    pub max_over_mean: Vec<f64>,
    /// Entropy of the load over that of an even one: 1 is even.
    pub entropy: Vec<f64>,
    /// Experts that no row used.
    pub dead: Vec<f64>,
    /// Sum over layers and rows of the squared log-sum-exp of router logits, which the z-loss weighs.
    pub squared_lse: f64,
}

fn max_over_mean(loads: &[u64]) -> f64 {
    let total: u64 = loads.iter().sum();
    let max = loads.iter().max().copied().unwrap_or(0);
    max as f64 * loads.len() as f64 / total.max(1) as f64
}

fn entropy(loads: &[u64]) -> f64 {
    let total = loads.iter().sum::<u64>().max(1) as f64;
    let shares = loads
        .iter()
        .filter(|&&load| load > 0)
        .map(|&load| load as f64 / total);
    let nats: f64 = shares.map(|share| -share * share.ln()).sum();
    nats / (loads.len().max(2) as f64).ln()
}

/// Moves the bias of every router towards an even load.
pub fn update_expert_bias(weights: &mut Weights<Weight>, totals: &RouterTotals, rate: f32) {
    for stats in &totals.0 {
        if let Mlp::Moe(moe) = &mut weights.layers[stats.layer].mlp {
            let steps = directions(&stats.tokens_per_expert);
            let bias = moe.expert_bias.values_mut().f32s_mut();
            let biases = bias.iter_mut().zip(steps);
            biases.for_each(|(bias, step)| *bias += rate * step);
        }
    }
}

/// Returns the direction in which each expert's bias goes; they sum to zero.
fn directions(loads: &[u64]) -> Vec<f32> {
    let total: u64 = loads.iter().sum();
    // n_e compared with total / E, in whole numbers.
    let sign = |&load: &u64| match (load * loads.len() as u64).cmp(&total) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Greater => -1.0,
    };
    let signs: Vec<f32> = loads.iter().map(sign).collect();
    let mean = signs.iter().sum::<f32>() / signs.len().max(1) as f32;
    signs.into_iter().map(|sign| sign - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(loads: &[u64]) -> RouterStats {
        RouterStats {
            layer: 1,
            tokens_per_expert: loads.to_vec(),
            squared_lse: 2.0,
        }
    }

    #[test]
    fn idle_experts_are_helped_and_busy_ones_held_back_with_a_sum_of_zero() {
        let steps = directions(&[9, 1, 1, 1]);
        assert_eq!(steps, [-1.5, 0.5, 0.5, 0.5]);
        assert_eq!(directions(&[2, 2, 2]), [0.0; 3]);
        let steps = directions(&[7, 0, 3, 5, 1]);
        assert!(steps.iter().sum::<f32>().abs() < 1e-6, "{steps:?}");
    }

    #[test]
    fn loads_of_micro_batches_add_up() {
        let mut totals = RouterTotals::default();
        totals.add(&[stats(&[1, 2, 3])]);
        totals.add(&[stats(&[3, 2, 1])]);
        assert_eq!(totals.0[0].tokens_per_expert, [4, 4, 4]);
        let load = totals.metrics().expect("there is a layer with experts");
        assert_eq!((load.max_over_mean[0], load.dead[0]), (1.0, 0.0));
        assert!((load.entropy[0] - 1.0).abs() < 1e-12 && load.squared_lse == 4.0);
    }

    #[test]
    fn a_load_on_one_expert_has_no_entropy() {
        let mut totals = RouterTotals::default();
        totals.add(&[stats(&[0, 8, 0, 0])]);
        let load = totals.metrics().expect("there is a layer with experts");
        assert_eq!(
            (load.max_over_mean[0], load.entropy[0], load.dead[0]),
            (4.0, 0.0, 3.0)
        );
        assert_eq!(RouterTotals::default().metrics(), None);
    }
}
