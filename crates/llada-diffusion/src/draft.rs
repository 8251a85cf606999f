//! Drafts: what a model that edits is trained on (LLaDA2.1 and 2.2).
//!
//! Masks teach to fill open positions (M2T). A decoder that edits also compares the tokens it has
//! placed with what it would place now, so it must have seen wrong tokens in its input (T2T):
//!
//! ```text
//! x~(i) = MASK                    with probability t            masked: learn the token
//!       = a wrong token           with probability rho (1 - t)  wrong: learn the token
//!       = x0(i)                   otherwise                     right: some are learned, as they are
//! ```
//!
//! The papers print no formula; this is their text made operational. With insertions and deletions
//! (2.2) whole blocks become drafts: tokens are dropped, added and replaced, and every position learns
//! its Levenshtein label ([`crate::levenshtein`]).

use std::ops::Range;

use crate::levenshtein::{Masks, Operations, levenshtein_labels};
use crate::rng::unit;
use crate::visibility::index;
use crate::{BlockSize, Corruption, Error, Rng, Stream};

/// What a scored position of a draft holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// MASK.
    Masked,
    /// A token that is not to stay.
    Wrong,
    /// The token that belongs there.
    Right,
}

/// The input of a noisy copy, and what is to be learned from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Input tokens, `[L]`.
    pub ids: Vec<u32>,
    /// Tokens or operations to predict, `[L]`.
    pub targets: Vec<u32>,
    /// What is scored, `[L]`.
    pub roles: Vec<Option<Role>>,
}

/// Tokens that may be put in place of right ones: at least two, so that a wrong one always exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacements(Vec<u32>);

impl Replacements {
    /// Returns a set of tokens, which should hold no special ones.
    ///
    /// # Errors
    /// If it has fewer than two.
    pub fn new(tokens: impl IntoIterator<Item = u32>) -> Result<Self, Error> {
        let mut tokens: Vec<u32> = tokens.into_iter().collect();
        tokens.sort_unstable();
        tokens.dedup();
        match tokens.len() {
            0 | 1 => Err(Error::NoReplacement {
                found: tokens.len(),
            }),
            _ => Ok(Self(tokens)),
        }
    }

    /// Picks a token uniformly among those that are not `right`.
    fn pick(&self, word: u32, right: u32) -> u32 {
        let place = self.0.binary_search(&right);
        let num = self.0.len() - usize::from(place.is_ok());
        let drawn = ((u64::from(word) * num as u64) >> 32) as usize;
        let is_after = place.is_ok_and(|place| drawn >= place);
        self.0[drawn + usize::from(is_after)]
    }
}

/// A document and where its noise is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Pass over the data.
    pub epoch: u32,
    /// Number of the document in the data set.
    pub document: u64,
    /// The text, `[L]`.
    pub ids: &'a [u32],
    /// Which tokens may be corrupted, `[L]`.
    pub supervised: &'a [bool],
    /// What may stand in place of a token.
    pub replacements: &'a Replacements,
}

impl Original<'_> {
    /// Returns four random words of a position.
    fn words(&self, position: usize) -> [u32; 4] {
        let rng = Rng::new(self.seed, Stream::ReplacementToken);
        rng.at(self.epoch, self.document, index(position))
    }
}

/// Wrong tokens beside masks (LLaDA2.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplaceNoise {
    /// Share of the tokens left by the mask that is replaced, rho.
    pub rate: f32,
    /// Share of the remaining tokens that is scored.
    pub keep_rate: f32,
}

impl ReplaceNoise {
    /// Draws a draft on top of a mask.
    pub fn draw(&self, of: &Original<'_>, mask: &Corruption, mask_token_id: u32) -> Draft {
        let mut draft = Draft {
            ids: of.ids.to_vec(),
            targets: of.ids.to_vec(),
            roles: vec![None; of.ids.len()],
        };
        for i in (0..of.ids.len()).filter(|&i| of.supervised[i]) {
            let [choice, replace, keep, _] = of.words(i);
            (draft.ids[i], draft.roles[i]) = if mask.masked[i] {
                (mask_token_id, Some(Role::Masked))
            } else if unit(replace) < self.rate {
                (of.replacements.pick(choice, of.ids[i]), Some(Role::Wrong))
            } else {
                (
                    of.ids[i],
                    (unit(keep) < self.keep_rate).then_some(Role::Right),
                )
            };
        }
        draft
    }
}

