//! The rows of a training batch: which to compute, what each sees, what each predicts.
//!
//! A document contributes its clean rows in order, then its noisy blocks in order, copy by copy:
//!
//! ```text
//! [ c0 c1 c2 c3 | n2 n3 ][ c0 c1 ... ]        documents stand side by side, nothing is padded
//!   clean rows    noisy    next document
//! ```
//!
//! **Elision.** Much of the doubled input `[noisy ; clean]` is computed for nobody. A noisy block
//! without a loss row is seen by no other row. A clean block is seen by strictly later noisy blocks
//! only, so the clean blocks from the last kept noisy block on are useless too. Dropping both leaves
//! loss and gradients as they are. When one block covers the document the whole clean half goes,
//! and what is left is full-sequence diffusion (Eq. 2): the same code.
//!
//! **Shifted labels** ([`crate::alignment`]) move the first position of a block to the clean row
//! before it. A noisy block where only the first position is masked is then not needed at all, but
//! the clean block before it is. With blocks of one token nothing noisy is left: the batch is the
//! autoregressive parent's. Position 0 is never predicted; it has no loss row, and callers leave it
//! out of denominators ([`crate::LabelAlignment::restrict`]).
//!
//! **Copies with a text of their own.** In decoding an answer ends with its turn: the rest of its last
//! block holds end-of-text, not what the user said next. So each copy brings its own text
//! ([`NoisyCopy`]): the document's up to the end of its turn, and then the filling. The clean rows keep
//! the true text; clean blocks before the turn's last one are the same in both.

use std::ops::Range;

use crate::BlockSize;
use crate::alignment::{LabelAlignment, Predictor};
use crate::group::Grouping;
use crate::visibility::{KeyRanges, Row, index, key_ranges};

/// A document with its noise.
#[derive(Clone, Copy, Debug)]
pub struct NoisyDocument<'a> {
    /// The text, `[L]`.
    pub clean_ids: &'a [u32],
    /// The noisy copies.
    pub copies: &'a [NoisyCopy<'a>],
    /// Tokens per block.
    pub block_size: BlockSize,
    /// Blocks that are denoised at the same time.
    pub grouping: Grouping,
}

/// A noisy copy of a document.
#[derive(Clone, Copy, Debug)]
pub struct NoisyCopy<'a> {
    /// The right tokens, `[M]`: the document's, but for what follows the end of a turn in its last block
    /// and in one block more.
    pub ids: &'a [u32],
    /// Which positions are masked, `[M]`.
    pub masked: &'a [bool],
}

/// Whether rows that cannot change the loss are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Elision {
    /// Only needed rows are computed.
    #[default]
    On,
    /// All of `[clean ; noisy]` is computed: the slow way, to compare with.
    Off,
}

/// A prediction that is scored: row `row` of the batch is to predict `target`.
///
/// A clean row may be scored several times, once per copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRow {
    /// Row of the batch whose output predicts.
    pub row: u32,
    /// The right token.
    pub target: u32,
    /// Document of the predicted token.
    pub doc: u32,
    /// Position of the predicted token in its document.
    pub position: u32,
    /// Noisy copy in which the token is masked.
    pub copy: u32,
}

/// The rows of one forward, of any number of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainRows {
    /// Input tokens, `[N]`.
    pub ids: Vec<u32>,
    /// Positions within the documents, `[N]`.
    pub positions: Vec<u32>,
    /// Rows that each row sees, as rows of this batch, `[N]`.
    pub ranges: Vec<KeyRanges>,
    /// Where each row comes from, `[N]`.
    pub rows: Vec<Row>,
    /// What is scored, by document, copy and position.
    pub loss_rows: Vec<LossRow>,
}

impl TrainRows {
    /// Returns a batch without rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of rows, N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds a document as clean rows and noisy blocks (Eq. 1, 2 and 5). `doc` must be new to the batch.
    ///
    /// With [`Elision::On`] a document without a masked position adds no rows.
    ///
    /// # Panics
    /// If a copy has not one mask per token, or scores a block that starts after the document's end.
    pub fn push_diffusion(
        &mut self,
        doc: u32,
        document: &NoisyDocument<'_>,
        mask_token_id: u32,
        alignment: LabelAlignment,
        elision: Elision,
    ) {
        let &NoisyDocument {
            clean_ids,
            copies,
            block_size,
            grouping,
        } = document;
        assert!(
            copies
                .iter()
                .all(|copy| copy.ids.len() == copy.masked.len()),
            "a mask per token"
        );
        let base = self.len();
        let clean_len = needed_clean_len(document, alignment, elision);
        self.push_clean(doc, &clean_ids[..clean_len], block_size);
        for (number, &copy) in copies.iter().enumerate() {
            let noisy = PlacedCopy {
                doc,
                number,
                base,
                copy,
                block_size,
                grouping,
                alignment,
            };
            for block in 0..block_size.count(copy.ids.len()) {
                let first_row = self.len();
                if elision == Elision::Off || noisy.needs(block) {
                    self.push_noisy_block(&noisy, block, mask_token_id);
                }
                self.loss_rows.extend(noisy.loss_rows(block, first_row));
            }
        }
    }

    /// Replaces the input token of every noisy row from row `first` on.
    pub fn rewrite_noisy(&mut self, first: usize, token: impl Fn(&Row) -> u32) {
        for (id, row) in self.ids.iter_mut().zip(&self.rows).skip(first) {
            if !row.clean {
                *id = token(row);
            }
        }
    }

