//! The router: hand-made choices, the reference on random logits, the gradient.

use std::ops::Range;

use llada_tensor::{RouterConfig, Routing, Tensor, reference, route, route_backward, route_blocks};

use crate::data::{assert_close, doubles, matrix, noise};
use crate::gradients::numeric_gradient;

const PLAIN: RouterConfig = RouterConfig {
    top_k: 2,
    num_groups: 1,
    groups_kept: 1,
    normalise: true,
    routed_scaling: 1.0,
};

fn row(values: &[f32]) -> Tensor {
    Tensor::from_f32(&[1, values.len()], values.to_vec())
}

fn bias(values: &[f32]) -> Tensor {
    Tensor::from_f32(&[values.len()], values.to_vec())
}

/// Returns the experts chosen for one row whose logits are all zero: the scores are `0.5 + bias`.
fn choose(biases: &[f32], config: &RouterConfig) -> Vec<u32> {
    route(&row(&vec![0.0; biases.len()]), &bias(biases), config).experts
}

#[test]
fn slots_are_ordered_by_descending_biased_score() {
    assert_eq!(choose(&[0.1, 0.4, 0.2, 0.3], &PLAIN), [1, 3]);
}

#[test]
fn negative_biased_scores_still_win_over_other_groups() {
    let config = RouterConfig {
        num_groups: 2,
        ..PLAIN
    };
    assert_eq!(choose(&[-2.0, -3.0, -9.0, -8.0], &config), [0, 1]);
}

#[test]
fn the_lower_expert_and_the_lower_group_win_ties() {
    assert_eq!(choose(&[0.0; 5], &PLAIN), [0, 1]);
    assert_eq!(choose(&[0.0, 1.0, 0.5, 1.0, 1.0], &PLAIN), [1, 3]);
    let config = RouterConfig {
        num_groups: 3,
        ..PLAIN
    };
    assert_eq!(choose(&[0.0, 0.0, 1.0, 2.0, 2.0, 1.0], &config), [3, 2]);
}

#[test]
fn the_group_limit_can_exclude_the_best_expert() {
    // The best expert is 0, but the two best of the second group sum to more.
    let biases = [1.0, 0.0, 0.0, 0.7, 0.6, 0.0];
    assert_eq!(choose(&biases, &PLAIN), [0, 3]);
    assert_eq!(
        choose(
            &biases,
            &RouterConfig {
                num_groups: 2,
                ..PLAIN
            }
        ),
        [3, 4]
    );
}

#[test]
fn a_group_is_scored_by_its_two_best_experts_only() {
    let biases = [0.4, 0.4, 0.4, 0.9, 0.0, 0.0];
    assert_eq!(
        choose(
            &biases,
            &RouterConfig {
                num_groups: 2,
                ..PLAIN
            }
        ),
        [3, 4]
    );
}

#[test]
fn groups_of_one_expert_are_scored_by_it() {
    let config = RouterConfig {
        num_groups: 4,
        groups_kept: 2,
        ..PLAIN
    };
    assert_eq!(choose(&[0.1, 0.3, 0.2, 0.4], &config), [3, 1]);
}

#[test]
fn two_kept_groups_give_the_best_experts_of_both() {
    let config = RouterConfig {
        num_groups: 3,
        groups_kept: 2,
        ..PLAIN
    };
    assert_eq!(choose(&[0.5, 0.1, 0.9, -9.0, 0.2, 0.3], &config), [0, 5]);
}

#[test]
fn the_bias_changes_the_choice_but_not_the_weights() {
    let logits = row(&[2.0, 1.0, 0.0]);
    let config = RouterConfig {
        normalise: false,
        ..PLAIN
    };
    let routing = route(&logits, &bias(&[-5.0, 0.0, 0.5]), &config);
    assert_eq!(routing.experts, [2, 1]);
    assert_close(
        &routing.weights,
        &[0.5, 1.0 / (1.0 + (-1.0_f64).exp())],
        1e-6,
    );
}

#[test]
fn weights_are_normalised_only_for_several_experts_and_then_scaled() {
    let logits = row(&[0.0, 0.0]);
    let scaled = RouterConfig {
        routed_scaling: 2.5,
        ..PLAIN
    };
    assert_eq!(
        route(&logits, &bias(&[0.0; 2]), &scaled).weights,
        [1.25, 1.25]
    );
    let single = RouterConfig { top_k: 1, ..scaled };
    assert_eq!(route(&logits, &bias(&[0.0; 2]), &single).weights, [1.25]);
}

fn configs() -> [RouterConfig; 4] {
    [
        PLAIN,
        RouterConfig { top_k: 1, ..PLAIN },
        RouterConfig {
            top_k: 4,
            num_groups: 4,
            groups_kept: 2,
            routed_scaling: 2.5,
            ..PLAIN
        },
        RouterConfig {
            top_k: 3,
            num_groups: 2,
            groups_kept: 2,
            normalise: false,
            ..PLAIN
        },
    ]
}

#[test]
fn random_logits_are_routed_as_in_the_reference() {
    let (logits, bias) = (matrix(1, [50, 16]), bias(&noise(2, 16)));
    for config in configs() {
        let routing = route(&logits, &bias, &config);
        let want: Vec<(usize, f64)> = (0..50)
            .flat_map(|i| {
                reference::router::route(&doubles(logits.row(i)), &doubles(bias.f32s()), &config)
            })
            .collect();
        let experts: Vec<u32> = want.iter().map(|&(expert, _)| expert as u32).collect();
        let weights: Vec<f64> = want.iter().map(|&(_, weight)| weight).collect();
        assert_eq!(routing.experts, experts);
        assert_close(&routing.weights, &weights, 1e-6);
    }
}

