//! Randomness as a function: a counter-based generator (Philox4x32-10).
//!
//! An ordinary generator is a tape: the value you get depends on how often somebody read it before
//! you. Noise drawn that way changes with the number of workers, with packing, with the resume
//! point. A counter-based generator has no tape. It scrambles a *counter* under a *key*, so the
//! value at a place is a pure function of the place:
//!
//! ```text
//! key     = (seed, stream)                     what the numbers are for
//! counter = (epoch, document, position)        where they are used
//! ```
//!
//! `document` is the global number of the document in the data set, never its place in a batch.
//! Two ranks that meet the same document draw the same noise, and two documents never share any.
//!
//! Philox is from Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); the tests
//! hold the known-answer vectors of its reference implementation, Random123.
//!
//! ```
//! use llada_diffusion::{Rng, Stream};
//!
//! let rng = Rng::new(42, Stream::Mask);
//! let (epoch, document, position) = (0, 7, 3);
//! assert_eq!(rng.at(epoch, document, position), rng.at(epoch, document, position));
//! assert!(rng.uniform(epoch, document, position) < 1.0);
//! ```

/// Multipliers of the two halves of the counter.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What every round adds to the key: the golden ratio and sqrt(3) - 1, as 32-bit fractions.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Rounds of the recommended variant.
const ROUNDS: usize = 10;

/// What random numbers are for. Streams of one seed are independent of each other.
///
/// The order is part of every published run: add new streams at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Mask ratios t.
    Rate,
    /// Which tokens are masked.
    Mask,
    /// Order of documents.
    Shuffle,
    /// Initial weights.
    Init,
    /// Noise on the embedding of MASK at the start of continued pre-training.
    EmbeddingNoise,
    /// Sampling of tokens in decoding.
    Sample,
    /// Wrong tokens put in place of right ones.
    ReplacementToken,
    /// Choices among data sources, and synthetic data.
    Data,
    /// Initial factors of an adapter.
    Adapter,
    /// What an adapter does not see of its inputs.
    Dropout,
    /// Jumps over the steps of a recorded decoding.
    Trajectory,
}

/// Random numbers addressed by (epoch, document, position); see the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    key: [u32; 2],
}

impl Rng {
    /// Returns the generator of one stream of a run.
    pub fn new(seed: u64, stream: Stream) -> Self {
        // The counter has no room left for the stream, so it goes into the key, scrambled.
        let [k0, k1, _, _] = philox([stream as u32, 0, 0, 0], halves(seed));
        Self { key: [k0, k1] }
    }

    /// Returns a generator of its own for one place, for uses that need many numbers there
    /// (a vector of noise, one number per vocabulary entry).
    pub fn fork(&self, epoch: u32, document: u64, position: u32) -> Self {
        let [k0, k1, _, _] = self.at(epoch, document, position);
        Self { key: [k0, k1] }
    }

    /// Returns the four random words of one place.
    pub fn at(&self, epoch: u32, document: u64, position: u32) -> [u32; 4] {
        let [low, high] = halves(document);
        philox([position, low, high, epoch], self.key)
    }

    /// Returns a number uniform in [0, 1).
    pub fn uniform(&self, epoch: u32, document: u64, position: u32) -> f32 {
        unit(self.at(epoch, document, position)[0])
    }

    /// Returns a standard normal number (Box-Muller).
    pub fn normal(&self, epoch: u32, document: u64, position: u32) -> f32 {
        let [a, b, _, _] = self.at(epoch, document, position);
        let radius = (-2.0 * (1.0 - unit(a)).ln()).sqrt(); // 1 - u is in (0, 1]: the log is finite
        radius * (std::f32::consts::TAU * unit(b)).cos()
    }

    /// Returns an integer uniform in `0..n`; 0 if `n` is 0.
    ///
    /// The bias of the 64-bit multiplication is below n / 2^64.
    pub fn below(&self, epoch: u32, document: u64, position: u32, n: u32) -> u32 {
        let [low, high, _, _] = self.at(epoch, document, position);
        let word = u64::from(high) << 32 | u64::from(low);
        ((u128::from(word) * u128::from(n)) >> 64) as u32
    }
}

/// Maps a random word to [0, 1): its upper 24 bits, so that every value is exact in f32.
pub fn unit(word: u32) -> f32 {
    const SCALE: f32 = 1.0 / (1 << 24) as f32;
    (word >> 8) as f32 * SCALE
}

/// Scrambles `counter` under `key`.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        counter = round(counter, key);
        key = [
            key[0].wrapping_add(KEY_STEPS[0]),
            key[1].wrapping_add(KEY_STEPS[1]),
        ];
    }
    counter
}

fn round([c0, c1, c2, c3]: [u32; 4], [k0, k1]: [u32; 2]) -> [u32; 4] {
    let [low0, high0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(c0));
    let [low1, high1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(c2));
    [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0]
}

/// Splits into (low, high) words.
fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_matches_the_known_answers_of_random123() {
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn every_part_of_the_address_changes_the_number() {
        let rng = Rng::new(1, Stream::Mask);
        let here = rng.at(0, 0, 0);
        let elsewhere = [
            rng.at(1, 0, 0),
            rng.at(0, 1, 0),
            rng.at(0, 1 << 32, 0),
            rng.at(0, 0, 1),
            Rng::new(1, Stream::Rate).at(0, 0, 0),
            Rng::new(2, Stream::Mask).at(0, 0, 0),
            Rng::new(1 | 1 << 32, Stream::Mask).at(0, 0, 0),
            rng.fork(0, 0, 0).at(0, 0, 0),
        ];
        for (i, other) in elsewhere.iter().enumerate() {
            assert_ne!(&here, other, "address {i}");
            assert!(!elsewhere[..i].contains(other), "address {i}");
        }
    }

    #[test]
    fn unit_covers_zero_and_stays_below_one() {
        assert_eq!(unit(0), 0.0);
        assert_eq!(unit(u32::MAX), 1.0 - 1.0 / 16_777_216.0);
    }

    #[test]
    fn uniform_numbers_fill_ten_bins_evenly() {
        let rng = Rng::new(3, Stream::Sample);
        let mut bins = [0u32; 10];
        for position in 0..100_000 {
            bins[(rng.uniform(0, 0, position) * 10.0) as usize] += 1;
        }
        // A bin's standard deviation is 95; five of them.
        assert!(bins.iter().all(|&n| n.abs_diff(10_000) < 475), "{bins:?}");
    }

    #[test]
    fn normal_numbers_have_mean_zero_variance_one_and_kurtosis_three() {
        let rng = Rng::new(4, Stream::EmbeddingNoise);
        let draws: Vec<f64> = (0..100_000)
            .map(|i| f64::from(rng.normal(0, 9, i)))
            .collect();
        let moment = |k| draws.iter().map(|x| x.powi(k)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.016, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.023, "variance {}", moment(2));
        assert!(
            (moment(4) - 3.0).abs() < 0.16,
            "fourth moment {}",
            moment(4)
        );
    }

    #[test]
    fn below_reaches_every_value_and_never_the_bound() {
        let rng = Rng::new(5, Stream::Shuffle);
        let mut seen = [false; 7];
        (0..200).for_each(|i| seen[rng.below(0, 0, i, 7) as usize] = true);
        assert_eq!(seen, [true; 7]);
        assert_eq!(rng.below(0, 0, 0, 1), 0);
        assert_eq!(rng.below(0, 0, 0, 0), 0);
    }
}
