//! Adapters (LoRA, arXiv:2106.09685): low-rank parts that are trained beside frozen weights, as files in
//! the layout of PEFT and merged into a base.
//!
//! A checkpoint's family decides the names, as for weights: a projection that files hold in parts (queries,
//! keys and values of dense parents) has a pair of factors per part, and ours repeat A in each.

mod file;
mod fit;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use llada_diffusion::{Rng, Stream};
use llada_tensor::{LowRank, Tensor};

pub use self::file::{Adapter, AdapterConfig, write_adapter};
use crate::load::{Checkpoint, Source};
use crate::merge::values;
use crate::save::{Encode, encode_merged, write_params};
use crate::{
    Config, Error, Model, ParamKind, ParamSpec, SaveOptions, StorageDtype, TensorGroup, Weights,
};

/// Which low-rank parts a new adapter has.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterPlan {
    /// Whose projections have one; other parameters of a group have none.
    pub targets: Vec<TensorGroup>,
    /// Rank R.
    pub rank: usize,
    /// Factor on B A.
    pub scale: f32,
}

impl AdapterPlan {
    /// Returns the shapes of A and B beside a parameter, `None` if it has no low-rank part.
    pub fn shapes(&self, spec: &ParamSpec) -> Option<[[usize; 2]; 2]> {
        match spec.shape[..] {
            [outputs, inputs]
                if spec.kind == ParamKind::Matrix
                    && self.targets.contains(&TensorGroup::of(spec)) =>
            {
                Some([[self.rank, inputs], [outputs, self.rank]])
            }
            _ => None,
        }
    }

    /// Draws the low-rank parts of a new adapter: A uniform within 1 / sqrt(I), as PEFT has it, B zero, so
    /// that nothing changes yet. Values depend on the seed and on the parameter's place in the model only.
    pub fn draw(&self, config: &Config, seed: u64) -> Weights<Option<LowRank>> {
        let rng = Rng::new(seed, Stream::Adapter);
        let mut param = 0;
        Weights::specs(config).map_into(|_, spec| {
            param += 1;
            let [a, b] = self.shapes(&spec)?;
            let bound = 1.0 / (a[1] as f32).sqrt();
            let value = |index: u64| {
                let (high, low) = ((index >> 32) as u32, index as u32); // the two halves of the index
                bound * (2.0 * rng.uniform(high, param, low) - 1.0)
            };
            Some(LowRank {
                a: Tensor::from_f32(&a, (0..(a[0] * a[1]) as u64).map(value).collect()),
                b: Tensor::zeros(&b),
                scale: self.scale,
            })
        })
    }
}

impl Model {
    /// Returns the model with low-rank parts in place of those it had.
    ///
    /// # Panics
    /// If the parts are not those of the model's configuration.
    pub fn with_adapter(mut self, parts: Weights<Option<LowRank>>) -> Self {
        let mut parts = parts.into_params().into_iter();
        self.weights =
            self.weights
                .map_into(|_, weight| match parts.next().and_then(|(_, part)| part) {
                    Some(part) => weight.with_low_rank(part),
                    None => weight,
                });
        self
    }

    /// Returns the model without its adapter. The weights are shared, not copied.
    pub fn base(&self) -> Self {
        let weights = self.weights.map(|_, weight| weight.base());
        Self::new(self.config.clone(), weights)
    }
}

/// Writes `config.json` and the weights of a base with an adapter merged into them, `W + scale B A` in f32,
/// into the existing directory `out`. What is held in memory is one tensor.
///
/// # Errors
/// If base or adapter cannot be read, they do not fit, or a file cannot be written.
pub fn merge_adapter(
    out: &Path,
    base: &Path,
    adapter: &Adapter,
    options: &SaveOptions,
) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(base)?;
    let mut parts = adapter.fit(&checkpoint.config)?.into_params().into_iter();
    let (sources, _) = checkpoint.sources()?;
    let merged = sources.map_into(|_, (_, source)| Merged {
        source,
        part: parts.next().and_then(|(_, part)| part),
    });
    write_params(out, &checkpoint.config, &merged, options)
}

/// A parameter of the base, and what is added to it.
struct Merged<'a> {
    source: Source<'a>,
    part: Option<LowRank>,
}

impl Encode for Merged<'_> {
    fn encode(&self, range: Range<usize>, dtype: StorageDtype) -> Cow<'_, [u8]> {
        let values = values(&self.source, range.clone());
        encode_merged(values, self.part.as_ref(), range, dtype)
    }
}