#[test]
fn gradient_agrees_with_finite_differences() {
    const ROWS: usize = 6;
    let (logits, bias) = (matrix(1, [ROWS, 16]), bias(&noise(2, 16)));
    for config in configs() {
        let dweights = noise(3, ROWS * config.top_k);
        let weights = |logits: &[f64]| -> Vec<f64> {
            let rows = logits.chunks_exact(16);
            rows.flat_map(|row| reference::router::route(row, &doubles(bias.f32s()), &config))
                .map(|(_, weight)| weight)
                .collect()
        };
        let want = numeric_gradient(&doubles(logits.f32s()), &doubles(&dweights), weights);
        let routing = route(&logits, &bias, &config);
        let dlogits = route_backward(&logits, &routing, &config, &dweights);
        assert_close(dlogits.f32s(), &want, 1e-5);
    }
}

/// Returns the experts of rows that are one block, whose logits are far enough apart to compare.
fn choose_together(rows: &[[f32; 4]], biases: &[f32; 4], capacity: usize) -> Vec<u32> {
    let logits = Tensor::from_f32(&[rows.len(), 4], rows.concat());
    let block = 0..rows.len();
    route_blocks(&logits, &bias(biases), &[block], capacity, &PLAIN).experts
}

#[test]
fn rows_of_a_block_choose_from_the_experts_that_some_row_scores_best() {
    // Expert 3 is the second choice of row 0, but two others score more in row 1.
    let rows = [[3.0, -9.0, -8.0, 1.0], [0.0, 2.0, -8.0, -9.0]];
    assert_eq!(choose_together(&rows, &[0.0; 4], 2), [0, 1, 1, 0]);
    assert_eq!(choose_together(&rows, &[0.0; 4], 3), [0, 3, 1, 0]);
    assert_eq!(choose_together(&rows[..1], &[0.0; 4], 2), [0, 3]);
    assert_eq!(
        choose_together(&rows, &[0.0, 0.0, 2.0, 0.0], 2),
        [2, 0, 2, 0]
    );
}

#[test]
fn the_lower_expert_enters_the_pool_and_wins_in_it_on_ties() {
    assert_eq!(choose_together(&[[0.0; 4]; 2], &[0.0; 4], 2), [0, 1, 0, 1]);
    // Experts 1 and 2 tie for the last place, each in a row of its own.
    let rows = [[5.0, 1.0, -9.0, -9.0], [5.0, -9.0, 1.0, -9.0]];
    assert_eq!(choose_together(&rows, &[0.0; 4], 2), [0, 1, 0, 1]);
}

#[test]
fn a_block_is_not_limited_to_groups() {
    let config = RouterConfig {
        num_groups: 2,
        ..PLAIN
    };
    let (logits, none) = (row(&[1.0, -1.0, -1.0, 1.0]), bias(&[0.0; 4]));
    assert_eq!(route(&logits, &none, &config).experts, [0, 1]);
    let block = 0..1;
    let routing = route_blocks(&logits, &none, &[block], 4, &config);
    assert_eq!(routing.experts, [0, 3]);
}

/// Blocks of 50 rows: one row, a whole block, a short one.
const BLOCKS: [Range<usize>; 3] = [0..1, 1..33, 33..50];

#[test]
fn random_blocks_are_routed_as_in_the_reference() {
    let (logits, bias) = (matrix(1, [50, 16]), bias(&noise(2, 16)));
    for (config, capacity) in configs().iter().zip([2, 5, 7, 16]) {
        let routing = route_blocks(&logits, &bias, &BLOCKS, capacity, config);
        let want = BLOCKS.into_iter().flat_map(|block| {
            let logits = doubles(&logits.f32s()[block.start * 16..block.end * 16]);
            reference::router::route_block(&logits, &doubles(bias.f32s()), capacity, config)
        });
        let (experts, weights): (Vec<usize>, Vec<f64>) = want.unzip();
        let chosen: Vec<usize> = routing
            .experts
            .iter()
            .map(|&expert| expert as usize)
            .collect();
        assert_eq!(chosen, experts);
        assert_close(&routing.weights, &weights, 1e-6);
    }
}

#[test]
fn the_gradient_through_a_pool_agrees_with_finite_differences() {
    let (logits, bias) = (matrix(1, [6, 16]), bias(&noise(2, 16)));
    for (config, capacity) in configs().iter().zip([2, 5, 7, 16]) {
        let dweights = noise(3, 6 * config.top_k);
        let weights = |logits: &[f64]| -> Vec<f64> {
            let bias = doubles(bias.f32s());
            let routed = reference::router::route_block(logits, &bias, capacity, config);
            routed.into_iter().map(|(_, weight)| weight).collect()
        };
        let want = numeric_gradient(&doubles(logits.f32s()), &doubles(&dweights), weights);
        let block = 0..6;
        let routing = route_blocks(&logits, &bias, &[block], capacity, config);
        let dlogits = route_backward(&logits, &routing, config, &dweights);
        assert_close(dlogits.f32s(), &want, 1e-5);
    }
}

#[test]
fn no_rows_are_routed_to_nothing() {
    let empty = Routing {
        top_k: 2,
        experts: Vec::new(),
        weights: Vec::new(),
    };
    assert_eq!(
        route(&Tensor::zeros(&[0, 4]), &bias(&[0.0; 4]), &PLAIN),
        empty
    );
}

#[test]
#[should_panic(expected = "route: bias of 4 experts")]
fn a_bias_of_other_experts_is_refused() {
    let logits = Tensor::zeros(&[2, 4]);
    route(&logits, &bias(&[0.0; 2]), &PLAIN);
}
