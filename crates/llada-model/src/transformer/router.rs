//! What routers did in a recorded pass: the load of experts, and the z-loss on router logits.
//!
//! The z-loss (`training.md` 9) is `weight * sum over rows of lse(router logits)^2`. It keeps the logits
//! small; the choice of experts does not see it. Whatever makes the weight a mean is the caller's.

use llada_tensor::{Routing, Tensor};

/// What the router of one layer did with the rows of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterStats {
    /// Layer of the model.
    pub layer: usize,
    /// Rows that each expert was chosen for, `[E]`.
    pub tokens_per_expert: Vec<u64>,
    /// Sum over rows of the squared log-sum-exp of the router's logits.
    pub squared_lse: f64,
}

impl RouterStats {
    /// # Shapes: logits [N, E].
    pub(super) fn of(layer: usize, logits: &Tensor, routing: &Routing) -> Self {
        let [_, num_experts] = logits.dims2();
        let mut tokens_per_expert = vec![0; num_experts];
        for &expert in &routing.experts {
            tokens_per_expert[expert as usize] += 1;
        }
        let rows = logits.f32s().chunks_exact(num_experts);
        Self {
            layer,
            tokens_per_expert,
            squared_lse: rows.map(|row| log_sum_exp(row).powi(2)).sum(),
        }
    }
}

/// Adds the gradient of `weight * sum of lse^2`, `2 * weight * lse * softmax(logits)`.
/// # Shapes: logits, dlogits [N, E].
pub(super) fn z_loss_backward(logits: &Tensor, weight: f32, dlogits: &mut Tensor) {
    if weight == 0.0 {
        return;
    }
    let [_, num_experts] = logits.dims2();
    let rows = logits.f32s().chunks_exact(num_experts);
    let drows = dlogits.f32s_mut().chunks_exact_mut(num_experts);
    for (row, drow) in rows.zip(drows) {
        let lse = log_sum_exp(row);
        for (&logit, dlogit) in row.iter().zip(drow) {
            let share = (f64::from(logit) - lse).exp();
            *dlogit += (2.0 * f64::from(weight) * lse * share) as f32;
        }
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row
        .iter()
        .map(|&x| (f64::from(x) - f64::from(max)).exp())
        .sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(values: &[f32]) -> Tensor {
        let mut logits = Tensor::zeros(&[values.len() / 3, 3]);
        logits.f32s_mut().copy_from_slice(values);
        logits
    }

    fn loss(values: &[f32], weight: f32) -> f64 {
        let rows = values.chunks_exact(3);
        rows.map(|row| f64::from(weight) * log_sum_exp(row).powi(2))
            .sum()
    }

    #[test]
    fn the_gradient_of_the_z_loss_is_that_of_differences() {
        let (values, weight) = ([0.5, -1.0, 2.0, 3.0, 3.0, -4.0], 0.7);
        let mut gradient = logits(&[1.0; 6]);
        z_loss_backward(&logits(&values), weight, &mut gradient);
        for i in 0..values.len() {
            let at = |step: f32| {
                let mut moved = values;
                moved[i] += step;
                loss(&moved, weight)
            };
            let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
            let added = f64::from(gradient.f32s()[i]) - 1.0;
            assert!(
                (added - difference).abs() < 2e-3,
                "{added} and {difference}"
            );
        }
    }

    #[test]
    fn every_choice_is_counted_for_its_expert() {
        let routing = Routing {
            top_k: 2,
            experts: vec![2, 0, 2, 1],
            weights: vec![0.5; 4],
        };
        let stats = RouterStats::of(1, &logits(&[0.0; 6]), &routing);
        assert_eq!(stats.tokens_per_expert, [1, 1, 2]);
        assert!((stats.squared_lse - 2.0 * 3_f64.ln().powi(2)).abs() < 1e-12);
    }
}
