//! From a checkpoint directory to weights (`model.md` section 3).
//!
//! Loading plans first: every parameter is matched with the bytes that hold it, and everything that
//! is missing, unexpected or of the wrong form is reported at once. Only then is memory allocated.

use std::collections::BTreeSet;
use std::path::Path;

use llada_tensor::{Precision, Tensor, Weight};
use safetensors::Dtype;

use crate::shards::{Shards, Stored};
use crate::{Config, Error, Family, ParamKind, ParamSpec, Weights, bytes, names};

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its configuration.
    pub config: Config,
    /// Its parameters.
    pub weights: Weights<Weight>,
    /// What the user should know although it is no error.
    pub warnings: Vec<String>,
}

/// Element type in which parameters are held in memory.
///
/// Norms, biases, routers and expert biases are `f32` in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepDtype {
    /// `f32`: masters for training.
    F32,
    /// bf16 where the file has bf16 and products are computed in bf16, else `f32`.
    AsStored,
}

/// Loads the checkpoint in `dir`. Matrix products with its weights will use `precision`.
///
/// # Errors
/// If a file is missing or damaged, the config is refused, or the tensors do not fit the config.
pub fn load(dir: &Path, precision: Precision, keep: KeepDtype) -> Result<Loaded, Error> {
    let (mut config, shards) = open(dir)?;
    let (sources, warnings) = plan(&config, &shards)?;
    let bf16 = precision == Precision::Bf16 && keep == KeepDtype::AsStored;
    let mut weights = sources.map_into(|_, (spec, source)| read(&spec, &source, precision, bf16));
    if std::mem::take(&mut config.norm_head) {
        normalise_head(&mut weights);
    }
    Ok(Loaded {
        config,
        weights,
        warnings,
    })
}

/// Opens a checkpoint without reading its tensors.
pub(crate) fn open(dir: &Path) -> Result<(Config, Shards), Error> {
    let mut config = Config::from_dir(dir)?;
    let shards = Shards::open(dir)?;
    if config.family == Family::BailingMoe && !config.says("use_qk_norm") {
        let witness = "model.layers.0.attention.query_layernorm.weight";
        config.use_qk_norm = shards.get(witness).is_some();
    }
    Ok((config, shards))
}

/// Parameters and the bytes that hold them, and what the user should know.
pub(crate) type Planned<'a> = (Weights<(ParamSpec, Source<'a>)>, Vec<String>);

/// Matches every parameter with the bytes that hold it.
pub(crate) fn plan<'a>(config: &'a Config, shards: &'a Shards) -> Result<Planned<'a>, Error> {
    let mut plan = Plan::new(config, shards);
    let sources = Weights::build(config, |spec| {
        Ok::<_, Error>((spec.clone(), plan.source(spec)))
    })?;
    Ok((sources, plan.finish()?))
}

/// The bytes that hold a parameter.
pub(crate) enum Source<'a> {
    /// Its rows, in order.
    Rows(Vec<(Dtype, &'a [u8])>),
    /// Nothing; its values are zero.
    Zeros,
}

/// Matches parameters with stored tensors and collects what does not fit.
struct Plan<'a> {
    config: &'a Config,
    shards: &'a Shards,
    used: BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    warnings: Vec<String>,
}

impl<'a> Plan<'a> {
    fn new(config: &'a Config, shards: &'a Shards) -> Self {
        let (missing, misshapen, warnings) = Default::default();
        Self {
            config,
            shards,
            used: BTreeSet::new(),
            missing,
            misshapen,
            warnings,
        }
    }

