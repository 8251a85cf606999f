//! From weights to a directory in the Hub's layout, whole or not at all.
//!
//! Files are written into `DIR.partial`, which is renamed when it is complete and removed when
//! anything fails. Tensors are converted one at a time.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use llada_tensor::{LowRank, Tensor, Weight};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use crate::shards::{INDEX, SINGLE};
use crate::{Config, Error, ParamKind, ParamSpec, StorageDtype, Weights, bytes, names};

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions {
    /// Element type; `None` for that of the config. Expert biases are `f32` always.
    pub dtype: Option<StorageDtype>,
    /// Layout of the experts.
    pub experts: ExpertLayout,
    /// Size above which a new shard begins.
    pub max_shard_bytes: usize,
}

impl Default for SaveOptions {
    /// The Hub's conventions: split experts, shards of 4 GB.
    fn default() -> Self {
        Self {
            dtype: None,
            experts: ExpertLayout::Split,
            max_shard_bytes: 4_000_000_000,
        }
    }
}

/// Layout of the experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertLayout {
    /// Three tensors per expert, as on the Hub.
    Split,
    /// Three tensors per layer, `[E, F, D]` or `[E, D, F]`, as in VeOmni.
    Merged,
}

/// Writes `config.json` and the weights into the new directory `dir`, whole or not at all.
///
/// # Errors
/// If `dir` exists and is not empty, or a file cannot be written; nothing is left behind then.
pub fn save(
    dir: &Path,
    config: &Config,
    weights: &Weights<Weight>,
    options: &SaveOptions,
) -> Result<(), Error> {
    let partial = PartialDir::create(dir)?;
    write_model(partial.path(), config, weights, options)?;
    partial.commit()
}

/// Writes `config.json` and the weights into an existing directory, usually a [`PartialDir`]. Low-rank
/// parts are merged into the values.
///
/// # Errors
/// If a file cannot be written.
pub fn write_model(
    dir: &Path,
    config: &Config,
    weights: &Weights<Weight>,
    options: &SaveOptions,
) -> Result<(), Error> {
    write_params(dir, config, weights, options)
}

/// A parameter whose values can be written.
pub(crate) trait Encode {
    /// Returns elements `range` as bytes of a weight file.
    fn encode(&self, range: Range<usize>, dtype: StorageDtype) -> Cow<'_, [u8]>;
}

impl Encode for Weight {
    fn encode(&self, range: Range<usize>, dtype: StorageDtype) -> Cow<'_, [u8]> {
        if self.low_rank().is_none() {
            return bytes::encode(self.values(), range, dtype);
        }
        let values = bytes::f32s(self.values(), range.clone());
        encode_merged(values, self.low_rank(), range, dtype)
    }
}

/// Encodes elements `range` of a weight, with its low-rank part added in f32; then they are whole rows.
pub(crate) fn encode_merged(
    mut values: Vec<f32>,
    low_rank: Option<&LowRank>,
    range: Range<usize>,
    dtype: StorageDtype,
) -> Cow<'static, [u8]> {
    if let Some(low_rank) = low_rank {
        let [_, width] = low_rank.a.dims2();
        low_rank.add_rows(range.start / width..range.end / width, &mut values);
    }
    let merged = Tensor::from_f32(&[values.len()], values);
    let encoded = bytes::encode(&merged, 0..merged.len(), dtype);
    encoded.into_owned().into()
}

/// As [`write_model`], with parameters that may be computed when their turn comes.
pub(crate) fn write_params<T: Encode>(
    dir: &Path,
    config: &Config,
    params: &Weights<T>,
    options: &SaveOptions,
) -> Result<(), Error> {
    let mut config = config.clone();
    config.storage = options.dtype.unwrap_or(config.storage);
    let shards = shards(
        entries(&config, params, options.experts),
        options.max_shard_bytes,
    );
    match &shards[..] {
        [only] => write_shard(&dir.join(SINGLE), only)?,
        _ => write_shards(dir, &shards)?,
    }
    write_file(&dir.join("config.json"), config.to_json().as_bytes())
}

/// A directory under construction, invisible under its final name until [`PartialDir::commit`].
/// Dropping it removes everything.
#[derive(Debug)]
pub struct PartialDir {
    partial: PathBuf,
    target: PathBuf,
}

impl PartialDir {
    /// Creates `DIR.partial` beside the future `dir`.
    ///
    /// # Errors
    /// If `dir` exists and is not an empty directory, or `DIR.partial` exists or cannot be created.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let refuse = |path: &Path, problem: &str| {
            Err(Error::Checkpoint {
                path: path.into(),
                problem: problem.into(),
            })
        };
        let Some(name) = dir.file_name() else {
            return refuse(dir, "does not name a directory to create");
        };
        if dir.exists()
            && !dir
                .read_dir()
                .is_ok_and(|mut entries| entries.next().is_none())
        {
            return refuse(
                dir,
                "already exists; choose another name or remove it first",
            );
        }
        let mut partial_name = name.to_owned();
        partial_name.push(".partial");
        let partial = dir.with_file_name(partial_name);
        if partial.exists() {
            return refuse(&partial, "was left by an interrupted save; remove it first");
        }
        std::fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
        Ok(Self {
            partial,
            target: dir.into(),
        })
    }

    /// Returns where to write files.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the directory its final name.
    ///
    /// # Errors
    /// If it cannot be renamed; it is removed then.
    pub fn commit(self) -> Result<(), Error> {
        std::fs::rename(&self.partial, &self.target).map_err(Error::io("create", &self.target))
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        // After a commit there is nothing under this name; after a failure there is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.partial);
    }
}

