//! A tokenizer's tokens in the form that grammars are matched against.

use std::fmt;
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, TokenParser, api::TopLevelGrammar};

use super::bytes::TokenBytes;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The tokens of a model, ready for [`Grammar`](super::Grammar)s. Built once; cheap to clone.
///
/// Special tokens are never text, so no string of an answer can hold one.
#[derive(Clone)]
pub struct Vocabulary(Arc<Shared>);

struct Shared {
    factory: ParserFactory,
    vocab_size: usize,
    end_ids: Vec<u32>,
    drops_first_space: bool,
}

impl Vocabulary {
    /// Reads the tokens of a tokenizer for a model with `vocab_size` rows, which may be more than
    /// there are tokens. Every one of `end_ids` ends an answer.
    ///
    /// # Errors
    /// If a token has no row, `end_ids` is empty or names a row that the model lacks, or the
    /// tokenizer does not decode token by token.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, end_ids: &[u32]) -> Result<Self> {
        tokenizer.check_vocab_size(vocab_size)?;
        let (Ok(num_rows), Some(&first_end)) = (u32::try_from(vocab_size), end_ids.first()) else {
            return Err(Error::EndIds { vocab_size });
        };
        if end_ids.iter().any(|&id| id >= num_rows) {
            return Err(Error::EndIds { vocab_size });
        }
        let bytes = TokenBytes::new(tokenizer)?;
        let mut words: Vec<Vec<u8>> = (0..num_rows)
            .map(|id| bytes.of(id))
            .collect::<Result<_>>()?;
        for &id in end_ids {
            words[id as usize].clear();
        }
        let trie = TokTrie::from(&TokRxInfo::new(num_rows, first_end), &words);
        Ok(Self(Arc::new(Shared {
            factory: factory(trie.with_eos_tokens(end_ids))?,
            vocab_size,
            end_ids: end_ids.to_vec(),
            drops_first_space: bytes.drops_first_space()?,
        })))
    }

    /// Returns whether the model has a row for an id.
    pub(super) fn is_row(&self, id: u32) -> bool {
        (id as usize) < self.0.vocab_size
    }

    /// Returns whether an id ends an answer.
    pub(super) fn is_end(&self, id: u32) -> bool {
        self.0.end_ids.contains(&id)
    }

    /// Returns the set of the ids that end an answer.
    pub(super) fn end_set(&self) -> SimpleVob {
        let mut set = SimpleVob::alloc(self.0.vocab_size);
        for &id in &self.0.end_ids {
            set.allow_token(id);
        }
        set
    }

    /// Returns whether decoding an answer drops a space at its start.
    pub(super) fn drops_first_space(&self) -> bool {
        self.0.drops_first_space
    }

    /// Compiles a grammar.
    pub(super) fn parser(
        &self,
        grammar: TopLevelGrammar,
    ) -> std::result::Result<TokenParser, String> {
        let parser = self.0.factory.create_parser(grammar);
        parser.map_err(|error| error.to_string())
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary")
            .field("vocab_size", &self.0.vocab_size)
            .field("end_ids", &self.0.end_ids)
            .field("drops_first_space", &self.0.drops_first_space)
            .finish_non_exhaustive()
    }
}

fn factory(trie: TokTrie) -> Result<ParserFactory> {
    // Approximate: text that a grammar forces is not forced in one tokenization. The model chooses
    // among all, and the set of allowed tokens is then the same as that of accepted ones.
    let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&tokens).map_err(|error| Error::Build {
        source: error.into(),
    })?;
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}
