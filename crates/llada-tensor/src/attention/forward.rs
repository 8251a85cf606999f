//! The forward pass of one run and some key-value heads.

use std::ops::Range;

use super::Inputs;
use super::few::{self, is_few};
use super::runs::Run;
use super::stored::Stored;
use super::tile::{KEYS, Lanes, QUERIES, Tile, zeroed};
use crate::Isa;
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};

/// Memory that tasks of a thread reuse.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    columns: Vec<f32>,
    /// Keys or values as they are multiplied.
    pub(super) rows: Vec<f32>,
    /// Weights as they are multiplied, in a run of few queries.
    pub(super) weights: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    /// By key-value head, in a run of few queries.
    pub(super) few: Vec<few::Queries>,
}

/// What to write.
pub(super) struct Outputs<'a> {
    /// [N, H*P].
    pub(super) out: Shared<'a>,
    /// [N, H].
    pub(super) lse: Shared<'a>,
}

/// What the softmax of a tile's queries needs.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// The largest scores.
    pub(super) largest: Lanes,
    /// Sums of e^(score - largest).
    pub(super) totals: Lanes,
}

impl Default for End {
    fn default() -> Self {
        Self {
            largest: [f32::NEG_INFINITY; QUERIES],
            totals: [0.0; QUERIES],
        }
    }
}

/// Writes the outputs of the run's queries that use some key-value heads.
pub(super) fn run<K: Stored>(
    isa: Isa,
    inputs: &Inputs<'_, K>,
    run: &Run,
    heads: Range<usize>,
    scratch: &mut Scratch,
    outputs: &Outputs<'_>,
) {
    dispatch(
        isa,
        Forward {
            inputs,
            run,
            heads,
            scratch,
            outputs,
        },
    );
}

struct Forward<'a, K> {
    inputs: &'a Inputs<'a, K>,
    run: &'a Run,
    heads: Range<usize>,
    scratch: &'a mut Scratch,
    outputs: &'a Outputs<'a>,
}

impl<K: Stored> Kernel for Forward<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            inputs,
            run,
            heads,
            scratch,
            outputs,
        } = self;
        if is_few(inputs, run, S::LANES) {
            return few::run(s, inputs, run, heads, scratch, outputs);
        }
        for head in heads {
            for tile in Tile::split(inputs, run, head) {
                write_tile(s, inputs, &tile, scratch, outputs);
            }
        }
    }
}

/// Writes the outputs of a tile's queries.
#[inline(always)]
fn write_tile<S: Simd, K: Stored>(
    s: S,
    inputs: &Inputs<'_, K>,
    tile: &Tile<'_>,
    scratch: &mut Scratch,
    outputs: &Outputs<'_>,
) {
    let Scratch {
        queries,
        columns,
        rows,
        scores,
        sums,
        ..
    } = scratch;
    let stored = &inputs.stored;
    let queries = tile.rows::<S, K::Format>(s, inputs.q, inputs.scale, queries);
    let columns = tile.columns(queries, columns);
    let (hidden, width) = (tile.hidden(), tile.width::<S>());
    let mut end = End::default();
    scores.resize(tile.num_keys() * QUERIES, 0.0);
    for piece in tile.pieces(KEYS) {
        let scores = piece.of(scores);
        stored.score(s, tile, &piece, columns, scores);
        hidden.hide(&piece, scores);
        raise(s, width, scores, &mut end.largest);
    }
    let sums = zeroed(sums, tile.len() * inputs.heads.dim);
    for piece in tile.pieces(KEYS) {
        let weights = piece.of(scores);
        exponentiate(s, width, weights, &mut end);
        let values = stored.value_words(s, tile, &piece, rows);
        tile.add_weighted::<S, K::Element>(s, weights, values, sums);
    }
    write(tile, sums, &end, outputs);
}

/// Writes what the queries of a tile come to.
/// # Shapes: sums [queries, P], of e^(score - largest) times the values.
pub(super) fn write(tile: &Tile<'_>, sums: &mut [f32], end: &End, outputs: &Outputs<'_>) {
    let dim = sums.len() / tile.len();
    let rows = sums.chunks_exact_mut(dim).zip(tile.indices());
    for (query, (out, index)) in rows.enumerate() {
        let total = end.totals[query];
        out.iter_mut().for_each(|sum| *sum /= total);
        // SAFETY: this task alone handles the query.
        unsafe {
            outputs.out.write(index * dim, out);
            outputs.lse.write(index, &[end.largest[query] + total.ln()]);
        }
    }
}

/// Makes `largest` the larger of itself and the scores.
/// # Shapes: scores [keys, QUERIES], of which `width` columns are computed.
#[inline(always)]
fn raise<S: Simd>(s: S, width: usize, scores: &[f32], largest: &mut Lanes) {
    for lane in (0..width).step_by(S::LANES) {
        let mut max = s.load(&largest[lane..]);
        for scores in scores.chunks_exact(QUERIES) {
            max = s.max(max, s.load(&scores[lane..]));
        }
        s.store(max, &mut largest[lane..]);
    }
}

/// Replaces scores by e^(score - largest) and adds these to the totals.
/// # Shapes: scores [keys, QUERIES], of which `width` columns are computed.
#[inline(always)]
fn exponentiate<S: Simd>(s: S, width: usize, scores: &mut [f32], end: &mut End) {
    for lane in (0..width).step_by(S::LANES) {
        let (largest, mut total) = (s.load(&end.largest[lane..]), s.load(&end.totals[lane..]));
        for scores in scores.chunks_exact_mut(QUERIES) {
            let weight = s.exp(s.sub(s.load(&scores[lane..]), largest));
            total = s.add(total, weight);
            s.store(weight, &mut scores[lane..]);
        }
        s.store(total, &mut end.totals[lane..]);
    }
}
