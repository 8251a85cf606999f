//! Writes a checkpoint of either kind as a GGUF file, tensor by tensor.
//!
//! Peak memory is a few rows: values are read from the memory map, quantised in pieces by all threads
//! and written. The file is built beside its final name and renamed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use llada_tensor::{BlockFormat, map_parallel, num_threads};

use super::names::{Place, places};
use super::write::{Info, header, padding};
use super::{Metadata, Value, config as keys};
use crate::load::{Checkpoint, ColumnNorms, Source, scale};
use crate::{Error, ParamKind, ParamSpec, TensorGroup, Weights};

/// Values quantised by one task.
const TASK_VALUES: usize = 1 << 16;

/// Which format tensors get.
#[derive(Clone, Debug)]
pub struct FormatChoice {
    /// Of every group that `kept` does not name.
    pub default: BlockFormat,
    /// Of some groups.
    pub kept: BTreeMap<TensorGroup, BlockFormat>,
}

impl FormatChoice {
    /// Returns the format of a tensor, another one where its rows are no whole blocks.
    fn format(&self, group: TensorGroup, columns: usize) -> BlockFormat {
        let asked = match group.is_always_f32() {
            true => BlockFormat::F32,
            false => *self.kept.get(&group).unwrap_or(&self.default),
        };
        let fits = |format: BlockFormat| columns.is_multiple_of(format.block_values());
        let smaller = match asked {
            BlockFormat::Q4K => BlockFormat::Q5_0,
            BlockFormat::Q5K => BlockFormat::Q5_1,
            BlockFormat::Q6K => BlockFormat::Q8_0,
            other => other,
        };
        let choices = [asked, smaller, BlockFormat::F16];
        let fitting = choices.into_iter().find(|format| fits(*format));
        fitting.expect("one value is a block of F16")
    }
}

/// A tensor that has been written.
#[derive(Clone, Debug)]
pub struct WrittenTensor {
    /// Its name in the file.
    pub name: String,
    /// Its group.
    pub group: TensorGroup,
    /// Its format.
    pub format: BlockFormat,
    /// Number of values.
    pub num_values: usize,
    /// Bytes that it takes, without padding.
    pub num_bytes: usize,
    /// Sum of the squares of its values.
    pub squares: f64,
    /// Sum of the squares of what was lost.
    pub error_squares: f64,
}

/// Writes the checkpoint at `input`, a directory or a GGUF file, to the new file `out`.
///
/// `text` holds the keys that a tokenizer adds. `progress` is told of each tensor when it is written.
/// Returns what the user should know although it is no error.
///
/// # Errors
/// If the input does not load, says something that GGUF has no key for, has values that are not
/// finite, or the file exists or cannot be written; nothing is left behind then.
pub fn write_gguf(
    input: &Path,
    out: &Path,
    choice: &FormatChoice,
    text: &Metadata,
    progress: &mut dyn FnMut(&WrittenTensor),
) -> Result<Vec<String>, Error> {
    let refuse = |problem: String| Error::Gguf {
        path: out.into(),
        problem,
    };
    if out.exists() {
        return Err(refuse(
            "already exists; choose another name or remove it first".into(),
        ));
    }
    let checkpoint = Checkpoint::open(input)?;
    let (sources, mut warnings) = checkpoint.sources()?;
    warnings.extend(checkpoint.warnings.iter().cloned());
    let mut tensors = tensors(&checkpoint, &sources, choice);
    let mut config = checkpoint.config.clone();
    if std::mem::take(&mut config.norm_head) {
        normalise_head(&mut tensors);
    }
    let find = |name: &str| {
        let tensor = tensors.iter().find(|tensor| tensor.name == name)?;
        Some((tensor.format, tensor.shape.clone()))
    };
    let mut metadata = keys::to_metadata(&config, &find).map_err(refuse)?;
    metadata.set("general.file_type", Value::Int(file_type(choice.default)));
    if tensors.iter().any(|tensor| tensor.format.is_quantised()) {
        metadata.set("general.quantization_version", Value::Int(2));
    }
    text.iter()
        .for_each(|(key, value)| metadata.set(key, value.clone()));
    metadata.order();
    let partial = out.with_added_extension("partial");
    let written = write_file(&checkpoint, [&partial, out], &metadata, &tensors, progress);
    if written.is_err() {
        // The error says what happened; there is nobody to tell that the removal failed too.
        let _ = std::fs::remove_file(&partial);
    }
    written.map(|()| warnings)
}

