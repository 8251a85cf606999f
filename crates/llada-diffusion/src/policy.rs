//! Policies: all that decides how a text is decoded, and the published combinations by name.

use crate::Error;
use crate::acceptance::{self, Acceptance, Quota};
use crate::names::names;
use crate::window::Window;

/// How a text is decoded. The default is [`Preset::Quality2`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Which proposals fill open positions.
    pub acceptance: Acceptance,
    /// How many a step fills at least.
    pub quota: Quota,
    /// Whether placed tokens may change.
    pub edit: Edit,
    /// Forwards that a block may take, with editing, once it has no open position.
    pub max_post_edit_steps: usize,
    /// With editing: what a token's logit loses where its left neighbour in the block is the same
    /// token, against stuttering.
    pub penalty_lambda: f32,
    /// How many blocks are denoised at a time.
    pub window: Window,
    /// Whether done blocks are edited again; unpublished, and off by default.
    pub reopen: Option<Reopen>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            acceptance: Acceptance::Threshold(0.95),
            quota: Quota::MinTransfer(1),
            edit: Edit::Off,
            max_post_edit_steps: 16,
            penalty_lambda: 0.0,
            window: Window::default(),
            reopen: None,
        }
    }
}

/// Whether tokens may change after they were placed, until their block ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Edit {
    /// Never (LLaDA2.0).
    Off,
    /// If another token is proposed with a confidence above this; at 0, whenever another is proposed
    /// (LLaDA2.1).
    Above(f32),
    /// As `Above`, and the model may also insert and delete positions (LLaDA2.2): [`crate::revise`].
    Revise {
        /// Confidence above which a placed token changes.
        above: f32,
        /// Proposed to delete a position; from the checkpoint.
        delete_token_id: u32,
        /// Proposed to insert an open position before one; from the checkpoint.
        split_token_id: u32,
    },
}

/// The published combinations of threshold and editing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// LLaDA2.0: threshold 0.95, no editing.
    Quality2,
    /// LLaDA2.1, quality: threshold 0.7, edits above 0.5.
    Quality,
    /// LLaDA2.1, speed: threshold 0.5, edits whatever the confidence.
    Speed,
}

names!(Preset, "decoding mode", { Quality2 => "quality2.0", Quality => "q", Speed => "s" });

impl Preset {
    /// Returns the policy of that name.
    pub fn policy(self) -> Policy {
        let (threshold, edit) = match self {
            Self::Quality2 => (0.95, Edit::Off),
            Self::Quality => (0.7, Edit::Above(0.5)),
            Self::Speed => (0.5, Edit::Above(0.0)),
        };
        Policy {
            acceptance: Acceptance::Threshold(threshold),
            edit,
            ..Policy::default()
        }
    }
}

/// Once a block is done, the blocks before it are edited together with it: multi-block editing.
///
/// The LLaDA2.1 report names it without a rule; this one is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reopen {
    /// How many blocks before the one that is done, at least 1.
    pub blocks: usize,
    /// Forwards that may edit them, at least 1. The first one that changes nothing is the last.
    pub rounds: usize,
}

impl Policy {
    /// Returns how many blocks can be active together.
    pub fn max_active_blocks(&self) -> usize {
        let reopened = self.reopen.map_or(0, |reopen| reopen.blocks);
        self.window.max_blocks().saturating_add(reopened)
    }

    /// Returns an error unless the numbers mean something, the special ids differ, and no block is
    /// edited that later ones were conditioned on.
    pub(crate) fn check(&self, mask_token_id: u32) -> Result<(), Error> {
        acceptance::check(self.acceptance)?;
        check_finite("penalty", &[self.penalty_lambda])?;
        self.window.check()?;
        if self.window.is_approximate() && self.edit != Edit::Off {
            return Err(Error::EditedWindow);
        }
        self.check_reopen()?;
        match self.edit {
            Edit::Off => Ok(()),
            Edit::Above(above) => check_finite("edit threshold", &[above]),
            Edit::Revise {
                above,
                delete_token_id,
                split_token_id,
            } => {
                check_finite("edit threshold", &[above])?;
                check_distinct([mask_token_id, delete_token_id, split_token_id])
            }
        }
    }

