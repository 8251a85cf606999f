//! The forward pass of a run of few queries, as when one row is decoded: a lane is a key, not a query.
//!
//! Keys in rows are transposed for it, which pays while a vector of queries would be half empty. Every score, total
//! and sum is the same chain of operations as in a tile of many, so that the result is too, bit by bit.

use std::ops::Range;

use super::Inputs;
use super::element::Element;
use super::forward::{End, Outputs, Scratch, write};
use super::products::{View, add_product};
use super::runs::Run;
use super::stored::Stored;
use super::tile::{Lanes, Piece, Tile, zeroed};
use crate::gemm::Format;
use crate::simd::Simd;

/// Most keys of a product: enough vectors for the chains of additions of a single query.
const KEYS: usize = 64;

/// Returns whether a run has so few queries per key-value head that vectors of so many lanes would be half
/// empty or more.
pub(super) fn is_few<K>(inputs: &Inputs<'_, K>, run: &Run, lanes: usize) -> bool {
    2 * run.rows.len() * inputs.heads.per_group() <= lanes
}

/// The few queries of one key-value head, and what becomes of them.
#[derive(Default)]
pub(super) struct Queries {
    /// [queries, words of P].
    rows: Vec<f32>,
    /// [queries, keys].
    scores: Vec<f32>,
    /// [queries, P].
    sums: Vec<f32>,
    end: End,
}

/// Writes the outputs of the run's queries that use some key-value heads. These take turns with every few
/// keys: what is fetched of a row of keys holds several heads.
#[inline(always)]
pub(super) fn run<S: Simd, K: Stored>(
    s: S,
    inputs: &Inputs<'_, K>,
    run: &Run,
    heads: Range<usize>,
    scratch: &mut Scratch,
    outputs: &Outputs<'_>,
) {
    let tiles: Vec<_> = heads
        .flat_map(|head| Tile::split(inputs, run, head))
        .collect();
    let Scratch {
        few, rows, weights, ..
    } = scratch;
    few.resize_with(tiles.len(), Queries::default);
    for (tile, queries) in tiles.iter().zip(few.iter_mut()) {
        tile.rows::<S, K::Format>(s, inputs.q, inputs.scale, &mut queries.rows);
        zeroed(&mut queries.scores, tile.len() * tile.num_keys());
        zeroed(&mut queries.sums, tile.len() * inputs.heads.dim);
    }
    for piece in tiles[0].pieces(KEYS) {
        for (tile, queries) in tiles.iter().zip(few.iter_mut()) {
            queries.score(s, tile, &piece, &inputs.stored, rows);
        }
    }
    for (tile, queries) in tiles.iter().zip(few.iter_mut()) {
        queries.see(s, tile);
    }
    for piece in tiles[0].pieces(KEYS) {
        for (tile, queries) in tiles.iter().zip(few.iter_mut()) {
            let memory = [&mut *weights, &mut *rows];
            queries.add(s, tile, &piece, &inputs.stored, memory);
        }
    }
    for (tile, queries) in tiles.iter().zip(few.iter_mut()) {
        write(tile, &mut queries.sums, &queries.end, outputs);
    }
}

impl Queries {
    /// Computes the scores of some keys.
    #[inline(always)]
    fn score<S: Simd, K: Stored>(
        &mut self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        stored: &K,
        memory: &mut Vec<f32>,
    ) {
        let dim = tile.heads().dim / K::Format::DEPTH;
        let rows = View {
            values: &self.rows,
            stride: dim,
        };
        let columns = stored.key_columns(s, tile, piece, memory);
        let (scores, num_keys) = (&mut self.scores[piece.start..], tile.num_keys());
        let shape = [tile.len(), dim, piece.keys.len()];
        add_product::<S, K::Format, false>(s, shape, rows, columns, scores, num_keys);
    }

    /// Hides what a row does not see, and finds the largest scores.
    #[inline(always)]
    fn see<S: Simd>(&mut self, s: S, tile: &Tile<'_>) {
        let hidden = tile.hidden();
        self.end = End::default();
        for (query, scores) in self.scores.chunks_exact_mut(tile.num_keys()).enumerate() {
            for keys in hidden.ranges[query].clone() {
                scores[keys].fill(f32::NEG_INFINITY);
            }
            self.end.largest[query] = largest_of(s, scores);
        }
    }

    /// Adds some values, weighted.
    #[inline(always)]
    fn add<S: Simd, K: Stored>(
        &mut self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        stored: &K,
        [words, rows]: [&mut Vec<f32>; 2],
    ) {
        let (num_keys, dim) = (tile.num_keys(), tile.heads().dim);
        for (query, scores) in self.scores.chunks_exact_mut(num_keys).enumerate() {
            let weights = &mut scores[piece.start..][..piece.keys.len()];
            exponentiate(s, weights, self.end.largest[query]);
        }
        let weights = View {
            values: &self.scores[piece.start..],
            stride: num_keys,
        };
        add_totals(
            weights,
            [tile.len(), piece.keys.len()],
            &mut self.end.totals,
        );
        let weights = K::Element::joined(weights, [tile.len(), piece.keys.len()], words);
        let values = stored.value_words(s, tile, piece, rows);
        let words = piece.keys.len().div_ceil(K::Format::DEPTH);
        let shape = [tile.len(), words, dim];
        add_product::<S, K::Format, false>(s, shape, weights, values, &mut self.sums, dim);
    }
}

#[inline(always)]
fn largest_of<S: Simd>(s: S, scores: &[f32]) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for scores in scores.chunks(S::LANES) {
        largest = s.max(largest, s.load_or(scores, f32::NEG_INFINITY));
    }
    s.reduce_max(largest)
}

/// Replaces scores by e^(score - largest).
#[inline(always)]
fn exponentiate<S: Simd>(s: S, scores: &mut [f32], largest: f32) {
    let largest = s.splat(largest);
    for scores in scores.chunks_mut(S::LANES) {
        let weight = s.exp(s.sub(s.load_or(scores, 0.0), largest));
        s.store_some(weight, scores);
    }
}

/// Adds weights to their query's total, key by key. # Shapes: weights [queries, keys].
#[inline(always)]
fn add_totals(weights: View<'_>, [queries, keys]: [usize; 2], totals: &mut Lanes) {
    /// Queries whose additions do not wait for each other.
    const CHAINS: usize = 4;
    for first in (0..queries).step_by(CHAINS) {
        let rows: [&[f32]; CHAINS] = std::array::from_fn(|chain| {
            let query = (first + chain).min(queries - 1);
            &weights.values[query * weights.stride..][..keys]
        });
        let mut sums: [f32; CHAINS] = std::array::from_fn(|chain| totals[first + chain]);
        for key in 0..keys {
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum += row[key];
            }
        }
        let len = CHAINS.min(queries - first);
        totals[first..][..len].copy_from_slice(&sums[..len]);
    }
}
