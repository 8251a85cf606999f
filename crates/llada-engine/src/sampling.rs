//! From logits to a candidate per position: the most probable token or a drawn one.
//!
//! A plain greedy choice never sees whole logits: the fused head returns the best token and its
//! probability. Everything else starts from a row of logits, `[V]`:
//!
//! 1. penalties, biases and the policy's adjustments change the logits, hence the confidence too;
//! 2. truncation and a grammar narrow the tokens to choose from, but not the confidence, which is
//!    always the probability at temperature 1 among all tokens;
//! 3. draws use the Gumbel trick, argmax of z / T + g, with noise addressed by (seed, position,
//!    step, token): an answer does not depend on what else is in the batch.

use std::collections::HashMap;

use llada_diffusion::{Candidate, Rng, Stream};
use llada_tensor::HeadRow;

use crate::{Error, Sampling};

/// How tokens are chosen from rows of the model's output.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    pub(crate) sampling: Sampling,
}

/// Where a token is to be chosen, and from what.
#[derive(Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) position: usize,
    pub(crate) step: usize,
    /// Ids that are never chosen, such as MASK.
    pub(crate) banned: &'a [u32],
    /// Tokens that may be chosen; all if `None`.
    pub(crate) allowed: Option<&'a dyn Fn(u32) -> bool>,
}

/// Returns the candidate that the fused head found.
pub(crate) fn best(row: &HeadRow, position: usize) -> Result<Candidate, Error> {
    let (token, confidence) = (row.argmax, (row.argmax_logit - row.lse).exp());
    if !(row.lse.is_finite() && confidence.is_finite()) {
        return Err(Error::NotFinite { position });
    }
    Ok(Candidate {
        position,
        token,
        confidence,
    })
}

impl Sampler {
    /// Returns whether the fused head says all: the most probable token of the model's own logits.
    pub(crate) fn is_plain(&self) -> bool {
        self.sampling.temperature == 0.0 && !self.changes_logits()
    }

    fn changes_logits(&self) -> bool {
        let sampling = &self.sampling;
        sampling.has_penalties() || !sampling.logit_bias.is_empty()
    }

    /// Changes the logits `[V]` of a row as the request asks, given the tokens before it.
    pub(crate) fn adjust(&self, logits: &mut [f32], before: impl Iterator<Item = u32>) {
        let sampling = &self.sampling;
        if sampling.has_penalties() {
            let mut counts: HashMap<u32, f32> = HashMap::new();
            before.for_each(|id| *counts.entry(id).or_default() += 1.0);
            for (id, count) in counts {
                let z = &mut logits[id as usize];
                let factor = sampling.repetition_penalty;
                *z = if *z > 0.0 { *z / factor } else { *z * factor };
                *z -= sampling.presence_penalty + sampling.frequency_penalty * count;
            }
        }
        for &(id, bias) in &sampling.logit_bias {
            logits[id as usize] += bias;
        }
    }

    /// Chooses a token from one row of logits, `[V]`.
    ///
    /// # Errors
    /// If a logit is not finite, or no token may be chosen.
    pub(crate) fn choose(&self, logits: &[f32], choice: Choice<'_>) -> Result<Candidate, Error> {
        let Choice { position, step, .. } = choice;
        if !logits.iter().all(|z| z.is_finite()) {
            return Err(Error::NotFinite { position });
        }
        let may = |id: &u32| {
            !choice.banned.contains(id) && choice.allowed.is_none_or(|allowed| allowed(*id))
        };
        let ids: Vec<u32> = (0..logits.len() as u32).filter(may).collect();
        let temperature = f64::from(self.sampling.temperature);
        let logit = |id: u32| f64::from(logits[id as usize]);
        let token = if temperature == 0.0 {
            argmax(ids, logit)
        } else {
            let noise =
                Rng::new(self.sampling.seed, Stream::Sample).fork(step as u32, 0, position as u32);
            let score = |id| logit(id) / temperature + gumbel(noise.at(0, 0, id)[0]);
            argmax(self.kept(logits, ids), score)
        };
        let token = token.ok_or(Error::NothingAllowed { position })?;
        Ok(Candidate {
            position,
            token,
            confidence: probability(logits, token),
        })
    }

