//! Acceptance: which of a block's open positions are filled after a forward.
//!
//! A forward of the active block proposes a token for each open position, with a confidence: its
//! softmax probability. All proposals above a threshold are accepted at once; that is where the speed
//! of diffusion comes from. If too few are, the most confident ones are accepted all the same, so
//! that every forward fills at least one position:
//!
//! ```text
//! H = { i open : p_i > threshold }
//! W = H if |H| >= need, else the `need` open positions with the largest p_i
//! ```
//!
//! W is therefore always the top max(|H|, need) by confidence, and a block of S tokens takes at most
//! S forwards. These are plain functions of numbers; [`crate::sequence`] applies them to a text.
//!
//! ```
//! use llada_diffusion::{Candidate, accept};
//!
//! let [a, b, c] = [(5, 0.97), (6, 0.40), (7, 0.99)]
//!     .map(|(position, confidence)| Candidate { position, token: 1, confidence });
//! assert_eq!(accept(&[a, b, c], 0.95, 1), [0, 2]); // both above the threshold
//! assert_eq!(accept(&[b], 0.95, 1), [0]); // none above it: the best one
//! ```

use crate::{BlockSize, Error};

/// How many positions a forward must fill at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// The same number at each step.
    MinTransfer(usize),
    /// The number that fills a block in this many steps.
    Steps(usize),
}

impl Quota {
    /// Returns the quota of `step`, counted from 0 in each block; at least 1.
    ///
    /// For `Steps(t)` it is floor(S / t), and one more in the first S mod t steps: the reference
    /// schedule, which sums to S.
    pub fn at(self, step: usize, block_size: BlockSize) -> usize {
        let size = block_size.get();
        match self {
            Self::MinTransfer(num_transfer) => num_transfer.max(1),
            Self::Steps(steps) => {
                let steps = steps.max(1);
                (size / steps + usize::from(step < size % steps)).max(1)
            }
        }
    }
}

/// When a proposal is accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acceptance {
    /// Confidence above which (strictly) a proposal is accepted.
    pub confidence_threshold: f32,
    /// How many are accepted anyway.
    pub quota: Quota,
}

/// A proposal for an open position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Position in the sequence.
    pub position: usize,
    /// Most probable token, MASK excluded.
    pub token: u32,
    /// Its probability.
    pub confidence: f32,
}

/// Returns the most probable token other than MASK, and its probability among *all* tokens.
///
/// Ties go to the lower id. Were MASK allowed to win, a position could be "filled" with it for ever.
/// This is the definition; engines compute the same without storing the logits `[V]`.
///
/// # Errors
/// If a logit is not finite, or MASK is the only token.
pub fn propose(logits: &[f32], mask_token_id: u32) -> Result<(u32, f32), Error> {
    if let Some(token) = logits.iter().position(|z| !z.is_finite()) {
        return Err(Error::NonFiniteLogit {
            token,
            value: logits[token],
        });
    }
    let tokens = (0u32..)
        .zip(logits.iter().copied())
        .filter(|&(token, _)| token != mask_token_id);
    let (token, best) = tokens
        .reduce(|best, other| if other.1 > best.1 { other } else { best })
        .ok_or(Error::NoToken {
            found: logits.len(),
        })?;
    let max = logits.iter().copied().fold(best, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - max).exp()).sum();
    Ok((token, (f64::from(best - max).exp() / sum) as f32))
}

/// Returns which candidates are accepted, as ascending indices into `candidates`.
///
/// Candidates are the open positions in ascending order; `need` above their number means all.
/// Confidences are finite. Ties for the last place go to the lower position.
pub fn accept(candidates: &[Candidate], threshold: f32, need: usize) -> Vec<usize> {
    let is_confident = |&i: &usize| candidates[i].confidence > threshold;
    let confident: Vec<usize> = (0..candidates.len()).filter(is_confident).collect();
    if confident.len() >= need.min(candidates.len()) {
        return confident;
    }
    most_confident(candidates, need)
}

