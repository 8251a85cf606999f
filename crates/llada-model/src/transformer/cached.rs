//! The forward of decoding, over a store of keys and values. Its rows are dealt out to threads, each
//! of which takes its part through a layer; they meet once per layer, when the keys and values of all
//! rows are in the store.
//!
//! Few rows of a small model are too little work to divide product by product: handing a product
//! over would cost as much as computing it. A row's result does not depend on the others, so the
//! division changes nothing.

use std::borrow::Cow;
use std::ops::Range;

use llada_tensor::{RowGroup, Tensor, embed, keep_awake, map_parallel, num_threads, stack_rows};

use super::Model;
use super::attention::{Projected, attend_paged, project};
use super::layer::layer_finish;
use super::rows::{Context, VisibleKeys};
use crate::{KvStore, Mlp};

/// Fewest rows of a part: the height of a tile in matrix products.
const PART_ROWS: usize = 8;
/// Most parameters of a layer whose matrices every thread may read for itself: they stay in the
/// cache that a core has alone. Larger products are divided by columns, so that each weight is read once.
const SMALL_LAYER: usize = 1 << 18;

/// The rows of one forward pass over a [`KvStore`], N of them, of any number of texts.
#[derive(Clone, Copy, Debug)]
pub struct CachedInput<'a> {
    /// Token ids, N.
    pub ids: &'a [u32],
    /// Positions from the start of the text, N.
    pub positions: &'a [u32],
    /// Rows of the store that receive the keys and values of each row, N.
    pub slots: &'a [u32],
    /// The rows text by text, and which rows of the store they see in which order; their own slots
    /// are among these. Rows of one diffusion block see equally many keys.
    pub groups: &'a [RowGroup],
    /// Rows whose hidden states are wanted, strictly ascending. The last layer computes nothing but
    /// keys and values of the others.
    pub outputs: &'a [u32],
}

/// Output of [`Model::forward_cached`].
#[derive(Clone, Debug, PartialEq)]
pub struct CachedOutput {
    /// Hidden states of the output rows after the final norm, [outputs, D].
    pub hidden: Tensor,
    /// Distinct experts that some row used, per layer that has experts.
    pub experts: Vec<u32>,
}

/// Consecutive rows that one thread takes through a layer.
struct Part<'a> {
    ids: &'a [u32],
    slots: &'a [u32],
    context: Context<Cow<'a, [RowGroup]>>,
}

/// # Panics
/// See [`Model::forward_cached`].
pub(super) fn forward(model: &Model, input: &CachedInput<'_>, store: &mut KvStore) -> CachedOutput {
    check(input);
    match model.layer_size > SMALL_LAYER {
        true => keep_awake(|| through_layers(model, input, store)),
        false => through_layers(model, input, store),
    }
}

fn through_layers(model: &Model, input: &CachedInput<'_>, store: &mut KvStore) -> CachedOutput {
    let parts = deal(model, input);
    let embedding = &model.weights.embedding;
    let mut xs: Vec<Tensor> = parts
        .iter()
        .map(|part| embed(part.ids, embedding))
        .collect();
    let mut experts = Vec::new();
    for (index, layer) in model.weights.layers.iter().enumerate() {
        let projected = map_parallel(xs.iter().collect(), |part, x: &Tensor| {
            project(model, index, x, parts[part].context.rows(index))
        });
        for (part, projected) in parts.iter().zip(&projected) {
            store.write(index, part.slots, &projected.k, &projected.v);
        }
        let stored = store.layer(index);
        let work = xs.into_iter().zip(projected).collect();
        let finished = map_parallel(work, |part, (x, projected): (Tensor, Projected)| {
            let rows = parts[part].context.rows(index);
            let attended = attend_paged(&model.config, &projected, stored, &rows.keys);
            layer_finish(model, index, &x, &attended, rows)
        });
        if let Mlp::Moe(moe) = &layer.mlp {
            let used = finished.iter().flat_map(|(_, saved)| saved.experts());
            experts.push(num_distinct(used, moe.experts.len()));
        }
        xs = finished.into_iter().map(|(y, _)| y).collect();
    }
    CachedOutput {
        hidden: hidden(model, &parts, &xs),
        experts,
    }
}

fn check(input: &CachedInput<'_>) {
    let num_rows = input.ids.len();
    assert_ne!(num_rows, 0, "a forward of no rows");
    assert_eq!(num_rows, input.positions.len(), "one position per row");
    assert_eq!(num_rows, input.slots.len(), "one slot per row");
    let last = input.outputs.last().map_or(0, |&row| row as usize);
    assert!(last < num_rows, "output row {last} of {num_rows}");
}

/// Divides the rows into parts; blocks that are routed together stay together.
fn deal<'a>(model: &Model, input: &CachedInput<'a>) -> Vec<Part<'a>> {
    let (groups, num_rows) = (Cow::from(input.groups), input.ids.len());
    let smallest = match model.routes_blocks() {
        true => groups.blocks(),
        false => (0..num_rows).map(|row| row..row + 1).collect(),
    };
    let wanted_rows = rows_per_part(model, num_rows);
    let mut parts: Vec<Range<usize>> = Vec::new();
    for rows in smallest {
        match parts.last_mut() {
            Some(part) if part.len() < wanted_rows => part.end = rows.end,
            _ => parts.push(rows),
        }
    }
    parts
        .into_iter()
        .map(|rows| Part::new(model, input, &groups, rows))
        .collect()
}

fn rows_per_part(model: &Model, rows: usize) -> usize {
    if model.layer_size > SMALL_LAYER {
        return rows;
    }
    rows.div_ceil(num_threads()).next_multiple_of(PART_ROWS)
}

impl<'a> Part<'a> {
    fn new(
        model: &Model,
        input: &CachedInput<'a>,
        groups: &Cow<'a, [RowGroup]>,
        rows: Range<usize>,
    ) -> Self {
        let ids: Vec<u32> = rows.clone().map(|row| row as u32).collect();
        let outputs = input.outputs.iter().map(|&row| row as usize);
        let outputs: Vec<u32> = outputs
            .filter(|row| rows.contains(row))
            .map(|row| (row - rows.start) as u32)
            .collect();
        let positions = &input.positions[rows.clone()];
        Self {
            ids: &input.ids[rows.clone()],
            slots: &input.slots[rows],
            context: Context::new(model, positions, groups.select(&ids), &outputs, None),
        }
    }
}

fn num_distinct<'a>(experts: impl Iterator<Item = &'a u32>, num_experts: usize) -> u32 {
    let mut is_used = vec![false; num_experts];
    for &expert in experts {
        is_used[expert as usize] = true;
    }
    is_used.into_iter().map(u32::from).sum()
}

/// Returns the wanted rows of all parts after the final norm.
fn hidden(model: &Model, parts: &[Part<'_>], xs: &[Tensor]) -> Tensor {
    let wanted: Vec<Tensor> = parts
        .iter()
        .zip(xs)
        .map(|(part, x)| part.context.outputs.select(x).into_owned())
        .collect();
    model.final_norm(&stack_rows(&wanted))
}