    /// Returns the ids that may be drawn, of those given in ascending order.
    fn kept(&self, logits: &[f32], mut ids: Vec<u32>) -> Vec<u32> {
        let Sampling {
            top_k,
            top_p,
            min_p,
            ..
        } = self.sampling;
        if top_k == 0 && top_p == 1.0 && min_p == 0.0 {
            return ids;
        }
        // Best first, the lower id before its equals.
        let order = |a: &u32, b: &u32| {
            let by_logit = logits[*b as usize].total_cmp(&logits[*a as usize]);
            by_logit.then(a.cmp(b))
        };
        if top_k > 0 && top_k < ids.len() {
            ids.select_nth_unstable_by(top_k - 1, order);
            ids.truncate(top_k);
        }
        ids.sort_unstable_by(order);
        ids.truncate(self.nucleus(logits, &ids));
        ids
    }

    /// Returns how many of the `ids`, best first, together have probability `top_p` and each at least
    /// `min_p` times that of the best; at least 1.
    fn nucleus(&self, logits: &[f32], ids: &[u32]) -> usize {
        let Sampling {
            temperature,
            top_p,
            min_p,
            ..
        } = self.sampling;
        let tempered = |id: u32| f64::from(logits[id as usize]) / f64::from(temperature);
        let best = ids.first().map_or(0.0, |&id| tempered(id));
        let weights: Vec<f64> = ids.iter().map(|&id| (tempered(id) - best).exp()).collect();
        let target = f64::from(top_p) * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let reached = weights.iter().position(|weight| {
            sum += weight;
            sum >= target
        });
        let of_top_p = reached.map_or(ids.len(), |last| last + 1);
        let of_min_p = weights.partition_point(|&weight| weight >= f64::from(min_p));
        of_top_p.min(of_min_p).max(1)
    }
}

/// Returns the best id, the lower one of equals.
fn argmax(ids: Vec<u32>, score: impl Fn(u32) -> f64) -> Option<u32> {
    let scored = ids.into_iter().map(|id| (id, score(id)));
    let best = scored.reduce(|best, other| if other.1 > best.1 { other } else { best });
    best.map(|(id, _)| id)
}

/// Returns the probability of a token at temperature 1 among all tokens.
pub(crate) fn probability(logits: &[f32], token: u32) -> f32 {
    let logit = f64::from(logits[token as usize]);
    let sum: f64 = logits.iter().map(|&z| (f64::from(z) - logit).exp()).sum();
    (1.0 / sum) as f32
}