/// Returns `general.file_type`, which is informational.
fn file_type(format: BlockFormat) -> i64 {
    match format {
        BlockFormat::F32 => 0,
        BlockFormat::F16 => 1,
        BlockFormat::Q4_0 => 2,
        BlockFormat::Q4_1 => 3,
        BlockFormat::Q8_0 => 7,
        BlockFormat::Q5_0 => 8,
        BlockFormat::Q5_1 => 9,
        BlockFormat::Q4K => 14,
        BlockFormat::Q5K => 16,
        BlockFormat::Q6K => 18,
        BlockFormat::Bf16 => 32,
    }
}

/// A tensor to write: parameters, or rows of them, one after the other.
struct Tensor<'a> {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    format: BlockFormat,
    group: TensorGroup,
    parts: Vec<(&'a Source<'a>, Place)>,
    /// What its columns are multiplied by.
    scales: Option<Vec<f32>>,
}

impl Tensor<'_> {
    fn info(&self) -> Info<'_> {
        Info {
            name: &self.name,
            shape: &self.shape,
            format: self.format,
        }
    }

    /// Returns the width of the rows of its parameters: 1 of a vector, whose elements are rows.
    fn columns(&self) -> usize {
        match self.shape[..] {
            [_] => 1,
            [.., columns] => columns,
            [] => 1,
        }
    }
}

/// Lists what to write, in the order of the walk. Experts become a stack.
fn tensors<'a>(
    checkpoint: &Checkpoint,
    sources: &'a Weights<(ParamSpec, Source<'a>)>,
    choice: &FormatChoice,
) -> Vec<Tensor<'a>> {
    let config = &checkpoint.config;
    let without_bias = config.moe.as_ref().is_some_and(|moe| !moe.expert_bias);
    let mut tensors: Vec<Tensor<'a>> = Vec::new();
    let mut stacks: HashMap<String, usize> = HashMap::new();
    for (_, (spec, source)) in sources.params() {
        if spec.kind == ParamKind::ExpertBias && without_bias {
            continue;
        }
        let group = TensorGroup::of(spec);
        for place in places(config, spec, config.family.is_dense_parent()) {
            let index = *stacks.entry(place.name.clone()).or_insert(tensors.len());
            if index == tensors.len() {
                let mut shape = [&[place.rows.len()], &spec.shape[1..]].concat();
                if place.expert.is_some() {
                    shape.insert(0, 0);
                }
                let columns = if shape.len() == 1 {
                    1
                } else {
                    shape[shape.len() - 1]
                };
                tensors.push(Tensor {
                    name: place.name.clone(),
                    shape,
                    format: choice.format(group, columns),
                    group,
                    parts: Vec::new(),
                    scales: None,
                });
            }
            if place.expert.is_some() {
                tensors[index].shape[0] += 1;
            }
            tensors[index].parts.push((source, place));
        }
    }
    tensors
}

