//! Following a grammar token by token.

use std::fmt;

use super::{Grammar, TokenSet};
use crate::error::{Error, Result};

/// Where an answer is in its grammar: which tokens may follow those taken so far.
///
/// An answer ends with an end token where the grammar allows it; after the first one, only end
/// tokens follow. A call that is refused changes nothing.
pub struct Matcher {
    grammar: Grammar,
    /// Knows the tokens of text alone: end tokens would stop it for good.
    inner: llguidance::Matcher,
    /// All tokens taken, the end tokens last.
    taken: Vec<u32>,
    /// How many of them are end tokens.
    num_end: usize,
}

impl Matcher {
    pub(super) fn new(grammar: Grammar) -> Self {
        Self {
            inner: grammar.start.deep_clone(),
            grammar,
            taken: Vec::new(),
            num_end: 0,
        }
    }

    /// Returns the tokens that may come next, end tokens included where the answer may end.
    ///
    /// # Errors
    /// If the vocabulary cannot spell any continuation, or there are too many to follow.
    pub fn allowed(&mut self) -> Result<TokenSet> {
        if self.num_end > 0 {
            return Ok(TokenSet(self.grammar.vocabulary.end_set()));
        }
        match self.inner.compute_mask_or_eos() {
            Ok(set) => Ok(TokenSet(set)),
            Err(error) => Err(self.fail(&error.to_string())),
        }
    }

    /// Returns how many of `ids`, from the first on, may come next one after the other. The state
    /// stays as it is.
    pub fn accepts(&mut self, ids: &[u32]) -> usize {
        let vocabulary = &self.grammar.vocabulary;
        let num_text = count_while(ids, |id| vocabulary.is_row(id) && !vocabulary.is_end(id));
        let num_end = count_while(&ids[num_text..], |id| vocabulary.is_end(id));
        if self.is_complete() {
            return if num_text == 0 { num_end } else { 0 };
        }
        let up_to_end = &ids[..num_text + num_end.min(1)];
        let Ok(num_valid) = self.inner.validate_tokens(up_to_end) else {
            self.restart();
            return 0;
        };
        // Other end tokens may follow the first.
        num_valid + if num_valid > num_text { num_end - 1 } else { 0 }
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// If it is not allowed here, or the grammar becomes too complex to follow.
    pub fn consume(&mut self, id: u32) -> Result<()> {
        if self.accepts(&[id]) == 0 {
            return Err(Error::NotAllowed { id });
        }
        if self.grammar.vocabulary.is_end(id) {
            self.num_end += 1;
        } else if let Err(error) = self.inner.consume_token(id) {
            return Err(self.fail(&error.to_string()));
        }
        self.taken.push(id);
        Ok(())
    }

    /// Gives the last `num` tokens back.
    ///
    /// # Errors
    /// If fewer were taken.
    pub fn rollback(&mut self, num: usize) -> Result<()> {
        let num_taken = self.taken.len();
        let Some(num_left) = num_taken.checked_sub(num) else {
            return Err(Error::Rollback { num, num_taken });
        };
        self.taken.truncate(num_left);
        let num_text = num.saturating_sub(self.num_end);
        self.num_end = self.num_end.saturating_sub(num);
        if self.inner.rollback(num_text).is_err() {
            self.restart();
        }
        Ok(())
    }

    /// Returns whether the text so far is in the grammar: the answer may end here.
    pub fn is_accepting(&mut self) -> bool {
        self.is_complete() || self.inner.is_accepting().unwrap_or(false)
    }

    /// Returns whether the text is in the grammar and cannot go on: only end tokens follow.
    pub fn is_complete(&self) -> bool {
        self.num_end > 0 || (self.inner.is_stopped() && !self.inner.is_error())
    }

    /// Explains a failure of the inner matcher, after which that would refuse everything.
    fn fail(&mut self, message: &str) -> Error {
        self.restart();
        self.grammar.kind.error(message)
    }

    /// Builds the inner matcher anew from the tokens taken.
    fn restart(&mut self) {
        self.inner = self.grammar.start.deep_clone();
        let text = &self.taken[..self.taken.len() - self.num_end];
        // They were accepted once. Should that fail, every later call reports why.
        let _ = self.inner.consume_tokens(text);
    }
}

impl Clone for Matcher {
    fn clone(&self) -> Self {
        Self {
            grammar: self.grammar.clone(),
            inner: self.inner.deep_clone(), // a plain clone shares its caches behind a lock
            taken: self.taken.clone(),
            num_end: self.num_end,
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("grammar", &self.grammar)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

fn count_while(ids: &[u32], matches: impl Fn(u32) -> bool) -> usize {
    ids.iter().take_while(|&&id| matches(id)).count()
}
