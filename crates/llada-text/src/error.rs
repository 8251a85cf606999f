//! What can go wrong between text and token ids.

use std::path::PathBuf;

use crate::grammar::GrammarKind;
use crate::special::Role;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The error type of the `tokenizers` crate.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// An error of this crate. Messages say what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A directory holds no tokenizer.
    #[error(
        "no tokenizer in `{}`: expected `tokenizer.json`, or `vocab.json` and `merges.txt`, \
         or `encoder.json` and `vocab.bpe`", dir.display()
    )]
    NoTokenizer {
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not UTF-8.
    #[error("`{}` is not UTF-8: the first bad byte is at offset {offset}", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is not UTF-8, in bytes.
        offset: usize,
    },
    /// A file is not the JSON that its name promises.
    #[error("`{}` is not valid", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A merge rule is malformed.
    #[error("`{}` line {line}: expected two tokens with one space between", path.display())]
    Merge {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// The checkpoint names a tokenizer class whose files this crate cannot assemble.
    #[error(
        "cannot assemble a `{class}` from vocabulary and merges: only Qwen2 and GPT-2 byte-level BPE \
         are known; save the tokenizer as `tokenizer.json` first"
    )]
    UnsupportedClass {
        /// `tokenizer_class` of `tokenizer_config.json`.
        class: String,
    },
    /// The parts of a tokenizer do not fit together.
    #[error("the tokenizer's parts do not fit together")]
    Build {
        /// Why.
        source: Source,
    },
    /// A token would get another id than the one asked for.
    #[error("token `{text}` should have id {expected}, but this tokenizer gives it {found}")]
    IdMismatch {
        /// The token's text.
        text: String,
        /// The id that was asked for.
        expected: u32,
        /// The id it has, or would get.
        found: u32,
    },
    /// An id that was to be given to a new token belongs to another one.
    #[error("id {id} cannot be `{text}`: it is `{found}`; choose an unused id or keep that text")]
    IdTaken {
        /// The id.
        id: u32,
        /// The text that was to be added.
        text: String,
        /// The text that the id has.
        found: String,
    },
    /// A special token is named but not in the vocabulary.
    #[error(
        "the {role} token `{text}` is not in the vocabulary: add it, or correct `{role}_token`"
    )]
    UnknownSpecial {
        /// What the token is for.
        role: Role,
        /// Its text.
        text: String,
    },
    /// The tokenizer has ids that the model has no row for.
    #[error(
        "tokenizer and model do not match: the tokenizer has ids up to {largest}, \
         but the model's vocabulary has {model} rows"
    )]
    VocabMismatch {
        /// Largest id of the tokenizer.
        largest: u32,
        /// Rows of the model's embedding.
        model: usize,
    },
    /// The tokenizer's model (not its added tokens) maps plain text to a special token.
    #[error(
        "this tokenizer turns plain text into the special token `{text}`: \
         its vocabulary cannot tell the two apart"
    )]
    SpecialInText {
        /// The special token.
        text: String,
    },
    /// Text that the tokenizer cannot represent.
    #[error("the tokenizer cannot represent {character:?} and has no unknown token")]
    UnknownCharacter {
        /// The first character without a token.
        character: char,
    },
    /// The tokenizer failed to encode for another reason.
    #[error("cannot encode the text")]
    Encode {
        /// Why.
        source: Source,
    },
    /// The tokenizer failed to decode.
    #[error("cannot decode the ids")]
    Decode {
        /// Why.
        source: Source,
    },
    /// A character tokenizer's alphabet or specials are unusable.
    #[error("`{token}` is listed twice, or is a special token of fewer than two characters")]
    Alphabet {
        /// The offending entry.
        token: String,
    },
    /// The chat template is malformed, failed, or refused the conversation.
    #[error("chat template: {0}")]
    Template(#[from] minijinja::Error),
    /// `chat_template` of `tokenizer_config.json` has an unknown shape.
    #[error("`chat_template` must be a string or a list of objects with `name` and `template`")]
    TemplateShape,
    /// A conversation uses every character that could protect its special-token texts.
    #[error("the conversation uses all of U+FDD0..U+FDEF, which Unicode reserves for internal use")]
    NoSentinel,
    /// A grammar cannot be matched token by token with this tokenizer.
    #[error(
        "cannot tell which bytes a token stands for: expected a decoder that joins tokens, \
         found {decoder}"
    )]
    TokenBytes {
        /// What the tokenizer's decoder is.
        decoder: &'static str,
    },
    /// No token could end an answer.
    #[error("expected at least one end-of-text id, and all of them below {vocab_size}")]
    EndIds {
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// A JSON schema is not JSON.
    #[error("the JSON schema is not JSON: {0}")]
    SchemaJson(serde_json::Error),
    /// A grammar is malformed, uses something unsupported or is too complex.
    #[error("cannot match the {kind}: {reason}")]
    Grammar {
        /// What the grammar was made from.
        kind: GrammarKind,
        /// Why, in one line.
        reason: String,
    },
    /// The grammar asks for text that no token can begin.
    #[error("cannot match the {kind}: the vocabulary has no token for what has to come next")]
    Unspellable {
        /// What the grammar was made from.
        kind: GrammarKind,
    },
    /// A token was taken that the grammar does not allow.
    #[error("the grammar does not allow token {id} here; choose one of the allowed tokens")]
    NotAllowed {
        /// The token.
        id: u32,
    },
    /// More tokens were to be given back than had been taken.
    #[error("cannot give {num} tokens back: only {num_taken} were taken")]
    Rollback {
        /// How many to give back.
        num: usize,
        /// How many were taken.
        num_taken: usize,
    },
    /// A stop string is empty.
    #[error("a stop string is empty: it would end every text at once; leave it out")]
    EmptyStop,
}
