//! Between rows and the positions of their slots; sums run in slot order.

use rayon::prelude::*;

use super::plan::Plan;
use crate::parallel::rows_per_task;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Routing, Tensor};

/// Returns for every row the sum over its slots of weight times value.
/// # Shapes: values [S, D], weights [N, A] -> [N, D].
pub(super) fn combine(
    isa: Isa,
    plan: &Plan,
    top_k: usize,
    values: &Tensor,
    weights: &[f32],
) -> Tensor {
    let [_, width] = values.dims2();
    let mut y = Tensor::zeros(&[weights.len() / top_k, width]);
    let task = rows_per_task(weights.len() / top_k, top_k * width);
    let slots = plan
        .positions
        .par_chunks(top_k)
        .zip(weights.par_chunks(top_k));
    y.f32s_mut()
        .par_chunks_mut(width)
        .zip(slots)
        .with_min_len(task)
        .for_each(|(y, (positions, weights))| {
            dispatch(
                isa,
                WeightedSum {
                    y,
                    values: values.f32s(),
                    positions,
                    weights,
                },
            );
        });
    y
}

/// Returns for every position its weight times the row of `dy`: the gradient of the values that
/// [`combine`] added. # Shapes: dy [N, D] -> [S, D].
pub(super) fn spread(plan: &Plan, routing: &Routing, dy: &Tensor) -> Tensor {
    let [_, width] = dy.dims2();
    let mut weights = vec![0.0; plan.rows.len()]; // [S]
    for (&position, &weight) in plan.positions.iter().zip(&routing.weights) {
        weights[position] = weight;
    }
    let mut values = Tensor::zeros(&[plan.rows.len(), width]);
    let task = rows_per_task(plan.rows.len(), width);
    let rows = plan.rows.par_iter().zip(weights);
    values
        .f32s_mut()
        .par_chunks_mut(width)
        .zip(rows)
        .with_min_len(task)
        .for_each(|(values, (&row, weight))| {
            for (value, dy) in values.iter_mut().zip(dy.row(row as usize)) {
                *value = weight * dy;
            }
        });
    values
}

/// Returns for every pair the scalar product of the row of `dy` with its value: the gradient of the
/// weights in [`combine`]. # Shapes: dy [N, D], values [S, D] -> [N, A].
pub(super) fn dots(isa: Isa, plan: &Plan, top_k: usize, dy: &Tensor, values: &Tensor) -> Vec<f32> {
    let task = rows_per_task(plan.positions.len(), dy.dims2()[1]);
    let pairs = plan.positions.par_iter().enumerate().with_min_len(task);
    pairs
        .map(|(pair, &position)| {
            dispatch(
                isa,
                Dot {
                    a: dy.row(pair / top_k),
                    b: values.row(position),
                },
            )
        })
        .collect()
}

/// Sets `y` to a weighted sum of rows of `values`.
pub(super) struct WeightedSum<'a> {
    /// `[D]`.
    pub(super) y: &'a mut [f32],
    /// [S, D].
    pub(super) values: &'a [f32],
    /// Rows of `values`, `[A]`.
    pub(super) positions: &'a [usize],
    /// `[A]`.
    pub(super) weights: &'a [f32],
}

impl Kernel for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.y.len();
        for (chunk, y) in self.y.chunks_mut(S::LANES).enumerate() {
            let mut sum = s.splat(0.0);
            for (&position, &weight) in self.positions.iter().zip(self.weights) {
                let value = &self.values[position * width..][chunk * S::LANES..width];
                sum = s.fma(s.splat(weight), s.load_or(value, 0.0), sum);
            }
            s.store_some(sum, y);
        }
    }
}

/// Computes the scalar product of two rows.
struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sum = s.splat(0.0);
        for (a, b) in self.a.chunks(S::LANES).zip(self.b.chunks(S::LANES)) {
            sum = s.fma(s.load_or(a, 0.0), s.load_or(b, 0.0), sum);
        }
        s.reduce_add(sum)
    }
}