/// Blocks with tokens dropped, added and replaced (LLaDA2.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevenshteinNoise {
    /// Share of the blocks that are drafts; the others are masked.
    pub share: f32,
    /// Share of a draft's tokens that is dropped, replaced, or has one added before it.
    pub rate: f32,
}

impl LevenshteinNoise {
    /// Draws drafts of some blocks, and takes the mask off them.
    pub fn draw(
        &self,
        of: &Original<'_>,
        mask: &mut Corruption,
        block_size: BlockSize,
        operations: Operations,
    ) -> Draft {
        let mut draft = Draft {
            ids: of.ids.to_vec(),
            targets: of.ids.to_vec(),
            roles: vec![None; of.ids.len()],
        };
        for block in 0..block_size.count(of.ids.len()) {
            let rows = block_size.rows(block, of.ids.len());
            let is_draft = unit(of.words(rows.start)[3]) < self.share;
            for run in runs(of.supervised, rows).filter(|_| is_draft) {
                let target = &of.ids[run.clone()];
                let edited = self.edit(of, run.clone(), operations);
                let labels = levenshtein_labels(&edited, target, operations, Masks::MatchAll);
                for (i, (token, label)) in run.zip(edited.into_iter().zip(labels)) {
                    let is_right = token == label;
                    draft.roles[i] = Some(if is_right { Role::Right } else { Role::Wrong });
                    (draft.ids[i], draft.targets[i], mask.masked[i]) = (token, label, false);
                }
            }
            for i in block_size
                .rows(block, of.ids.len())
                .filter(|&i| mask.masked[i])
            {
                (draft.ids[i], draft.roles[i]) = (operations.mask, Some(Role::Masked));
            }
        }
        draft
    }

    /// Drops, adds and replaces tokens of a run; its length stays.
    fn edit(&self, of: &Original<'_>, run: Range<usize>, operations: Operations) -> Vec<u32> {
        let mut edited = Vec::with_capacity(2 * run.len());
        for i in run.clone() {
            let [choice, decide, kind, _] = of.words(i);
            let wrong = of.replacements.pick(choice, of.ids[i]);
            match (unit(decide) < self.rate, kind % 3) {
                (false, _) => edited.push(of.ids[i]),
                (true, 0) => {}
                (true, 1) => edited.push(wrong),
                (true, _) => edited.extend([wrong, of.ids[i]]),
            }
        }
        edited.resize(run.len(), operations.mask);
        edited
    }
}

