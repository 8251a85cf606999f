//! What can go wrong in a training run, an evaluation or a conversion.

use std::path::{Path, PathBuf};

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate. Messages say what was expected, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The recipe is not valid TOML, or has an unknown key or a value of the wrong type.
    #[error("the recipe is not valid: {0}")]
    Recipe(#[from] toml::de::Error),
    /// A `--set` argument is malformed.
    #[error("`--set {given}`: {problem}; expected section.key=value, such as train.steps=100")]
    Override {
        /// The argument.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A recipe value is out of range or in contradiction with another.
    #[error("recipe: `{key}` {problem}")]
    Setting {
        /// The key, with its section.
        key: &'static str,
        /// What was expected and found.
        problem: String,
    },
    /// A dFactory file says something that a recipe cannot.
    #[error("not a recipe: {0}")]
    Import(String),
    /// A row of a data file cannot be used.
    #[error("`{}` line {line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Data files that leave nothing to train on or to evaluate.
    #[error("{paths} hold no document with a token to predict; give a file with longer texts")]
    NoDocuments {
        /// The files.
        paths: String,
    },
    /// Loss or gradient is NaN or infinite; the weights are those of the step before.
    #[error(
        "step {step}: {what} is {value} on documents {documents:?} of epoch {epoch}; \
         lower `optimizer.lr` or check these documents"
    )]
    NonFinite {
        /// Step that failed, from 1.
        step: u64,
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Numbers of the documents in the batch, in the order of the data files.
        documents: Vec<u64>,
        /// Pass over the data.
        epoch: u32,
    },
    /// A validation that checkpoints cannot be compared by.
    #[error(
        "`{0}` does not say which checkpoint is better; known are `ar`, `block_N`, `dpo_loss` (lower is \
         better), `dpo_accuracy`, `dpo_margin`, `dpo_chosen_elbo`, `ebpo_reward` and `ebpo_tpf` (higher is \
         better)"
    )]
    UnknownMetric(String),
    /// A checkpoint lacks what the objective or the evaluation needs.
    #[error("`{}` {problem}", path.display())]
    Unsuitable {
        /// The checkpoint or run directory.
        path: PathBuf,
        /// What is missing and what to do.
        problem: String,
    },
    /// The MASK token of a conversion cannot be what was asked for.
    #[error("the MASK token cannot be {mask}: it {problem}")]
    MaskToken {
        /// The choice.
        mask: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The likelihood of a text is not a number.
    #[error("the likelihood is {0}; the weights are damaged or their training diverged")]
    NonFiniteLikelihood(f64),
    /// A parent was given where a diffusion model is needed.
    #[error(
        "config.json names no `{0}`: this is not a diffusion model; make one with `llada convert`"
    )]
    NotDiffusion(&'static str),
    /// A model whose blocks choose their experts together was asked for the likelihood in other blocks.
    #[error(
        "{0} rows of this model choose their experts together, so that its likelihood is that of blocks of \
         {0}: measure with block:{0}"
    )]
    OtherBlocks(usize),
    /// A checkpoint cannot insert or delete.
    #[error("config.json names no `{0}`, which `[levenshtein]` trains; name an unused token there")]
    NoEditToken(&'static str),
    /// Answers of a policy, or their rewards, could not be had.
    #[error("the policy's answers: {0}")]
    Environment(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Configuration, loading or saving of a model failed.
    #[error(transparent)]
    Model(#[from] llada_model::Error),
    /// The tokenizer failed.
    #[error(transparent)]
    Text(#[from] llada_text::Error),
    /// A setting of the method is invalid.
    #[error(transparent)]
    Diffusion(#[from] llada_diffusion::Error),
}

impl Error {
    /// Wraps an I/O error with what was tried.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(crate) fn unsuitable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unsuitable {
            path: path.into(),
            problem: problem.into(),
        }
    }
}
