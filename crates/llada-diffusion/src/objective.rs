//! Objectives: what is summed, with which weights, divided by what.
//!
//! All objectives score masked tokens by their negative log-likelihood, nll(i) = -log p(x0_i | ...):
//!
//! ```text
//! L_BDLM = E[ sum_k 1/t_k sum_{i in block k} M(i) nll(i) ]       Eq. 1 (sign corrected)
//! L_MDLM = the same with one block                               Eq. 2
//! L_SFT  = the same, with a prompt that is never masked          Eq. 5
//! L_CAP  = L_SFT + lambda * mean over C of H(p(. | i))           Eq. 6, C = right guesses
//! L_DPO  = -log sigmoid(beta * margin of ELBOs)                  Eq. 7 and 8
//! L_EBPO = -min(r A, clip(r) A), log r a difference of ELBOs     LLaDA2.1
//! ```
//!
//! The printed Eq. 1 carries a minus sign both outside and in its factor alpha'/(1 - alpha); the text
//! defines the weight as -alpha'/(1 - alpha), which is 1/t for alpha = 1 - t and makes the loss the
//! positive bound above.
//!
//! **Normalisation.** A loss over a batch is a fraction, `sum of weight(i) nll(i) / denominator`. The
//! weight of a row depends on its document only ([`loss_weights`]), the denominator is a count over
//! the *whole* global batch ([`Counts`]), all micro-batches and ranks, known before any forward.
//! Never average averages: a micro-batch with few targets would weigh its tokens more.

use std::ops::AddAssign;

use crate::names::names;
use crate::{BlockSize, Corruption};

/// What a model is trained to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Predict the next token: the parent.
    Ar,
    /// Denoise block after block (Eq. 1).
    Bdlm,
    /// Denoise the whole document (Eq. 2).
    Mdlm,
}

names!(Objective, "objective", { Ar => "ar", Bdlm => "bdlm", Mdlm => "mdlm" });

impl Objective {
    /// Returns the block size that makes this objective of a document of `len` tokens, given the
    /// current size of the schedule: one token, the schedule's, the document.
    pub fn block_size(self, scheduled: BlockSize, len: usize) -> BlockSize {
        match self {
            Self::Ar => BlockSize::ONE,
            Self::Bdlm => scheduled,
            Self::Mdlm => BlockSize::covering(len),
        }
    }
}

/// What a summed loss is divided by, and the row weights that go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normalisation {
    /// sum nll / t over supervised tokens: the unbiased bound per token, for pre-training and
    /// evaluation.
    ElboToken,
    /// sum nll over masked tokens: lower variance, for fine-tuning.
    MaskedMean,
    /// Mean over documents of their bound per token: long documents count as much as short ones.
    Sequence,
}

names!(Normalisation, "normalisation", {
    ElboToken => "elbo_token",
    MaskedMean => "masked_mean",
    Sequence => "sequence",
});

/// What denominators count. Counts of documents, micro-batches and ranks add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens that may be masked.
    pub supervised: u64,
    /// Tokens that are masked.
    pub masked: u64,
    /// Documents with a supervised token. A twin or another noise level of a document counts again.
    pub documents: u64,
}

impl Counts {
    /// Counts one noisy copy of a document.
    pub fn of(supervised: &[bool], corruption: &Corruption) -> Self {
        let num_supervised = supervised.iter().filter(|&&sup| sup).count();
        Self {
            supervised: num_supervised as u64,
            masked: corruption.num_masked() as u64,
            documents: u64::from(num_supervised > 0),
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.supervised += other.supervised;
        self.masked += other.masked;
        self.documents += other.documents;
    }
}

impl Normalisation {
    /// Returns what the weighted sum over the global batch is divided by. 0 means there is nothing to
    /// learn from: skip the batch, do not divide.
    pub fn denominator(self, counts: &Counts) -> u64 {
        match self {
            Self::ElboToken => counts.supervised,
            Self::MaskedMean => counts.masked,
            Self::Sequence => counts.documents,
        }
    }
}

/// Returns the weight of every position of a noisy copy in the numerator, `[L]`; 0 where not masked.
pub fn loss_weights(
    normalisation: Normalisation,
    supervised: &[bool],
    corruption: &Corruption,
) -> Vec<f32> {
    let num_supervised = Counts::of(supervised, corruption).supervised as f32;
    let weight = |rate: f32| match normalisation {
        Normalisation::ElboToken => 1.0 / rate,
        Normalisation::MaskedMean => 1.0,
        Normalisation::Sequence => 1.0 / (rate * num_supervised),
    };
    let tokens = corruption.masked.iter().zip(&corruption.rates);
    tokens
        .map(|(&masked, &rate)| if masked { weight(rate) } else { 0.0 })
        .collect()
}

/// Returns C of confidence-aware training (Eq. 6): the loss rows whose best guess is right, among
/// which entropy is pushed down. The guess itself is not differentiated.
pub fn cap_rows(correct: &[bool]) -> Vec<usize> {
    (0..correct.len()).filter(|&row| correct[row]).collect()
}

/// Returns the weight of each entropy in C, lambda / |C| over the global batch; 0 if C is empty.
pub fn cap_weight(lambda: f32, num_correct: u64) -> f32 {
    if num_correct == 0 {
        0.0
    } else {
        lambda / num_correct as f32
    }
}

/// Bounds on log-likelihood of the two answers of a preference pair, by one model (Eq. 7).
///
/// A bound is -(sum of nll(i) / t) over the answer's tokens, not a mean. Policy and reference are to
/// use the same noise on each answer, or the margin is noise too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elbos {
    /// Of the preferred answer.
    pub chosen: f64,
    /// Of the other one.
    pub rejected: f64,
}