    /// Adds a document as the autoregressive parent sees it: clean causal rows, each predicting the
    /// next token. `doc` must be new to the batch.
    pub fn push_causal(&mut self, doc: u32, ids: &[u32]) {
        let base = self.len();
        self.push_clean(doc, ids, BlockSize::ONE);
        self.loss_rows.extend(
            ids.iter()
                .enumerate()
                .skip(1)
                .map(|(position, &target)| LossRow {
                    row: index(base + position - 1),
                    target,
                    doc,
                    position: index(position),
                    copy: 0,
                }),
        );
    }

    /// Adds clean rows: each sees its own and earlier blocks.
    fn push_clean(&mut self, doc: u32, ids: &[u32], block_size: BlockSize) {
        let base = self.len();
        for (pos, &id) in ids.iter().enumerate() {
            let block = block_size.of(pos);
            let end = block_size.rows(block, ids.len()).end;
            let (block, pos) = (index(block), index(pos));
            let row = Row {
                doc,
                block,
                group: block,
                clean: true,
                pos,
                copy: 0,
            };
            self.push_row(id, row, key_ranges(base..base + end, 0..0));
        }
    }

    /// Adds a noisy block: each row sees the clean blocks before its group, and the group up to the
    /// block.
    fn push_noisy_block(&mut self, noisy: &PlacedCopy<'_>, block: usize, mask_token_id: u32) {
        let positions = noisy.positions(block);
        let first_row = self.len();
        let group = noisy.grouping.first_block(block);
        let group_start = noisy.positions(group).start;
        // The group's earlier blocks are kept whenever this one is, so they stand right before it.
        let first_of_group = first_row - (positions.start - group_start);
        let before = noisy.base..noisy.base + group_start;
        let ranges = key_ranges(before, first_of_group..first_row + positions.len());
        let (block, group, number) = (index(block), index(group), index(noisy.number));
        for pos in positions {
            let id = if noisy.copy.masked[pos] {
                mask_token_id
            } else {
                noisy.copy.ids[pos]
            };
            let row = Row {
                doc: noisy.doc,
                block,
                group,
                clean: false,
                pos: index(pos),
                copy: number,
            };
            self.push_row(id, row, ranges);
        }
    }

    fn push_row(&mut self, id: u32, row: Row, ranges: KeyRanges) {
        self.ids.push(id);
        self.positions.push(row.pos);
        self.ranges.push(ranges);
        self.rows.push(row);
    }
}

/// Returns how many clean rows are seen or scored.
///
/// A noisy block sees clean blocks before its group; a clean predictor of a group's first position is in
/// the block before. So whatever the alignment, the last scored position decides: its group's start.
fn needed_clean_len(
    document: &NoisyDocument<'_>,
    alignment: LabelAlignment,
    elision: Elision,
) -> usize {
    let &NoisyDocument {
        clean_ids,
        copies,
        block_size,
        grouping,
    } = document;
    if elision == Elision::Off {
        return clean_ids.len();
    }
    let is_scored = |copy: &NoisyCopy<'_>, i: usize| {
        copy.masked[i] && alignment.predictor(i, block_size).is_some()
    };
    let last_scored =
        |copy: &NoisyCopy<'_>| (0..copy.ids.len()).rev().find(|&i| is_scored(copy, i));
    let last = copies.iter().filter_map(last_scored).max();
    last.map_or(0, |i| {
        grouping.first_block(block_size.of(i)) * block_size.get()
    })
}

/// One noisy copy of a document, on its way into a batch.
#[derive(Clone, Copy)]
struct PlacedCopy<'a> {
    doc: u32,
    number: usize,
    /// First clean row of the document.
    base: usize,
    copy: NoisyCopy<'a>,
    block_size: BlockSize,
    grouping: Grouping,
    alignment: LabelAlignment,
}

impl<'a> PlacedCopy<'a> {
    fn positions(&self, block: usize) -> Range<usize> {
        self.block_size.rows(block, self.copy.ids.len())
    }

    /// Returns the masked positions of `block` that are predicted, with what predicts them.
    fn scored(self, block: usize) -> impl Iterator<Item = (usize, Predictor)> + use<'a> {
        let masked = self.positions(block).filter(move |&i| self.copy.masked[i]);
        let starts_group = self.grouping.first_block(block) == block;
        masked.filter_map(move |i| {
            let predictor = match self.alignment.predictor(i, self.block_size)? {
                // The block before is not finished either.
                Predictor::Clean(row) if !starts_group => Predictor::Noisy(row),
                predictor => predictor,
            };
            Some((i, predictor))
        })
    }

    /// Returns whether a noisy row of `block`, or of a later one in its group, is scored.
    fn needs(&self, block: usize) -> bool {
        let group = self.grouping.first_block(block);
        let rest = (block..self.block_size.count(self.copy.ids.len()))
            .take_while(|&other| self.grouping.first_block(other) == group);
        let start = self.positions(block).start;
        rest.flat_map(|other| self.scored(other))
            .any(|(_, predictor)| matches!(predictor, Predictor::Noisy(row) if row >= start))
    }

    /// Returns the loss rows of `block`, whose noisy rows (if kept) start at `first_row`.
    fn loss_rows(self, block: usize, first_row: usize) -> impl Iterator<Item = LossRow> + use<'a> {
        let start = self.positions(block).start;
        self.scored(block)
            .map(move |(position, predictor)| LossRow {
                row: index(match predictor {
                    Predictor::Noisy(row) => first_row + row - start,
                    Predictor::Clean(row) => self.base + row,
                }),
                target: self.copy.ids[position],
                doc: self.doc,
                position: index(position),
                copy: index(self.number),
            })
    }
}
