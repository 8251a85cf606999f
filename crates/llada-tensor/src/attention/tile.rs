//! Queries that are computed together, one per lane, and their products with keys.

use std::hint::black_box;
use std::ops::Range;

use super::element::Element;
use super::products::{Columns, View, add_product};
use super::runs::{Run, Seen};
use super::stored::Stored;
use super::{Heads, Inputs};
use crate::gemm::{Format, Single};
use crate::simd::Simd;

/// Queries in a tile: the lanes of the widest vector. Scores are stored as [keys, `QUERIES`].
pub(super) const QUERIES: usize = 16;

/// Most keys of a product, which stay in a core's first cache.
pub(super) const KEYS: usize = 32;

/// Keys from which on they are asked for: fewer are in a cache already.
const FAR: usize = 1024;

/// Bytes of a cache line.
const LINE: usize = 64;

/// One number per query of a tile.
pub(super) type Lanes = [f32; QUERIES];

/// Keys or values of one key-value head.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, E> {
    /// [M, G*P].
    pub(super) elements: &'a [E],
    pub(super) heads: Heads,
    /// The key-value head.
    pub(super) head: usize,
}

impl<'a, E: Element> Source<'a, E> {
    /// Returns where the head begins in the row of a key.
    pub(super) fn offset(&self, key: usize) -> usize {
        self.heads.offset(key, self.head)
    }

    /// Returns the head in the row of a key.
    #[inline(always)]
    pub(super) fn row(&self, key: usize) -> &'a [E] {
        &self.elements[self.offset(key)..][..self.heads.dim]
    }

    /// Asks for the head in the rows of keys, which no hardware foresees: a row holds the heads of all, and pages
    /// lie anywhere.
    #[inline(always)]
    pub(super) fn ask<S: Simd>(&self, s: S, keys: impl Iterator<Item = usize>) {
        for key in keys {
            ask(s, self.row(key));
        }
    }

    /// Returns the head in the rows of some keys where it is stored: [keys, words of P]. Those of the next keys are
    /// asked for.
    #[inline(always)]
    pub(super) fn stored<S: Simd>(&self, s: S, piece: &Piece) -> View<'a> {
        self.ask(s, piece.next.clone());
        let stride = self.heads.key_value * self.heads.dim / E::Format::DEPTH;
        View {
            values: E::words(&self.elements[self.offset(piece.keys.start)..]),
            // Where it comes from is hidden, or the compiler keeps an address per row, more than there are registers.
            stride: black_box(stride),
        }
    }

    /// As [`Source::stored`], transposed: [words of P, keys].
    #[inline(always)]
    pub(super) fn columns<'m, S: Simd>(
        &self,
        s: S,
        piece: &Piece,
        memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        let depth = E::Format::DEPTH;
        let (keys, dim) = (piece.keys.clone(), self.heads.dim / depth);
        let (words, stride) = (E::words(self.elements), keys.len());
        let mut next = piece.next.clone();
        memory.resize(stride * dim, 0.0);
        let whole = [keys.len(), dim].map(|len| len / S::LANES * S::LANES);
        for lane in (0..whole[0]).step_by(S::LANES) {
            self.ask(s, next.by_ref().take(S::LANES));
            for column in (0..whole[1]).step_by(S::LANES) {
                let mut rows = [s.splat(0.0); 16];
                for (key, row) in rows.iter_mut().enumerate().take(S::LANES) {
                    let start = self.offset(keys.start + lane + key) / depth;
                    *row = s.load(&words[start + column..]);
                }
                let columns = transposed(s, rows);
                for (row, values) in columns.iter().enumerate().take(S::LANES) {
                    s.store(*values, &mut memory[(column + row) * stride + lane..]);
                }
            }
        }
        for (lane, key) in keys.enumerate() {
            let first = if lane < whole[0] { whole[1] } else { 0 };
            let start = self.offset(key) / depth;
            for column in first..dim {
                memory[column * stride + lane] = words[start + column];
            }
        }
        View {
            values: memory,
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
    /// Multiples at which pieces of keys begin.
    grain: usize,
    /// Numbers in the run.
    queries: Range<usize>,
}