/// A tensor to write: consecutive pieces of parameters.
struct Entry<'a, T> {
    name: String,
    shape: Vec<usize>,
    dtype: StorageDtype,
    pieces: Vec<(&'a T, Range<usize>)>,
}

impl<'a, T: Encode> Entry<'a, T> {
    fn num_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.num_bytes()
    }

    /// Returns the bytes of each piece, converted when it is reached.
    fn bytes(&self) -> impl Iterator<Item = Cow<'a, [u8]>> {
        self.pieces
            .iter()
            .map(|(param, range)| param.encode(range.clone(), self.dtype))
    }
}

/// Lists what to write, in the order of the walk.
fn entries<'a, T>(
    config: &Config,
    params: &'a Weights<T>,
    experts: ExpertLayout,
) -> Vec<Entry<'a, T>> {
    let mut entries: Vec<Entry<'a, T>> = Vec::new();
    let mut merged: HashMap<String, usize> = HashMap::new();
    let without_bias = config.moe.as_ref().is_some_and(|moe| !moe.expert_bias);
    let specs = Weights::specs(config).into_params();
    for ((_, spec), (_, param)) in specs.into_iter().zip(params.params()) {
        if spec.kind == ParamKind::ExpertBias && without_bias {
            continue;
        }
        let target = names::merged(&spec.name).filter(|_| experts == ExpertLayout::Merged);
        let Some((name, _)) = target else {
            entries.extend(part_entries(config, &spec, param));
            continue;
        };
        let index = *merged.entry(name.clone()).or_insert(entries.len());
        if index == entries.len() {
            let shape = [&[0], &spec.shape[..]].concat();
            entries.push(Entry {
                name,
                shape,
                dtype: config.storage,
                pieces: Vec::new(),
            });
        }
        entries[index].shape[0] += 1;
        entries[index].pieces.push((param, 0..spec.num_elements()));
    }
    entries
}

/// Lists the tensors in which the family's files hold one parameter.
fn part_entries<'a, T>(config: &Config, spec: &ParamSpec, param: &'a T) -> Vec<Entry<'a, T>> {
    let dtype = match spec.kind {
        ParamKind::ExpertBias => StorageDtype::F32,
        _ => config.storage,
    };
    let row = spec.shape[1..].iter().product::<usize>();
    let entry = |part: names::Part| Entry {
        name: part.name,
        shape: [&[part.rows.len()], &spec.shape[1..]].concat(),
        dtype,
        pieces: vec![(param, part.rows.start * row..part.rows.end * row)],
    };
    names::parts(config, spec).into_iter().map(entry).collect()
}

/// Fills shards in order; a tensor above the limit gets a shard of its own.
fn shards<T: Encode>(entries: Vec<Entry<'_, T>>, max_bytes: usize) -> Vec<Vec<Entry<'_, T>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for entry in entries {
        let size = entry.num_bytes();
        if filled > 0 && filled + size > max_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        shards
            .last_mut()
            .expect("there is a first shard")
            .push(entry);
    }
    // Wider elements first keeps every tensor aligned, as readers of memory maps prefer.
    shards
        .iter_mut()
        .for_each(|shard| shard.sort_by_key(|entry| Reverse(entry.dtype.num_bytes())));
    shards
}

fn write_shards<T: Encode>(dir: &Path, shards: &[Vec<Entry<'_, T>>]) -> Result<(), Error> {
    let mut weight_map = BTreeMap::new();
    for (number, shard) in (1..).zip(shards) {
        let file = format!("model-{number:05}-of-{:05}.safetensors", shards.len());
        write_shard(&dir.join(&file), shard)?;
        weight_map.extend(shard.iter().map(|entry| (entry.name.clone(), file.clone())));
    }
    let total_size = shards.iter().flatten().map(Entry::num_bytes).sum::<usize>();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    write_file(&dir.join(INDEX), format!("{index:#}\n").as_bytes())
}

/// Writes one safetensors file: header length, header padded to 8 bytes, data.
fn write_shard<T: Encode>(path: &Path, shard: &[Entry<'_, T>]) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let mut writer = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let header = header(shard);
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        for bytes in shard.iter().flat_map(Entry::bytes) {
            writer.write_all(&bytes)?;
        }
        writer.into_inner()?.sync_all() // a rename must not outrun the data it names
    };
    write().map_err(Error::io("write", path))
}

fn header<T: Encode>(shard: &[Entry<'_, T>]) -> Vec<u8> {
    let mut end = 0;
    let infos = shard.iter().map(|entry| {
        let start = end;
        end += entry.num_bytes();
        let (dtype, shape) = (entry.dtype.in_files(), entry.shape.clone());
        (
            entry.name.clone(),
            TensorInfo {
                dtype,
                shape,
                data_offsets: (start, end),
            },
        )
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.collect());
    let metadata = metadata.expect("offsets are consecutive and fit the shapes");
    let mut header = serde_json::to_vec(&metadata).expect("a header is a map with string keys");
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

pub(crate) fn write_file(path: &Path, contents: &[u8]) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().map_err(Error::io("write", path))
}

impl StorageDtype {
    fn num_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    fn in_files(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
        }
    }
}
