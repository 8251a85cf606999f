//! From a checkpoint directory to weights (`model.md` section 3).
//!
//! Loading plans first: every parameter is matched with the bytes that hold it, and everything that
//! is missing, unexpected or of the wrong form is reported at once. Only then is memory allocated.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use llada_tensor::{BlockFormat, Codes, PageFile, Precision, Tensor, Weight};
use safetensors::Dtype;

use crate::gguf::{self, GgufFile};
use crate::shards::{Shards, Stored};
use crate::{Config, Error, Family, ParamKind, ParamSpec, TensorGroup, Weights, bytes, names};

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its configuration.
    pub config: Config,
    /// Its parameters.
    pub weights: Weights<Weight>,
    /// What the user should know although it is no error.
    pub warnings: Vec<String>,
    /// Bytes of the parameters that found no room in memory.
    pub paged_bytes: u64,
}

/// Memory for parameters, and where those go that find no room in it.
#[derive(Clone, Debug)]
pub struct Room {
    /// Bytes in memory. What every row reads is there before experts are.
    pub bytes: u64,
    /// A directory, made if need be, for a file of the others, which has no name and goes with the parameters.
    pub dir: PathBuf,
}

/// Element type in which parameters are held in memory.
///
/// Norms, biases, routers and expert biases are `f32` in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepDtype {
    /// `f32`: masters for training.
    F32,
    /// bf16 where the file has bf16 and products are computed in bf16, else `f32`; codes stay codes.
    AsStored,
    /// The same, but codes are read as the numbers they stand for: a frozen model whose inputs have
    /// gradients.
    Numbers,
}

/// Loads a checkpoint: a directory, or a GGUF file. Matrix products with its weights will use `precision`.
///
/// # Errors
/// If a file is missing or damaged, the config is refused, or the tensors do not fit the config.
pub fn load(path: &Path, precision: Precision, keep: KeepDtype) -> Result<Loaded, Error> {
    load_watched(path, precision, keep, None, &mut |_, _| {})
}

