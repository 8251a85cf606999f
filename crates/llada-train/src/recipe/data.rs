//! `[data]`: what the model is trained and validated on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{check, refuse, yes};
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

/// Sources to train on: paths, or `{ path = "...", weight = 1.0 }` in proportions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrManySources", into = "Vec<Source>")]
pub struct Sources(pub Vec<Source>);

/// A file or directory to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a path or `{ path = \"...\", weight = 1.0 }`"
)]
pub enum Source {
    /// All paths without a weight are one source.
    Path(PathBuf),
    /// A source of its own.
    Weighted(Weighted),
}

/// A source whose documents are a given share of what is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// File or directory.
    pub path: PathBuf,
    /// Share of the documents, relative to the other weights. A small source with a large weight is
    /// passed over more often.
    pub weight: f64,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a path, `{ path = \"...\", weight = 1.0 }`, or a list of one of them"
)]
enum OneOrManySources {
    One(Source),
    Many(Vec<Source>),
}

impl From<OneOrManySources> for Sources {
    fn from(sources: OneOrManySources) -> Self {
        match sources {
            OneOrManySources::One(source) => Self(vec![source]),
            OneOrManySources::Many(sources) => Self(sources),
        }
    }
}

impl From<Sources> for Vec<Source> {
    fn from(sources: Sources) -> Self {
        sources.0
    }
}

impl Sources {
    /// Returns the paths and the weight of every source.
    ///
    /// # Errors
    /// If there is none, a weight is not positive, or only some paths have one.
    pub fn weighted(&self) -> Result<Vec<(Vec<PathBuf>, f64)>> {
        let key = "data.train";
        let mut plain = Vec::new();
        let mut weighted = Vec::new();
        for source in &self.0 {
            match source {
                Source::Path(path) => plain.push(path.clone()),
                Source::Weighted(Weighted { path, weight }) => {
                    let is_share = weight.is_finite() && *weight > 0.0;
                    check(is_share, key, "must have weights greater than 0")?;
                    weighted.push((vec![path.clone()], *weight));
                }
            }
        }
        match (plain.is_empty(), weighted.is_empty()) {
            (true, true) => refuse(key, "must name at least one file"),
            (false, false) => refuse(key, "must give all paths a weight, or none"),
            (false, true) => Ok(vec![(plain, 1.0)]),
            (true, false) => Ok(weighted),
        }
    }
}

/// What the model is trained and validated on. See [`crate::data`] for the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Files or directories to train on, if need be with weights.
    pub train: Sources,
    /// Files or directories to validate on. Default: none.
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
        self.train.weighted()?;
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
