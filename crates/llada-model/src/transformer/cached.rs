//! The forward over a cache. Its rows are dealt out to threads, each of which takes its part through
//! a layer; they meet once per layer, when the keys and values of all rows are in the cache.
//!
//! Few rows of a small model are too little work to divide product by product: handing a product
//! over would cost as much as computing it. A row's result does not depend on the others, so the
//! division changes nothing.

use llada_tensor::{Tensor, embed, map_parallel, num_threads, rms_norm, stack_rows};

use super::attention::project;
use super::layer::layer_finish;
use super::{Context, Input, Model};
use crate::KvCache;

/// Fewest rows of a part: the height of a tile in matrix products.
const PART_ROWS: usize = 8;
/// Most parameters of a layer whose matrices every thread may read for itself: they stay in the
/// cache that a core has alone. Larger products are divided by columns, so that each weight is read once.
const SMALL_LAYER: usize = 1 << 18;

/// Rows `first..first + ids.len()` of the whole input.
struct Part<'a> {
    first: usize,
    input: Input<'a>,
}

pub(super) fn forward(model: &Model, input: &Input<'_>, cache: &mut KvCache) -> Tensor {
    let rows = rows_per_part(model, input.ids.len());
    let firsts = (0..input.ids.len()).step_by(rows);
    let outputs: Vec<_> = firsts
        .clone()
        .map(|first| outputs(input, first, rows))
        .collect();
    let parts: Vec<Part<'_>> = firsts
        .zip(&outputs)
        .map(|(first, outputs)| cut(input, first, rows, outputs))
        .collect();
    let contexts: Vec<_> = parts
        .iter()
        .map(|part| Context::new(model, &part.input))
        .collect();
    let embedding = &model.weights.embedding;
    let mut xs: Vec<Tensor> = parts
        .iter()
        .map(|part| embed(part.input.ids, embedding))
        .collect();
    for layer in 0..model.weights.layers.len() {
        let projected = map_parallel(xs.iter().collect(), |part, x: &Tensor| {
            project(model, layer, x, contexts[part].rows(layer))
        });
        for (part, projected) in parts.iter().zip(&projected) {
            cache.write(layer, part.first, &projected.k, &projected.v);
        }
        let cached = Some(cache.layer(layer));
        xs = map_parallel(
            xs.into_iter().zip(projected).collect(),
            |part, (x, projected)| {
                layer_finish(
                    model,
                    layer,
                    &x,
                    projected,
                    cached,
                    contexts[part].rows(layer),
                )
                .0
            },
        );
    }
    rms_norm(
        &stack_rows(&xs),
        model.weights.norm.values(),
        model.config.rms_norm_eps,
    )
}

fn rows_per_part(model: &Model, rows: usize) -> usize {
    if model.layer_size > SMALL_LAYER {
        return rows.max(1);
    }
    rows.max(1)
        .div_ceil(num_threads())
        .next_multiple_of(PART_ROWS)
}

/// Returns the wanted rows among `rows` rows from `first` on, counted from there.
fn outputs(input: &Input<'_>, first: usize, rows: usize) -> Vec<u32> {
    let wanted = input.outputs.iter().map(|&row| row as usize);
    wanted
        .filter(|row| (first..first + rows).contains(row))
        .map(|row| (row - first) as u32)
        .collect()
}

fn cut<'a>(input: &Input<'a>, first: usize, rows: usize, outputs: &'a [u32]) -> Part<'a> {
    let part = first..(first + rows).min(input.ids.len());
    let input = Input {
        ids: &input.ids[part.clone()],
        positions: &input.positions[part.clone()],
        ranges: &input.ranges[part],
        outputs,
    };
    Part { first, input }
}