/// As [`load`]; after each parameter `watch` is told how many bytes have been read, and of how many.
///
/// Where there is a limit to the room, matrices that exceed it are packed for products and lie in a file.
///
/// # Errors
/// As [`load`], or if that file cannot be written.
pub fn load_watched(
    path: &Path,
    precision: Precision,
    keep: KeepDtype,
    room: Option<&Room>,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Loaded, Error> {
    let mut checkpoint = Checkpoint::open(path)?;
    let (sources, mut warnings) = checkpoint.sources()?;
    let (mut done, mut total) = (0, 0);
    sources.for_each(|_, (_, source)| total += source.num_bytes());
    let is_normed = checkpoint.config.norm_head;
    let mut overflow = Overflow::new(&sources, precision, room)?;
    let weights = sources.try_map(|name, (spec, source)| {
        let mut weight = read(&spec, &source, precision, keep);
        checkpoint.release(&source);
        if is_normed && spec.kind == ParamKind::Head {
            weight = normalised(&weight);
        }
        overflow.take(name, &mut weight)?;
        done += source.num_bytes();
        watch(done, total);
        Ok::<_, Error>(weight)
    })?;
    checkpoint.config.norm_head = false; // as it is from now on
    warnings.append(&mut checkpoint.warnings);
    Ok(Loaded {
        config: checkpoint.config,
        weights,
        warnings,
        paged_bytes: overflow.file.map_or(0, |(_, file)| file.len()),
    })
}

/// What failed when a file of parameters cannot be written.
const PAGING: &str = "keep weights in a file in";

/// The parameters that find no room in memory.
struct Overflow {
    names: BTreeSet<String>,
    file: Option<(PathBuf, PageFile)>,
}

impl Overflow {
    /// Gives room to what every row reads, then to experts, as long as there is some.
    fn new(
        sources: &Weights<(ParamSpec, Source<'_>)>,
        precision: Precision,
        room: Option<&Room>,
    ) -> Result<Self, Error> {
        let mut names = BTreeSet::new();
        let Some(Room { bytes, dir }) = room else {
            return Ok(Self { names, file: None });
        };
        let (mut left, params) = (*bytes, sources.params());
        let (of_experts, others): (Vec<_>, Vec<_>) = params
            .into_iter()
            .partition(|(_, (spec, _))| TensorGroup::of(spec) == TensorGroup::Experts);
        for (name, (spec, source)) in others.into_iter().chain(of_experts) {
            match left.checked_sub(source.bytes_in_memory(spec, precision)) {
                Some(rest) => left = rest,
                None if spec.kind == ParamKind::Matrix || spec.kind == ParamKind::Head => {
                    names.insert(name);
                }
                None => {}
            }
        }
        if names.is_empty() {
            return Ok(Self { names, file: None });
        }
        let file = std::fs::create_dir_all(dir).and_then(|()| PageFile::create_in(dir));
        let file = Some((dir.clone(), file.map_err(Error::io(PAGING, dir))?));
        Ok(Self { names, file })
    }

    /// Moves a parameter to the file if it is one of these.
    fn take(&mut self, name: &str, weight: &mut Weight) -> Result<(), Error> {
        match &mut self.file {
            Some((dir, file)) if self.names.contains(name) => {
                weight.move_to(file).map_err(Error::io(PAGING, dir))
            }
            _ => Ok(()),
        }
    }
}

/// A checkpoint on disk: its configuration, and its files mapped.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<String>,
    files: Files,
}

#[derive(Debug)]
enum Files {
    Hub(Shards),
    Gguf(GgufFile),
}

impl Checkpoint {
    /// Opens a directory in the Hub's layout, or a GGUF file.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        if path.is_file() {
            let file = GgufFile::open(path)?;
            let (config, warnings) = gguf::from_file(&file)?;
            let files = Files::Gguf(file);
            return Ok(Self {
                config,
                warnings,
                files,
            });
        }
        let mut config = Config::from_dir(path)?;
        let shards = Shards::open(path)?;
        if config.family == Family::BailingMoe && !config.says("use_qk_norm") {
            let witness = "model.layers.0.attention.query_layernorm.weight";
            config.use_qk_norm = shards.get(witness).is_some();
        }
        Ok(Self {
            config,
            warnings: Vec::new(),
            files: Files::Hub(shards),
        })
    }

    /// Matches every parameter with the bytes that hold it; returns warnings beside.
    pub(crate) fn sources(&self) -> Result<Sources<'_>, Error> {
        match &self.files {
            Files::Gguf(file) => gguf::sources(&self.config, file),
            Files::Hub(shards) => {
                let mut plan = Plan::new(&self.config, shards);
                let sources = Weights::build(&self.config, |spec| {
                    Ok::<_, Error>((spec.clone(), plan.source(spec)))
                })?;
                Ok((sources, plan.finish()?))
            }
        }
    }
}

impl Checkpoint {
    /// Gives the pages of a parameter that has been read back to the system, so that a checkpoint never
    /// takes memory beside the model that is made of it.
    pub(crate) fn release(&self, source: &Source<'_>) {
        let Source::Rows(pieces) = source else { return };
        let maps = match &self.files {
            Files::Hub(shards) => shards.maps(),
            Files::Gguf(file) => file.maps(),
        };
        for (_, bytes) in pieces {
            let released = maps.iter().any(|map| map.release(bytes));
            debug_assert!(released, "every piece lies in a file of the checkpoint");
        }
    }
}

impl Config {
    /// Reads the configuration of a checkpoint: a directory, or a GGUF file.
    ///
    /// # Errors
    /// If it cannot be read or is refused.
    pub fn of_checkpoint(path: &Path) -> Result<Self, Error> {
        match path.is_file() {
            true => Ok(gguf::from_file(&GgufFile::open(path)?)?.0),
            false => Self::from_dir(path),
        }
    }
}

/// Parameters with the bytes that hold them, and warnings.
pub(crate) type Sources<'a> = (Weights<(ParamSpec, Source<'a>)>, Vec<String>);

/// Runs of whole rows.
pub(crate) type Pieces<'a> = Vec<(BlockFormat, &'a [u8])>;

/// The bytes that hold a parameter.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// Its rows, in order.
    Rows(Pieces<'a>),
    /// Nothing; its values are zero.
    Zeros,
}

impl<'a> Source<'a> {
    fn num_bytes(&self) -> u64 {
        match self {
            Self::Rows(pieces) => pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
            Self::Zeros => 0,
        }
    }

    /// Returns the bytes that the parameter takes in memory, ready for products, give or take a few percent.
    fn bytes_in_memory(&self, spec: &ParamSpec, precision: Precision) -> u64 {
        let is_coded = match self {
            Self::Rows(pieces) => are_codes(pieces),
            Self::Zeros => false,
        };
        match precision {
            _ if is_coded => self.num_bytes(),
            Precision::Bf16 => 2 * spec.num_elements() as u64,
            Precision::F32 => 4 * spec.num_elements() as u64,
        }
    }

