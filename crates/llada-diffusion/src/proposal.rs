//! Proposals: what a model says about a position, once its logits are reduced to a token.

use crate::Error;

/// A proposal for a position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Position in the sequence.
    pub position: usize,
    /// Most probable token that is not banned.
    pub token: u32,
    /// Its probability among *all* tokens.
    pub confidence: f32,
}

/// The outcome of a forward, asked for one position at a time.
///
/// Most policies ban MASK alone, everywhere; a slice of [`Candidate`]s chosen so is enough for them.
/// Only [`crate::Edit::Revise`] bans what depends on the state, and needs whole logits.
pub trait Proposals {
    /// Returns the most probable token for `position` outside `banned`, ties to the lower id; `None`
    /// if there is none or the position was not predicted.
    fn best(&self, position: usize, banned: &[u32]) -> Option<Candidate>;
}

impl Proposals for [Candidate] {
    fn best(&self, position: usize, banned: &[u32]) -> Option<Candidate> {
        let is_proposal = |c: &&Candidate| c.position == position && !banned.contains(&c.token);
        self.iter().find(is_proposal).copied()
    }
}

/// Returns the proposal for `position` outside `banned`.
///
/// # Panics
/// If there is none, or it is banned.
pub(crate) fn candidate<P>(proposals: &P, position: usize, banned: &[u32]) -> Candidate
where
    P: Proposals + ?Sized,
{
    let candidate = proposals.best(position, banned);
    let candidate = candidate.filter(|c| c.position == position && !banned.contains(&c.token));
    candidate.unwrap_or_else(|| panic!("no proposal for position {position} outside {banned:?}"))
}

/// A number to add to a logit before a token is chosen and its probability computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjustment {
    /// Position whose logits change.
    pub position: usize,
    /// Token whose logit changes.
    pub token: u32,
    /// What is added to it.
    pub delta: f32,
}

/// Returns the most probable token outside `banned`, and its probability among *all* tokens.
///
/// Ties go to the lower id. Were MASK allowed to win, a position could be "filled" with it for ever.
/// This is the definition; engines compute the same without storing the logits `[V]`.
///
/// # Errors
/// If a logit is not finite, or all tokens are banned.
pub fn propose(logits: &[f32], banned: &[u32]) -> Result<(u32, f32), Error> {
    if let Some(token) = logits.iter().position(|z| !z.is_finite()) {
        return Err(Error::NonFiniteLogit {
            token,
            value: logits[token],
        });
    }
    let tokens = (0u32..)
        .zip(logits.iter().copied())
        .filter(|(token, _)| !banned.contains(token));
    let (token, best) = tokens
        .reduce(|best, other| if other.1 > best.1 { other } else { best })
        .ok_or(Error::NoToken {
            found: logits.len(),
        })?;
    let max = logits.iter().copied().fold(best, f32::max);
    let sum: f64 = logits.iter().map(|&z| f64::from(z - max).exp()).sum();
    Ok((token, (f64::from(best - max).exp() / sum) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_is_never_proposed_but_takes_its_share_of_probability() {
        let (token, confidence) = propose(&[0.0, 2f32.ln(), 5f32.ln()], &[2]).unwrap();
        assert_eq!(token, 1);
        assert!((confidence - 2.0 / 8.0).abs() < 1e-6);
    }

    #[test]
    fn equal_logits_propose_the_lower_id() {
        assert_eq!(propose(&[1.0, 3.0, 3.0, 3.0], &[1]).unwrap().0, 2);
        assert_eq!(propose(&[1.0, 3.0, 3.0, 3.0], &[1, 2]).unwrap().0, 3);
        assert_eq!(propose(&[1.0, 3.0, 3.0, 3.0], &[]).unwrap().0, 1);
    }

    #[test]
    fn logits_of_any_size_have_a_probability() {
        assert_eq!(propose(&[-3e38, 3e38, 0.0], &[2]), Ok((1, 1.0)));
    }

    #[test]
    fn broken_logits_are_errors() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = propose(&[0.0, value], &[0]).unwrap_err();
            assert!(matches!(error, Error::NonFiniteLogit { token: 1, .. }));
        }
        assert_eq!(propose(&[1.0], &[0]), Err(Error::NoToken { found: 1 }));
        assert_eq!(propose(&[], &[0]), Err(Error::NoToken { found: 0 }));
    }

    #[test]
    fn a_slice_has_no_proposal_of_a_banned_token_or_a_foreign_position() {
        let candidate = Candidate {
            position: 4,
            token: 1,
            confidence: 0.5,
        };
        let slice = [candidate];
        assert_eq!(slice.best(4, &[2]), Some(candidate));
        assert_eq!(slice.best(4, &[2, 1]), None);
        assert_eq!(slice.best(5, &[]), None);
    }
}
