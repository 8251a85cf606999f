//! Queries that are computed together, one per lane, and their products with keys.

use std::ops::Range;

use super::Heads;
use super::Inputs;
use super::products::{View, add_product, add_transposed_product};
use super::runs::{Run, Seen};
use crate::simd::Simd;

/// Queries in a tile: the lanes of the widest vector. Scores are stored as [keys, `QUERIES`].
pub(super) const QUERIES: usize = 16;

/// One number per query of a tile.
pub(super) type Lanes = [f32; QUERIES];

/// Keys or values of one key-value head.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// [M, G*P].
    pub(super) values: &'a [f32],
    pub(super) heads: Heads,
    /// The key-value head.
    pub(super) head: usize,
}

impl<'a> Source<'a> {
    /// Returns where the head begins in the row of a key.
    pub(super) fn offset(&self, key: usize) -> usize {
        (key * self.heads.key_value + self.head) * self.heads.dim
    }

    /// Returns the head in the rows of some keys.
    #[inline(always)]
    fn rows(&self, keys: &Range<usize>) -> View<'a> {
        let stride = self.heads.key_value * self.heads.dim;
        View {
            values: &self.values[self.offset(keys.start)..],
            stride,
        }
    }
}

/// Up to [`QUERIES`] queries of a run that use one key-value head. A query is a (row, query head) pair;
/// those of a run are numbered with the heads innermost.
pub(super) struct Tile<'a> {
    seen: Seen<'a>,
    run: &'a Run,
    heads: Heads,
    head: usize,
    /// Numbers in the run.
    queries: Range<usize>,
}

impl<'a> Tile<'a> {
    /// Splits the queries of a run that use key-value head `head`.
    pub(super) fn split(
        inputs: &Inputs<'a>,
        run: &'a Run,
        head: usize,
    ) -> impl Iterator<Item = Self> {
        let (seen, heads) = (inputs.seen, inputs.heads);
        let num_queries = run.rows.len() * heads.per_group();
        (0..num_queries).step_by(QUERIES).map(move |start| Self {
            seen,
            run,
            heads,
            head,
            queries: start..num_queries.min(start + QUERIES),
        })
    }

    /// Returns the number of queries.
    pub(super) fn len(&self) -> usize {
        self.queries.len()
    }

    /// Returns the index of every query in [N, H].
    pub(super) fn indices(&self) -> impl Iterator<Item = usize> {
        let (heads, head, first_row) = (self.heads, self.head, self.run.rows.start);
        self.queries.clone().map(move |query| {
            let (row, of_group) = (query / heads.per_group(), query % heads.per_group());
            (first_row + row) * heads.query + head * heads.per_group() + of_group
        })
    }

    /// Returns the number per query; lanes without a query get zero. # Shapes: x [N, H].
    pub(super) fn lanes(&self, x: &[f32]) -> Lanes {
        let mut lanes = [0.0; QUERIES];
        for (lane, index) in lanes.iter_mut().zip(self.indices()) {
            *lane = x[index];
        }
        lanes
    }

