//! The forward pass of one segment and key-value head.

use super::Inputs;
use super::pack::{pack_columns, pack_queries, pack_rows, padded, zeroed};
use super::segments::Segment;
use super::tile::{Tile, max_rows};
use crate::Isa;
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};

/// Memory that tasks of a thread reuse.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    scores: Vec<f32>,
    totals: Vec<f32>,
    sums: Vec<f32>,
}

/// Writes the output and the log-sum-exp of the query heads that use key-value head `head`.
pub(super) fn run(
    isa: Isa,
    inputs: Inputs<'_>,
    segment: &Segment,
    head: usize,
    scratch: &mut Scratch,
    out: &Shared<'_>,
    lse: &Shared<'_>,
) {
    dispatch(
        isa,
        Forward {
            inputs,
            segment,
            head,
            scratch,
            out,
            lse,
        },
    );
}

struct Forward<'a> {
    inputs: Inputs<'a>,
    segment: &'a Segment,
    head: usize,
    scratch: &'a mut Scratch,
    out: &'a Shared<'a>,
    lse: &'a Shared<'a>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            inputs,
            segment,
            head,
            scratch,
            out,
            lse,
        } = self;
        let (heads, dim) = (inputs.heads, inputs.heads.dim);
        let stride = padded::<S>(dim);
        let keys = pack_columns(s, inputs.keys, segment, head, &mut scratch.keys);
        let values = pack_rows(s, inputs.values, segment, head, &mut scratch.values);
        for rows in segment.tiles(max_rows(heads)) {
            let tile = Tile::new(s, rows, heads, head);
            let queries = pack_queries(s, inputs.q, &tile, dim, inputs.scale, &mut scratch.queries);
            let scores = zeroed(&mut scratch.scores, tile.num_queries() * tile.width);
            tile.add_scores(s, dim, queries, keys, scores);
            let totals = zeroed(&mut scratch.totals, tile.num_queries());
            for (query, total) in totals.iter_mut().enumerate() {
                let scores = &mut scores[query * tile.width..][..tile.width];
                tile.hide(query, scores);
                let max = exponentiate(s, scores, total);
                // SAFETY: this task alone handles the query.
                unsafe { lse.write(tile.query(query), &[max + total.ln()]) };
            }
            let sums = zeroed(&mut scratch.sums, tile.num_queries() * stride);
            tile.add_weighted(s, scores, values, sums);
            for (query, total) in totals.iter().enumerate() {
                let sums = &mut sums[query * stride..][..dim];
                sums.iter_mut().for_each(|sum| *sum /= total);
                // SAFETY: this task alone handles the query.
                unsafe { out.write(tile.query(query) * dim, sums) };
            }
        }
    }
}

/// Replaces scores by e^(score - max), stores their sum in `total` and returns the largest score.
/// The length is a multiple of the vector length.
#[inline(always)]
fn exponentiate<S: Simd>(s: S, scores: &mut [f32], total: &mut f32) -> f32 {
    let mut max = s.splat(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(S::LANES) {
        max = s.max(max, s.load(scores));
    }
    let max = s.reduce_max(max);
    let (shift, mut sum) = (s.splat(max), s.splat(0.0));
    for scores in scores.chunks_exact_mut(S::LANES) {
        let weight = s.exp(s.sub(s.load(scores), shift));
        sum = s.add(sum, weight);
        s.store(weight, scores);
    }
    *total = s.reduce_add(sum);
    max
}
