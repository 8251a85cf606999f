//! Stop strings: texts that end an answer before themselves.

use crate::detokenizer::IncrementalDetokenizer;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Turns ids into text up to the first stop string.
///
/// The text ends where a stop string is first complete, before its start; of several that complete
/// with the same character the longest counts. This depends on the text alone, not on the tokens it
/// came in. Text that may yet become part of a stop string is held back.
///
/// # Examples
/// ```
/// use llada_text::{StopStrings, Tokenizer};
///
/// let tokenizer = Tokenizer::characters("ab.\n", &[])?;
/// let mut text = StopStrings::new(tokenizer.clone(), vec![".\n".into()])?;
/// assert_eq!(text.extend(&tokenizer.encode("a.b.")?)?, "a.b");
/// assert_eq!(text.extend(&tokenizer.encode("\nb")?)?, "");
/// assert_eq!(text.stopped_at(), Some(5));
/// # Ok::<(), llada_text::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopStrings {
    detokenizer: IncrementalDetokenizer,
    stops: Vec<String>,
    /// Decoded text that is not out yet: the beginning of some stop string.
    held: String,
    num_ids: usize,
    stopped_at: Option<usize>,
}

impl StopStrings {
    /// Starts an answer.
    ///
    /// # Errors
    /// If a stop string is empty.
    pub fn new(tokenizer: Tokenizer, stops: Vec<String>) -> Result<Self> {
        if stops.iter().any(String::is_empty) {
            return Err(Error::EmptyStop);
        }
        Ok(Self {
            detokenizer: IncrementalDetokenizer::new(tokenizer),
            stops,
            held: String::new(),
            num_ids: 0,
            stopped_at: None,
        })
    }

    /// Takes the next id and returns the text that became certain; none after a stop string.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.stopped_at.is_some() {
            return Ok(String::new());
        }
        self.num_ids += 1;
        let text = self.detokenizer.push(id)?;
        Ok(self.release(&text))
    }

    /// Takes several ids; see [`Self::push`].
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn extend(&mut self, ids: &[u32]) -> Result<String> {
        ids.iter().map(|&id| self.push(id)).collect()
    }

    /// Returns how many ids it took to complete a stop string, if one is complete. The answer's ids
    /// are those, although its text ends before the stop string.
    pub fn stopped_at(&self) -> Option<usize> {
        self.stopped_at
    }

    /// Ends the answer and returns the text that was held back.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails.
    pub fn finish(mut self) -> Result<String> {
        if self.stopped_at.is_some() {
            return Ok(String::new());
        }
        let rest = self.detokenizer.clone().finish()?;
        let mut text = self.release(&rest);
        if self.stopped_at.is_none() {
            text.push_str(&self.held);
        }
        Ok(text)
    }

    /// Adds decoded text and returns what is certain to come before any stop string.
    fn release(&mut self, text: &str) -> String {
        for character in text.chars() {
            self.held.push(character);
            if let Some(start) = self.stop_at_end() {
                self.stopped_at = Some(self.num_ids);
                self.held.truncate(start);
                return std::mem::take(&mut self.held);
            }
        }
        let keep_from = self.first_beginning();
        let kept = self.held.split_off(keep_from);
        std::mem::replace(&mut self.held, kept)
    }

    /// Returns where the longest stop string starts that the held text ends with.
    fn stop_at_end(&self) -> Option<usize> {
        let complete = self.stops.iter().filter(|stop| self.held.ends_with(*stop));
        complete.map(|stop| self.held.len() - stop.len()).min()
    }

    /// Returns the first place from where on the held text is the beginning of a stop string; its
    /// end if there is none.
    fn first_beginning(&self) -> usize {
        let mut places = self.held.char_indices().map(|(place, _)| place);
        let begins = |&place: &usize| {
            let rest = &self.held[place..];
            self.stops.iter().any(|stop| stop.starts_with(rest))
        };
        places.find(begins).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALPHABET: &str = "ab.é\n日";

    /// Returns the text before the stop string that is complete first.
    fn naive<'a>(text: &'a str, stops: &[String]) -> &'a str {
        for (place, character) in text.char_indices() {
            let seen = &text[..place + character.len_utf8()];
            let starts = stops
                .iter()
                .filter_map(|stop| seen.strip_suffix(stop.as_str()));
            if let Some(before) = starts.min_by_key(|before| before.len()) {
                return before;
            }
        }
        text
    }

    fn stops() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[ab.é日]{1,4}", 0..4)
    }

    /// A byte-level tokenizer, whose tokens hold parts of characters and several characters.
    fn byte_level() -> Tokenizer {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/tiny-gpt2");
        Tokenizer::load(dir).unwrap()
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let tokenizer = Tokenizer::characters("a", &[]).unwrap();
        let refused = StopStrings::new(tokenizer, vec!["a".into(), String::new()]);
        assert!(matches!(refused, Err(Error::EmptyStop)));
    }

    #[test]
    fn a_stop_string_across_tokens_and_characters_is_found() {
        let tokenizer = byte_level();
        let ids = tokenizer.encode("hello hello日本").unwrap();
        let mut text = StopStrings::new(tokenizer.clone(), vec!["o日".into()]).unwrap();
        assert_eq!(text.extend(&ids).unwrap(), "hello hell");
        let up_to_stop = tokenizer.encode("hello hello日").unwrap();
        assert_eq!(text.stopped_at(), Some(up_to_stop.len()));
        assert_eq!(text.finish().unwrap(), "");
    }

    proptest! {
        #[test]
        fn text_ends_as_a_search_of_the_whole_text_ends_it(
            text in "[ab.é日]{0,40}",
            stops in stops(),
        ) {
            for tokenizer in [Tokenizer::characters(ALPHABET, &[]).unwrap(), byte_level()] {
                let ids = tokenizer.encode_text(&text).unwrap();
                let mut stream = StopStrings::new(tokenizer.clone(), stops.clone()).unwrap();
                let mut out = String::new();
                let expected = naive(&text, &stops);
                for &id in &ids {
                    out += &stream.push(id).unwrap();
                    prop_assert!(expected.starts_with(&out), "{out:?} is not held back");
                }
                if let Some(num_ids) = stream.stopped_at() {
                    let through_stop = tokenizer.decode(&ids[..num_ids]).unwrap();
                    let before = tokenizer.decode(&ids[..num_ids - 1]).unwrap();
                    prop_assert!(naive(&through_stop, &stops).len() < through_stop.len());
                    prop_assert_eq!(naive(&before, &stops), &before);
                }
                prop_assert_eq!(stream.stopped_at().is_some(), expected.len() < text.len());
                out += &stream.finish().unwrap();
                prop_assert_eq!(&out, expected);
            }
        }
    }
}
