//! Text in and out of token ids: tokenizer, special tokens, chat template, streaming detokenizer.
//!
//! * [`Tokenizer`] loads what a checkpoint ships (`tokenizer.json`, or `vocab.json` and
//!   `merges.txt`), encodes and decodes, and saves itself beside converted weights.
//! * [`SpecialTokens`] are the ids of the MASK, end-of-text and other control tokens, always looked
//!   up in the checkpoint by their text. There is no literal token id in this workspace.
//! * [`ChatTemplate`] renders a [`Conversation`] with the checkpoint's own Jinja template.
//! * [`IncrementalDetokenizer`] turns a stream of ids into text that never ends in half a
//!   character; [`StopStrings`] ends it before a stop string.
//! * [`Grammar`] confines an answer to a JSON schema or a regex; its [`Matcher`] says which tokens
//!   of the [`Vocabulary`] may come next.
//!
//! **Trust.** Text is data: [`Tokenizer::encode`] and [`Tokenizer::encode_text`] never produce a
//! special token from characters that merely spell one. Only a chat template may place control
//! tokens, and [`Tokenizer::encode_chat`] keeps message contents from doing so.
//!
//! This crate knows neither tensors nor HTTP.

mod assemble;
mod chat;
mod checkpoint;
mod detokenizer;
mod error;
mod gguf;
mod grammar;
mod special;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, Conversation, message};
pub use detokenizer::IncrementalDetokenizer;
pub use error::{Error, Result};
pub use gguf::GgufVocabulary;
pub use grammar::{Grammar, GrammarKind, Matcher, TokenSet, Vocabulary};
pub use special::{Role, SpecialTokens};
pub use stop::StopStrings;
pub use tokenizer::Tokenizer;
