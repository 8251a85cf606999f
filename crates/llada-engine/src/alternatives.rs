//! The most probable tokens of each place, told beside the one that was placed.

use std::collections::BTreeMap;
use std::ops::Range;

/// A token that might have been placed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alternative {
    /// The token.
    pub token: u32,
    /// Its log-probability at temperature 1 among all tokens, in the state that the place was decided
    /// in.
    pub logprob: f32,
}

/// Alternatives of a text, by position. Nothing may move positions.
#[derive(Debug, Default)]
pub(crate) struct Alternatives {
    /// How many of a place are kept.
    count: usize,
    /// Those of the forward under way.
    proposed: Vec<(usize, Vec<Alternative>)>,
    /// Those of the forwards that decided.
    decided: BTreeMap<usize, Vec<Alternative>>,
}

impl Alternatives {
    /// Keeps `count` of each place.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count,
            ..Self::default()
        }
    }

    /// Returns whether any are kept.
    pub(crate) fn are_kept(&self) -> bool {
        self.count > 0
    }

    /// Notes what a forward proposes, given logits `[V]` of positions. `banned` is never placed.
    pub(crate) fn propose(&mut self, rows: &[(usize, Vec<f32>)], banned: u32) {
        if !self.are_kept() {
            return;
        }
        let best = |(position, logits): &(usize, Vec<f32>)| {
            (*position, most_probable(logits, banned, self.count))
        };
        self.proposed = rows.iter().map(best).collect();
    }

    /// Keeps what was proposed for positions that the forward decided.
    pub(crate) fn decide(&mut self, mut is_decided: impl FnMut(usize) -> bool) {
        let proposed = self.proposed.drain(..);
        self.decided
            .extend(proposed.filter(|(position, _)| is_decided(*position)));
    }

    /// Returns those of decided positions; none if none are kept.
    pub(crate) fn of(&self, positions: Range<usize>) -> Vec<Vec<Alternative>> {
        let decided = self.decided.range(positions);
        decided
            .map(|(_, alternatives)| alternatives.clone())
            .collect()
    }
}

/// Returns the `count` most probable tokens besides `banned`, the best first, the lower id before its
/// equals, given finite logits `[V]`.
fn most_probable(logits: &[f32], banned: u32, count: usize) -> Vec<Alternative> {
    let logit = |token: u32| logits[token as usize];
    let order = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
    let mut tokens: Vec<u32> = (0..logits.len() as u32)
        .filter(|&id| id != banned)
        .collect();
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, order);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(order);
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - max).exp()).sum();
    let alternative = |token| Alternative {
        token,
        logprob: (f64::from(logit(token)) - f64::from(max) - sum.ln()).max(f64::from(f32::MIN))
            as f32,
    };
    tokens.into_iter().map(alternative).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_come_first_and_lower_ids_before_equals() {
        let logits = [1.0, 3.0, 9.0, 3.0, 2.0].map(f32::ln);
        let alternatives = most_probable(&logits, 2, 3);
        let tokens: Vec<u32> = alternatives.iter().map(|a| a.token).collect();
        assert_eq!(tokens, [1, 3, 4]);
        // The banned token has its share of the probability.
        for (alternative, share) in alternatives.iter().zip([3.0f32, 3.0, 2.0]) {
            assert!((alternative.logprob - (share / 18.0).ln()).abs() < 1e-6);
        }
        assert_eq!(most_probable(&logits, 2, 9).len(), 4);
    }

    #[test]
    fn a_probability_that_underflows_has_a_logarithm() {
        let alternatives = most_probable(&[0.0, -300.0], u32::MAX, 2);
        assert_eq!(alternatives[1].logprob, -300.0);
    }

    #[test]
    fn the_forward_that_decides_a_place_tells_its_alternatives() {
        let mut alternatives = Alternatives::new(1);
        alternatives.propose(&[(4, vec![0.0, 1.0]), (5, vec![0.0, 1.0])], u32::MAX);
        alternatives.decide(|position| position == 4);
        alternatives.propose(&[(5, vec![1.0, 0.0])], u32::MAX);
        alternatives.decide(|_| true);
        let tokens = |places: &[Vec<Alternative>]| places.iter().map(|of| of[0].token).collect();
        let tokens: Vec<u32> = tokens(&alternatives.of(4..6));
        assert_eq!(tokens, [1, 0]);
    }
}