impl<'a> Tile<'a> {
    /// Splits the queries of a run that use key-value head `head`.
    pub(super) fn split<K: Stored>(
        inputs: &Inputs<'a, K>,
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
            grain: K::GRAIN,
            queries: start..num_queries.min(start + QUERIES),
        })
    }

    /// Returns the number of queries.
    pub(super) fn len(&self) -> usize {
        self.queries.len()
    }

    /// Returns the key-value head.
    pub(super) fn head(&self) -> usize {
        self.head
    }

    pub(super) fn heads(&self) -> Heads {
        self.heads
    }

    /// Returns the tile's key-value head of some rows. # Shapes: [M, G*P].
    pub(super) fn source<'e, E>(&self, elements: &'e [E]) -> Source<'e, E> {
        Source {
            elements,
            heads: self.heads,
            head: self.head,
        }
    }

    /// Returns the number of keys of the run.
    pub(super) fn num_keys(&self) -> usize {
        self.run.num_keys()
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

    /// Copies the queries, times `factor`. # Shapes: x [N, H*P] -> [queries, words of P].
    #[inline(always)]
    pub(super) fn rows<'m, S: Simd, F: Format>(
        &self,
        s: S,
        x: &[f32],
        factor: f32,
        memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        let (dim, stride) = (self.heads.dim, self.heads.dim / F::DEPTH);
        let values = zeroed(memory, self.len() * dim);
        for (to, index) in values.chunks_exact_mut(dim).zip(self.indices()) {
            for (to, x) in to.iter_mut().zip(&x[index * dim..][..dim]) {
                *to = x * factor;
            }
        }
        if F::DEPTH > 1 {
            for query in 0..self.len() {
                for word in (0..stride).step_by(S::LANES) {
                    let row = &values[query * dim..][..dim];
                    let words = F::words(s, &row[word * F::DEPTH..]);
                    s.store_some(
                        words,
                        &mut values[query * stride + word..][..S::LANES.min(stride - word)],
                    );
                }
            }
        }
        View {
            values: &values[..self.len() * stride],
            stride,
        }
    }

    /// Copies the queries, times `factor`, as words of queries. # Shapes: x [N, H*P] -> [words of queries, P].
    #[inline(always)]
    pub(super) fn across<'m, S: Simd, F: Format>(
        &self,
        s: S,
        x: &[f32],
        factor: f32,
        memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        let dim = self.heads.dim;
        self.rows::<S, Single>(s, x, factor, memory);
        if F::DEPTH > 1 {
            // A word comes to lie where its first query was, or before it.
            for first in (0..self.len()).step_by(F::DEPTH) {
                for column in (0..dim).step_by(S::LANES) {
                    let columns = column..dim.min(column + S::LANES);
                    let row = |query: usize| &memory[query * dim..][..dim][columns.clone()];
                    let next = if first + 1 < self.len() {
                        row(first + 1)
                    } else {
                        &[]
                    };
                    let words = F::join(s, row(first), next);
                    s.store_some(words, &mut memory[first / F::DEPTH * dim..][..dim][columns]);
                }
            }
        }
        View {
            values: memory,
            stride: dim,
        }
    }

    /// Returns weights as words of queries, where they are or in `memory`.
    /// # Shapes: [keys, QUERIES] -> [keys, words of QUERIES].
    #[inline(always)]
    pub(super) fn along<'m, S: Simd, F: Format>(
        &self,
        s: S,
        weights: &'m [f32],
        memory: &'m mut Vec<f32>,
    ) -> View<'m> {
        let stride = QUERIES / F::DEPTH;
        if F::DEPTH == 1 {
            return View {
                values: weights,
                stride,
            };
        }
        memory.resize(weights.len() / F::DEPTH, 0.0);
        let parts = weights.chunks(F::DEPTH * S::LANES);
        for (weights, words) in parts.zip(memory.chunks_mut(S::LANES)) {
            s.store_some(F::words(s, weights), words);
        }
        View {
            values: memory,
            stride,
        }
    }

    /// Transposes what [`Tile::rows`] returned; lanes without a query get zeros.
    /// # Shapes: [queries, words] -> [words, QUERIES].
    #[inline(always)]
    pub(super) fn columns<'m>(&self, rows: View<'_>, memory: &'m mut Vec<f32>) -> View<'m> {
        let values = zeroed(memory, rows.stride * QUERIES);
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

    /// Returns the products of every key of the run with the queries.
    /// # Shapes: columns [words of P, QUERIES] -> [keys, QUERIES].
    #[inline(always)]
    pub(super) fn scores<'m, S: Simd, E: Element>(
        &self,
        s: S,
        keys: Source<'_, E>,
        columns: View<'_>,
        memory: &'m mut Vec<f32>,
    ) -> &'m mut [f32] {
        memory.resize(self.run.num_keys() * QUERIES, 0.0);
        for piece in self.pieces(KEYS) {
            self.score(s, &piece, keys, columns, piece.of(memory));
        }
        memory
    }

    /// Sets the scores of what a query's row does not see to minus infinity.
    /// # Shapes: scores [keys, QUERIES].
    #[inline(always)]
    pub(super) fn hide(&self, scores: &mut [f32]) {
        let hidden = self.hidden();
        for piece in self.pieces(KEYS) {
            hidden.hide(&piece, piece.of(scores));
        }
    }

    /// Writes the products of some keys with the queries.
    /// # Shapes: columns [words of P, QUERIES], scores [keys, QUERIES].
    #[inline(always)]
    pub(super) fn score<S: Simd, E: Element>(
        &self,
        s: S,
        piece: &Piece,
        keys: Source<'_, E>,
        columns: View<'_>,
        scores: &mut [f32],
    ) {
        let words = self.heads.dim / E::Format::DEPTH;
        let shape = [piece.keys.len(), words, self.width::<S>()];
        let rows = keys.stored(s, piece);
        scores.fill(0.0);
        add_product::<S, E::Format, false>(s, shape, rows, columns.into(), scores, QUERIES);
    }

    /// Returns what the queries' rows do not see.
    pub(super) fn hidden(&self) -> Hidden {
        let mut hidden = Hidden {
            first: usize::MAX,
            ranges: Default::default(),
        };
        for (ranges, query) in hidden.ranges.iter_mut().zip(self.queries.clone()) {
            let row = self.run.rows.start + query / self.heads.per_group();
            *ranges = self.seen.hidden(row, self.run);
            let first = ranges.iter().filter(|range| !range.is_empty());
            let first = first.map(|range| range.start).min();
            hidden.first = hidden.first.min(first.unwrap_or(usize::MAX));
        }
        hidden
    }

    /// Adds to each query's row of `sums` the rows of some keys, weighted; the weights are used up.
    /// # Shapes: weights [keys, QUERIES], rows [words of keys, P], sums [queries, P].
    #[inline(always)]
    pub(super) fn add_weighted<S: Simd, E: Element>(
        &self,
        s: S,
        weights: &mut [f32],
        rows: Columns<'_>,
        sums: &mut [f32],
    ) {
        let dim = self.heads.dim;
        let words = (weights.len() / QUERIES).div_ceil(E::Format::DEPTH);
        E::join(s, weights);
        let weights = View {
            values: weights,
            stride: QUERIES,
        };
        let shape = [self.len(), words, dim];
        add_product::<S, E::Format, true>(s, shape, weights, rows, sums, dim);
    }

    /// Adds to each key's row of `sums`, which begin at key `first_key`, the rows of the queries, weighted.
    /// # Shapes: weights [keys, words of QUERIES], rows [words of queries, P], sums [M, P].
    #[inline(always)]
    pub(super) fn add_weighted_queries<S: Simd, F: Format>(
        &self,
        s: S,
        weights: View<'_>,
        rows: View<'_>,
        sums: &mut [f32],
        first_key: usize,
    ) {
        let dim = self.heads.dim;
        for piece in self.pieces(KEYS) {
            let shape = [piece.keys.len(), self.len().div_ceil(F::DEPTH), dim];
            let weights = View {
                values: &weights.values[piece.start * weights.stride..],
                ..weights
            };
            let sums = &mut sums[(piece.keys.start - first_key) * dim..];
            add_product::<S, F, false>(s, shape, weights, rows.into(), sums, dim);
        }
    }

    /// Returns the lanes that are computed: whole vectors.
    #[inline(always)]
    pub(super) fn width<S: Simd>(&self) -> usize {
        self.len().next_multiple_of(S::LANES)
    }

    /// Returns the keys of the run, at most `most` at a time.
    pub(super) fn pieces(&self, most: usize) -> impl Iterator<Item = Piece> {
        let grain = self.grain;
        let cut = move |keys: &Range<usize>| {
            let mut left = keys.clone();
            std::iter::from_fn(move || {
                let most = match left.start % grain {
                    0 => most,
                    past => grain - past,
                };
                let start = left.start;
                left.start = left.end.min(start + most);
                (start < left.start).then_some(start..left.start)
            })
        };
        let (mut cuts, mut start) = (self.run.pieces.iter().flat_map(cut).peekable(), 0);
        let is_far = self.num_keys() >= FAR;
        std::iter::from_fn(move || {
            let keys = cuts.next()?;
            let next = cuts.peek().filter(|_| is_far).cloned();
            let next = next.unwrap_or_default();
            start += keys.len();
            Some(Piece {
                start: start - keys.len(),
                keys,
                next,
            })
        })
    }
}