/// Returns the stretches of supervised positions within `rows`.
fn runs(supervised: &[bool], rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut next = rows.start;
    std::iter::from_fn(move || {
        let start = (next..rows.end).find(|&i| supervised[i])?;
        let end = (start..rows.end).find(|&i| !supervised[i]);
        next = end.unwrap_or(rows.end);
        Some(start..next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Band, NoiseSchedule, RateScope, apply_labels};

    const MASK: u32 = 99;

    fn replacements() -> Replacements {
        Replacements::new([5, 1, 3, 7, 3]).unwrap()
    }

    fn original<'a>(ids: &'a [u32], supervised: &'a [bool], of: &'a Replacements) -> Original<'a> {
        Original {
            seed: 1,
            epoch: 0,
            document: 3,
            ids,
            supervised,
            replacements: of,
        }
    }

    #[test]
    fn every_wrong_token_is_picked_equally_often_and_the_right_one_never() {
        let picks = |right| {
            let words = (0..3000_u32).map(|i| i.wrapping_mul(1_431_655));
            words
                .map(|word| replacements().pick(word, right))
                .collect::<Vec<_>>()
        };
        for (right, others) in [(3, &[1, 5, 7][..]), (7, &[1, 3, 5]), (4, &[1, 3, 5, 7])] {
            let picks = picks(right);
            for other in others {
                let num = picks.iter().filter(|pick| *pick == other).count();
                assert!(num.abs_diff(3000 / others.len()) < 150, "{other}: {num}");
            }
            assert!(!picks.contains(&right));
        }
        assert!(Replacements::new([4, 4]).is_err());
    }

    #[test]
    fn roles_have_the_shares_of_the_mixture() {
        let (ids, supervised) = (vec![3; 20_000], vec![true; 20_000]);
        let noise = NoiseSchedule::new(RateScope::Document, Band::new(0.4, 0.4).unwrap());
        let size = BlockSize::new(32).unwrap();
        let mask = noise.corrupt(1, 0, 3, &supervised, size);
        let replacements = replacements();
        let of = original(&ids, &supervised, &replacements);
        let edit = ReplaceNoise {
            rate: 0.25,
            keep_rate: 0.5,
        };
        let draft = edit.draw(&of, &mask, MASK);
        let share = |role| {
            let roles = draft.roles.iter().filter(|&&other| other == role);
            roles.count() as f32 / 20_000.0
        };
        let shares = [
            Some(Role::Masked),
            Some(Role::Wrong),
            Some(Role::Right),
            None,
        ]
        .map(share);
        for (share, expected) in shares.into_iter().zip([0.4, 0.15, 0.225, 0.225]) {
            assert!((share - expected).abs() < 0.015, "{shares:?}");
        }
        for (&id, role) in draft.ids.iter().zip(&draft.roles) {
            match role {
                Some(Role::Masked) => assert_eq!(id, MASK),
                Some(Role::Wrong) => assert!(id != 3 && id != MASK),
                Some(Role::Right) | None => assert_eq!(id, 3),
            }
        }
    }

    #[test]
    fn unsupervised_tokens_stay() {
        let ids: Vec<u32> = (0..40).map(|i| [1, 3, 5, 7][i % 4]).collect();
        let supervised: Vec<bool> = (0..40).map(|i| i >= 17).collect();
        let replacements = replacements();
        let of = original(&ids, &supervised, &replacements);
        let operations = Operations {
            mask: MASK,
            delete: 97,
            insert: 98,
        };
        let noise = LevenshteinNoise {
            share: 1.0,
            rate: 0.5,
        };
        let mut mask = Corruption {
            masked: supervised.clone(),
            rates: vec![1.0; 40],
        };
        let size = BlockSize::new(8).unwrap();
        let draft = noise.draw(&of, &mut mask, size, operations);
        assert_eq!(draft.ids[..17], ids[..17]);
        assert!(draft.roles[..17].iter().all(Option::is_none));
        assert!(draft.roles[17..].iter().all(Option::is_some));
        assert_eq!(mask.num_masked(), 0, "every block is a draft");
        assert!(draft.roles.contains(&Some(Role::Wrong)));
        // The labels lead back to the text.
        let mut block = draft.ids[24..32].to_vec();
        let mut labels = draft.targets[24..32].to_vec();
        for _ in 0..8 {
            block = apply_labels(&block, &labels, operations);
            labels = levenshtein_labels(&block, &ids[24..32], operations, Masks::MatchAll);
        }
        assert_eq!(block, ids[24..32]);
    }

    #[test]
    fn blocks_that_are_no_drafts_stay_masked() {
        let (ids, supervised) = (vec![3; 800], vec![true; 800]);
        let replacements = replacements();
        let of = original(&ids, &supervised, &replacements);
        let operations = Operations {
            mask: MASK,
            delete: 97,
            insert: 98,
        };
        let noise = LevenshteinNoise {
            share: 0.5,
            rate: 0.3,
        };
        let mut mask = Corruption {
            masked: vec![true; 800],
            rates: vec![1.0; 800],
        };
        let draft = noise.draw(&of, &mut mask, BlockSize::new(8).unwrap(), operations);
        for (i, role) in draft.roles.iter().enumerate() {
            assert_eq!(*role == Some(Role::Masked), mask.masked[i], "{i}");
        }
        let num = mask.num_masked();
        assert!(num.is_multiple_of(8) && (200..600).contains(&num), "{num}");
    }
}