/// Maps a random word to a standard Gumbel number; the half keeps both logarithms finite.
fn gumbel(word: u32) -> f64 {
    let uniform = (f64::from(word) + 0.5) / 2f64.powi(32);
    -(-uniform.ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, 9.0];

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler { sampling }
    }

    fn drawing(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
        sampler(Sampling {
            temperature,
            top_k,
            top_p,
            seed,
            ..Sampling::default()
        })
    }

    fn at(position: usize, step: usize) -> Choice<'static> {
        Choice {
            position,
            step,
            banned: &[4],
            allowed: None,
        }
    }

    fn tokens(sampler: &Sampler, step: usize, len: usize) -> Vec<u32> {
        let draw = |position| sampler.choose(&LOGITS, at(position, step)).unwrap().token;
        (0..len).map(draw).collect()
    }

    fn kept(sampler: &Sampler) -> Vec<u32> {
        sampler.kept(&LOGITS, (0..4).collect())
    }

    #[test]
    fn draws_follow_the_tempered_softmax_without_the_banned_token() {
        let mut shares = [0.0; 5];
        for token in tokens(&drawing(2.0, 0, 1.0, 0), 0, 20_000) {
            shares[token as usize] += 1.0 / 20_000.0;
        }
        let weights = [1.0f64, 3.0, 2.0, 3.0].map(|z| (z / 2.0).exp());
        let sum: f64 = weights.iter().sum();
        for (share, weight) in shares.iter().zip(weights) {
            // Four standard deviations of a share of 20,000 draws are at most 0.0142.
            assert!((share - weight / sum).abs() < 0.0142, "{shares:?}");
        }
        assert_eq!(shares[4], 0.0);
    }

    #[test]
    fn confidence_is_the_untruncated_probability_at_temperature_one() {
        let drawn = drawing(0.5, 1, 1.0, 0).choose(&LOGITS, at(3, 7)).unwrap();
        let sum: f64 = LOGITS.iter().map(|&z| f64::from(z).exp()).sum();
        assert_eq!(
            (drawn.position, drawn.token),
            (3, 1),
            "the lower id wins the tie"
        );
        assert!((f64::from(drawn.confidence) - 3f64.exp() / sum).abs() < 1e-7);
    }

    #[test]
    fn truncation_keeps_the_most_probable() {
        assert_eq!(kept(&drawing(1.0, 3, 1.0, 0)), [1, 3, 2]);
        assert_eq!(kept(&drawing(1.0, 9, 1.0, 0)), [1, 3, 2, 0]);
        // Probabilities are 0.40, 0.40, 0.15, 0.05.
        assert_eq!(kept(&drawing(1.0, 0, 0.3, 0)), [1]);
        assert_eq!(kept(&drawing(1.0, 0, 0.5, 0)), [1, 3]);
        assert_eq!(kept(&drawing(1.0, 0, 0.9, 0)), [1, 3, 2]);
        assert_eq!(kept(&drawing(1.0, 2, 0.9, 0)), [1, 3]);
        // A low temperature sharpens before the nucleus is taken: 0.49 and 0.49 come first.
        assert_eq!(kept(&drawing(0.25, 0, 0.9, 0)), [1, 3]);
        // 0.15 is 0.37 of the best.
        for (min_p, expected) in [(0.3, vec![1, 3, 2]), (0.4, vec![1, 3]), (1.0, vec![1, 3])] {
            let sampling = Sampling {
                temperature: 1.0,
                min_p,
                ..Sampling::default()
            };
            assert_eq!(kept(&sampler(sampling)), expected);
        }
    }

    #[test]
    fn draws_depend_on_seed_position_and_step() {
        let draws = |seed, step| tokens(&drawing(3.0, 0, 1.0, seed), step, 64);
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 1));
        assert_ne!(draws(1, 0), [draws(1, 0)[0]; 64]);
    }

    #[test]
    fn penalties_and_biases_change_choice_and_confidence() {
        let sampler = sampler(Sampling {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            logit_bias: vec![(0, 3.0)],
            ..Sampling::default()
        });
        assert!(!sampler.is_plain());
        let mut logits = [1.0, 3.0, -2.0, 3.0, 0.0];
        sampler.adjust(&mut logits, [1, 1, 2].into_iter());
        assert_eq!(logits, [4.0, 0.5, -4.75, 3.0, 0.0]);
        let chosen = sampler.choose(&logits, at(0, 0)).unwrap();
        assert_eq!(chosen.token, 0);
        assert_eq!(chosen.confidence, probability(&logits, 0));
    }

    #[test]
    fn only_allowed_tokens_are_chosen_and_none_is_an_error() {
        let plain = sampler(Sampling::default());
        let only = |allowed: &dyn Fn(u32) -> bool| {
            let choice = Choice {
                allowed: Some(allowed),
                ..at(5, 0)
            };
            plain.choose(&LOGITS, choice)
        };
        let chosen = only(&|id| id == 2).unwrap();
        assert_eq!(chosen.token, 2);
        assert_eq!(chosen.confidence, probability(&LOGITS, 2));
        let error = only(&|id| id == 4).unwrap_err();
        assert_eq!(error, Error::NothingAllowed { position: 5 });
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = drawing(1.0, 0, 1.0, 0)
                .choose(&[0.0, bad], at(5, 0))
                .unwrap_err();
            assert_eq!(error, Error::NotFinite { position: 5 });
        }
    }
}
