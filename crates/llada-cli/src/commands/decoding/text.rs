//! The text of an answer, while its ids come in.

use llada_text::{IncrementalDetokenizer, Result, StopStrings, Tokenizer};

/// Turns ids into text up to a stop string or a stop token, neither of which is in it.
#[derive(Clone, Debug)]
pub(in crate::commands) struct AnswerText {
    stops: StopStrings,
    /// Ids that end the answer.
    ends: Vec<u32>,
}

impl AnswerText {
    pub(super) fn new(stops: StopStrings, ends: Vec<u32>) -> Self {
        Self { stops, ends }
    }

    /// Takes the next ids and returns the text that became certain.
    pub(in crate::commands) fn extend(&mut self, ids: &[u32]) -> Result<String> {
        let text = ids.iter().filter(|id| !self.ends.contains(id));
        text.map(|&id| self.stops.push(id)).collect()
    }

    /// Ends the answer and returns the text that was held back.
    pub(in crate::commands) fn finish(self) -> Result<String> {
        self.stops.finish()
    }

    /// Returns the text of a whole answer.
    pub(in crate::commands) fn of(mut self, ids: &[u32]) -> Result<String> {
        let text = self.extend(ids)?;
        Ok(text + &self.finish()?)
    }
}

/// Returns what stands between a prompt and an answer that begins with `first`: with some tokenizers a
/// space, which decoding drops at the start of a text.
pub(in crate::commands) fn joint(
    tokenizer: &Tokenizer,
    prompt: &[u32],
    first: u32,
) -> Result<String> {
    let alone = tokenizer.decode(&[first])?;
    let mut joined = IncrementalDetokenizer::new(tokenizer.clone());
    joined.extend(prompt)?;
    let text = joined.push(first)?;
    Ok(text.strip_suffix(&alone).unwrap_or_default().to_owned())
}
