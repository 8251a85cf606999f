//! Credit: tokens proposed again and again for a position become easier to accept (dInfer).
//!
//! ```text
//! after a step, at each open position:  C[i, v] *= 0.8 for all v;   C[i, t_i] += p_i ^ 0.2
//! before the next step:                 z_i[v] += 0.7 ln(1 + C[i, v])
//! ```
//!
//! A token's confidence thus rises while the model keeps to it, and steps are saved where it is right
//! but not sure. The power makes small probabilities count nearly as much as large ones.
//!
//! The source credits a proposal before it is judged, and from logits without credit. Here credit
//! shows from the next step on, and its own effect feeds back: a proposal is all that is seen.
//!
//! Only proposed tokens have credit, so the table is as small as the number of proposals.

use std::collections::BTreeMap;

use crate::proposal::{Adjustment, Candidate};

const DECAY: f32 = 0.8;
const POWER: f32 = 0.2;
const WEIGHT: f32 = 0.7;

/// What the proposals of a block's steps add up to, by position and token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credits(BTreeMap<(usize, u32), f32>);

impl Credits {
    /// Adds the proposals of a step, one for each open position.
    pub fn add(&mut self, candidates: &[Candidate]) {
        for credit in self.0.values_mut() {
            *credit *= DECAY;
        }
        for candidate in candidates {
            let key = (candidate.position, candidate.token);
            *self.0.entry(key).or_default() += candidate.confidence.powf(POWER);
        }
    }

    /// Returns what to add to the logits of `position`, by ascending token.
    pub fn adjustments(&self, position: usize) -> impl Iterator<Item = Adjustment> {
        let of_position = self.0.range((position, 0)..=(position, u32::MAX));
        of_position.map(move |(&(_, token), &credit)| Adjustment {
            position,
            token,
            delta: WEIGHT * credit.ln_1p(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(position: usize, token: u32, confidence: f32) -> Candidate {
        Candidate {
            position,
            token,
            confidence,
        }
    }

    fn deltas(credits: &Credits, position: usize) -> Vec<(u32, f32)> {
        let adjustments = credits.adjustments(position);
        adjustments.map(|a| (a.token, a.delta)).collect()
    }

    #[test]
    fn nothing_is_credited_before_the_first_step() {
        assert_eq!(deltas(&Credits::default(), 3), []);
    }

    #[test]
    fn a_token_proposed_twice_gains_and_one_given_up_fades() {
        let mut credits = Credits::default();
        credits.add(&[proposal(3, 7, 1.0), proposal(4, 9, 0.5)]);
        credits.add(&[proposal(3, 7, 1.0), proposal(4, 2, 0.5)]);
        let credit = |c: f32| 0.7 * (1.0 + c).ln();
        let expected = [(7, credit(0.8 + 1.0))];
        assert!((deltas(&credits, 3)[0].1 - expected[0].1).abs() < 1e-6);
        let [new, old] = deltas(&credits, 4)[..] else {
            panic!("two tokens were proposed for position 4")
        };
        assert_eq!((new.0, old.0), (2, 9));
        assert!((new.1 - credit(0.5f32.powf(0.2))).abs() < 1e-6);
        assert!((old.1 - credit(0.8 * 0.5f32.powf(0.2))).abs() < 1e-6);
    }
}
