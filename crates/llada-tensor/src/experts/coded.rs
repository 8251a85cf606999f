//! Experts of codes with many rows each, without arrays of all their values: `silu(x G) * (x U)` expert by expert, then
//! some columns of every expert's output at a time, which are added up while they are in the cache.

use rayon::prelude::*;

use super::ExpertWeights;
use super::combine::WeightedSum;
use super::plan::Plan;
use crate::buffer::Buffer;
use crate::gemm::{ExpertRows, down, gated, whole_of};
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Routing, Tensor};

/// Columns of all outputs that are computed before they are added up: whole panels, 2 MB of 4096 positions.
const COLUMNS: usize = 128;
/// Fewest rows per expert that computing outweighs reading for.
const MIN_ROWS: usize = 6;

/// Returns the experts that have rows, if these are many and all matrices codes.
pub(super) fn coded<'w>(
    plan: &Plan,
    experts: &'w [ExpertWeights<'_>],
) -> Option<Vec<ExpertRows<'w>>> {
    if plan.rows.len() < MIN_ROWS * plan.used().count() {
        return None;
    }
    let rows = |e: usize| {
        let weights = &experts[e];
        let all = [weights.gate, weights.up, weights.down];
        let [Some(gate), Some(up), Some(down)] = all.map(|weight| match weight.low_rank() {
            None => whole_of(weight.transposed()),
            Some(_) => None,
        }) else {
            return None;
        };
        Some(ExpertRows {
            rows: plan.range(e),
            gate,
            up,
            down,
        })
    };
    let used: Vec<_> = plan.used().map(rows).collect::<Option<_>>()?;
    let first = used.first()?;
    let is_like_first = |other: &ExpertRows<'_>| {
        [other.gate, other.up].map(|b| b.codes()) == [first.gate.codes(); 2]
            && other.down.codes() == first.down.codes()
    };
    used.iter().all(is_like_first).then_some(used)
}

/// Returns `y_i = sum_slot weight * Expert(x_i)`, bit by bit as products of all columns at a time.
/// # Shapes: x [N, D] -> [N, D].
pub(super) fn forward(
    isa: Isa,
    plan: &Plan,
    x: &Tensor,
    routing: &Routing,
    experts: &[ExpertRows<'_>],
) -> Tensor {
    let inner = gated(isa, x, &plan.rows, experts); // [S, F]
    let mut y = Tensor::scratch(x.shape());
    let [_, hidden] = x.dims2();
    let shared = Shared::new(y.f32s_mut());
    (0..hidden.div_ceil(COLUMNS))
        .into_par_iter()
        .for_each(|index| {
            let columns = index * COLUMNS..hidden.min((index + 1) * COLUMNS);
            let mut values = Buffer::scratch(plan.rows.len() * columns.len());
            down(isa, &inner, experts, columns.clone(), &mut values);
            dispatch(
                isa,
                Sums {
                    values: &values,
                    columns: columns.len(),
                    plan,
                    routing,
                    first: columns.start,
                    hidden,
                    y: &shared,
                },
            );
        });
    y
}

/// Adds up some columns of the values of every row's slots.
struct Sums<'a> {
    /// [S, columns].
    values: &'a [f32],
    columns: usize,
    plan: &'a Plan,
    routing: &'a Routing,
    /// The first of the columns among those of `y`.
    first: usize,
    hidden: usize,
    /// [N, hidden].
    y: &'a Shared<'a>,
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let top_k = self.routing.top_k;
        let weights = self.routing.weights.chunks_exact(top_k);
        let slots = self.plan.positions.chunks_exact(top_k).zip(weights);
        for (row, (positions, weights)) in slots.enumerate() {
            let mut sums = [0.0; COLUMNS];
            let y = &mut sums[..self.columns];
            WeightedSum {
                y,
                values: self.values,
                positions,
                weights,
            }
            .run(s);
            // SAFETY: every task has columns of its own.
            unsafe {
                self.y
                    .write(row * self.hidden + self.first, &sums[..self.columns])
            };
        }
    }
}
