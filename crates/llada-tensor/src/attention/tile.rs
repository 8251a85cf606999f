//! Rows that are computed together, and their scores.

use super::Heads;
use super::pack::padded;
use super::products::{View, ViewMut, add_product, add_transposed_product};
use super::segments::{Piece, Row};
use crate::simd::Simd;

/// Queries (row and head) in a tile, unless one row has more heads.
const QUERIES: usize = 16;

/// Rows whose pieces start alike. A tile's query is a (row, head of the group) pair, heads innermost.
pub(super) struct Tile<'a> {
    pub(super) rows: &'a [Row],
    /// Query heads per key-value head.
    per_group: usize,
    group: usize,
    groups: usize,
    /// The longest pieces of the rows.
    pieces: [Piece; 2],
    /// First column of each piece in the scores; a whole number of vectors.
    columns: [usize; 2],
    /// Columns of the scores.
    pub(super) width: usize,
}

/// Returns the number of rows in a tile.
pub(super) fn max_rows(heads: Heads) -> usize {
    (QUERIES / heads.per_group()).max(1)
}

impl<'a> Tile<'a> {
    /// Lays out the scores of some rows with the query heads that use key-value head `group`.
    #[inline(always)]
    pub(super) fn new<S: Simd>(_: S, rows: &'a [Row], heads: Heads, group: usize) -> Self {
        let longest = |i: usize| Piece {
            start: rows[0].pieces[i].start,
            len: rows.iter().map(|row| row.pieces[i].len).max().unwrap_or(0),
        };
        let pieces = [longest(0), longest(1)];
        let [first, second] = pieces.map(|piece| padded::<S>(piece.len));
        Self {
            rows,
            per_group: heads.per_group(),
            group,
            groups: heads.key_value,
            pieces,
            columns: [0, first],
            width: first + second,
        }
    }

    /// Returns the number of queries.
    #[inline(always)]
    pub(super) fn num_queries(&self) -> usize {
        self.rows.len() * self.per_group
    }

    /// Returns the index in [N, H] of query `query` of the tile.
    #[inline(always)]
    pub(super) fn query(&self, query: usize) -> usize {
        let (row, head) = (query / self.per_group, query % self.per_group);
        (self.rows[row].index * self.groups + self.group) * self.per_group + head
    }

    /// Returns the pieces with their columns of the scores.
    #[inline(always)]
    pub(super) fn parts(&self) -> [(Piece, usize); 2] {
        [
            (self.pieces[0], self.columns[0]),
            (self.pieces[1], self.columns[1]),
        ]
    }

    /// Adds the products of the queries with every key of the pieces to `scores`. What a row does not
    /// see holds something.
    /// # Shapes: queries [queries, P], columns [P, keys and more], scores [queries, width].
    #[inline(always)]
    pub(super) fn add_scores<S: Simd>(
        &self,
        s: S,
        dim: usize,
        queries: View<'_>,
        columns: View<'_>,
        scores: &mut [f32],
    ) {
        for (piece, column) in self.parts() {
            let shape = [self.num_queries(), dim, padded::<S>(piece.len)];
            let columns = View {
                values: &columns.values[piece.start..],
                ..columns
            };
            let scores = ViewMut {
                values: &mut scores[column..],
                stride: self.width,
            };
            add_product(s, shape, queries, columns, scores);
        }
    }

    /// Adds to the rows of `sums` the rows of `m` that the queries see, weighted.
    /// # Shapes: weights [queries, width], m [keys, padded P], sums [queries, padded P].
    #[inline(always)]
    pub(super) fn add_weighted<S: Simd>(
        &self,
        s: S,
        weights: &[f32],
        m: View<'_>,
        sums: &mut [f32],
    ) {
        for (piece, column) in self.parts() {
            let shape = [self.num_queries(), piece.len, m.stride];
            let weights = View {
                values: &weights[column..],
                stride: self.width,
            };
            let m = View {
                values: &m.values[piece.start * m.stride..],
                ..m
            };
            add_product(
                s,
                shape,
                weights,
                m,
                ViewMut {
                    values: &mut *sums,
                    stride: m.stride,
                },
            );
        }
    }

    /// Adds to every row of `sums` that some query sees the rows of `x`, weighted.
    /// # Shapes: weights [queries, width], x [queries, padded P], sums [keys, padded P].
    #[inline(always)]
    pub(super) fn add_transposed<S: Simd>(
        &self,
        s: S,
        weights: &[f32],
        x: View<'_>,
        sums: &mut [f32],
    ) {
        for (piece, column) in self.parts() {
            let shape = [self.num_queries(), piece.len, x.stride];
            let weights = View {
                values: &weights[column..],
                stride: self.width,
            };
            let sums = ViewMut {
                values: &mut sums[piece.start * x.stride..],
                stride: x.stride,
            };
            add_transposed_product(s, shape, weights, x, sums);
        }
    }

    /// Sets the scores of what a query's row does not see to minus infinity.
    /// # Shapes: scores [width].
    #[inline(always)]
    pub(super) fn hide(&self, query: usize, scores: &mut [f32]) {
        let seen = self.rows[query / self.per_group].pieces;
        scores[seen[0].len..self.columns[1]].fill(f32::NEG_INFINITY);
        scores[self.columns[1] + seen[1].len..].fill(f32::NEG_INFINITY);
    }
}
