//! `[model]`: which weights the run starts from.

use std::path::{Path, PathBuf};

use llada_tensor::Precision;
use serde::{Deserialize, Serialize};

use super::refuse;
use crate::error::Result;

/// Which weights the run starts from. Give `path`, or `config` and `tokenizer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Checkpoint directory to start from.
    pub path: Option<PathBuf>,
    /// `config.json` of a model to start from random weights.
    pub config: Option<PathBuf>,
    /// Directory of the tokenizer. Default: `path`.
    pub tokenizer: Option<PathBuf>,
    /// Seed of random weights. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Element type of matrix products; what is trained and its updates are always f32. Default: `f32`.
    #[serde(default)]
    pub precision: Compute,
    /// What stays as it is: groups (`embedding`, `head`, `norms`, `router`, `attention`, `dense`, `experts`,
    /// `shared`), or names of parameters in which `*` stands for anything. Default: nothing.
    #[serde(default)]
    pub freeze: Vec<String>,
}

/// Where the first weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init<'a> {
    /// A checkpoint directory.
    Checkpoint(&'a Path),
    /// A `config.json` and the seed.
    Random(&'a Path),
}

/// Element type of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// 32-bit float.
    #[default]
    F32,
    /// bfloat16 operands, f32 sums.
    Bf16,
}

impl From<Compute> for Precision {
    fn from(compute: Compute) -> Self {
        match compute {
            Compute::F32 => Self::F32,
            Compute::Bf16 => Self::Bf16,
        }
    }
}

impl Model {
    /// Returns where the first weights come from.
    ///
    /// # Errors
    /// Unless exactly one of `path` and `config` is given.
    pub fn init(&self) -> Result<Init<'_>> {
        match (&self.path, &self.config) {
            (Some(path), None) => Ok(Init::Checkpoint(path)),
            (None, Some(config)) => Ok(Init::Random(config)),
            _ => refuse(
                "model.path",
                "or `model.config` must be given, and not both",
            ),
        }
    }

    /// Returns the directory of the tokenizer, if one is known.
    pub fn tokenizer_dir(&self) -> Option<&Path> {
        self.tokenizer.as_deref().or(self.path.as_deref())
    }
}
