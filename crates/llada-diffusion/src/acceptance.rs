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
/// This is the definition; engines compute the same without storing the logits [V].
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
