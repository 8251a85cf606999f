//! Special tokens: which ids they have, and where a trusted text names them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// What a named special token is for. `tokenizer_config.json` holds its text under `{role}_token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Start of a document.
    Bos,
    /// End of a document: decoding stops here.
    Eos,
    /// Fills rows of a batch.
    Pad,
    /// Stands for text that the vocabulary lacks.
    Unk,
    /// Stands for a token that is not decided yet.
    Mask,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Bos, Self::Eos, Self::Pad, Self::Unk, Self::Mask];

    /// Returns the key of this role in `tokenizer_config.json`, for example `mask_token`.
    pub fn key(self) -> String {
        format!("{self}_token")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Pad => "pad",
            Self::Unk => "unk",
            Self::Mask => "mask",
        })
    }
}

/// Texts of the MASK token in checkpoints whose configuration does not name it (SDAR, LLaDA).
pub(crate) const MASK_TEXTS: [&str; 2] = ["<|mask|>", "<|MASK|>"];
/// Texts that end a chat turn: Ling and LLaDA2, then the Qwen family.
pub(crate) const ROLE_END_TEXTS: [&str; 2] = ["<|role_end|>", "<|im_end|>"];

/// The special tokens of one checkpoint, by purpose and by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Start of a document.
    pub bos: Option<u32>,
    /// End of a document.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Unknown text.
    pub unk: Option<u32>,
    /// The MASK token of a diffusion model.
    pub mask: Option<u32>,
    /// End of a chat turn, `<|role_end|>` in LLaDA2.
    pub role_end: Option<u32>,
    /// Text of every special token, the ones above included.
    texts: BTreeMap<u32, String>,
}

impl SpecialTokens {
    pub(crate) fn new(texts: BTreeMap<u32, String>) -> Self {
        Self {
            texts,
            ..Self::default()
        }
    }

    pub(crate) fn set(&mut self, role: Role, id: u32) {
        *match role {
            Role::Bos => &mut self.bos,
            Role::Eos => &mut self.eos,
            Role::Pad => &mut self.pad,
            Role::Unk => &mut self.unk,
            Role::Mask => &mut self.mask,
        } = Some(id);
    }

    /// Returns the id of the special token with this purpose.
    pub fn get(&self, role: Role) -> Option<u32> {
        match role {
            Role::Bos => self.bos,
            Role::Eos => self.eos,
            Role::Pad => self.pad,
            Role::Unk => self.unk,
            Role::Mask => self.mask,
        }
    }

    /// Returns whether `id` is a special token.
    pub fn contains(&self, id: u32) -> bool {
        self.texts.contains_key(&id)
    }

    /// Returns the text of the special token `id`.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(&id).map(String::as_str)
    }

    /// Iterates over all special tokens in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.texts.iter().map(|(&id, text)| (id, text.as_str()))
    }

    /// Finds the special tokens that `text` spells, from left to right, the longest one first.
    pub(crate) fn find_in(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let mut found = Vec::new();
        let mut end = 0;
        for (start, _) in text.char_indices() {
            if start < end {
                continue;
            }
            if let Some((len, id)) = self.longest_at(&text[start..]) {
                end = start + len;
                found.push((start..end, id));
            }
        }
        found
    }

    /// Writes `sentinel` into every special token that `text` spells, so that none is left.
    pub(crate) fn defuse(&self, text: &str, sentinel: char) -> String {
        let mut out = String::with_capacity(text.len());
        for (start, character) in text.char_indices() {
            out.push(character);
            if self.longest_at(&text[start..]).is_some() {
                out.push(sentinel);
            }
        }
        out
    }

    /// Returns length and id of the longest special token that `text` starts with.
    ///
    /// Special tokens of a single character are never found: [`Self::defuse`] could not split them.
    fn longest_at(&self, text: &str) -> Option<(usize, u32)> {
        self.iter()
            .filter(|(_, special)| text.starts_with(special) && special.chars().nth(1).is_some())
            .map(|(id, special)| (special.len(), id))
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(texts: &[&str]) -> SpecialTokens {
        SpecialTokens::new((10..).zip(texts.iter().map(ToString::to_string)).collect())
    }

    #[test]
    fn the_leftmost_longest_special_is_found_first() {
        let specials = specials(&["<a>", "<a><b>", "<c>"]);
        let found = specials.find_in("x<c><a><b><a>");
        assert_eq!(found, [(1..4, 12), (4..10, 11), (10..13, 10)]);
    }

    #[test]
    fn no_special_survives_defusing_even_where_two_overlap() {
        let specials = specials(&["<a><b>", "<b>"]);
        let defused = specials.defuse("x<a><b>", '\u{FDD0}');
        assert_eq!(specials.find_in(&defused), []);
        assert_eq!(defused.replace('\u{FDD0}', ""), "x<a><b>");
    }

    #[test]
    fn a_role_is_read_back_as_it_was_set() {
        let mut specials = specials(&["<m>"]);
        specials.set(Role::Mask, 10);
        assert_eq!(specials.get(Role::Mask), Some(10));
        assert_eq!(specials.get(Role::Eos), None);
        assert_eq!(Role::Mask.key(), "mask_token");
    }
}
