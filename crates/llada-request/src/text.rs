//! The text of an answer, while its ids come in.

use llada_text::{IncrementalDetokenizer, StopStrings, Tokenizer};

use crate::error::Result;

/// Turns ids into text up to a stop string or a stop token, neither of which is in it.
#[derive(Clone, Debug)]
pub struct AnswerText {
    stops: StopStrings,
    /// Ids that end the answer.
    ends: Vec<u32>,
}

impl AnswerText {
    pub(crate) fn new(stops: StopStrings, ends: Vec<u32>) -> Self {
        Self { stops, ends }
    }

    /// Takes the next ids and returns the text that became certain.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn extend(&mut self, ids: &[u32]) -> Result<String> {
        let text = ids.iter().filter(|id| !self.ends.contains(id));
        Ok(text
            .map(|&id| self.stops.push(id))
            .collect::<llada_text::Result<_>>()?)
    }

    /// Returns whether an id ends the answer, and so is no part of its text.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Ends the answer and returns the text that was held back.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String> {
        Ok(self.stops.finish()?)
    }

    /// Returns the text of a whole answer.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn of(mut self, ids: &[u32]) -> Result<String> {
        let text = self.extend(ids)?;
        Ok(text + &self.finish()?)
    }
}

/// Returns what stands between a prompt and an answer that begins with `first`: with some tokenizers a
/// space, which decoding drops at the start of a text.
///
/// # Errors
/// If the tokenizer's decoder fails.
pub fn joint(tokenizer: &Tokenizer, prompt: &[u32], first: u32) -> Result<String> {
    let alone = tokenizer.decode(&[first])?;
    let mut joined = IncrementalDetokenizer::new(tokenizer.clone());
    joined.extend(prompt)?;
    let text = joined.push(first)?;
    Ok(text.strip_suffix(&alone).unwrap_or_default().to_owned())
}

/// Returns what a token reads inside a text; a special token as the vocabulary spells it.
pub fn spell(tokenizer: &Tokenizer, id: u32) -> String {
    if let Some(special) = tokenizer.specials().text(id) {
        return special.to_owned();
    }
    // At the start of a text some decoders drop a space, so the second of two is looked at.
    let once = tokenizer.decode(&[id]).unwrap_or_default();
    let twice = tokenizer.decode(&[id, id]).unwrap_or_default();
    twice.strip_prefix(&once).unwrap_or(&once).to_owned()
}