    fn check_reopen(&self) -> Result<(), Error> {
        match self.reopen {
            Some(Reopen { blocks, rounds }) if blocks == 0 || rounds == 0 => {
                Err(Error::EmptyReopen { blocks, rounds })
            }
            Some(_) if !matches!(self.edit, Edit::Above(_)) => Err(Error::ReopenWithoutEdit),
            _ => Ok(()),
        }
    }
}

pub(crate) fn check_finite(what: &'static str, numbers: &[f32]) -> Result<(), Error> {
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(&found) => Err(Error::NotFinite { what, found }),
        None => Ok(()),
    }
}

fn check_distinct(ids: [u32; 3]) -> Result<(), Error> {
    let [mask, delete, split] = ids;
    if mask == delete || mask == split || delete == split {
        return Err(Error::SameIds { ids });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_the_published_combinations_by_name() {
        let cases = [
            ("quality2.0", 0.95, Edit::Off),
            ("q", 0.7, Edit::Above(0.5)),
            ("s", 0.5, Edit::Above(0.0)),
        ];
        for (name, threshold, edit) in cases {
            let preset: Preset = name.parse().unwrap();
            assert_eq!(preset.to_string(), name);
            let policy = preset.policy();
            assert_eq!(policy.acceptance, Acceptance::Threshold(threshold));
            assert_eq!((policy.edit, policy.max_post_edit_steps), (edit, 16));
        }
        assert_eq!(Preset::Quality2.policy(), Policy::default());
        let error = "quality".parse::<Preset>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown decoding mode `quality`; expected one of `quality2.0`, `q`, `s`"
        );
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let check = |change: fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.check(9)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert!(check(|p| p.acceptance = Acceptance::Threshold(f32::NAN)).is_err());
        assert!(check(|p| p.edit = Edit::Above(f32::INFINITY)).is_err());
        assert!(check(|p| p.penalty_lambda = f32::NAN).is_err());
        let (low, high) = (0.9, 0.6);
        let bounds = Acceptance::Bacd { low, high };
        let error = Policy {
            acceptance: bounds,
            ..Policy::default()
        };
        assert_eq!(error.check(9), Err(Error::Bounds { low, high }));
    }

    #[test]
    fn editing_is_refused_only_where_blocks_begin_early() {
        let check = |buffer_blocks, admit_threshold| {
            let window = Window {
                buffer_blocks,
                admit_threshold,
                ..Window::default()
            };
            let policy = Policy {
                window,
                ..Preset::Speed.policy()
            };
            policy.check(9)
        };
        assert_eq!(check(2, 0.5), Err(Error::EditedWindow));
        assert_eq!(check(2, 1.0), Ok(()));
        assert_eq!(check(1, 0.5), Ok(()));
    }

    #[test]
    fn blocks_are_reopened_only_for_editing_that_moves_nothing() {
        let check = |edit, blocks, rounds| {
            let policy = Policy {
                edit,
                reopen: Some(Reopen { blocks, rounds }),
                ..Policy::default()
            };
            policy.check(9)
        };
        let revise = Edit::Revise {
            above: 0.5,
            delete_token_id: 7,
            split_token_id: 8,
        };
        assert_eq!(check(Edit::Above(0.5), 1, 1), Ok(()));
        for edit in [Edit::Off, revise] {
            assert_eq!(check(edit, 1, 1), Err(Error::ReopenWithoutEdit));
        }
        for (blocks, rounds) in [(0, 1), (1, 0)] {
            let expected = Error::EmptyReopen { blocks, rounds };
            assert_eq!(check(Edit::Above(0.5), blocks, rounds), Err(expected));
        }
    }

    #[test]
    fn mask_delete_and_split_are_three_tokens() {
        let check = |delete_token_id, split_token_id| {
            let edit = Edit::Revise {
                above: 0.5,
                delete_token_id,
                split_token_id,
            };
            let policy = Policy {
                edit,
                ..Policy::default()
            };
            policy.check(9)
        };
        assert_eq!(check(7, 8), Ok(()));
        for (delete, split) in [(7, 7), (9, 8), (7, 9)] {
            let ids = [9, delete, split];
            assert_eq!(check(delete, split), Err(Error::SameIds { ids }));
        }
    }
}
