//! `[data]`: what the model is trained and validated on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{check, yes};
use crate::error::Result;

/// One path or a list of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "Vec<PathBuf>")]
pub struct Paths(pub Vec<PathBuf>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Paths {
    fn from(paths: OneOrMany) -> Self {
        match paths {
            OneOrMany::One(path) => Self(vec![path]),
            OneOrMany::Many(paths) => Self(paths),
        }
    }
}

impl From<Paths> for Vec<PathBuf> {
    fn from(paths: Paths) -> Self {
        paths.0
    }
}

/// What the model is trained and validated on. See [`crate::data`] for the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// JSONL file or files to train on.
    pub train: Paths,
    /// JSONL file or files to validate on. Default: none.
    #[serde(default)]
    pub valid: Paths,
    /// Longest document in tokens; longer texts are cut into several. Default: 512.
    #[serde(default = "max_len")]
    pub max_len: usize,
    /// Whether `text` rows end with EOS (answers always do). Default: true.
    #[serde(default = "yes")]
    pub append_eos: bool,
}

impl Data {
    pub(super) fn validate(&self) -> Result<()> {
        check(
            !self.train.0.is_empty(),
            "data.train",
            "must name at least one file",
        )?;
        check(
            self.max_len >= 2,
            "data.max_len",
            "must be at least 2 tokens",
        )
    }
}

fn max_len() -> usize {
    512
}