/// Some consecutive keys of a run.
pub(super) struct Piece {
    pub(super) keys: Range<usize>,
    /// The first one's number in the run.
    pub(super) start: usize,
    /// The keys of the piece that follows, if it is worth asking for.
    pub(super) next: Range<usize>,
}

impl Piece {
    /// Returns how many units of so many keys after the piece the next one begins; 0 if it is not worth asking for.
    #[inline(always)]
    pub(super) fn ahead(&self, unit: usize) -> isize {
        match self.next.is_empty() {
            true => 0,
            false => (self.next.start / unit) as isize - (self.keys.start / unit) as isize,
        }
    }

    /// Returns the piece's rows. # Shapes: [keys of the run, QUERIES] -> [keys, QUERIES].
    pub(super) fn of<'m>(&self, scores: &'m mut [f32]) -> &'m mut [f32] {
        &mut scores[self.start * QUERIES..][..self.keys.len() * QUERIES]
    }
}

/// What the rows of a tile's queries do not see.
pub(super) struct Hidden {
    /// Before this all is seen.
    first: usize,
    /// Of every query, counted over the keys of the run.
    pub(super) ranges: [[Range<usize>; 2]; QUERIES],
}

impl Hidden {
    /// Sets the scores of hidden keys to minus infinity. # Shapes: scores [keys, QUERIES].
    #[inline(always)]
    pub(super) fn hide(&self, piece: &Piece, scores: &mut [f32]) {
        let (start, end) = (piece.start, piece.start + piece.keys.len());
        if end <= self.first {
            return;
        }
        for (lane, ranges) in self.ranges.iter().enumerate() {
            for range in ranges {
                for key in range.start.max(start)..range.end.min(end) {
                    scores[(key - start) * QUERIES + lane] = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Transposes the first `LANES` vectors.
#[inline(always)]
fn transposed<S: Simd>(s: S, mut rows: [S::V; 16]) -> [S::V; 16] {
    // Every turn moves the bits of an element's place, row and column, by one.
    for lanes in [2, 4, 8, 16] {
        if lanes <= S::LANES {
            rows = turned(s, rows);
        }
    }
    rows
}

#[inline(always)]
fn turned<S: Simd>(s: S, rows: [S::V; 16]) -> [S::V; 16] {
    let mut turned = rows;
    for i in 0..8 {
        if i < S::LANES / 2 {
            [turned[2 * i], turned[2 * i + 1]] = s.zip(rows[i], rows[i + S::LANES / 2]);
        }
    }
    turned
}

/// Asks for an array, cache line by cache line.
#[inline(always)]
pub(super) fn ask<S: Simd, T>(s: S, elements: &[T]) {
    for line in (0..size_of_val(elements)).step_by(LINE) {
        s.prefetch(&elements[0], line);
    }
}

/// Returns `len` zeros in reused memory.
#[inline(always)]
pub(super) fn zeroed(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    memory.clear();
    memory.resize(len, 0.0);
    memory
}
