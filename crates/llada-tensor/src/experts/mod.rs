//! Routed experts: rows sorted by expert, one small MLP per expert, combined in slot order.
//!
//! Every (row, slot) pair has one position in arrays that are sorted by expert ([`Plan`]), so that a
//! product of all experts is one parallel loop over disjoint ranges of rows. The letter S in shapes is
//! the number of pairs, N*A.

mod combine;
mod plan;

use crate::gemm::Right;
use crate::{
    Isa, Precision, Routing, SwigluGrads, Tensor, Weight, gather_rows, swiglu, swiglu_backward,
};
use combine::{combine, dots, spread};
use plan::Plan;

/// The three matrices of one expert: gate and up [F, D], down [D, F].
#[derive(Clone, Copy, Debug)]
pub struct ExpertWeights<'a> {
    /// [F, D].
    pub gate: &'a Weight,
    /// [F, D].
    pub up: &'a Weight,
    /// [D, F].
    pub down: &'a Weight,
}

/// Gradients of one expert, accumulated into.
#[derive(Debug)]
pub struct ExpertGrads<'a> {
    /// [F, D].
    pub gate: &'a mut Tensor,
    /// [F, D].
    pub up: &'a mut Tensor,
    /// [D, F].
    pub down: &'a mut Tensor,
}

/// What the backward of [`experts`] needs beside its inputs.
#[derive(Clone, Debug)]
pub struct ExpertsSaved {
    plan: Plan,
    /// [S, F].
    gate: Tensor,
    /// [S, F].
    up: Tensor,
    /// [S, D].
    down: Tensor,
}

/// Returns `y_i = sum_slot weight * Expert(x_i)`, accumulated in f32 in slot order per row.
/// # Shapes: x [N, D] -> [N, D].
///
/// # Panics
/// If there is no expert, or the routing names one that does not exist.
pub fn experts(
    x: &Tensor,
    routing: &Routing,
    experts: &[ExpertWeights<'_>],
) -> (Tensor, ExpertsSaved) {
    let (isa, plan) = (Isa::active(), Plan::new(routing, experts.len()));
    let [ffn, hidden] = experts[0].gate.values().dims2();
    let [mut gate, mut up, mut down] =
        [ffn, ffn, hidden].map(|width| Tensor::zeros(&[plan.rows.len(), width]));
    let sorted = gather_rows(x, &plan.rows); // [S, D]
    plan.multiply(
        isa,
        &sorted,
        |e| [experts[e].gate, experts[e].up].map(forward),
        [&mut gate, &mut up],
    );
    plan.multiply(
        isa,
        &swiglu(&gate, &up),
        |e| [forward(experts[e].down)],
        [&mut down],
    );
    let y = combine(isa, &plan, routing.top_k, &down, &routing.weights);
    (
        y,
        ExpertsSaved {
            plan,
            gate,
            up,
            down,
        },
    )
}

/// Returns (dx [N, D], dweights [N, A]) and adds the experts' gradients to `grads`.
pub fn experts_backward(
    x: &Tensor,
    routing: &Routing,
    experts: &[ExpertWeights<'_>],
    saved: ExpertsSaved,
    dy: &Tensor,
    grads: &mut [ExpertGrads<'_>],
) -> (Tensor, Vec<f32>) {
    assert_eq!(grads.len(), experts.len(), "experts_backward: grads");
    let (
        isa,
        ExpertsSaved {
            plan,
            gate,
            up,
            down,
        },
    ) = (Isa::active(), saved);
    let dweights = dots(isa, &plan, routing.top_k, dy, &down);
    drop(down);
    let ddown = spread(&plan, routing, dy); // [S, D]
    let mut dhidden = Tensor::zeros(gate.shape()); // [S, F]
    plan.multiply(isa, &ddown, |e| [backward(experts[e].down)], [&mut dhidden]);
    let SwigluGrads {
        gate: dgate,
        up: dup,
        y: hidden,
    } = swiglu_backward(gate, up, dhidden); // [S, F] each
    let sorted = gather_rows(x, &plan.rows); // [S, D]
    let mut dsorted = Tensor::zeros(sorted.shape());
    plan.multiply(isa, &dgate, |e| [backward(experts[e].gate)], [&mut dsorted]);
    plan.multiply(isa, &dup, |e| [backward(experts[e].up)], [&mut dsorted]);

    let dw = grads.iter_mut().map(|grads| &mut *grads.gate).collect();
    plan.multiply_transposed(isa, &dgate, &sorted, |e| experts[e].gate.precision(), dw);
    let dw = grads.iter_mut().map(|grads| &mut *grads.up).collect();
    plan.multiply_transposed(isa, &dup, &sorted, |e| experts[e].up.precision(), dw);
    let dw = grads.iter_mut().map(|grads| &mut *grads.down).collect();
    plan.multiply_transposed(isa, &ddown, &hidden, |e| experts[e].down.precision(), dw);
    let ones = vec![1.0; routing.weights.len()];
    (
        combine(isa, &plan, routing.top_k, &dsorted, &ones),
        dweights,
    )
}

/// Returns the right operand of an output.
fn forward(weight: &Weight) -> (Right<'_>, Precision) {
    (weight.transposed(), weight.precision())
}

/// Returns the right operand of a gradient of inputs.
fn backward(weight: &Weight) -> (Right<'_>, Precision) {
    (weight.plain(), weight.precision())
}
