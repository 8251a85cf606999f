//! From hidden states to a candidate per position: the most probable token or a drawn one.
//!
//! Greedy choice never sees whole logits: the fused head returns the best token and its probability.
//! Draws use the Gumbel trick, argmax of z / T + g, with noise addressed by (seed, position, step,
//! token): an answer does not depend on what else is in the batch.

use llada_diffusion::{Candidate, Rng, Stream};
use llada_model::Model;
use llada_tensor::{HeadRow, Tensor};

use crate::{Error, Sampling};

/// How tokens are chosen from rows of the model's output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    pub(crate) sampling: Sampling,
    /// Id that is never chosen: MASK.
    pub(crate) banned: Option<u32>,
}

impl Sampler {
    /// Returns a candidate for each position, given the hidden states that predict them,
    /// `[positions, D]`.
    pub(crate) fn candidates(
        &self,
        model: &Model,
        hidden: &Tensor,
        positions: &[usize],
        step: usize,
    ) -> Result<Vec<Candidate>, Error> {
        if self.sampling.temperature == 0.0 {
            return self.best(model, hidden, positions);
        }
        let logits = model.logits(hidden);
        let draw = |(row, &position)| self.draw(logits.row(row), position, step);
        positions.iter().enumerate().map(draw).collect()
    }

    fn best(
        &self,
        model: &Model,
        hidden: &Tensor,
        positions: &[usize],
    ) -> Result<Vec<Candidate>, Error> {
        let rows = model.head_rows(hidden, None, self.banned);
        let candidate = |(row, &position): (&HeadRow, &usize)| {
            let (token, confidence) = (row.argmax, (row.argmax_logit - row.lse).exp());
            if !(row.lse.is_finite() && confidence.is_finite()) {
                return Err(Error::NotFinite { position });
            }
            Ok(Candidate {
                position,
                token,
                confidence,
            })
        };
        rows.iter().zip(positions).map(candidate).collect()
    }

    /// Draws a token from one row of logits, `[V]`. Its confidence is its probability at temperature
    /// 1 among all tokens.
    pub(crate) fn draw(
        &self,
        logits: &[f32],
        position: usize,
        step: usize,
    ) -> Result<Candidate, Error> {
        if !logits.iter().all(|z| z.is_finite()) {
            return Err(Error::NotFinite { position });
        }
        let Sampling {
            temperature, seed, ..
        } = self.sampling;
        let logit = |id: u32| f64::from(logits[id as usize]);
        let noise = Rng::new(seed, Stream::Sample).fork(step as u32, 0, position as u32);
        let score = |id| logit(id) / f64::from(temperature) + gumbel(noise.at(0, 0, id)[0]);
        let (token, _) = (self.kept(logits).into_iter())
            .map(|id| (id, score(id)))
            .reduce(|best, other| if other.1 > best.1 { other } else { best })
            .expect("the plan found a token besides MASK");
        let sum: f64 = logits
            .iter()
            .map(|&z| (f64::from(z) - logit(token)).exp())
            .sum();
        Ok(Candidate {
            position,
            token,
            confidence: (1.0 / sum) as f32,
        })
    }

    /// Returns the ids that may be drawn.
    fn kept(&self, logits: &[f32]) -> Vec<u32> {
        let all = 0..logits.len() as u32;
        let mut ids: Vec<u32> = all.filter(|&id| Some(id) != self.banned).collect();
        let Sampling { top_k, top_p, .. } = self.sampling;
        if top_k == 0 && top_p == 1.0 {
            return ids;
        }
        // Best first; the sort is stable, so the lower id goes before its equals.
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        if top_k > 0 {
            ids.truncate(top_k);
        }
        ids.truncate(self.nucleus(logits, &ids));
        ids
    }

    /// Returns how many of the `ids`, best first, together have probability `top_p`; at least 1.
    fn nucleus(&self, logits: &[f32], ids: &[u32]) -> usize {
        let Sampling {
            temperature, top_p, ..
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
        reached.map_or(ids.len(), |last| last + 1)
    }
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

    fn sampler(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
        let sampling = Sampling {
            temperature,
            top_k,
            top_p,
            seed,
        };
        Sampler {
            sampling,
            banned: Some(4),
        }
    }

    fn tokens(sampler: Sampler, step: usize, len: usize) -> Vec<u32> {
        let draw = |position| sampler.draw(&LOGITS, position, step).unwrap().token;
        (0..len).map(draw).collect()
    }

    #[test]
    fn draws_follow_the_tempered_softmax_without_the_banned_token() {
        let mut shares = [0.0; 5];
        for token in tokens(sampler(2.0, 0, 1.0, 0), 0, 20_000) {
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
        let drawn = sampler(0.5, 1, 1.0, 0).draw(&LOGITS, 3, 7).unwrap();
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
        assert_eq!(sampler(1.0, 3, 1.0, 0).kept(&LOGITS), [1, 3, 2]);
        assert_eq!(sampler(1.0, 9, 1.0, 0).kept(&LOGITS), [1, 3, 2, 0]);
        // Probabilities are 0.40, 0.40, 0.15, 0.05.
        assert_eq!(sampler(1.0, 0, 0.3, 0).kept(&LOGITS), [1]);
        assert_eq!(sampler(1.0, 0, 0.5, 0).kept(&LOGITS), [1, 3]);
        assert_eq!(sampler(1.0, 0, 0.9, 0).kept(&LOGITS), [1, 3, 2]);
        assert_eq!(sampler(1.0, 2, 0.9, 0).kept(&LOGITS), [1, 3]);
        // A low temperature sharpens before the nucleus is taken: 0.49 and 0.49 come first.
        assert_eq!(sampler(0.25, 0, 0.9, 0).kept(&LOGITS), [1, 3]);
    }

    #[test]
    fn draws_depend_on_seed_position_and_step() {
        let draws = |seed, step| tokens(sampler(3.0, 0, 1.0, seed), step, 64);
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 1));
        assert_ne!(draws(1, 0), [draws(1, 0)[0]; 64]);
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = sampler(1.0, 0, 1.0, 0).draw(&[0.0, bad], 5, 0).unwrap_err();
            assert_eq!(error, Error::NotFinite { position: 5 });
        }
    }
}
