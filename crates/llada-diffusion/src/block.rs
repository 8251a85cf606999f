//! Blocks: the unit in which text is generated.
//!
//! A document is cut into blocks of S consecutive tokens (the report's L_B, 32 in the published
//! models). Blocks are written left to right, each conditioned on the finished ones before it;
//! *inside* a block all tokens are denoised together. S = 1 is autoregression in disguise, S >= the
//! document's length is diffusion over the whole text.
//!
//! Blocks are counted from the first token of the *document* (in decoding: of the prompt), and the
//! last one may be short.
//!
//! ```
//! use llada_diffusion::BlockSize;
//!
//! let size = BlockSize::new(4)?;
//! assert_eq!(size.of(6), 1); // position 6 lies in block 1
//! assert_eq!(size.count(10), 3); // 4 + 4 + 2 tokens
//! assert_eq!(size.rows(2, 10), 8..10);
//! # Ok::<(), llada_diffusion::Error>(())
//! ```

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::Error;

/// Number of tokens in a block, S.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(NonZeroUsize);

impl BlockSize {
    /// Every token is its own block: the causal mask.
    pub const ONE: Self = Self(NonZeroUsize::MIN);

    /// Returns the block size.
    ///
    /// # Errors
    /// If `size` is 0.
    pub fn new(size: usize) -> Result<Self, Error> {
        NonZeroUsize::new(size)
            .map(Self)
            .ok_or(Error::ZeroBlockSize)
    }

    /// Returns the smallest block size that makes a document of `len` tokens one block.
    pub fn covering(len: usize) -> Self {
        NonZeroUsize::new(len).map_or(Self::ONE, Self)
    }

    /// Returns the number of tokens in a block.
    pub fn get(self) -> usize {
        self.0.get()
    }

    /// Returns the block that holds `position`.
    pub fn of(self, position: usize) -> usize {
        position / self.0
    }

    /// Returns how many blocks a document of `len` tokens has, the short last one included.
    pub fn count(self, len: usize) -> usize {
        len.div_ceil(self.get())
    }

    /// Returns the positions of `block` in a document of `len` tokens; empty past its end.
    pub fn rows(self, block: usize, len: usize) -> Range<usize> {
        let start = block.saturating_mul(self.get());
        start.min(len)..start.saturating_add(self.get()).min(len)
    }

    /// Returns whether `position` is the first of its block.
    pub fn starts_at(self, position: usize) -> bool {
        position.is_multiple_of(self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_no_tokens_is_refused() {
        assert_eq!(BlockSize::new(0), Err(Error::ZeroBlockSize));
    }

    #[test]
    fn blocks_partition_every_document() {
        for (size, len) in (1..6).flat_map(|size| (0..14).map(move |len| (size, len))) {
            let size = BlockSize::new(size).unwrap();
            let rows: Vec<_> = (0..size.count(len))
                .flat_map(|k| size.rows(k, len))
                .collect();
            assert_eq!(rows, (0..len).collect::<Vec<_>>());
            for k in 0..size.count(len) {
                assert!(!size.rows(k, len).is_empty());
                assert!(size.rows(k, len).all(|i| size.of(i) == k));
                assert!(size.starts_at(size.rows(k, len).start));
            }
        }
    }

    #[test]
    fn a_covering_block_leaves_one_block() {
        assert_eq!(BlockSize::covering(9).count(9), 1);
        assert_eq!(BlockSize::covering(0), BlockSize::ONE);
    }

    #[test]
    fn the_largest_block_does_not_overflow() {
        let size = BlockSize::new(usize::MAX).unwrap();
        assert_eq!(size.rows(0, 5), 0..5);
        assert_eq!(size.rows(2, 5), 5..5);
        assert_eq!(size.count(usize::MAX), 1);
    }
}