    fn source(&mut self, spec: &ParamSpec) -> Source<'a> {
        if spec.kind == ParamKind::ExpertBias && !self.wants_expert_bias(&spec.name) {
            return Source::Zeros;
        }
        let parts = names::parts(self.config, spec);
        Source::Rows(
            parts
                .iter()
                .filter_map(|part| {
                    let shape = [&[part.rows.len()], &spec.shape[1..]].concat();
                    self.part(&part.name, &shape)
                })
                .collect(),
        )
    }

    /// Returns whether the bias is to be read; if not, says why.
    fn wants_expert_bias(&mut self, name: &str) -> bool {
        let stored = self.shards.get(name).is_some();
        let enabled = self.config.moe.as_ref().is_some_and(|moe| moe.expert_bias);
        if stored && !enabled {
            self.used.insert(name.to_owned());
            self.warnings.push(format!(
                "`{name}` is not used, because `moe_router_enable_expert_bias` is false"
            ));
        } else if enabled && !stored {
            self.warnings.push(format!(
                "`{name}` is not in the checkpoint and starts at zero"
            ));
        }
        stored && enabled
    }

    /// Finds one stored tensor, or one expert's share of a merged one.
    fn part(&mut self, name: &str, shape: &[usize]) -> Option<(Dtype, &'a [u8])> {
        if let Some(stored) = self.shards.get(name) {
            return self.check(name, stored, shape);
        }
        match self.merged(name) {
            Some((merged, stored, expert)) => {
                let num_experts = self.config.moe.as_ref().map_or(0, |moe| moe.num_experts);
                let (dtype, all) =
                    self.check(&merged, stored, &[&[num_experts], shape].concat())?;
                let len = all.len() / num_experts;
                Some((dtype, &all[expert * len..(expert + 1) * len]))
            }
            None => {
                self.missing.push(name.to_owned());
                None
            }
        }
    }

    /// Finds the merged tensor that holds an expert's projection, with or without a suffix.
    fn merged(&self, name: &str) -> Option<(String, &'a Stored, usize)> {
        let (plain, expert) = names::merged(name)?;
        let spellings = [format!("{plain}.weight"), plain];
        spellings.into_iter().find_map(|merged| {
            let stored = self.shards.get(&merged)?;
            Some((merged, stored, expert))
        })
    }

    /// Checks form and element type, and marks the tensor as used.
    fn check(
        &mut self,
        name: &str,
        stored: &'a Stored,
        shape: &[usize],
    ) -> Option<(Dtype, &'a [u8])> {
        let first_use = self.used.insert(name.to_owned());
        let readable = matches!(stored.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16);
        if readable && stored.shape == shape {
            return Some((stored.dtype, self.shards.bytes(stored)));
        }
        if first_use {
            self.misshapen.push(format!(
                "{name} (expected {shape:?} of F32, BF16 or F16, found {:?} of {:?})",
                stored.shape, stored.dtype
            ));
        }
        None
    }

    /// Returns the warnings when everything fits.
    fn finish(mut self) -> Result<Vec<String>, Error> {
        self.accept_tied_head();
        let skipped = self.skip_extra_layers();
        self.warnings.extend(skipped);
        let unexpected = self
            .shards
            .names()
            .filter(|name| !self.used.contains(*name));
        let unexpected: Vec<_> = unexpected.map(str::to_owned).collect();
        let Self {
            missing,
            misshapen,
            warnings,
            ..
        } = self;
        match missing.is_empty() && misshapen.is_empty() && unexpected.is_empty() {
            true => Ok(warnings),
            false => Err(Error::Tensors {
                missing,
                unexpected,
                misshapen,
            }),
        }
    }

    /// A tied checkpoint may repeat the embedding as head, but not contradict it.
    fn accept_tied_head(&mut self) {
        let name = "lm_head.weight";
        let Some(head) = self
            .shards
            .get(name)
            .filter(|_| self.config.tie_word_embeddings)
        else {
            return;
        };
        let embedding = names::embedding(self.config.family);
        let same = |stored| self.shards.bytes(stored) == self.shards.bytes(head);
        if !self.shards.get(embedding).is_some_and(same) {
            self.misshapen.push(format!(
                "{name} (expected to equal {embedding}, because `tie_word_embeddings` is true)"
            ));
        }
        self.used.insert(name.to_owned());
    }

    /// Skips layers past the last one: the parent's multi-token prediction.
    fn skip_extra_layers(&mut self) -> Option<String> {
        let num_layers = self.config.num_hidden_layers;
        let is_extra = |name: &&str| names::layer(name).is_some_and(|layer| layer >= num_layers);
        let extra: Vec<_> = self
            .shards
            .names()
            .filter(is_extra)
            .map(str::to_owned)
            .collect();
        let count = extra.len();
        self.used.extend(extra);
        (count > 0 && !self.config.says("num_nextn_predict_layers")).then(|| {
            format!(
                "{count} tensors of layers after `num_hidden_layers` ({num_layers}) are skipped"
            )
        })
    }
}

fn read(spec: &ParamSpec, source: &Source<'_>, precision: Precision, bf16: bool) -> Weight {
    let always_f32 = spec.kind.is_always_f32();
    let precision = if always_f32 {
        Precision::F32
    } else {
        precision
    };
    let values = match source {
        Source::Zeros => Tensor::zeros(&spec.shape),
        Source::Rows(rows) if bf16 && !always_f32 && all_bf16(rows) => read_bf16(spec, rows),
        Source::Rows(rows) => read_f32(spec, rows),
    };
    Weight::new(values, precision)
}

fn all_bf16(rows: &[(Dtype, &[u8])]) -> bool {
    rows.iter().all(|(dtype, _)| *dtype == Dtype::BF16)
}

fn read_bf16(spec: &ParamSpec, rows: &[(Dtype, &[u8])]) -> Tensor {
    let mut values = Vec::with_capacity(spec.num_elements());
    rows.iter()
        .for_each(|(_, bytes)| bytes::append_bf16(&mut values, bytes));
    Tensor::from_bf16(&spec.shape, values)
}

fn read_f32(spec: &ParamSpec, rows: &[(Dtype, &[u8])]) -> Tensor {
    let mut values = Vec::with_capacity(spec.num_elements());
    rows.iter()
        .for_each(|(dtype, bytes)| bytes::append_f32(&mut values, *dtype, bytes));
    Tensor::from_f32(&spec.shape, values)
}

/// Divides each column (hidden dimension) of the head by its norm over the vocabulary.
fn normalise_head(weights: &mut Weights<Weight>) {
    let Some(head) = &mut weights.head else {
        return;
    };
    let mut values = head.values().to_f32();
    let [_, hidden] = values.dims2();
    let mut squares = vec![0.0_f64; hidden];
    for row in values.f32s().chunks_exact(hidden) {
        squares
            .iter_mut()
            .zip(row)
            .for_each(|(sum, v)| *sum += f64::from(*v).powi(2));
    }
    let scales: Vec<_> = squares
        .iter()
        .map(|sum| (1.0 / (sum.sqrt() + 1e-7)) as f32)
        .collect();
    for row in values.f32s_mut().chunks_exact_mut(hidden) {
        row.iter_mut()
            .zip(&scales)
            .for_each(|(v, scale)| *v *= scale);
    }
    *head = Weight::new(values, head.precision());
}
