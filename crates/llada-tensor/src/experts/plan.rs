//! Rows in the order of their experts, and the products of all experts.

use std::ops::Range;

use rayon::prelude::*;

use crate::gemm::{Left, Matrix, PartProduct, Right, Start, gemm_parts, products_per_task};
use crate::{Gradient, Isa, Precision, Routing, Tensor, Weight};

/// Where the (row, slot) pairs of a routing lie when sorted by expert: a pair has one *position* in
/// 0..S, and an expert's positions are consecutive, in the order of the rows.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// First position of every expert, and the end.
    starts: Vec<usize>,
    /// Row of every position, `[S]`.
    pub(super) rows: Vec<u32>,
    /// Position of every pair, [N, A].
    pub(super) positions: Vec<usize>,
}

impl Plan {
    /// Sorts by counting. Panics if an expert does not exist.
    pub(super) fn new(routing: &Routing, num_experts: usize) -> Self {
        let mut starts = vec![0; num_experts + 1];
        for &expert in &routing.experts {
            starts[expert as usize + 1] += 1;
        }
        for expert in 0..num_experts {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; routing.experts.len()];
        let mut positions = Vec::with_capacity(routing.experts.len());
        for (pair, &expert) in routing.experts.iter().enumerate() {
            let position = &mut next[expert as usize];
            rows[*position] = (pair / routing.top_k) as u32;
            positions.push(*position);
            *position += 1;
        }
        Self {
            starts,
            rows,
            positions,
        }
    }

    pub(super) fn num_experts(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns the positions of an expert.
    pub(super) fn range(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// Returns the experts that have rows.
    pub(super) fn used(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.num_experts()).filter(|&expert| !self.range(expert).is_empty())
    }

    /// Views the rows of an expert.
    fn part<'a>(&self, x: &'a Tensor, expert: usize) -> Matrix<'a> {
        let (range, [_, width]) = (self.range(expert), x.dims2());
        Matrix::new(&x.f32s()[range.start * width..range.end * width], width)
    }

    /// Cuts a matrix into the rows of every expert that has some.
    fn parts<'a>(&self, x: &'a mut Tensor) -> Vec<&'a mut [f32]> {
        let [_, width] = x.dims2();
        let mut rest = x.f32s_mut();
        let mut cut = |expert| {
            let (part, others) =
                std::mem::take(&mut rest).split_at_mut(self.range(expert).len() * width);
            rest = others;
            part
        };
        self.used().map(&mut cut).collect()
    }

    /// Writes to the rows of every expert in each `y` the product of its rows in `x` and its matrix, or
    /// adds it there. # Shapes: x [S, I], matrices [I, O], y [S, O] each.
    pub(super) fn multiply<'w, const K: usize>(
        &self,
        isa: Isa,
        x: Left<'_>,
        start: Start,
        matrices: impl Fn(usize) -> [(Right<'w>, Precision); K],
        ys: [&mut Tensor; K],
    ) {
        let mut targets = ys.map(|y| self.parts(y).into_iter());
        let mut products = Vec::new();
        for expert in self.used() {
            for ((right, precision), targets) in matrices(expert).into_iter().zip(&mut targets) {
                products.extend(targets.next().map(|c| PartProduct {
                    rows: self.range(expert),
                    precision,
                    right,
                    c,
                }));
            }
        }
        gemm_parts(isa, x, start, products);
    }

    /// Calls `add` with every expert that has rows, its rows in `x` and those in `y`.
    /// # Shapes: x [S, I], y [S, O].
    pub(super) fn for_each_expert(
        &self,
        x: &Tensor,
        y: &mut Tensor,
        add: impl Fn(usize, Matrix<'_>, &mut [f32]) + Sync,
    ) {
        let used: Vec<usize> = self.used().collect();
        let parts = used.into_par_iter().zip(self.parts(y));
        parts.for_each(|(expert, y)| add(expert, self.part(x, expert), y));
    }

    /// Adds to every expert's gradient what its rows in `dy` and `x` give.
    /// # Shapes: dy [S, O], x [S, I], weights [O, I].
    pub(super) fn add_gradients<'w>(
        &self,
        isa: Isa,
        dy: &Tensor,
        x: &Tensor,
        weight: impl Fn(usize) -> &'w Weight + Sync,
        dw: Vec<&mut Gradient>,
    ) {
        let task = products_per_task(self.num_experts(), x.len() * dy.dims2()[1]);
        let dw = dw.into_par_iter().enumerate().with_min_len(task);
        dw.filter(|(expert, _)| !self.range(*expert).is_empty())
            .for_each(|(expert, dw)| {
                let (x, dy) = (self.part(x, expert), self.part(dy, expert));
                dw.add_product(isa, weight(expert), [x, dy], None);
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_sorted_by_expert_then_row() {
        let routing = Routing {
            top_k: 2,
            experts: vec![3, 0, 0, 1, 3, 1],
            weights: vec![1.0; 6],
        };
        let plan = Plan::new(&routing, 5);
        assert_eq!(plan.rows, [0, 1, 1, 2, 0, 2]);
        assert_eq!(plan.positions, [4, 0, 1, 2, 5, 3]);
        let ranges: Vec<_> = (0..5).map(|expert| plan.range(expert)).collect();
        assert_eq!(ranges, [0..2, 2..4, 4..4, 4..6, 6..6]);
    }
}
