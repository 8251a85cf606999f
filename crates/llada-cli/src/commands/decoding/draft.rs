//! Blocks that are not finished, for people to look at.

use llada_request::spell;
use llada_text::Tokenizer;

use crate::live::{Cell, Live};

/// Ids of a block, `None` where a position is open.
pub(in crate::commands) type Slots = Vec<Option<u32>>;

/// Spells single tokens; without a tokenizer as their ids.
#[derive(Clone, Copy, Debug)]
pub(in crate::commands) struct Speller<'a>(pub(in crate::commands) Option<&'a Tokenizer>);

impl Speller<'_> {
    /// Returns what a token reads inside a text.
    pub(in crate::commands) fn spell(self, id: u32) -> String {
        match self.0 {
            Some(tokenizer) => spell(tokenizer, id),
            None => format!(" {id}"),
        }
    }

    /// Returns what to write to show a block, with what differs from `before` marked.
    pub(in crate::commands) fn draw(
        self,
        live: &mut Live,
        now: &[Option<u32>],
        before: &[Option<u32>],
    ) -> String {
        let texts: Vec<_> = now.iter().map(|id| id.map(|id| self.spell(id))).collect();
        let before = before.iter().copied().chain(std::iter::repeat(None));
        let cells = texts.iter().zip(now).zip(before);
        let cells = cells.map(|((text, now), before)| match text {
            None => Cell::Open,
            Some(text) if *now == before => Cell::Placed(text),
            Some(text) => Cell::Changed(text),
        });
        live.draft(&cells.collect::<Vec<_>>())
    }
}
