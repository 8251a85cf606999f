//! `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes and reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use llada_tensor::{BlockFormat, LowRank, Tensor, Weight, map_file};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::save::write_file;
use crate::trained::factor_name;
use crate::{Config, Error, Weights, names};

const CONFIG: &str = "adapter_config.json";
const FACTORS: &str = "adapter_model.safetensors";
/// What PEFT puts before the names of a model's parameters.
const PREFIX: &str = "base_model.model.";

/// What an adapter's files say of it beside its factors.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank R.
    pub rank: usize,
    /// The factor on B A, times R.
    pub alpha: f32,
    /// Share of its inputs that training drops.
    pub dropout: f32,
    /// Directory or name of the model that it was trained beside, if it is known.
    pub base: Option<String>,
}

/// An adapter that was read from files. It may be of another program; whether it fits a model is said by
/// [`Adapter::fit`].
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its directory.
    pub(super) path: PathBuf,
    /// What its files say of it.
    pub config: AdapterConfig,
    /// Factor on B A.
    pub(super) scale: f32,
    /// A and B by the name of the weight that they are for, as files of a base have it.
    pub(super) factors: BTreeMap<String, [Tensor; 2]>,
}

/// The keys of `adapter_config.json` that decide what the factors mean.
#[derive(Deserialize)]
struct Raw {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Keys that change what the factors mean, and that stand for nothing when they are absent, null, false,
/// empty or "none".
const UNKNOWN_MEANING: [&str; 7] = [
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "bias",
    "target_parameters",
];

impl Adapter {
    /// Reads the adapter in `dir`.
    ///
    /// # Errors
    /// If a file is missing or damaged, is no adapter of this kind, or a factor is without its other.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(CONFIG);
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let raw: Raw = serde_json::from_slice(&text).map_err(|source| Error::Json {
            file: path.display().to_string(),
            source,
        })?;
        if let Some(problem) = raw.problem() {
            return Err(refused(&path, problem));
        }
        let over = match raw.use_rslora {
            true => (raw.r as f32).sqrt(),
            false => raw.r as f32,
        };
        Ok(Self {
            path: dir.into(),
            scale: raw.lora_alpha / over,
            factors: read_factors(&dir.join(FACTORS), raw.r)?,
            config: AdapterConfig {
                rank: raw.r,
                alpha: raw.lora_alpha,
                dropout: raw.lora_dropout,
                base: raw.base_model_name_or_path,
            },
        })
    }
}

