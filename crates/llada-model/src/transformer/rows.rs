//! Which rows the layers of a pass compute, and what those see.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use llada_tensor::{KeyRanges, Rotation, RowGroup, Tensor, gather_rows, scatter_add_rows};

use super::Model;
use super::adapted::Dropout;

/// The rows of a pass as all layers but the last see them, and as the last one does. `K` says which
/// keys they see.
pub(super) struct Context<K> {
    last_layer: usize,
    all: Rows<K>,
    /// What the last layer computes, unless that is all rows.
    last: Option<Rows<K>>,
    /// The wanted rows among those that the last layer computes.
    pub(super) outputs: Selection,
}

/// Rows that a layer computes. Keys and values are always computed for every row, queries and
/// everything after the attention only for the selected ones (`training.md` 11).
pub(super) struct Rows<K> {
    pub(super) selection: Selection,
    /// Keys that the selected rows see.
    pub(super) keys: K,
    pub(super) query_rotation: Arc<Rotation>,
    pub(super) key_rotation: Arc<Rotation>,
    /// Dropout of the selected rows, in training with an adapter.
    pub(super) dropout: Option<Arc<Dropout>>,
    /// That of all rows.
    pub(super) key_dropout: Option<Arc<Dropout>>,
    /// The selected rows block by block; empty unless the model routes whole blocks.
    pub(super) blocks: Vec<Range<usize>>,
}

/// Rows of a matrix.
pub(super) struct Selection {
    num_rows: usize,
    /// Strictly ascending; `None` stands for all.
    chosen: Option<Vec<u32>>,
}

/// Keys that the rows of a pass see.
pub(super) trait VisibleKeys {
    /// Returns those of some rows, ascending.
    fn select(&self, rows: &[u32]) -> Self;

    /// Returns the rows of every diffusion block. Rows of a block see the same keys, and no others
    /// do: a row sees its own block, and nothing of its copy of the text after that.
    fn blocks(&self) -> Vec<Range<usize>>;
}

impl<K: VisibleKeys> Context<K> {
    /// Prepares a pass over rows at `positions` of which those in `outputs` are wanted.
    pub(super) fn new(
        model: &Model,
        positions: &[u32],
        keys: K,
        outputs: &[u32],
        dropout: Option<&Dropout>,
    ) -> Self {
        let rotate = |positions: &[u32]| {
            Arc::new(Rotation::new(positions, &model.inv_freq, model.rope_scale))
        };
        let blocks = match model.routes_blocks() {
            true => keys.blocks(),
            false => Vec::new(),
        };
        let needed = with_their_blocks(outputs, &blocks);
        let rotation = rotate(positions);
        let all_dropout = dropout.map(|dropout| Arc::new(dropout.clone()));
        let last = (needed.len() < positions.len()).then(|| Rows {
            keys: keys.select(&needed),
            query_rotation: rotate(&pick(positions, &needed)),
            key_rotation: rotation.clone(),
            dropout: dropout.map(|dropout| Arc::new(dropout.select(&needed))),
            key_dropout: all_dropout.clone(),
            blocks: blocks_among(&needed, &blocks),
            selection: Selection::new(positions.len(), needed.to_vec()),
        });
        let place = |row: &u32| needed.partition_point(|other| other < row) as u32;
        let places = outputs.iter().map(place).collect();
        Self {
            last_layer: model.weights.layers.len() - 1,
            outputs: Selection::new(needed.len(), places),
            all: Rows {
                selection: Selection::all(positions.len()),
                keys,
                query_rotation: rotation.clone(),
                key_rotation: rotation,
                dropout: all_dropout.clone(),
                key_dropout: all_dropout,
                blocks,
            },
            last,
        }
    }

    pub(super) fn rows(&self, layer: usize) -> &Rows<K> {
        match &self.last {
            Some(last) if layer == self.last_layer => last,
            _ => &self.all,
        }
    }
}

/// Returns the rows of all blocks that contain a wanted row, or the wanted rows if there are no
/// blocks: what routing needs to know of a block takes all of it.
fn with_their_blocks<'a>(wanted: &'a [u32], blocks: &[Range<usize>]) -> Cow<'a, [u32]> {
    if blocks.is_empty() {
        return wanted.into();
    }
    let is_wanted = |block: &&Range<usize>| {
        let first = wanted.partition_point(|&row| (row as usize) < block.start);
        wanted
            .get(first)
            .is_some_and(|&row| (row as usize) < block.end)
    };
    let needed = blocks.iter().filter(is_wanted).cloned().flatten();
    needed.map(|row| row as u32).collect()
}

/// Returns the places of whole blocks in a selection of them.
fn blocks_among(selection: &[u32], blocks: &[Range<usize>]) -> Vec<Range<usize>> {
    let place = |row: usize| selection.partition_point(|&other| (other as usize) < row);
    let places = blocks
        .iter()
        .map(|block| place(block.start)..place(block.end));
    places.filter(|places| !places.is_empty()).collect()
}

impl Selection {
    fn all(num_rows: usize) -> Self {
        Self {
            num_rows,
            chosen: None,
        }
    }

    fn new(num_rows: usize, chosen: Vec<u32>) -> Self {
        let chosen = (chosen.len() < num_rows).then_some(chosen);
        Self { num_rows, chosen }
    }

    /// Returns the selected rows of `x`, or `x` itself.
    pub(super) fn select<'t>(&self, x: &'t Tensor) -> Cow<'t, Tensor> {
        match &self.chosen {
            Some(rows) => Cow::Owned(gather_rows(x, rows)),
            None => Cow::Borrowed(x),
        }
    }

    /// Puts the gradient of the selected rows back among all rows.
    pub(super) fn unselect(&self, dx: Tensor) -> Tensor {
        let Some(rows) = &self.chosen else {
            return dx;
        };
        let [_, width] = dx.dims2();
        let mut all = Tensor::zeros(&[self.num_rows, width]);
        scatter_add_rows(&mut all, rows, &dx);
        all
    }
}

impl VisibleKeys for Cow<'_, [KeyRanges]> {
    fn select(&self, rows: &[u32]) -> Self {
        pick(self, rows).into()
    }

    fn blocks(&self) -> Vec<Range<usize>> {
        equal_runs(self, 0)
    }
}

impl VisibleKeys for Cow<'_, [RowGroup]> {
    fn select(&self, rows: &[u32]) -> Self {
        let (mut first, mut selected) = (0, Vec::with_capacity(self.len()));
        for group in self.iter() {
            let len = rows[first..].partition_point(|&row| (row as usize) < group.rows.end);
            let places = rows[first..first + len].iter();
            let visible = places.map(|&row| group.visible[row as usize - group.rows.start]);
            if len > 0 {
                selected.push(RowGroup {
                    rows: first..first + len,
                    keys: group.keys.clone(),
                    visible: visible.collect(),
                });
            }
            first += len;
        }
        selected.into()
    }

    fn blocks(&self) -> Vec<Range<usize>> {
        self.iter()
            .flat_map(|group| equal_runs(&group.visible, group.rows.start))
            .collect()
    }
}

fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
    rows.iter().map(|&row| values[row as usize]).collect()
}

/// Returns the ranges of equal neighbours, counted from `first`.
fn equal_runs<T: PartialEq>(values: &[T], first: usize) -> Vec<Range<usize>> {
    let runs = values.chunk_by(|a, b| a == b);
    runs.scan(first, |next, run| {
        let start = *next;
        *next += run.len();
        Some(start..*next)
    })
    .collect()
}
