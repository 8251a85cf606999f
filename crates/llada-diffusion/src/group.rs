//! Groups: several noisy blocks that are denoised at the same time (MBD, arXiv:2606.29215).
//!
//! A window that begins a block before the one in front of it is finished ([`crate::window`]) shows
//! rows something that ordinary training never did: noisy earlier blocks. Here the blocks of a
//! document are cut into groups; within a group a noisy block sees the noisy blocks before it, and the
//! clean text only up to the group:
//!
//! ```text
//! blocks     0 | 1 2 | 3 4 | 5      groups of 2, moved by 1
//! noisy 2 sees clean 0, noisy 1 and noisy 2
//! ```
//!
//! Mask ratios rise within a group, as in decoding, where earlier blocks are further on. With a
//! margin rho of the band between `low` and `high`:
//!
//! ```text
//! top = high - rho (high - low);  l ~ U(low, top);  of each block t ~ U(l, top), then l = t
//! ```
//!
//! Such rates are not uniform, so their losses are no bound on the likelihood. Groups of one block are
//! ordinary training; their rates come from [`crate::NoiseSchedule::corrupt`].

use crate::{Band, BlockSize};

/// Part of the band that no first block of a chain reaches.
const MARGIN: f32 = 0.01;

/// How blocks are cut into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    size: usize,
    shift: usize,
}

/// Groups of one block.
impl Default for Grouping {
    fn default() -> Self {
        Self { size: 1, shift: 0 }
    }
}

/// A document whose blocks are masked in groups.
#[derive(Clone, Copy, Debug)]
pub struct Grouped<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Pass over the data.
    pub epoch: u32,
    /// Number of the document in the data set.
    pub document: u64,
    /// Which tokens may be masked, `[L]`.
    pub supervised: &'a [bool],
    /// Tokens per block.
    pub block_size: BlockSize,
}

impl Grouping {
    /// Returns groups of `size` blocks, the first one of `shift` blocks instead, if that is not 0.
    ///
    /// # Panics
    /// Unless `shift` is below `size`.
    pub fn new(size: usize, shift: usize) -> Self {
        assert!(shift < size, "a group cannot be moved by more than itself");
        Self { size, shift }
    }

    /// Returns the first block of the group that `block` is in.
    pub fn first_block(self, block: usize) -> usize {
        match block.checked_sub(self.shift) {
            Some(after) => block - after % self.size,
            None => 0,
        }
    }

    /// Returns the mask ratio of each block, given uniform numbers by their place.
    pub(crate) fn chain(
        self,
        band: Band,
        num_blocks: usize,
        uniform: impl Fn(usize) -> f32,
    ) -> Vec<f32> {
        let top = band.hi() - MARGIN * (band.hi() - band.lo());
        let mut rates = Vec::with_capacity(num_blocks);
        let mut low = band.lo();
        for block in 0..num_blocks {
            if self.first_block(block) == block {
                low = band.lo() + (top - band.lo()) * uniform(2 * block);
            }
            low += (top - low) * uniform(2 * block + 1);
            rates.push(low);
        }
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MaskDraw, NoiseSchedule, RateScope};

    #[test]
    fn groups_tile_the_blocks_from_their_shift_on() {
        let first = |size, shift| {
            (0..6)
                .map(|b| Grouping::new(size, shift).first_block(b))
                .collect()
        };
        let first: [Vec<usize>; 4] = [first(1, 0), first(2, 0), first(2, 1), first(3, 2)];
        assert_eq!(first[0], [0, 1, 2, 3, 4, 5]);
        assert_eq!(first[1], [0, 0, 2, 2, 4, 4]);
        assert_eq!(first[2], [0, 1, 1, 3, 3, 5]);
        assert_eq!(first[3], [0, 0, 2, 2, 2, 5]);
    }

    #[test]
    fn rates_rise_within_a_group_and_stay_in_the_band() {
        let supervised = vec![true; 400];
        let noise = NoiseSchedule {
            scope: RateScope::Block,
            band: Band::new(0.2, 0.9).unwrap(),
            draw: MaskDraw::ExactK,
        };
        let mut first = 0.0;
        for document in 0..50 {
            let of = Grouped {
                seed: 1,
                epoch: 0,
                document,
                supervised: &supervised,
                block_size: BlockSize::new(100).unwrap(),
            };
            let corruption = noise.corrupt_groups(&of, Grouping::new(2, 0));
            let rates: Vec<f32> = corruption.rates.chunks(100).map(|block| block[0]).collect();
            assert!(rates[0] <= rates[1] && rates[2] <= rates[3], "{rates:?}");
            assert!(
                rates.iter().all(|rate| (0.19..0.9).contains(rate)),
                "{rates:?}"
            );
            let masked = corruption.masked[..100]
                .iter()
                .filter(|&&masked| masked)
                .count();
            assert_eq!(masked, (rates[0] * 100.0).round() as usize);
            first += rates[0] / 50.0;
        }
        // The mean of U(l, top) with l uniform is three quarters up the band.
        assert!((first - (0.2 + 0.75 * 0.693)).abs() < 0.06, "{first}");
    }
}
