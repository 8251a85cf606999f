//! Routed experts: rows sorted by expert, one small MLP per expert, combined in slot order.
//!
//! Every (row, slot) pair has one position in arrays that are sorted by expert ([`Plan`]), so that a
//! product of all experts is one parallel loop over disjoint ranges of rows. The letter S in shapes is
//! the number of pairs, N*A.

mod coded;
mod combine;
mod plan;

use crate::gemm::{Left, Matrix, Right, Start};
use crate::{
    Gradient, Isa, LowRank, Precision, Routing, SwigluGrads, Tensor, Weight, gather_rows, swiglu,
    swiglu_backward,
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
    pub gate: &'a mut Gradient,
    /// [F, D].
    pub up: &'a mut Gradient,
    /// [D, F].
    pub down: &'a mut Gradient,
}

/// What the backward of [`experts`] needs beside its inputs.
#[derive(Clone, Debug)]
pub struct ExpertsSaved {
    plan: Plan,
    /// Nothing where weights are codes, which have no gradients.
    values: Option<Values>,
}

/// What experts came to.
#[derive(Clone, Debug)]
struct Values {
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
    if let Some(coded) = coded::coded(&plan, experts) {
        let y = coded::forward(isa, &plan, x, routing, &coded);
        return (y, ExpertsSaved { plan, values: None });
    }
    let [ffn, hidden] = experts[0].gate.values().dims2();
    let scratch = |width| Tensor::scratch(&[plan.rows.len(), width]);
    let (mut gate, mut up) = (scratch(ffn), scratch(ffn));
    plan.multiply(
        isa,
        Left {
            x,
            rows: Some(&plan.rows),
        },
        Start::Zero,
        |e| [experts[e].gate, experts[e].up].map(forward),
        [&mut gate, &mut up],
    );
    let parts = LowRankParts { isa, plan: &plan };
    if parts.exist(|e| experts[e].gate) || parts.exist(|e| experts[e].up) {
        let sorted = gather_rows(x, &plan.rows); // [S, D]
        parts.forward(&sorted, &mut gate, |e| experts[e].gate);
        parts.forward(&sorted, &mut up, |e| experts[e].up);
    }
    let inner = swiglu(&gate, &up); // [S, F]
    let mut down = scratch(hidden);
    plan.multiply(
        isa,
        all(&inner),
        Start::Zero,
        |e| [forward(experts[e].down)],
        [&mut down],
    );
    parts.forward(&inner, &mut down, |e| experts[e].down);
    let y = combine(isa, &plan, routing.top_k, &down, &routing.weights);
    let values = Some(Values { gate, up, down });
    (y, ExpertsSaved { plan, values })
}

/// Returns (dx [N, D], dweights [N, A]) and adds the experts' gradients to `grads`.
///
/// # Panics
/// If there are not as many gradients as experts, or the weights are codes.
pub fn experts_backward(
    x: &Tensor,
    routing: &Routing,
    experts: &[ExpertWeights<'_>],
    saved: ExpertsSaved,
    dy: &Tensor,
    grads: &mut [ExpertGrads<'_>],
) -> (Tensor, Vec<f32>) {
    assert_eq!(grads.len(), experts.len(), "experts_backward: grads");
    let (isa, ExpertsSaved { plan, values }) = (Isa::active(), saved);
    let Values { gate, up, down } = values.expect("experts of codes have no gradients");
    let dweights = dots(isa, &plan, routing.top_k, dy, &down);
    drop(down);
    let ddown = spread(&plan, routing, dy); // [S, D]
    let mut dhidden = Tensor::scratch(gate.shape()); // [S, F]
    plan.multiply(
        isa,
        all(&ddown),
        Start::Zero,
        |e| [backward(experts[e].down)],
        [&mut dhidden],
    );
    let parts = LowRankParts { isa, plan: &plan };
    parts.backward(&ddown, &mut dhidden, |e| experts[e].down);
    let SwigluGrads {
        gate: dgate,
        up: dup,
        y: hidden,
    } = swiglu_backward(gate, up, dhidden); // [S, F] each
    let sorted = gather_rows(x, &plan.rows); // [S, D]
    let mut dsorted = Tensor::scratch(sorted.shape());
    plan.multiply(
        isa,
        all(&dgate),
        Start::Zero,
        |e| [backward(experts[e].gate)],
        [&mut dsorted],
    );
    plan.multiply(
        isa,
        all(&dup),
        Start::Sum,
        |e| [backward(experts[e].up)],
        [&mut dsorted],
    );
    parts.backward(&dgate, &mut dsorted, |e| experts[e].gate);
    parts.backward(&dup, &mut dsorted, |e| experts[e].up);

    let dw = grads.iter_mut().map(|grads| &mut *grads.gate).collect();
    plan.add_gradients(isa, &dgate, &sorted, |e| experts[e].gate, dw);
    let dw = grads.iter_mut().map(|grads| &mut *grads.up).collect();
    plan.add_gradients(isa, &dup, &sorted, |e| experts[e].up, dw);
    let dw = grads.iter_mut().map(|grads| &mut *grads.down).collect();
    plan.add_gradients(isa, &ddown, &hidden, |e| experts[e].down, dw);
    let ones = vec![1.0; routing.weights.len()];
    (
        combine(isa, &plan, routing.top_k, &dsorted, &ones),
        dweights,
    )
}

/// What the low-rank parts of weights add to the products of all experts.
struct LowRankParts<'a> {
    isa: Isa,
    plan: &'a Plan,
}

/// Adds what a low-rank part makes of some rows.
type AddPart = fn(&LowRank, Isa, Precision, Matrix<'_>, &mut [f32]);

impl LowRankParts<'_> {
    /// Returns whether any expert that has rows has one.
    fn exist<'w>(&self, weight: impl Fn(usize) -> &'w Weight) -> bool {
        self.plan.used().any(|e| weight(e).low_rank().is_some())
    }

    /// # Shapes: x [S, I], y [S, O].
    fn forward<'w>(&self, x: &Tensor, y: &mut Tensor, weight: impl Fn(usize) -> &'w Weight + Sync) {
        self.add(LowRank::add_product_of, x, y, weight);
    }

    /// # Shapes: dy [S, O], dx [S, I].
    fn backward<'w>(
        &self,
        dy: &Tensor,
        dx: &mut Tensor,
        weight: impl Fn(usize) -> &'w Weight + Sync,
    ) {
        self.add(LowRank::add_backward_of, dy, dx, weight);
    }

    fn add<'w>(
        &self,
        add: AddPart,
        x: &Tensor,
        y: &mut Tensor,
        weight: impl Fn(usize) -> &'w Weight + Sync,
    ) {
        if !self.exist(&weight) {
            return;
        }
        self.plan.for_each_expert(x, y, |e, x, y| {
            if let Some(part) = weight(e).low_rank() {
                add(part, self.isa, weight(e).precision(), x, y);
            }
        });
    }
}

/// Returns the left operand of all rows.
fn all(x: &Tensor) -> Left<'_> {
    Left { x, rows: None }
}

/// Returns the right operand of an output.
fn forward(weight: &Weight) -> (Right<'_>, Precision) {
    (weight.transposed(), weight.precision())
}

/// Returns the right operand of a gradient of inputs.
fn backward(weight: &Weight) -> (Right<'_>, Precision) {
    (weight.plain(), weight.precision())
}
