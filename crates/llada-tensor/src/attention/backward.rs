//! The backward pass of one segment and key-value head.
//!
//! With weights p = e^(score - lse), and D = sum(dout * out) for a query:
//! `dv = p^T dout`, `dscore = p * (dout v^T - D)`, `dq = scale * dscore k`, `dk = dscore^T (scale * q)`.
//!
//! With keys and values in bf16 the operands of all five products are rounded to it; gradients are `f32`.

use super::Inputs;
use super::element::Element;
use super::products::dot;
use super::runs::Segment;
use super::stored::Rows;
use super::tile::{KEYS, Lanes, QUERIES, Tile, zeroed};
use crate::Isa;
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};

/// What the forward pass returned, and the gradient of its output.
pub(super) struct Saved<'a> {
    /// [N, H*P].
    pub(super) out: &'a [f32],
    /// [N, H].
    pub(super) lse: &'a [f32],
    /// [N, H*P].
    pub(super) dout: &'a [f32],
}

/// The gradients to write.
pub(super) struct Grads<'a> {
    /// [N, H*P].
    pub(super) q: Shared<'a>,
    /// [M, G*P].
    pub(super) keys: Shared<'a>,
    /// [M, G*P].
    pub(super) values: Shared<'a>,
}

/// Memory that tasks of a thread reuse.
#[derive(Default)]
pub(super) struct Scratch {
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
    queries: Vec<f32>,
    query_columns: Vec<f32>,
    douts: Vec<f32>,
    dout_columns: Vec<f32>,
    weights: Vec<f32>,
    dscores: Vec<f32>,
    /// Operands as they are multiplied.
    words: Vec<f32>,
    rows: Vec<f32>,
    dqueries: Vec<f32>,
}

/// Writes the gradients of the segment's keys in head `head` and of the queries that use it.
pub(super) fn run<E: Element>(
    isa: Isa,
    inputs: &Inputs<'_, Rows<'_, E>>,
    saved: &Saved<'_>,
    segment: &Segment,
    head: usize,
    scratch: &mut Scratch,
    grads: &Grads<'_>,
) {
    dispatch(
        isa,
        Backward {
            inputs,
            saved,
            segment,
            head,
            scratch,
            grads,
        },
    );
}

struct Backward<'a, E> {
    inputs: &'a Inputs<'a, Rows<'a, E>>,
    saved: &'a Saved<'a>,
    segment: &'a Segment,
    head: usize,
    scratch: &'a mut Scratch,
    grads: &'a Grads<'a>,
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let keys = self.segment.extent();
        zeroed(&mut self.scratch.dkeys, keys.len() * self.inputs.heads.dim);
        zeroed(
            &mut self.scratch.dvalues,
            keys.len() * self.inputs.heads.dim,
        );
        for run in &self.segment.runs {
            for tile in Tile::split(self.inputs, run, self.head) {
                self.add_tile(s, &tile, keys.start);
            }
        }
        self.write_key_grads(keys.start);
    }
}

impl<E: Element> Backward<'_, E> {
    /// Writes the gradients of a tile's queries, and adds what they contribute to those of the keys.
    #[inline(always)]
    fn add_tile<S: Simd>(&mut self, s: S, tile: &Tile<'_>, first_key: usize) {
        let Self {
            inputs,
            saved,
            scratch,
            ..
        } = self;
        let Rows { keys, values } = inputs.stored;
        let (keys, values) = (tile.source(keys), tile.source(values));
        let Scratch { words, rows, .. } = scratch;
        let queries = tile.rows::<S, E::Format>(s, inputs.q, inputs.scale, words);
        let columns = tile.columns(queries, &mut scratch.query_columns);
        let weights = tile.scores(s, keys, columns, &mut scratch.weights);
        tile.hide(weights);
        let douts = tile.rows::<S, E::Format>(s, saved.dout, 1.0, words);
        let columns = tile.columns(douts, &mut scratch.dout_columns);
        let dscores = tile.scores(s, values, columns, &mut scratch.dscores);
        let (lse, drift) = (
            tile.lanes(saved.lse),
            saved.drift(s, tile, inputs.heads.dim),
        );
        differentiate(s, tile.width::<S>(), weights, dscores, &lse, &drift);
        let queries = tile.across::<S, E::Format>(s, inputs.q, inputs.scale, &mut scratch.queries);
        let douts = tile.across::<S, E::Format>(s, saved.dout, 1.0, &mut scratch.douts);
        let weights = tile.along::<S, E::Format>(s, weights, words);
        tile.add_weighted_queries::<S, E::Format>(
            s,
            weights,
            douts,
            &mut scratch.dvalues,
            first_key,
        );
        let words = tile.along::<S, E::Format>(s, dscores, words);
        tile.add_weighted_queries::<S, E::Format>(s, words, queries, &mut scratch.dkeys, first_key);
        let dqueries = zeroed(&mut scratch.dqueries, tile.len() * inputs.heads.dim);
        for piece in tile.pieces(KEYS) {
            let keys = E::across_keys(s, keys, &piece, rows);
            tile.add_weighted::<S, E>(s, piece.of(dscores), keys.into(), dqueries);
        }
        for (dquery, index) in dqueries
            .chunks_exact_mut(inputs.heads.dim)
            .zip(tile.indices())
        {
            dquery.iter_mut().for_each(|dq| *dq *= inputs.scale);
            // SAFETY: this task alone handles the query.
            unsafe { self.grads.q.write(index * inputs.heads.dim, dquery) };
        }
    }

    fn write_key_grads(&self, first_key: usize) {
        let heads = self.inputs.heads;
        let dim = heads.dim;
        for key in self.segment.spans.iter().cloned().flatten() {
            let row = (key - first_key) * dim..(key - first_key + 1) * dim;
            let start = heads.offset(key, self.head);
            // SAFETY: this task alone handles this head of the key: no other segment has the key.
            unsafe {
                self.grads
                    .keys
                    .write(start, &self.scratch.dkeys[row.clone()]);
                self.grads.values.write(start, &self.scratch.dvalues[row]);
            }
        }
    }
}

impl Saved<'_> {
    /// Returns D of every query.
    #[inline(always)]
    fn drift<S: Simd>(&self, s: S, tile: &Tile<'_>, dim: usize) -> Lanes {
        let mut drift = [0.0; QUERIES];
        for (drift, index) in drift.iter_mut().zip(tile.indices()) {
            *drift = dot(
                s,
                &self.out[index * dim..][..dim],
                &self.dout[index * dim..][..dim],
            );
        }
        drift
    }
}

/// Turns scores into weights, and the gradients of the weights into those of the scores.
/// # Shapes: scores, dweights [keys, QUERIES], of which `width` columns are computed.
#[inline(always)]
fn differentiate<S: Simd>(
    s: S,
    width: usize,
    scores: &mut [f32],
    dweights: &mut [f32],
    lse: &Lanes,
    drift: &Lanes,
) {
    for lane in (0..width).step_by(S::LANES) {
        let (lse, drift) = (s.load(&lse[lane..]), s.load(&drift[lane..]));
        let keys = scores
            .chunks_exact_mut(QUERIES)
            .zip(dweights.chunks_exact_mut(QUERIES));
        for (scores, dweights) in keys {
            let weight = s.exp(s.sub(s.load(&scores[lane..]), lse));
            let dscore = s.mul(weight, s.sub(s.load(&dweights[lane..]), drift));
            s.store(weight, &mut scores[lane..]);
            s.store(dscore, &mut dweights[lane..]);
        }
    }
}
