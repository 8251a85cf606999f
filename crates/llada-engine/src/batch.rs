//! The rows of one forward: groups of several requests, in buffers that are used again.

use std::ops::Range;

use llada_model::CachedInput;
use llada_tensor::RowGroup;

use crate::pages::PageTable;

/// Owned counterpart of [`CachedInput`].
#[derive(Debug, Default)]
pub(crate) struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    groups: Vec<RowGroup>,
    outputs: Vec<u32>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.slots.clear();
        self.groups.clear();
        self.outputs.clear();
    }

    /// Adds the rows at `positions` of a text; each sees its own block and all before, those from
    /// `together` on see each other. `outputs` are the positions among them whose hidden states are
    /// wanted, ascending.
    ///
    /// `positions.start` lies at the start of a block.
    pub(crate) fn push(
        &mut self,
        tokens: &[u32],
        table: &PageTable,
        positions: Range<usize>,
        together: usize,
        outputs: &[usize],
    ) {
        if positions.is_empty() {
            return;
        }
        let (first, block_size) = (self.ids.len(), table.block_size());
        let row = |position: &usize| (first + position - positions.start) as u32;
        self.outputs.extend(outputs.iter().map(row));
        self.ids.extend(&tokens[positions.clone()]);
        self.positions
            .extend(positions.clone().map(|position| position as u32));
        self.slots
            .extend(positions.clone().map(|position| table.row(position) as u32));
        let visible = |position| match position < together {
            true => block_size.rows(block_size.of(position), positions.end).end as u32,
            false => positions.end as u32,
        };
        self.groups.push(RowGroup {
            rows: first..first + positions.len(),
            keys: table.rows(positions.end),
            visible: positions.clone().map(visible).collect(),
        });
    }

    pub(crate) fn num_rows(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn input(&self) -> CachedInput<'_> {
        CachedInput {
            ids: &self.ids,
            positions: &self.positions,
            slots: &self.slots,
            groups: &self.groups,
            outputs: &self.outputs,
        }
    }
}
