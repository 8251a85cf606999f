//! Queries that are computed together, one per lane, and their products with keys.

use std::ops::Range;

use half::bf16;

use super::Heads;
use super::Inputs;
use super::products::{View, add_product, add_transposed_product};
use super::runs::{Run, Seen};
use crate::simd::Simd;
use crate::{DType, Tensor};

/// Queries in a tile: the lanes of the widest vector. Scores are stored as [keys, `QUERIES`].
pub(super) const QUERIES: usize = 16;

/// Most keys of a product. Those that are stored in bf16 are widened by so many, which stay in a core's
/// first cache until they are used.
const KEYS: usize = 32;

/// One number per query of a tile.
pub(super) type Lanes = [f32; QUERIES];

/// Elements of keys or values as they are stored.
#[derive(Clone, Copy)]
pub(super) enum Elements<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Elements<'a> {
    /// Returns the elements of an array of either type.
    pub(super) fn of(x: &'a Tensor) -> Self {
        match x.dtype() {
            DType::Bf16 => Self::Bf16(x.bf16s()),
            _ => Self::F32(x.f32s()),
        }
    }
}

/// Keys or values of one key-value head.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// [M, G*P].
    pub(super) elements: Elements<'a>,
    pub(super) heads: Heads,
    /// The key-value head.
    pub(super) head: usize,
}

impl<'a> Source<'a> {
    /// Returns where the head begins in the row of a key.
    pub(super) fn offset(&self, key: usize) -> usize {
        (key * self.heads.key_value + self.head) * self.heads.dim
    }

    /// Returns the head in the rows of some keys: where it is stored, or in `memory`, widened.
    #[inline(always)]
    fn rows<'m, S: Simd>(self, s: S, keys: Range<usize>, memory: &'m mut Vec<f32>) -> View<'m>
    where
        'a: 'm,
    {
        let dim = self.heads.dim;
        let stored = match self.elements {
            Elements::F32(values) => {
                return View {
                    values: &values[self.offset(keys.start)..],
                    stride: self.heads.key_value * dim,
                };
            }
            Elements::Bf16(values) => values,
        };
        memory.resize(KEYS * dim, 0.0);
        for (key, row) in keys.zip(memory.chunks_exact_mut(dim)) {
            widen(s, &stored[self.offset(key)..][..dim], row);
        }
        View {
            values: memory,
            stride: dim,
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
        rows: &mut Vec<f32>,
        memory: &'m mut Vec<f32>,
    ) -> &'m mut [f32] {
        let scores = zeroed(memory, self.run.num_keys() * QUERIES);
        for (piece, start) in self.pieces() {
            let shape = [piece.len(), self.heads.dim, self.width::<S>()];
            let (rows, scores) = (keys.rows(s, piece, rows), &mut scores[start * QUERIES..]);
            add_product(s, shape, rows, columns, scores, QUERIES);
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
        rows: &mut Vec<f32>,
        sums: &mut [f32],
    ) {
        for (piece, start) in self.pieces() {
            let shape = [self.len(), piece.len(), self.heads.dim];
            let weights = View {
                values: &weights[start * QUERIES..],
                stride: QUERIES,
            };
            let rows = keys.rows(s, piece, rows);
            add_transposed_product(s, shape, weights, rows, sums);
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
        for (piece, start) in self.pieces() {
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

    /// Returns the keys of the run, at most [`KEYS`] at a time, each piece with its first row of the scores.
    fn pieces(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        let cut = |piece: &Range<usize>| {
            let end = piece.end;
            let starts = piece.clone().step_by(KEYS);
            starts.map(move |start| start..end.min(start + KEYS))
        };
        let mut next = 0;
        self.run.pieces.iter().flat_map(cut).map(move |piece| {
            let start = next;
            next += piece.len();
            (piece, start)
        })
    }
}

/// Writes a row of bf16 as `f32`.
#[inline(always)]
fn widen<S: Simd>(s: S, from: &[bf16], to: &mut [f32]) {
    let mut start = 0;
    while start + S::LANES <= from.len() {
        s.store(s.load_bf16(&from[start..]), &mut to[start..]);
        start += S::LANES;
    }
    for (to, from) in to[start..].iter_mut().zip(&from[start..]) {
        *to = from.to_f32();
    }
}

/// Returns `len` zeros in reused memory.
#[inline(always)]
pub(super) fn zeroed(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    memory.clear();
    memory.resize(len, 0.0);
    memory
}
