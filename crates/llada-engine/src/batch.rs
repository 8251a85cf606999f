//! The rows of one forward, in buffers that are used again.

use std::ops::Range;

use llada_diffusion::{BlockSize, prefill_ranges};
use llada_model::Input;
use llada_tensor::KeyRanges;

/// Owned counterpart of [`Input`].
#[derive(Debug, Default)]
pub(crate) struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    ranges: Vec<KeyRanges>,
    outputs: Vec<u32>,
}

impl Batch {
    /// Returns the rows at `positions` of a text that follows a cache of everything before them; each
    /// sees its own block and all before. `wanted` are the positions whose hidden states are wanted,
    /// ascending; those outside the rows are passed over.
    ///
    /// `positions.start` lies at the start of a block.
    pub(crate) fn rows(
        &mut self,
        tokens: &[u32],
        positions: Range<usize>,
        block_size: BlockSize,
        wanted: &[usize],
    ) -> Input<'_> {
        let start = positions.start;
        let wanted = wanted.iter().filter(|row| positions.contains(row));
        refill(&mut self.outputs, wanted.map(|row| (row - start) as u32));
        refill(&mut self.ids, tokens[positions.clone()].iter().copied());
        refill(
            &mut self.ranges,
            prefill_ranges(start, positions.len(), block_size),
        );
        refill(
            &mut self.positions,
            positions.map(|position| position as u32),
        );
        Input {
            ids: &self.ids,
            positions: &self.positions,
            ranges: &self.ranges,
            outputs: &self.outputs,
        }
    }
}

fn refill<T>(buffer: &mut Vec<T>, values: impl IntoIterator<Item = T>) {
    buffer.clear();
    buffer.extend(values);
}
