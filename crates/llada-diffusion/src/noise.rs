//! Noise: which tokens of a document are masked (the forward process, section 2 of the reference).
//!
//! ```text
//! t  ~ U[lo, hi]                             the mask ratio, alpha = 1 - t is the share kept
//! M(i) = supervised(i) and u(i) < t          independent per token
//! ```
//!
//! Every draw is a function of (seed, epoch, document, position), see [`crate::rng`]: packing, worker
//! count and resume point cannot change it. What is masked is [`Corruption::masked`] and nothing
//! else; a literal MASK id in the text is not a target.
//!
//! **One rate per block or per document** ([`RateScope`]). Per block the rates are *stratified*: one
//! uniform number per document, advanced by the golden ratio from block to block. Each block's rate
//! is still uniform, but those of a document are spread evenly over the band.
//!
//! **Complementary twins** ([`Corruption::complement`]): mask M and its complement within the
//! supervised tokens, both trained on. Every token is then scored exactly once per pair.

use crate::group::{Grouped, Grouping};
use crate::names::names;
use crate::rng::unit;
use crate::visibility::index;
use crate::{BlockSize, Error, Rng, Stream};

/// Fractional part of the golden ratio, whose multiples fill [0, 1) most evenly.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Place of the first uniform number of a chain of ratios; 0 starts those of [`NoiseSchedule::rates`].
const CHAIN: usize = 1;

/// Range of mask ratios, 0 < lo <= hi <= 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    lo: f32,
    hi: f32,
}

impl Band {
    /// The band of pre-training: all ratios, but for a floor that keeps 1 / t finite.
    pub const FULL: Self = Self { lo: 1e-3, hi: 1.0 };

    /// Returns the band of ratios from `lo` to `hi`.
    ///
    /// # Errors
    /// Unless 0 < lo <= hi <= 1.
    pub fn new(lo: f32, hi: f32) -> Result<Self, Error> {
        let is_valid = 0.0 < lo && lo <= hi && hi <= 1.0; // false for NaN
        if is_valid {
            Ok(Self { lo, hi })
        } else {
            Err(Error::Band { lo, hi })
        }
    }

    /// Returns the lower end.
    pub fn lo(self) -> f32 {
        self.lo
    }

    /// Returns the upper end.
    pub fn hi(self) -> f32 {
        self.hi
    }

    /// Maps u in [0, 1) to the band.
    fn at(self, u: f32) -> f32 {
        (self.lo + (self.hi - self.lo) * u).min(self.hi)
    }
}

/// What shares a mask ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RateScope {
    /// A block; a document's rates are stratified.
    #[default]
    Block,
    /// A document.
    Document,
}

names!(RateScope, "mask-rate scope", { Block => "block", Document => "document" });

/// How a mask ratio becomes a mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MaskDraw {
    /// Each token on its own, with probability t.
    #[default]
    Independent,
    /// Exactly k = round(t n), at least 1, of the n supervised tokens of a scope.
    ExactK,
}

names!(MaskDraw, "mask draw", { Independent => "independent", ExactK => "exact_k" });

/// How documents are corrupted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// What shares a mask ratio.
    pub scope: RateScope,
    /// Where mask ratios lie.
    pub band: Band,
    /// How many tokens a ratio masks.
    pub draw: MaskDraw,
}

/// A mask, and the ratios it was drawn with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Corruption {
    /// Whether a token is masked, `[L]`.
    pub masked: Vec<bool>,
    /// Probability with which a supervised token was masked, `[L]`; its inverse is the diffusion
    /// weight. With [`MaskDraw::ExactK`] this is k / n, not t.
    pub rates: Vec<f32>,
}

impl NoiseSchedule {
    /// Returns the schedule that masks each token on its own.
    pub fn new(scope: RateScope, band: Band) -> Self {
        Self {
            scope,
            band,
            draw: MaskDraw::Independent,
        }
    }