/// Returns the `need` most confident candidates, as ascending indices.
fn most_confident(candidates: &[Candidate], need: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // The sort is stable: equals stay in order of position.
    order.sort_by(|&a, &b| {
        candidates[b]
            .confidence
            .total_cmp(&candidates[a].confidence)
    });
    order.truncate(need);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(confidences: &[f32]) -> Vec<Candidate> {
        let with_position = confidences.iter().enumerate();
        with_position
            .map(|(position, &confidence)| Candidate {
                position,
                token: 0,
                confidence,
            })
            .collect()
    }

    #[test]
    fn the_threshold_accepts_more_than_the_quota_but_never_less() {
        let block = candidates(&[0.5, 0.9, 0.7, 0.8]);
        assert_eq!(accept(&block, 0.6, 1), [1, 2, 3]);
        assert_eq!(accept(&block, 0.85, 1), [1]);
        assert_eq!(accept(&block, 0.85, 2), [1, 3]);
        assert_eq!(accept(&block, 0.95, 1), [1]);
    }

    #[test]
    fn a_confidence_at_the_threshold_is_not_above_it() {
        assert_eq!(accept(&candidates(&[0.2, 0.9, 0.9]), 0.9, 1), [1]);
    }

    #[test]
    fn ties_go_to_the_lower_position() {
        assert_eq!(accept(&candidates(&[0.1, 0.4, 0.4, 0.4]), 0.5, 2), [1, 2]);
    }

    #[test]
    fn nothing_is_accepted_of_nothing() {
        assert_eq!(accept(&[], 0.5, 3), []);
    }

    #[test]
    fn a_quota_above_the_open_positions_accepts_all_of_them() {
        assert_eq!(accept(&candidates(&[0.1, 0.2]), 0.5, 9), [0, 1]);
    }

    #[test]
    fn the_reference_schedule_puts_the_remainder_first() {
        let size = BlockSize::new(32).unwrap();
        let quotas = |steps| (0..steps).map(move |step| Quota::Steps(steps).at(step, size));
        assert!(quotas(5).eq([7, 7, 6, 6, 6]));
        assert!(quotas(32).eq([1; 32]));
        assert!((1..=32).all(|steps| quotas(steps).sum::<usize>() == 32));
    }

    #[test]
    fn a_quota_is_at_least_one() {
        let size = BlockSize::new(4).unwrap();
        assert_eq!(Quota::MinTransfer(0).at(0, size), 1);
        assert_eq!(Quota::Steps(9).at(8, size), 1);
        assert_eq!(Quota::Steps(0).at(0, size), 4);
    }

    #[test]
    fn mask_is_never_proposed_but_takes_its_share_of_probability() {
        let (token, confidence) = propose(&[0.0, 2f32.ln(), 5f32.ln()], 2).unwrap();
        assert_eq!(token, 1);
        assert!((confidence - 2.0 / 8.0).abs() < 1e-6);
    }

    #[test]
    fn equal_logits_propose_the_lower_id() {
        assert_eq!(propose(&[1.0, 3.0, 3.0, 3.0], 1).unwrap().0, 2);
    }

    #[test]
    fn logits_of_any_size_have_a_probability() {
        assert_eq!(propose(&[-3e38, 3e38, 0.0], 2), Ok((1, 1.0)));
    }

    #[test]
    fn broken_logits_are_errors() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = propose(&[0.0, value], 0).unwrap_err();
            assert!(matches!(error, Error::NonFiniteLogit { token: 1, .. }));
        }
        assert_eq!(propose(&[1.0], 0), Err(Error::NoToken { found: 1 }));
        assert_eq!(propose(&[], 0), Err(Error::NoToken { found: 0 }));
    }

    proptest! {
        #[test]
        fn the_accepted_are_the_most_confident(
            confidences in prop::collection::vec((0u8..20).prop_map(|p| f32::from(p) / 20.0), 0..40),
            threshold in -0.1f32..1.1,
            need in 0usize..45,
        ) {
            let block = candidates(&confidences);
            let accepted = accept(&block, threshold, need);
            let above = confidences.iter().filter(|&&p| p > threshold).count();
            prop_assert_eq!(accepted.len(), above.max(need.min(block.len())));
            prop_assert!(accepted.is_sorted());
            // Better than all others, or equal to them and before them.
            for &kept in &accepted {
                for left in (0..block.len()).filter(|i| !accepted.contains(i)) {
                    let (p, q) = (confidences[kept], confidences[left]);
                    prop_assert!(p > q || (p == q && kept < left));
                }
            }
        }
    }
}