/// Returns how much more than the reference the policy prefers the chosen answer (Eq. 8, without
/// beta).
pub fn dpo_margin(policy: Elbos, reference: Elbos) -> f64 {
    (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected)
}

/// Returns the loss -log sigmoid(beta * margin) and its derivative by the margin (Eq. 8).
///
/// The derivative by the chosen answer's bound is the same, by the rejected one's its negative.
pub fn dpo_loss(margin: f64, beta: f64) -> (f64, f64) {
    let x = beta * margin;
    // exp only of non-positive numbers: no overflow for margins of either sign.
    let decay = (-x.abs()).exp();
    let loss = (-x).max(0.0) + decay.ln_1p(); // softplus(-x)
    let sigmoid_of_minus_x = if x < 0.0 { 1.0 } else { decay } / (1.0 + decay);
    (loss, -beta * sigmoid_of_minus_x)
}

/// How far from 1 the ratio of two policies is followed: from 1 - low to 1 + high.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Below 1, for answers that are worse than their group.
    pub low: f64,
    /// Above 1, for answers that are better.
    pub high: f64,
}

/// Returns the loss -min(r A, clip(r) A) of an answer with advantage A, and its derivative by log r: 0 where
/// the ratio has left its bounds in the direction that the advantage asks for.
pub fn ebpo_loss(log_ratio: f64, advantage: f64, clip: Clip) -> (f64, f64) {
    let ratio = log_ratio.exp();
    let clipped = ratio.clamp(1.0 - clip.low, 1.0 + clip.high) * advantage;
    if clipped < ratio * advantage {
        return (-clipped, 0.0);
    }
    (-ratio * advantage, -ratio * advantage)
}

