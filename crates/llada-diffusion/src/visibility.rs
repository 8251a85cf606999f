//! Visibility: which rows a row may attend to (Eq. 3 of the report, with its document mask).
//!
//! Training feeds two copies of a text: a *noisy* half with tokens masked, and the *clean* half. A
//! row is a token in one of the halves. Block k of the noisy half must be denoised as in decoding:
//! it sees itself and the finished, clean blocks before it, never its own answer.
//!
//! | query \ key | noisy | clean |
//! |---|---|---|
//! | noisy | own block | strictly earlier blocks |
//! | clean | never | own and earlier blocks |
//!
//! and never a row of another document. Blocks that are trained to be written at the same time
//! ([`crate::group`]) form a *group*: noisy rows see the noisy blocks of their group up to their own, and
//! the clean blocks before the group. Groups of one block are the table above. There is no causal triangle: inside a block rows see each
//! other both ways. One document of 4 tokens with blocks of 2, noisy n0..n3 and clean c0..c3:
//!
//! ```text
//!       c0 c1 c2 c3   n0 n1 n2 n3
//! c0     x  x
//! c1     x  x
//! c2     x  x  x  x
//! c3     x  x  x  x
//! n0                   x  x
//! n1                   x  x
//! n2     x  x                x  x
//! n3     x  x                x  x
//! ```
//!
//! [`visible`] is the definition. No mask is ever stored: if a document's clean rows stand in order,
//! followed by its noisy blocks, each row sees at most **two contiguous ranges of keys**, and the
//! attention kernel takes just those four integers per row, [`KeyRanges`]. This module builds them
//! for a single sequence, [`crate::layout`] for a training batch; tests compare both with
//! [`visible`] on every small case.

use std::ops::Range;

use crate::BlockSize;

/// What visibility depends on: where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Document, by any number that is its own within the batch.
    pub doc: u32,
    /// Block within the document.
    pub block: u32,
    /// First block of the row's group; its own block unless several are trained to be written at once.
    pub group: u32,
    /// In the clean half.
    pub clean: bool,
    /// Position within the document. Noisy and clean rows of a token share it.
    pub pos: u32,
    /// Which noisy copy of the block, if several share the clean half; 0 for clean rows.
    pub copy: u32,
}

/// Keys a row sees, `[a0, a1, b0, b1]`: rows `a0..a1` and `b0..b1`, disjoint. `b` is empty
/// (`b0 == b1`) if one range says it all.
pub type KeyRanges = [u32; 4];

/// Returns whether `query` may attend to `key` (Eq. 3).
pub fn visible(query: &Row, key: &Row) -> bool {
    query.doc == key.doc
        && match (query.clean, key.clean) {
            (true, true) => key.block <= query.block,
            (false, true) => key.block < query.group,
            (false, false) => {
                let is_before = key.block <= query.block;
                key.group == query.group && is_before && key.copy == query.copy
            }
            (true, false) => false,
        }
}

/// Returns the ranges of `len` rows that each see themselves and all before: the parent's mask.
pub fn causal_ranges(len: usize) -> Vec<KeyRanges> {
    block_causal_ranges(len, BlockSize::ONE)
}

/// Returns the ranges of `len` rows that all see each other: diffusion over the whole text (Eq. 4).
pub fn full_ranges(len: usize) -> Vec<KeyRanges> {
    decode_ranges(0, len)
}

/// Returns the ranges of `len` clean rows that see their own and earlier blocks.
pub fn block_causal_ranges(len: usize, block_size: BlockSize) -> Vec<KeyRanges> {
    prefill_ranges(0, len, block_size)
}

/// Returns the ranges of `len` rows that follow `cached` keys of finished blocks and see these, their
/// own and earlier blocks.
///
/// The keys are `[cache | own rows]`; `cached` is a multiple of the block size. Two blocks of rows
/// are the fused forward `[clean block k | MASK block k + 1]`.
pub fn prefill_ranges(cached: usize, len: usize, block_size: BlockSize) -> Vec<KeyRanges> {
    let end_of_block = |row| block_size.rows(block_size.of(row), len).end;
    (0..len)
        .map(|row| key_ranges(0..cached + end_of_block(row), 0..0))
        .collect()
}

/// Returns the ranges of the `len` rows of an active block: each sees the `cached` keys before the
/// block and the whole block. The keys are `[cache | own rows]`.
pub fn decode_ranges(cached: usize, len: usize) -> Vec<KeyRanges> {
    vec![key_ranges(0..cached + len, 0..0); len]
}

/// Writes two ranges in the shortest form: one range if the other is empty or they touch.
pub(crate) fn key_ranges(a: Range<usize>, b: Range<usize>) -> KeyRanges {
    if a.is_empty() || b.is_empty() {
        let Range { start, end } = if a.is_empty() { b } else { a };
        [start, end, end, end].map(index)
    } else if a.end == b.start {
        [a.start, b.end, b.end, b.end].map(index)
    } else {
        [a.start, a.end, b.start, b.end].map(index)
    }
}

/// Narrows a row number, a position or a block.
pub(crate) fn index(n: usize) -> u32 {
    u32::try_from(n).expect("memory ends long before 2^32 rows of activations")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(pos: usize, block_size: BlockSize) -> Row {
        Row {
            doc: 0,
            block: index(block_size.of(pos)),
            group: index(block_size.of(pos)),
            clean: true,
            pos: index(pos),
            copy: 0,
        }
    }

    #[test]
    fn block_causal_ranges_are_the_visible_keys() {
        for (size, len) in (1..6).flat_map(|size| (0..10).map(move |len| (size, len))) {
            let size = BlockSize::new(size).unwrap();
            let ranges = block_causal_ranges(len, size);
            assert_eq!(ranges.len(), len);
            for (q, [a0, a1, b0, b1]) in ranges.into_iter().enumerate() {
                let seen = (0..len).filter(|&k| visible(&clean(q, size), &clean(k, size)));
                assert!((a0..a1).chain(b0..b1).map(|k| k as usize).eq(seen));
            }
        }
    }

    #[test]
    fn blocks_of_one_token_are_causal() {
        assert_eq!(causal_ranges(3), [[0, 1, 1, 1], [0, 2, 2, 2], [0, 3, 3, 3]]);
    }

    #[test]
    fn one_covering_block_is_full_attention() {
        assert_eq!(
            full_ranges(5),
            block_causal_ranges(5, BlockSize::covering(5))
        );
    }

    #[test]
    fn an_active_block_is_the_last_block_of_a_prefill() {
        let size = BlockSize::new(4).unwrap();
        assert_eq!(decode_ranges(8, 4), block_causal_ranges(12, size)[8..]);
    }

    #[test]
    fn prefill_in_chunks_of_blocks_sees_what_one_pass_sees() {
        let size = BlockSize::new(3).unwrap();
        for (len, cut) in (0..12).flat_map(|len| (0..=len).step_by(3).map(move |cut| (len, cut))) {
            let one_pass = block_causal_ranges(len, size);
            assert_eq!(one_pass[cut..], prefill_ranges(cut, len - cut, size));
        }
    }
}
