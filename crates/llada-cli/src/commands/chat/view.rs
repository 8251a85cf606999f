//! An answer while it is written: final text, and on a terminal the active block behind it.

use llada_engine::Event;

use crate::commands::decoding::{AnswerText, Slots, Speller};
use crate::live::Live;
use crate::ui;

pub(super) struct View<'a> {
    speller: Speller<'a>,
    text: AnswerText,
    written: String,
    live: Option<Live>,
    /// Position behind the final ids.
    end: usize,
    /// Start of the block that was drawn last, and the block.
    drawn: (usize, Slots),
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
            drawn: (0, Slots::new()),
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
        for event in events {
            if let Event::Draft {
                start, ids, open, ..
            } = event
            {
                let slots = (*start..).zip(ids);
                let slots = slots.map(|(i, &id)| (!open.contains(&i)).then_some(id));
                self.draw(*start, slots.collect())?;
            }
        }
        Ok(())
    }

    fn draw(&mut self, start: usize, slots: Slots) -> anyhow::Result<()> {
        let (drawn_start, before) = std::mem::replace(&mut self.drawn, (start, slots));
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let behind = self.end.saturating_sub(start);
        let shown = |slots: &Slots| slots.iter().skip(behind).copied().collect::<Slots>();
        let before = match drawn_start == start {
            true => shown(&before),
            false => Slots::new(),
        };
        ui::write(&self.speller.draw(live, &shown(&self.drawn.1), &before))
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