/// Returns by how many standard deviations each reward exceeds the mean of its group; `None` if all are
/// the same, which says nothing about what to do.
pub fn group_advantages(rewards: &[f64]) -> Option<Vec<f64>> {
    let count = rewards.len() as f64;
    let is_equal = rewards.windows(2).all(|pair| pair[0] == pair[1]);
    if is_equal {
        return None;
    }
    let mean = rewards.iter().sum::<f64>() / count;
    let squares = rewards.iter().map(|reward| (reward - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count).sqrt();
    let advantages = rewards.iter().map(|reward| (reward - mean) / deviation);
    Some(advantages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corruption() -> Corruption {
        Corruption {
            masked: vec![false, true, true, false],
            rates: vec![0.5, 0.5, 0.25, 0.25],
        }
    }

    const SUPERVISED: [bool; 4] = [false, true, true, true];

    #[test]
    fn weights_follow_the_table_of_normalisations() {
        let weights = |n| loss_weights(n, &SUPERVISED, &corruption());
        assert_eq!(weights(Normalisation::ElboToken), [0.0, 2.0, 4.0, 0.0]);
        assert_eq!(weights(Normalisation::MaskedMean), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(
            weights(Normalisation::Sequence),
            [0.0, 2.0 / 3.0, 4.0 / 3.0, 0.0]
        );
    }

    #[test]
    fn denominators_are_sums_over_all_documents() {
        let mut counts = Counts::of(&SUPERVISED, &corruption());
        counts += Counts::of(&SUPERVISED, &corruption());
        counts += Counts::of(
            &[false; 4],
            &Corruption {
                masked: vec![false; 4],
                ..corruption()
            },
        );
        assert_eq!(Normalisation::ElboToken.denominator(&counts), 6);
        assert_eq!(Normalisation::MaskedMean.denominator(&counts), 4);
        assert_eq!(Normalisation::Sequence.denominator(&counts), 2);
    }

    #[test]
    fn each_objective_is_a_block_size() {
        let scheduled = BlockSize::new(8).unwrap();
        let sizes = [Objective::Ar, Objective::Bdlm, Objective::Mdlm]
            .map(|objective| objective.block_size(scheduled, 20).get());
        assert_eq!(sizes, [1, 8, 20]);
    }

    #[test]
    fn cap_without_a_right_guess_weighs_nothing() {
        assert_eq!(cap_rows(&[false, false]), []);
        assert_eq!(cap_weight(0.5, 0), 0.0);
        assert_eq!(cap_rows(&[true, false, true]), [0, 2]);
        assert_eq!(cap_weight(0.5, 2), 0.25);
    }

    #[test]
    fn a_policy_equal_to_its_reference_has_margin_zero_and_loss_log_two() {
        let elbos = Elbos {
            chosen: -31.5,
            rejected: -12.25,
        };
        assert_eq!(dpo_margin(elbos, elbos), 0.0);
        let (loss, slope) = dpo_loss(0.0, 0.1);
        assert_eq!(loss, 2f64.ln());
        assert_eq!(slope, -0.05);
    }

    #[test]
    fn swapping_the_answers_flips_the_margin() {
        let policy = Elbos {
            chosen: -10.0,
            rejected: -14.0,
        };
        let reference = Elbos {
            chosen: -11.0,
            rejected: -13.0,
        };
        let swap = |Elbos { chosen, rejected }| Elbos {
            chosen: rejected,
            rejected: chosen,
        };
        assert_eq!(dpo_margin(policy, reference), 2.0);
        assert_eq!(dpo_margin(swap(policy), swap(reference)), -2.0);
    }

    #[test]
    fn the_dpo_slope_is_the_derivative_of_the_loss() {
        for margin in [-40.0, -3.0, -0.1, 0.0, 0.2, 5.0, 60.0] {
            let step = 1e-4;
            let (above, below) = (
                dpo_loss(margin + step, 0.3).0,
                dpo_loss(margin - step, 0.3).0,
            );
            let slope = dpo_loss(margin, 0.3).1;
            assert!(
                ((above - below) / (2.0 * step) - slope).abs() < 1e-8,
                "margin {margin}"
            );
        }
    }

    #[test]
    fn huge_margins_neither_overflow_nor_vanish() {
        let (loss, slope) = dpo_loss(-1e6, 0.1);
        assert_eq!((loss, slope), (1e5, -0.1));
        let (loss, slope) = dpo_loss(500.0, 1.0);
        assert!(
            loss > 0.0 && slope < 0.0,
            "-log sigmoid(500) is about exp(-500), not 0"
        );
    }

    const CLIP: Clip = Clip {
        low: 0.2,
        high: 0.3,
    };

    #[test]
    fn a_ratio_is_clipped_only_on_the_side_that_its_advantage_asks_for() {
        let at = |ratio: f64, advantage| ebpo_loss(ratio.ln(), advantage, CLIP);
        assert_eq!(ebpo_loss(0.0, 2.0, CLIP), (-2.0, -2.0));
        assert_eq!(at(1.5, 1.0), (-1.3, 0.0));
        assert_eq!(at(0.5, -1.0), (0.8, 0.0));
        for (ratio, advantage) in [(0.5, 1.0), (1.5, -1.0), (1.2, 1.0), (0.9, -1.0)] {
            let (loss, slope) = at(ratio, advantage);
            assert!(
                (loss + ratio * advantage).abs() < 1e-12,
                "{ratio} {advantage}"
            );
            assert_eq!(slope, loss);
        }
    }

    #[test]
    fn the_slope_is_the_derivative_by_the_logarithm_of_the_ratio() {
        let step = 1e-6;
        for log_ratio in [-0.5, -0.1, 0.0, 0.2, 0.5] {
            for advantage in [-1.5, 0.7] {
                let loss = |at| ebpo_loss(at, advantage, CLIP).0;
                let numeric = (loss(log_ratio + step) - loss(log_ratio - step)) / (2.0 * step);
                let (_, slope) = ebpo_loss(log_ratio, advantage, CLIP);
                assert!((slope - numeric).abs() < 1e-8, "{log_ratio} {advantage}");
            }
        }
    }

    #[test]
    fn advantages_of_a_group_have_mean_zero_and_deviation_one() {
        assert_eq!(group_advantages(&[1.0, 0.0]).unwrap(), [1.0, -1.0]);
        let advantages = group_advantages(&[1.0, 1.0, 1.0, 0.0]).unwrap();
        let sum: f64 = advantages.iter().sum();
        let squares: f64 = advantages.iter().map(|a| a * a).sum();
        assert!(sum.abs() < 1e-12 && (squares / 4.0 - 1.0).abs() < 1e-12);
        assert!(advantages[3] < -1.7 && advantages[0] > 0.0);
    }

    #[test]
    fn equal_rewards_have_no_advantage() {
        assert_eq!(group_advantages(&[0.1; 7]), None);
        assert_eq!(group_advantages(&[1.0]), None);
    }
}
