//! Text from a stream of ids.
//!
//! One token may be part of a character, and how a token decodes may depend on its neighbours
//! (leading spaces are stripped, runs of byte tokens decode together). So a window of ids is decoded
//! with one finished stretch before it as context, and text is released where it can no longer
//! change.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Turns ids into text piece by piece; the pieces concatenate to [`Tokenizer::decode`] of all ids.
///
/// # Examples
/// ```
/// use llada_text::{IncrementalDetokenizer, Tokenizer};
///
/// let mut stream = IncrementalDetokenizer::new(Tokenizer::characters("ab", &[])?);
/// assert_eq!(stream.push(0)?, "a");
/// assert_eq!(stream.push(1)?, "b");
/// assert_eq!(stream.finish()?, "");
/// # Ok::<(), llada_text::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct IncrementalDetokenizer {
    tokenizer: Tokenizer,
    /// Context whose text is out already, then ids whose text is not.
    window: Vec<u32>,
    /// Length of the context, in ids.
    num_context: usize,
    /// Length of the context's text, in bytes.
    context_bytes: usize,
}

impl IncrementalDetokenizer {
    /// Starts a stream. Special tokens and ids without a token produce no text.
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self {
            tokenizer,
            window: Vec::new(),
            num_context: 0,
            context_bytes: 0,
        }
    }

    /// Takes the next id and returns the text that became certain, often empty or one word.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.specials().contains(id) {
            return Ok(String::new());
        }
        let Some(token) = self.tokenizer.text(id) else {
            return Ok(String::new());
        };
        self.window.push(id);
        if is_byte(&token) {
            return Ok(String::new()); // the next byte may change how this one decodes
        }
        let text = self.tokenizer.decode(&self.window)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.release(text)
    }

    /// Takes several ids; see [`Self::push`].
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn extend(&mut self, ids: &[u32]) -> Result<String> {
        ids.iter().map(|&id| self.push(id)).collect()
    }

    /// Ends the stream and returns what was held back; an incomplete character becomes U+FFFD.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        self.release(text)
    }

    /// Returns the part of the window's text that is new and makes its ids the next context.
    fn release(&mut self, text: String) -> Result<String> {
        // Shorter than its context only where a decoder rewrites text across tokens: hold it back.
        let Some(new) = text.get(self.context_bytes..).filter(|new| !new.is_empty()) else {
            return Ok(String::new());
        };
        self.window.drain(..self.num_context);
        self.num_context = self.window.len();
        self.context_bytes = self.tokenizer.decode(&self.window)?.len();
        Ok(new.to_owned())
    }
}

/// Returns whether a token is a single byte, as tokenizers with byte fallback spell it: `<0x0A>`.
fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}
