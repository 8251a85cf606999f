//! The forward pass of one run and some key-value heads.

use std::ops::Range;

use super::Inputs;
use super::few::{self, is_few};
use super::products::{Columns, View};
use super::runs::Run;
use super::stored::Stored;
use super::tile::{Hidden, KEYS, Lanes, Piece, QUERIES, Tile, zeroed};
use crate::Isa;
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};

/// Tiles that take turns with every few keys. These come from further away than what belongs to a tile.
const TOGETHER: usize = 4;

/// Memory that tasks of a thread reuse.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    /// Keys or values as they are multiplied.
    pub(super) rows: Vec<f32>,
    /// Weights as they are multiplied, in a run of few queries.
    pub(super) weights: Vec<f32>,
    /// By tile.
    many: Vec<Queries>,
    /// By key-value head, in a run of few queries.
    pub(super) few: Vec<few::Queries>,
}

/// The queries of a tile, and what becomes of them.
#[derive(Default)]
struct Queries {
    /// [words of P, QUERIES].
    columns: Vec<f32>,
    /// [keys, QUERIES].
    scores: Vec<f32>,
    /// [queries, P].
    sums: Vec<f32>,
    end: End,
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
            let tiles: Vec<_> = Tile::split(inputs, run, head).collect();
            for tiles in tiles.chunks(TOGETHER) {
                write_tiles(s, inputs, tiles, scratch, outputs);
            }
        }
    }
}

/// Writes the outputs of the queries of some tiles of one run and key-value head.
#[inline(always)]
fn write_tiles<S: Simd, K: Stored>(
    s: S,
    inputs: &Inputs<'_, K>,
    tiles: &[Tile<'_>],
    scratch: &mut Scratch,
    outputs: &Outputs<'_>,
) {
    let Scratch {
        queries,
        rows,
        many,
        ..
    } = scratch;
    many.resize_with(tiles.len().max(many.len()), Queries::default);
    for (tile, state) in tiles.iter().zip(many.iter_mut()) {
        state.begin(s, inputs, tile, queries);
    }
    let hidden: Vec<_> = tiles.iter().map(Tile::hidden).collect();
    for mut piece in tiles[0].pieces(KEYS) {
        for ((tile, hidden), state) in tiles.iter().zip(&hidden).zip(many.iter_mut()) {
            state.score(s, tile, &piece, &inputs.stored, hidden);
            piece.next = 0..0; // asked for
        }
    }
    for piece in tiles[0].pieces(KEYS) {
        let mut values = inputs.stored.value_words(s, &tiles[0], &piece, rows);
        for (tile, state) in tiles.iter().zip(many.iter_mut()) {
            state.add::<S, K>(s, tile, &piece, values);
            values.ahead = 0; // asked for
        }
    }
    for (tile, state) in tiles.iter().zip(many.iter_mut()) {
        write(tile, &mut state.sums, &state.end, outputs);
    }
}

impl Queries {
    /// Takes the queries of a tile.
    #[inline(always)]
    fn begin<S: Simd, K: Stored>(
        &mut self,
        s: S,
        inputs: &Inputs<'_, K>,
        tile: &Tile<'_>,
        memory: &mut Vec<f32>,
    ) {
        let queries = tile.rows::<S, K::Format>(s, inputs.q, inputs.scale, memory);
        tile.columns(queries, &mut self.columns);
        self.scores.resize(tile.num_keys() * QUERIES, 0.0);
        zeroed(&mut self.sums, tile.len() * inputs.heads.dim);
        self.end = End::default();
    }

    /// Computes the scores of some keys.
    #[inline(always)]
    fn score<S: Simd, K: Stored>(
        &mut self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        stored: &K,
        hidden: &Hidden,
    ) {
        let columns = View {
            values: &self.columns,
            stride: QUERIES,
        };
        let scores = piece.of(&mut self.scores);
        stored.score(s, tile, piece, columns, scores);
        hidden.hide(piece, scores);
        raise(s, tile.width::<S>(), scores, &mut self.end.largest);
    }

    /// Adds the values of some keys, weighted. # Shapes: values [words of keys, P].
    #[inline(always)]
    fn add<S: Simd, K: Stored>(
        &mut self,
        s: S,
        tile: &Tile<'_>,
        piece: &Piece,
        values: Columns<'_>,
    ) {
        let weights = piece.of(&mut self.scores);
        exponentiate(s, tile.width::<S>(), weights, &mut self.end);
        tile.add_weighted::<S, K::Element>(s, weights, values, &mut self.sums);
    }
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
