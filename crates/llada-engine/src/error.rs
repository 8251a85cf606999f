//! Why a request cannot be served.

use std::path::PathBuf;

/// A request that does not fit the model, or a model that produced no usable numbers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the request is out of range.
    #[error("`{field}` is {found}; expected {expected}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// The value given.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// The first token cannot be predicted from nothing.
    #[error("`prompt` is empty; this model needs at least one token, such as its start token")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error(
        "`{field}` holds id {id} at index {index}; expected ids below the vocabulary size {vocab_size}"
    )]
    UnknownId {
        /// Name of the field.
        field: &'static str,
        /// Place of the id in the field.
        index: usize,
        /// The id given.
        id: u32,
        /// Number of ids there are.
        vocab_size: usize,
    },
    /// Prompt and answer are longer than the model's context.
    #[error(
        "`prompt` of {prompt_len} tokens and `max_new_tokens` {max_new_tokens} exceed the context of \
         {limit} tokens; shorten one of them"
    )]
    Context {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Tokens asked for.
        max_new_tokens: usize,
        /// Longest context of the model.
        limit: usize,
    },
    /// The checkpoint does not name its MASK token.
    #[error(
        "the checkpoint does not say its MASK token; pass --mask-id (or decode a causal model with --ar)"
    )]
    NoMaskId,
    /// The checkpoint does not name a token that ends a text.
    #[error(
        "the checkpoint does not say its end-of-text token; pass --eos-id, or ask to ignore it"
    )]
    NoEosId,
    /// Neither the checkpoint nor the request gives a block length.
    #[error("the checkpoint does not say its block size; pass --block-length")]
    NoBlockLength,
    /// The model, or what the request adds to its logits, made NaN or infinity; deciding a token
    /// from it would be a guess.
    #[error(
        "logits for position {position} are not finite; check the weights, and the request's \
         penalties and biases"
    )]
    NotFinite {
        /// Position that was to be decided.
        position: usize,
    },
    /// No token may be chosen: a grammar, or a ban, leaves none.
    #[error("no token may stand at position {position}")]
    NothingAllowed {
        /// Position that was to be decided.
        position: usize,
    },
    /// The answer's language cannot be followed.
    #[error("the answer cannot be constrained: {0}")]
    Constraint(String),
    /// The text does not fit into the engine's pages.
    #[error(
        "the text may take {need} pages of keys and values; the engine has {pages}: ask for less, or give it more"
    )]
    Pages {
        /// Pages of the prompt and all tokens asked for.
        need: usize,
        /// Pages there are.
        pages: usize,
    },
    /// Memory for keys and values is lacking.
    #[error("{0}")]
    Memory(String),
    /// Recorded decodes, or the model beside them, cannot be read.
    #[error("`{}`: {problem}", path.display())]
    Recorded {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The method's own checks refused the request.
    #[error(transparent)]
    Diffusion(#[from] llada_diffusion::Error),
}
