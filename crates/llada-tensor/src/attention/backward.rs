//! The backward pass of one segment and key-value head.
//!
//! With weights p = e^(score - lse), and D = sum(dout * out) for a query:
//! `dv = p^T dout`, `dscore = p * (dout v^T - D)`, `dq = scale * dscore k`, `dk = dscore^T (scale * q)`.

use super::Inputs;
use super::pack::{pack_columns, pack_queries, pack_rows, padded, zeroed};
use super::products::dot;
use super::segments::Segment;
use super::tile::{Tile, max_rows};
use crate::Isa;
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};

/// What the forward pass returned, and the gradient of its output.
#[derive(Clone, Copy)]
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
    key_rows: Vec<f32>,
    key_columns: Vec<f32>,
    value_columns: Vec<f32>,
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
    queries: Vec<f32>,
    outs: Vec<f32>,
    douts: Vec<f32>,
    weights: Vec<f32>,
    dscores: Vec<f32>,
    dqueries: Vec<f32>,
}

/// Writes the gradients of the segment's keys in head `head` and of the queries that use it.
pub(super) fn run(
    isa: Isa,
    inputs: Inputs<'_>,
    saved: Saved<'_>,
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

struct Backward<'a> {
    inputs: Inputs<'a>,
    saved: Saved<'a>,
    segment: &'a Segment,
    head: usize,
    scratch: &'a mut Scratch,
    grads: &'a Grads<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            inputs,
            saved,
            segment,
            head,
            scratch,
            grads,
        } = self;
        let dim = inputs.heads.dim;
        let stride = padded::<S>(dim);
        let keys = pack_rows(s, inputs.keys, segment, head, &mut scratch.key_rows);
        let key_columns = pack_columns(s, inputs.keys, segment, head, &mut scratch.key_columns);
        let value_columns =
            pack_columns(s, inputs.values, segment, head, &mut scratch.value_columns);
        let dkeys = zeroed(&mut scratch.dkeys, segment.num_keys * stride);
        let dvalues = zeroed(&mut scratch.dvalues, segment.num_keys * stride);
        for rows in segment.tiles(max_rows(inputs.heads)) {
            let tile = Tile::new(s, rows, inputs.heads, head);
            let queries = pack_queries(s, inputs.q, &tile, dim, inputs.scale, &mut scratch.queries);
            let outs = pack_queries(s, saved.out, &tile, dim, 1.0, &mut scratch.outs);
            let douts = pack_queries(s, saved.dout, &tile, dim, 1.0, &mut scratch.douts);
            let weights = zeroed(&mut scratch.weights, tile.num_queries() * tile.width);
            let dscores = zeroed(&mut scratch.dscores, tile.num_queries() * tile.width);
            tile.add_scores(s, dim, queries, key_columns, weights);
            tile.add_scores(s, dim, douts, value_columns, dscores);
            for query in 0..tile.num_queries() {
                let (row, columns) = (query * stride, query * tile.width);
                let weights = &mut weights[columns..][..tile.width];
                let dscores = &mut dscores[columns..][..tile.width];
                tile.hide(query, weights);
                let drift = dot(
                    s,
                    &outs.values[row..][..stride],
                    &douts.values[row..][..stride],
                );
                differentiate(s, weights, dscores, saved.lse[tile.query(query)], drift);
            }
            tile.add_transposed(s, weights, douts, dvalues);
            tile.add_transposed(s, dscores, queries, dkeys);
            let dqueries = zeroed(&mut scratch.dqueries, tile.num_queries() * stride);
            tile.add_weighted(s, dscores, keys, dqueries);
            for (query, dquery) in dqueries.chunks_exact_mut(stride).enumerate() {
                dquery.iter_mut().for_each(|dq| *dq *= inputs.scale);
                // SAFETY: this task alone handles the query.
                unsafe { grads.q.write(tile.query(query) * dim, &dquery[..dim]) };
            }
        }
        let packed = dkeys.chunks_exact(stride).zip(dvalues.chunks_exact(stride));
        for (key, (dkey, dvalue)) in segment.keys().zip(packed) {
            let start = inputs.keys.offset(key, head);
            // SAFETY: this task alone handles this head of the key: no other segment has the key.
            unsafe {
                grads.keys.write(start, &dkey[..dim]);
                grads.values.write(start, &dvalue[..dim]);
            }
        }
    }
}

/// Turns scores into weights, and the gradients of the weights into those of the scores.
/// The length is a multiple of the vector length.
#[inline(always)]
fn differentiate<S: Simd>(s: S, scores: &mut [f32], dweights: &mut [f32], lse: f32, drift: f32) {
    let (lse, drift) = (s.splat(lse), s.splat(drift));
    let vectors = scores
        .chunks_exact_mut(S::LANES)
        .zip(dweights.chunks_exact_mut(S::LANES));
    for (scores, dweights) in vectors {
        let weight = s.exp(s.sub(s.load(scores), lse));
        s.store(weight, scores);
        s.store(s.mul(weight, s.sub(s.load(dweights), drift)), dweights);
    }
}