    /// Copies the queries, times `factor`. # Shapes: x [N, H*P] -> [queries, P].
    #[inline(always)]
    pub(super) fn rows<'m>(&self, x: &[f32], factor: f32, memory: &'m mut Vec<f32>) -> View<'m> {
        let dim = self.heads.dim;
        let values = zeroed(memory, self.len() * dim);
        for (to, index) in values.chunks_exact_mut(dim).zip(self.indices()) {
            for (to, x) in to.iter_mut().zip(&x[index * dim..][..dim]) {
                *to = x * factor;
            }
        }
        View {
            values,
            stride: dim,
        }
    }

    /// Transposes what [`Tile::rows`] returned; lanes without a query get zeros.
    /// # Shapes: [queries, P] -> [P, QUERIES].
    #[inline(always)]
    pub(super) fn columns<'m>(&self, rows: View<'_>, memory: &'m mut Vec<f32>) -> View<'m> {
        let values = zeroed(memory, self.heads.dim * QUERIES);
        for (query, row) in rows.values.chunks_exact(rows.stride).enumerate() {
            for (to, x) in values.chunks_exact_mut(QUERIES).zip(row) {
                to[query] = *x;
            }
        }
        View {
            values,
            stride: QUERIES,
        }
    }

    /// Returns the products of every key of the run with the queries. What a row does not see holds
    /// something. # Shapes: columns [P, QUERIES] -> [keys, QUERIES].
    #[inline(always)]
    pub(super) fn scores<'m, S: Simd>(
        &self,
        s: S,
        keys: Source<'_>,
        columns: View<'_>,
        memory: &'m mut Vec<f32>,
    ) -> &'m mut [f32] {
        let scores = zeroed(memory, self.run.num_keys() * QUERIES);
        for (piece, start) in self.pieces() {
            let shape = [piece.len(), self.heads.dim, self.width::<S>()];
            let scores = &mut scores[start * QUERIES..];
            add_product(s, shape, keys.rows(piece), columns, scores, QUERIES);
        }
        scores
    }

    /// Sets the scores of what a query's row does not see to minus infinity.
    /// # Shapes: scores [keys, QUERIES].
    #[inline(always)]
    pub(super) fn hide(&self, scores: &mut [f32]) {
        for (lane, query) in self.queries.clone().enumerate() {
            let row = self.run.rows.start + query / self.heads.per_group();
            for key in self.seen.hidden(row, self.run).into_iter().flatten() {
                scores[key * QUERIES + lane] = f32::NEG_INFINITY;
            }
        }
    }

    /// Adds to each query's row of `sums` the rows of the keys, weighted.
    /// # Shapes: weights [keys, QUERIES], sums [queries, P].
    #[inline(always)]
    pub(super) fn add_weighted_keys<S: Simd>(
        &self,
        s: S,
        weights: &[f32],
        keys: Source<'_>,
        sums: &mut [f32],
    ) {
        for (piece, start) in self.pieces() {
            let shape = [self.len(), piece.len(), self.heads.dim];
            let weights = View {
                values: &weights[start * QUERIES..],
                stride: QUERIES,
            };
            add_transposed_product(s, shape, weights, keys.rows(piece), sums);
        }
    }

    /// Adds to each key's row of `sums`, which begin at key `first_key`, the rows of the queries,
    /// weighted. # Shapes: weights [keys, QUERIES], rows [queries, P], sums [M, P].
    #[inline(always)]
    pub(super) fn add_weighted_queries<S: Simd>(
        &self,
        s: S,
        weights: &[f32],
        rows: View<'_>,
        sums: &mut [f32],
        first_key: usize,
    ) {
        let dim = self.heads.dim;
        for (piece, start) in self.pieces().filter(|(piece, _)| !piece.is_empty()) {
            let shape = [piece.len(), self.len(), dim];
            let weights = View {
                values: &weights[start * QUERIES..],
                stride: QUERIES,
            };
            let sums = &mut sums[(piece.start - first_key) * dim..];
            add_product(s, shape, weights, rows, sums, dim);
        }
    }

    /// Returns the lanes that are computed: whole vectors.
    #[inline(always)]
    pub(super) fn width<S: Simd>(&self) -> usize {
        self.len().next_multiple_of(S::LANES)
    }

    /// Returns the keys of the run piece by piece, each with its first row of the scores.
    fn pieces(&self) -> impl Iterator<Item = (&'a Range<usize>, usize)> {
        self.run.pieces.iter().scan(0, |next, piece| {
            let start = *next;
            *next += piece.len();
            Some((piece, start))
        })
    }
}

/// Returns `len` zeros in reused memory.
#[inline(always)]
pub(super) fn zeroed(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    memory.clear();
    memory.resize(len, 0.0);
    memory
}
