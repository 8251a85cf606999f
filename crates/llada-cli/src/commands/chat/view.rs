//! An answer while it is written: final text, and on a terminal the active blocks behind it.

use std::collections::BTreeMap;

use llada_engine::Event;

use llada_request::AnswerText;

use crate::commands::decoding::{Slots, Speller};
use crate::live::Live;
use crate::ui;

pub(super) struct View<'a> {
    speller: Speller<'a>,
    text: AnswerText,
    written: String,
    live: Option<Live>,
    /// Position behind the final ids.
    end: usize,
    /// The blocks that were drawn last, by position.
    drawn: BTreeMap<usize, Option<u32>>,
}

impl<'a> View<'a> {
    /// Starts an answer that begins at position `end`.
    pub(super) fn new(speller: Speller<'a>, text: AnswerText, end: usize) -> Self {
        Self {
            speller,
            text,
            written: String::new(),
            live: ui::live(),
            end,
            drawn: BTreeMap::new(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Shows what a forward brought: text that became final first, then what is still open.
    pub(super) fn show(&mut self, events: &[Event]) -> anyhow::Result<()> {
        for event in events {
            if let Event::Committed { ids, .. } = event {
                self.end += ids.len();
                let text = self.text.extend(ids)?;
                self.write(&text)?;
            }
        }
        let drafts: BTreeMap<_, _> = events.iter().flat_map(slots).collect();
        if drafts.is_empty() {
            return Ok(());
        }
        self.draw(drafts)
    }

    /// Draws the active blocks, as far as they are not final.
    fn draw(&mut self, drafts: BTreeMap<usize, Option<u32>>) -> anyhow::Result<()> {
        let drawn = std::mem::replace(&mut self.drawn, drafts);
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let shown = self.drawn.range(self.end..);
        let (now, before): (Slots, Slots) = shown
            .map(|(position, &slot)| (slot, drawn.get(position).copied().flatten()))
            .unzip();
        ui::write(&self.speller.draw(live, &now, &before))
    }

    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        self.written += text;
        match &mut self.live {
            Some(live) => ui::write(&live.commit(text)),
            None => ui::write(text),
        }
    }

    /// Ends the answer, finished or not, and returns its text.
    pub(super) fn finish(mut self) -> anyhow::Result<String> {
        let rest = self.text.clone().finish()?;
        self.write(&rest)?;
        ui::write("\n")?;
        Ok(self.written)
    }
}

/// Returns the positions of a draft, and what stands there if they are not open.
fn slots(event: &Event) -> Vec<(usize, Option<u32>)> {
    let Event::Draft {
        start, ids, open, ..
    } = event
    else {
        return Vec::new();
    };
    let ids = (*start..).zip(ids);
    ids.map(|(i, &id)| (i, (!open.contains(&i)).then_some(id)))
        .collect()
}

#[cfg(test)]
mod tests {
    use llada_engine::RequestId;

    use super::*;

    #[test]
    fn drafts_of_several_blocks_follow_one_another() {
        let draft = |block: usize, ids: [u32; 2], open: &[usize]| Event::Draft {
            request: RequestId(0),
            block,
            step: 0,
            start: 2 * block,
            ids: ids.to_vec(),
            open: open.to_vec(),
            placed: Vec::new(),
        };
        let events = [draft(1, [5, 9], &[3]), draft(2, [9, 7], &[4])];
        let slots: Vec<_> = events.iter().flat_map(slots).collect();
        assert_eq!(slots, [(2, Some(5)), (3, None), (4, None), (5, Some(7))]);
    }
}
