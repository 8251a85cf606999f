//! What can be wrong with a request.

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that cannot be made from what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting has no effect, contradicts another one or cannot be used with this checkpoint.
    #[error("`{field}` {problem}")]
    Field {
        /// Name of the setting.
        field: &'static str,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// Text is asked of a checkpoint that has no tokenizer.
    #[error("{what} needs a tokenizer; none was found")]
    NoTokenizer {
        /// What was asked for.
        what: &'static str,
    },
    /// The text cannot be made into ids, or a grammar not be followed.
    #[error(transparent)]
    Text(#[from] llada_text::Error),
}

impl Error {
    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field {
            field,
            problem: problem.into(),
        }
    }
}
