//! Acceptance: which of a block's open positions are filled after a forward.
//!
//! A forward of the active block proposes a token for each open position, with a confidence: its
//! softmax probability. A policy passes some of the proposals at once; that is where the speed of
//! diffusion comes from. If fewer pass than a quota, the most confident others are accepted all the
//! same, so that every forward fills at least one position:
//!
//! ```text
//! H = { i open : the policy passes i }
//! W = H and the max(0, need - |H|) most confident of the others
//! ```
//!
//! With a quota of 1 a block of S tokens takes at most S forwards. Under the threshold
//! policy W is the top max(|H|, need) by confidence, as the report has it.
//!
//! ```
//! use llada_diffusion::{Acceptance, BlockHistory, Candidate};
//!
//! let [a, b, c] = [(5, 0.97), (6, 0.40), (7, 0.99)]
//!     .map(|(position, confidence)| Candidate { position, token: 1, confidence });
//! let policy = Acceptance::Threshold(0.95);
//! let history = BlockHistory::default();
//! assert_eq!(policy.accept(&[a, b, c], 1, history), [0, 2]); // both above the threshold
//! assert_eq!(policy.accept(&[b], 1, history), [0]); // none above it: the best one
//! ```
//!
//! Returning placed tokens of low confidence to MASK, which some decoders add to the hierarchy, is
//! not here: a text could then no longer be streamed up to its first open position.

use crate::proposal::Candidate;
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

/// When a proposal passes on its own merit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Acceptance {
    /// If its confidence is above this, strictly: the report's rule.
    Threshold(f32),
    /// If its confidence is above the threshold, or is above `low` and the best of a run of
    /// neighbouring open positions: far from each other, tokens depend less on one another (dInfer).
    Hierarchy {
        /// As in [`Acceptance::Threshold`].
        threshold: f32,
        /// What the best of each run must exceed; 0.4 at the source.
        low: f32,
    },
    /// As [`Acceptance::Threshold`], of logits to which [`crate::Credits`] were added (dInfer).
    Credit(f32),
    /// If its confidence is at least a threshold that follows the block: the largest confidence of
    /// its first step, then the mean of those accepted in it, both kept within two bounds
    /// (arXiv:2602.09555).
    Bacd {
        /// Lower bound of the threshold; 0.6 at the source.
        low: f32,
        /// Upper bound of the threshold; 0.9 at the source.
        high: f32,
    },
}

impl Acceptance {
    /// Returns which candidates pass, as ascending indices; perhaps none.
    ///
    /// Candidates are the open positions of one block in ascending order, their confidences finite.
    pub fn passing(self, candidates: &[Candidate], history: BlockHistory) -> Vec<usize> {
        match self {
            Self::Threshold(threshold) | Self::Credit(threshold) => {
                indices(candidates, |c| c.confidence > threshold)
            }
            Self::Hierarchy { threshold, low } => hierarchy(candidates, threshold, low),
            Self::Bacd { low, high } => {
                let threshold = history.threshold(candidates, low, high);
                indices(candidates, |c| c.confidence >= threshold)
            }
        }
    }

    /// Returns which candidates are accepted, as ascending indices: those that pass, and the most
    /// confident others if these are fewer than `need`.
    ///
    /// `need` above the number of candidates means all. Ties go to the lower position.
    pub fn accept(
        self,
        candidates: &[Candidate],
        need: usize,
        history: BlockHistory,
    ) -> Vec<usize> {
        let mut accepted = self.passing(candidates, history);
        let missing = need.saturating_sub(accepted.len());
        let others = best_first(candidates).into_iter();
        let others = others.filter(|i| !accepted.contains(i)).take(missing);
        accepted.extend(others.collect::<Vec<_>>());
        accepted.sort_unstable();
        accepted
    }

    /// Returns which candidates are accepted one after the other from the left, as indices from 0.
    ///
    /// The first one always is; each further one if it passes (or `need` is not reached) *and*
    /// `admits` says so. The first refusal ends the step. `admits` is asked about every accepted
    /// candidate in order, so it may keep count, as a grammar does; the first one it is only told of.
    pub fn accept_left_to_right(
        self,
        candidates: &[Candidate],
        need: usize,
        history: BlockHistory,
        mut admits: impl FnMut(&Candidate) -> bool,
    ) -> Vec<usize> {
        let passing = self.passing(candidates, history);
        let goes_on = |&i: &usize| {
            let is_wanted = i < need.max(1) || passing.contains(&i);
            is_wanted && (admits(&candidates[i]) || i == 0)
        };
        (0..candidates.len()).take_while(goes_on).collect()
    }

    /// Returns whether the quota, not the policy, accepted some of the `accepted`.
    pub(crate) fn falls_back(
        self,
        candidates: &[Candidate],
        accepted: &[usize],
        history: BlockHistory,
    ) -> bool {
        let passing = self.passing(candidates, history);
        !accepted.iter().all(|i| passing.contains(i))
    }
}

/// What the active block has accepted so far; a new block starts from the default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockHistory {
    accepted: usize,
    confidence_sum: f64,
}

impl BlockHistory {
    /// Adds an accepted proposal.
    pub fn add(&mut self, confidence: f32) {
        self.accepted += 1;
        self.confidence_sum += f64::from(confidence);
    }

    /// Returns the threshold of [`Acceptance::Bacd`] in the block's next step.
    fn threshold(self, candidates: &[Candidate], low: f32, high: f32) -> f32 {
        let center = if self.accepted == 0 {
            let confidences = candidates.iter().map(|c| c.confidence);
            confidences.fold(0.0, f32::max)
        } else {
            (self.confidence_sum / self.accepted as f64) as f32
        };
        center.max(low).min(high)
    }
}

/// Returns the indices of candidates above the threshold, or best of their run and above `low`.
fn hierarchy(candidates: &[Candidate], threshold: f32, low: f32) -> Vec<usize> {
    let mut passing = indices(candidates, |c| c.confidence > threshold);
    let mut start = 0;
    for run in candidates.chunk_by(|a, b| a.position + 1 == b.position) {
        let best = start + best_first(run)[0];
        if candidates[best].confidence > low && !passing.contains(&best) {
            passing.push(best);
        }
        start += run.len();
    }
    passing.sort_unstable();
    passing
}

fn indices(candidates: &[Candidate], passes: impl Fn(&Candidate) -> bool) -> Vec<usize> {
    let all = 0..candidates.len();
    all.filter(|&i| passes(&candidates[i])).collect()
}

/// Returns the indices of candidates by falling confidence; equals stay in order of position.
fn best_first(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let confidence = |i: usize| candidates[i].confidence;
    order.sort_by(|&a, &b| confidence(b).total_cmp(&confidence(a)));
    order
}

/// Returns an error unless the numbers of a policy mean something.
pub(crate) fn check(acceptance: Acceptance) -> Result<(), Error> {
    let numbers = match acceptance {
        Acceptance::Threshold(threshold) | Acceptance::Credit(threshold) => [threshold; 2],
        Acceptance::Hierarchy { threshold, low } => [threshold, low],
        Acceptance::Bacd { low, high } if low > high => {
            return Err(Error::Bounds { low, high });
        }
        Acceptance::Bacd { low, high } => [low, high],
    };
    crate::policy::check_finite("confidence threshold", &numbers)
}

#[cfg(test)]
mod tests;