impl Raw {
    /// Returns what is wrong with the file.
    fn problem(&self) -> Option<String> {
        if self.peft_type != "LORA" || self.r == 0 {
            let (kind, rank) = (&self.peft_type, self.r);
            return Some(format!(
                "must be of an adapter of `peft_type` LORA and `r` above 0, found {kind} and {rank}"
            ));
        }
        let key = UNKNOWN_MEANING.into_iter().find(|&key| {
            let value = self.others.get(key).unwrap_or(&Value::Null);
            let is_empty = value.as_object().is_some_and(Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            !(is_empty || [json!(null), json!(false), json!("none")].contains(value))
        })?;
        let value = &self.others[key];
        Some(format!(
            "says {value} for `{key}`, which is not supported; merge it where it was made"
        ))
    }
}

fn read_factors(path: &Path, rank: usize) -> Result<BTreeMap<String, [Tensor; 2]>, Error> {
    let bytes = map_file(path).map_err(Error::io("map", path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|source| Error::Safetensors {
        path: path.into(),
        source,
    })?;
    let mut found: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    for (name, view) in file.tensors() {
        let Some((weight, which)) = parse(&name) else {
            let problem = format!(
                "holds `{name}`; expected {PREFIX}MODULE.lora_A.weight and .lora_B.weight alone"
            );
            return Err(refused(path, problem));
        };
        let tensor = read(&view).filter(|tensor| tensor.shape()[which] == rank);
        let tensor = tensor.ok_or_else(|| {
            let (shape, dtype) = (view.shape(), view.dtype());
            let problem = format!(
                "holds `{name}` with {shape:?} of {dtype:?}; expected a matrix of rank {rank} in F32, \
                 BF16 or F16"
            );
            refused(path, problem)
        })?;
        found.entry(weight).or_default()[which] = Some(tensor);
    }
    if found.is_empty() {
        return Err(refused(path, "holds no factors".into()));
    }
    let complete = |(weight, pair): (String, [Option<Tensor>; 2])| match pair {
        [Some(a), Some(b)] => Ok((weight, [a, b])),
        _ => {
            let problem = format!("holds one factor of `{weight}` without the other");
            Err(refused(path, problem))
        }
    };
    found.into_iter().map(complete).collect()
}

/// Splits the name of a factor into that of its weight and its number: 0 for A, 1 for B.
fn parse(name: &str) -> Option<(String, usize)> {
    let name = name.strip_prefix(PREFIX)?;
    ["A", "B"].iter().enumerate().find_map(|(number, which)| {
        let module = name.strip_suffix(&format!(".lora_{which}.weight"))?;
        Some((format!("{module}.weight"), number))
    })
}

/// Reads a matrix.
fn read(view: &TensorView<'_>) -> Option<Tensor> {
    let format = match (view.dtype(), view.shape()) {
        (Dtype::F32, [_, _]) => BlockFormat::F32,
        (Dtype::BF16, [_, _]) => BlockFormat::Bf16,
        (Dtype::F16, [_, _]) => BlockFormat::F16,
        _ => return None,
    };
    let mut tensor = Tensor::zeros(view.shape());
    format.dequantise(view.data(), tensor.f32s_mut());
    Some(tensor)
}

/// Writes the low-rank parts of a model's weights, in f32, and `adapter_config.json` into an existing
/// directory.
///
/// # Errors
/// If a file cannot be written.
pub fn write_adapter(
    dir: &Path,
    model: &Config,
    weights: &Weights<Weight>,
    config: &AdapterConfig,
) -> Result<(), Error> {
    let mut views = Vec::new();
    let mut modules = BTreeSet::new();
    let specs = Weights::specs(model).into_params().into_iter();
    for ((_, spec), (_, weight)) in specs.zip(weights.params()) {
        let Some(LowRank { a, b, .. }) = weight.low_rank() else {
            continue;
        };
        let [_, rank] = b.dims2();
        for part in names::parts(model, &spec) {
            let rows = &b.f32s()[part.rows.start * rank..part.rows.end * rank];
            modules.insert(module_in_layer(&part.name).to_owned());
            for (which, shape, values) in [
                ('A', a.shape().to_vec(), a.f32s()),
                ('B', vec![part.rows.len(), rank], rows),
            ] {
                let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values));
                let view = view.expect("the bytes are those of the shape");
                views.push((format!("{PREFIX}{}", factor_name(&part.name, which)), view));
            }
        }
    }
    let bytes = safetensors::serialize(views, None).map_err(|source| Error::Safetensors {
        path: dir.join(FACTORS),
        source,
    })?;
    write_file(&dir.join(FACTORS), &bytes)?;
    let text = format!("{:#}\n", config.to_json(&modules));
    write_file(&dir.join(CONFIG), text.as_bytes())
}

/// Returns a module's name within its layer: PEFT compares names by how they end.
fn module_in_layer(weight: &str) -> &str {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    let in_layers = module.strip_prefix("model.layers.");
    let in_layer = in_layers.and_then(|rest| rest.split_once('.'));
    in_layer.map_or(module, |(_, name)| name)
}

impl AdapterConfig {
    fn to_json(&self, modules: &BTreeSet<String>) -> Value {
        json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": modules,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
        })
    }
}

pub(super) fn refused(path: &Path, problem: String) -> Error {
    Error::Checkpoint {
        path: path.into(),
        problem,
    }
}