    /// Draws the mask of a document.
    ///
    /// `document` is its number in the data set; `supervised` `[L]` says which tokens may be masked.
    pub fn corrupt(
        &self,
        seed: u64,
        epoch: u32,
        document: u64,
        supervised: &[bool],
        block_size: BlockSize,
    ) -> Corruption {
        let scope_size = match self.scope {
            RateScope::Block => block_size,
            RateScope::Document => BlockSize::covering(supervised.len()),
        };
        let num_scopes = scope_size.count(supervised.len());
        let rng = Rng::new(seed, Stream::Mask);
        let word = |position| rng.at(epoch, document, index(position))[0];
        let mut corruption = Corruption::default();
        for (scope, rate) in self
            .rates(seed, epoch, document, num_scopes)
            .into_iter()
            .enumerate()
        {
            let positions = scope_size.rows(scope, supervised.len());
            let supervised = &supervised[positions.clone()];
            let words: Vec<u32> = positions.map(word).collect();
            corruption.extend(match self.draw {
                MaskDraw::Independent => independent(supervised, &words, rate),
                MaskDraw::ExactK => exact_k(supervised, &words, rate),
            });
        }
        corruption
    }

    /// Draws the mask of a document whose blocks are denoised in groups, with one ratio per block that
    /// rises within a group: whatever the scope, a chain. See [`crate::group`].
    pub fn corrupt_groups(&self, of: &Grouped<'_>, grouping: Grouping) -> Corruption {
        let len = of.supervised.len();
        let rates = Rng::new(of.seed, Stream::Rate);
        let uniform = |k| rates.uniform(of.epoch, of.document, index(k + CHAIN));
        let chain = grouping.chain(self.band, of.block_size.count(len), uniform);
        let masks = Rng::new(of.seed, Stream::Mask);
        let word = |position| masks.at(of.epoch, of.document, index(position))[0];
        let mut corruption = Corruption::default();
        for (block, rate) in chain.into_iter().enumerate() {
            let positions = of.block_size.rows(block, len);
            let supervised = &of.supervised[positions.clone()];
            let words: Vec<u32> = positions.map(word).collect();
            corruption.extend(match self.draw {
                MaskDraw::Independent => independent(supervised, &words, rate),
                MaskDraw::ExactK => exact_k(supervised, &words, rate),
            });
        }
        corruption
    }

    /// Draws the mask ratios of a document's blocks; all the same with [`RateScope::Document`].
    pub fn rates(&self, seed: u64, epoch: u32, document: u64, num_blocks: usize) -> Vec<f32> {
        let start = f64::from(Rng::new(seed, Stream::Rate).uniform(epoch, document, 0));
        let stride = match self.scope {
            RateScope::Block => GOLDEN,
            RateScope::Document => 0.0,
        };
        let stratum = |block| (start + block as f64 * stride).fract() as f32;
        (0..num_blocks)
            .map(|block| self.band.at(stratum(block)))
            .collect()
    }
}

impl Corruption {
    /// Returns the twin: what is supervised and not masked here, with ratio 1 - t.
    pub fn complement(&self, supervised: &[bool]) -> Self {
        let masked = self
            .masked
            .iter()
            .zip(supervised)
            .map(|(&masked, &sup)| sup && !masked);
        Self {
            masked: masked.collect(),
            rates: self.rates.iter().map(|t| 1.0 - t).collect(),
        }
    }

    /// Returns the number of masked tokens.
    pub fn num_masked(&self) -> usize {
        self.masked.iter().filter(|&&masked| masked).count()
    }

    fn extend(&mut self, (masked, rate): (Vec<bool>, f32)) {
        self.rates.resize(self.rates.len() + masked.len(), rate);
        self.masked.extend(masked);
    }
}

/// Masks each supervised token with probability `rate`. Returns the mask and that probability.
fn independent(supervised: &[bool], words: &[u32], rate: f32) -> (Vec<bool>, f32) {
    let tokens = supervised.iter().zip(words);
    let masked = tokens.map(|(&sup, &word)| sup && unit(word) < rate);
    (masked.collect(), rate)
}

/// Masks the k supervised tokens with the smallest words: every k-subset is equally likely.
fn exact_k(supervised: &[bool], words: &[u32], rate: f32) -> (Vec<bool>, f32) {
    let mut masked = vec![false; supervised.len()];
    let mut order: Vec<usize> = (0..supervised.len()).filter(|&i| supervised[i]).collect();
    let n = order.len();
    if n == 0 {
        return (masked, rate);
    }
    let k = ((rate * n as f32).round() as usize).clamp(1, n);
    order.sort_by_key(|&i| words[i]);
    order[..k].iter().for_each(|&i| masked[i] = true);
    (masked, k as f32 / n as f32)
}

#[cfg(test)]
mod tests;