    /// Writes the values of row `index` to `to`, which is as wide; returns its bytes if they are in `format`.
    pub(crate) fn read_row(
        &self,
        index: usize,
        format: BlockFormat,
        to: &mut [f32],
    ) -> Option<&'a [u8]> {
        let Self::Rows(pieces) = self else {
            to.fill(0.0);
            return None;
        };
        let mut first = 0;
        for (stored, bytes) in pieces {
            let width = to.len() / stored.block_values() * stored.block_bytes();
            let rows = bytes.len() / width;
            if index < first + rows {
                let row = &bytes[(index - first) * width..][..width];
                stored.dequantise(row, to);
                return (*stored == format).then_some(row);
            }
            first += rows;
        }
        panic!("row {index} of {first}");
    }
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
    fn part(&mut self, name: &str, shape: &[usize]) -> Option<(BlockFormat, &'a [u8])> {
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
    ) -> Option<(BlockFormat, &'a [u8])> {
        let first_use = self.used.insert(name.to_owned());
        let format = match stored.dtype {
            Dtype::F32 => Some(BlockFormat::F32),
            Dtype::BF16 => Some(BlockFormat::Bf16),
            Dtype::F16 => Some(BlockFormat::F16),
            _ => None,
        };
        if let Some(format) = format.filter(|_| stored.shape == shape) {
            return Some((format, self.shards.bytes(stored)));
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

fn read(spec: &ParamSpec, source: &Source<'_>, precision: Precision, keep: KeepDtype) -> Weight {
    let always_f32 = spec.kind.is_always_f32();
    let values = match source {
        Source::Zeros => Tensor::zeros(&spec.shape),
        Source::Rows(pieces) if always_f32 => read_f32(spec, pieces),
        Source::Rows(pieces) => match keep {
            KeepDtype::F32 => read_f32(spec, pieces),
            KeepDtype::Numbers => read_numbers(spec, pieces, precision),
            KeepDtype::AsStored => read_as_stored(spec, pieces, precision),
        },
    };
    let precision = if always_f32 {
        Precision::F32
    } else {
        precision
    };
    Weight::new(values, precision)
}

/// Keeps codes that products read as they are, and numbers as [`read_numbers`] does.
fn read_as_stored(spec: &ParamSpec, pieces: &Pieces<'_>, precision: Precision) -> Tensor {
    match &spec.shape[..] {
        [_, columns] if are_codes(pieces) => {
            let runs = runs_of_codes(pieces);
            let runs: Vec<_> = runs.iter().map(|(codes, run)| (*codes, &run[..])).collect();
            Tensor::from_runs_of_codes(*columns, &runs)
        }
        _ => read_numbers(spec, pieces, precision),
    }
}

/// Returns whether products read the codes of all pieces.
fn are_codes(pieces: &Pieces<'_>) -> bool {
    !pieces.is_empty() && pieces.iter().all(|(format, _)| format.codes().is_some())
}

/// Joins pieces of the same codes that follow each other.
fn runs_of_codes<'a>(pieces: &Pieces<'a>) -> Vec<(Codes, Cow<'a, [u8]>)> {
    let same = pieces.chunk_by(|a, b| a.0 == b.0);
    let run = |pieces: &[(BlockFormat, &'a [u8])]| {
        let bytes = match pieces {
            [(_, bytes)] => Cow::Borrowed(*bytes),
            _ => {
                let rows: Vec<&[u8]> = pieces.iter().map(|(_, bytes)| *bytes).collect();
                Cow::Owned(rows.concat())
            }
        };
        Some((pieces.first()?.0.codes()?, bytes))
    };
    same.filter_map(run).collect()
}

/// Keeps bf16 where products round to it; codes are rounded to bf16 then, too.
fn read_numbers(spec: &ParamSpec, pieces: &Pieces<'_>, precision: Precision) -> Tensor {
    let is_bf16 = pieces
        .iter()
        .all(|(format, _)| *format == BlockFormat::Bf16);
    match precision {
        Precision::Bf16 if is_bf16 => read_bf16(spec, pieces),
        Precision::Bf16 if first_format(pieces).is_quantised() => read_f32(spec, pieces).to_bf16(),
        _ => read_f32(spec, pieces),
    }
}

fn first_format(pieces: &Pieces<'_>) -> BlockFormat {
    pieces
        .first()
        .map_or(BlockFormat::F32, |(format, _)| *format)
}

fn read_bf16(spec: &ParamSpec, pieces: &Pieces<'_>) -> Tensor {
    let mut values = Vec::with_capacity(spec.num_elements());
    pieces
        .iter()
        .for_each(|(_, bytes)| bytes::append_bf16(&mut values, bytes));
    Tensor::from_bf16(&spec.shape, values)
}

fn read_f32(spec: &ParamSpec, pieces: &Pieces<'_>) -> Tensor {
    let mut values = vec![0.0; spec.num_elements()];
    let mut rest = &mut values[..];
    for (format, bytes) in pieces {
        let (to, after) =
            rest.split_at_mut(bytes.len() / format.block_bytes() * format.block_values());
        format.dequantise(bytes, to);
        rest = after;
    }
    Tensor::from_f32(&spec.shape, values)
}

/// Divides each column (hidden dimension) of the head by its norm over the vocabulary.
fn normalised(head: &Weight) -> Weight {
    let mut values = head.values().to_f32();
    let [_, hidden] = values.dims2();
    let mut norms = ColumnNorms::new(hidden);
    let rows = values.f32s().chunks_exact(hidden);
    rows.for_each(|row| norms.add(row));
    let scales = norms.scales();
    let rows = values.f32s_mut().chunks_exact_mut(hidden);
    rows.for_each(|row| scale(row, &scales));
    Weight::new(values, head.precision())
}

/// Sums of squares by column, of rows that come one by one.
pub(crate) struct ColumnNorms(Vec<f64>);

impl ColumnNorms {
    pub(crate) fn new(columns: usize) -> Self {
        Self(vec![0.0; columns])
    }

    pub(crate) fn add(&mut self, row: &[f32]) {
        let sums = self.0.iter_mut().zip(row);
        sums.for_each(|(sum, v)| *sum += f64::from(*v).powi(2));
    }

    /// Returns by what each column is multiplied to have norm 1.
    pub(crate) fn scales(&self) -> Vec<f32> {
        let sums = self.0.iter();
        sums.map(|sum| (1.0 / (sum.sqrt() + 1e-7)) as f32).collect()
    }
}

/// Multiplies a row by the scales of its columns.
pub(crate) fn scale(row: &mut [f32], scales: &[f32]) {
    row.iter_mut().zip(scales).for_each(|(v, by)| *v *= by);
}

#[cfg(test)]
mod tests {
    use llada_tensor::DType;

    use super::*;

    #[test]
    fn a_matrix_of_several_types_stays_codes_if_products_read_them_all() {
        let values: Vec<f32> = (0..12 * 256)
            .map(|i| (i * 37 % 101) as f32 - 50.0)
            .collect();
        let types = [BlockFormat::Q4K, BlockFormat::Q6K, BlockFormat::Q5_0];
        let (mut joined, mut want) = (Vec::new(), vec![0.0; values.len()]);
        for (format, rows) in types.into_iter().zip([0..4, 4..8, 8..12]) {
            let (mut bytes, rows) = (Vec::new(), rows.start * 256..rows.end * 256);
            format.quantise(&values[rows.clone()], &mut bytes);
            format.dequantise(&bytes, &mut want[rows]);
            joined.push((format, bytes));
        }
        // Rows of the first type come one by one, as those of rotated queries do.
        let rows = joined[0].1.chunks(joined[0].1.len() / 4);
        let mut pieces: Pieces<'_> = rows.map(|row| (BlockFormat::Q4K, row)).collect();
        pieces.extend(
            joined[1..]
                .iter()
                .map(|(format, bytes)| (*format, &bytes[..])),
        );
        let spec = |rows| ParamSpec {
            name: "qkv".into(),
            shape: vec![rows, 256],
            kind: ParamKind::Matrix,
        };
        let numbers = read_as_stored(&spec(12), &pieces, Precision::F32);
        assert_eq!((numbers.dtype(), numbers.f32s()), (DType::F32, &want[..]));
        pieces.pop();
        let codes = read_as_stored(&spec(8), &pieces, Precision::F32);
        assert_eq!(codes.dtype(), DType::Codes(Codes::Q4K));
        assert_eq!(codes.to_f32().f32s(), &want[..8 * 256]);
    }
}