/// Makes the columns of the head as long as a model that says `norm_head` has them: no key of a file
/// asks a reader for it.
fn normalise_head(tensors: &mut [Tensor<'_>]) {
    let heads = tensors.iter_mut();
    for head in heads.filter(|tensor| tensor.group == TensorGroup::Head) {
        let mut row = vec![0.0; head.columns()];
        let mut norms = ColumnNorms::new(row.len());
        for (source, place) in &head.parts {
            for index in 0..place.rows.len() {
                source.read_row(place.row(index), head.format, &mut row);
                norms.add(&row);
            }
        }
        head.scales = Some(norms.scales());
    }
}

/// Writes to the first path and renames to the second.
fn write_file(
    checkpoint: &Checkpoint,
    [partial, out]: [&Path; 2],
    metadata: &Metadata,
    tensors: &[Tensor<'_>],
    progress: &mut dyn FnMut(&WrittenTensor),
) -> Result<(), Error> {
    let failed = Error::io("write", out);
    let file = File::create(partial).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let infos: Vec<_> = tensors.iter().map(Tensor::info).collect();
    writer
        .write_all(&header(metadata, &infos))
        .map_err(failed)?;
    for tensor in tensors {
        let written = write_tensor(&mut writer, tensor).map_err(failed)?;
        let parts = tensor.parts.iter();
        parts.for_each(|(source, _)| checkpoint.release(source));
        if !(written.squares.is_finite() && written.error_squares.is_finite()) {
            let (name, format) = (&tensor.name, tensor.format.name());
            let problem =
                format!("`{name}` has values that are not finite or too large for {format}");
            return Err(Error::Gguf {
                path: out.into(),
                problem,
            });
        }
        progress(&written);
    }
    let file = writer
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?; // a rename must not outrun the data it names
    std::fs::rename(partial, out).map_err(failed)
}

fn write_tensor(writer: &mut impl Write, tensor: &Tensor<'_>) -> std::io::Result<WrittenTensor> {
    let info = tensor.info();
    let mut written = WrittenTensor {
        name: tensor.name.clone(),
        group: tensor.group,
        format: tensor.format,
        num_values: tensor.shape.iter().product(),
        num_bytes: info.num_bytes(),
        squares: 0.0,
        error_squares: 0.0,
    };
    let columns = tensor.columns();
    let rows_per_task = (TASK_VALUES / columns).max(1);
    let tasks = tensor.parts.iter().flat_map(|(source, place)| {
        let starts = (0..place.rows.len()).step_by(rows_per_task);
        starts.map(move |start| {
            (
                *source,
                place,
                start..place.rows.len().min(start + rows_per_task),
            )
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for tasks in tasks.chunks(4 * num_threads()) {
        let encode = |_, (source, place, rows): (&Source<'_>, &Place, Range<usize>)| {
            encode(tensor, source, place, rows)
        };
        for (bytes, squares, error_squares) in map_parallel(tasks.to_vec(), encode) {
            writer.write_all(&bytes)?;
            written.squares += squares;
            written.error_squares += error_squares;
        }
    }
    writer.write_all(padding(info.num_bytes()))?;
    Ok(written)
}

/// Returns rows as the tensor has them, the sum of their squares, and that of what was lost.
fn encode(
    tensor: &Tensor<'_>,
    source: &Source<'_>,
    place: &Place,
    rows: Range<usize>,
) -> (Vec<u8>, f64, f64) {
    let (columns, format) = (tensor.columns(), tensor.format);
    let mut values = vec![0.0; rows.len() * columns];
    let mut bytes = Vec::new();
    let mut exact = true;
    for (index, to) in rows.zip(values.chunks_exact_mut(columns)) {
        let mut same = source.read_row(place.row(index), format, to);
        if let Some(scales) = &tensor.scales {
            scale(to, scales);
            same = None;
        }
        exact &= same.is_some();
        bytes.extend_from_slice(same.unwrap_or_default());
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let squares = values.iter().map(|x| square(*x)).sum();
    if exact {
        return (bytes, squares, 0.0); // in the format that was asked for: quantised once, not twice
    }
    bytes.clear();
    format.quantise(&values, &mut bytes);
    let mut back = vec![0.0; values.len()];
    format.dequantise(&bytes, &mut back);
    let error_squares = values.iter().zip(&back).map(|(x, y)| square(x - y)).sum();
    (bytes, squares, error_squares)
}
