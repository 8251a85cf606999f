//! The forward pass of one run and key-value head.

use super::Inputs;
use super::runs::Run;
use super::tile::{Lanes, QUERIES, Tile, zeroed};
use crate::Isa;
use crate::parallel::Shared;
use crate::simd::{Kernel, Simd, dispatch};

/// Memory that tasks of a thread reuse.
#[derive(Default)]
pub(super) struct Scratch {
    queries: Vec<f32>,
    columns: Vec<f32>,
    rows: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

/// What to write.
pub(super) struct Outputs<'a> {
    /// [N, H*P].
    pub(super) out: Shared<'a>,
    /// [N, H].
    pub(super) lse: Shared<'a>,
}

/// Writes the outputs of the run's queries that use key-value head `head`.
pub(super) fn run(
    isa: Isa,
    inputs: &Inputs<'_>,
    run: &Run,
    head: usize,
    scratch: &mut Scratch,
    outputs: &Outputs<'_>,
) {
    dispatch(
        isa,
        Forward {
            inputs,
            run,
            head,
            scratch,
            outputs,
        },
    );
}

struct Forward<'a> {
    inputs: &'a Inputs<'a>,
    run: &'a Run,
    head: usize,
    scratch: &'a mut Scratch,
    outputs: &'a Outputs<'a>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            inputs,
            run,
            head,
            scratch,
            outputs,
        } = self;
        let dim = inputs.heads.dim;
        for tile in Tile::split(inputs, run, head) {
            let queries = tile.rows(inputs.q, inputs.scale, &mut scratch.queries);
            let columns = tile.columns(queries, &mut scratch.columns);
            let (keys, rows) = (inputs.keys(head), &mut scratch.rows);
            let scores = tile.scores(s, keys, columns, rows, &mut scratch.scores);
            tile.hide(scores);
            let (lse, totals) = exponentiate(s, tile.width::<S>(), scores);
            let sums = zeroed(&mut scratch.sums, tile.len() * dim);
            tile.add_weighted_keys(s, scores, inputs.values(head), rows, sums);
            for (query, index) in tile.indices().enumerate() {
                let out = &mut sums[query * dim..][..dim];
                out.iter_mut().for_each(|sum| *sum /= totals[query]);
                // SAFETY: this task alone handles the query.
                unsafe {
                    outputs.out.write(index * dim, out);
                    outputs.lse.write(index, &lse[query..=query]);
                }
            }
        }
    }
}

/// Replaces scores by e^(score - max) and returns their log-sum-exps and the sums of the new values.
/// # Shapes: scores [keys, QUERIES], of which `width` columns are computed.
#[inline(always)]
fn exponentiate<S: Simd>(s: S, width: usize, scores: &mut [f32]) -> (Lanes, Lanes) {
    let (mut lse, mut totals) = ([0.0; QUERIES], [0.0; QUERIES]);
    for lane in (0..width).step_by(S::LANES) {
        let mut max = s.splat(f32::NEG_INFINITY);
        for scores in scores.chunks_exact(QUERIES) {
            max = s.max(max, s.load(&scores[lane..]));
        }
        let mut total = s.splat(0.0);
        for scores in scores.chunks_exact_mut(QUERIES) {
            let weight = s.exp(s.sub(s.load(&scores[lane..]), max));
            total = s.add(total, weight);
            s.store(weight, &mut scores[lane..]);
        }
        s.store(max, &mut lse[lane..]);
        s.store(total, &mut totals[lane..]);
    }
    for (lse, total) in lse.iter_mut().zip(totals) {
        *lse += total.ln();
    }
    (lse, totals)
}
