//! Reading: bytes to keys, values and tensors, each bound checked before anything is allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use llada_tensor::{BlockFormat, MappedFile, map_file};

use super::{ALIGNMENT, FORMATS, MAGIC, MAX_NAME, Metadata, Value};
use crate::Error;

/// Least bytes of a key with its value.
const LEAST_PAIR: usize = 8 + 1 + 4 + 1;
/// Least bytes of what is said about a tensor.
const LEAST_INFO: usize = 8 + 4 + 4 + 8;
/// Most dimensions that ggml knows.
const MAX_DIMS: u32 = 4;

/// A memory-mapped file, or the parts of a split one.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    metadata: Metadata,
    parts: Vec<MappedFile>,
    tensors: BTreeMap<String, GgufTensor>,
}

/// What a file says about a tensor.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// Format of its values.
    pub format: BlockFormat,
    /// Extents, outermost first: the reverse of the file's order.
    pub shape: Vec<usize>,
    part: usize,
    bytes: Range<usize>,
}

impl GgufTensor {
    /// Returns the bytes that it takes in its file.
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl GgufFile {
    /// Maps and checks a file; of a split one, name the first part.
    ///
    /// # Errors
    /// If the file or one of its parts cannot be mapped, is truncated or malformed, or has a type of
    /// tensor that this crate does not read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = Self {
            path: path.into(),
            metadata: Metadata::default(),
            parts: Vec::new(),
            tensors: BTreeMap::new(),
        };
        file.metadata = file.add_part(path)?;
        let count = file.metadata.int("split.count").unwrap_or(1);
        if count > 1 {
            file.add_others(count)?;
        }
        Ok(file)
    }

    /// Returns the keys and values, of a split file those of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Iterates over the tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &GgufTensor)> {
        let tensors = self.tensors.iter();
        tensors.map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Finds a tensor.
    pub fn get(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// Returns the mapped files.
    pub(crate) fn maps(&self) -> &[MappedFile] {
        &self.parts
    }

    /// Returns the bytes of a tensor of this file.
    pub(crate) fn bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.parts[tensor.part][tensor.bytes.clone()]
    }

    /// The error that this file is not as it should be.
    pub(crate) fn refuse(&self, problem: impl Into<String>) -> Error {
        refuse(&self.path, problem)
    }

    fn add_part(&mut self, path: &Path) -> Result<Metadata, Error> {
        let map = map_file(path).map_err(Error::io("map", path))?;
        let parsed = parse(&map).map_err(|problem| refuse(path, problem))?;
        for (name, format, shape, bytes) in parsed.tensors {
            let tensor = GgufTensor {
                format,
                shape,
                part: self.parts.len(),
                bytes,
            };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(refuse(path, format!("has tensor `{name}` a second time")));
            }
        }
        self.parts.push(map);
        Ok(parsed.metadata)
    }

    /// Adds parts 2 and following.
    fn add_others(&mut self, count: i64) -> Result<(), Error> {
        let suffix = format!("-00001-of-{count:05}.gguf");
        let name = self.path.file_name().and_then(|name| name.to_str());
        let stem = name.and_then(|name| name.strip_suffix(&suffix));
        let (0, Some(stem)) = (self.metadata.int("split.no").unwrap_or(0), stem) else {
            return Err(self.refuse(format!(
                "is one of {count} parts: name the first one, which must end in `{suffix}`"
            )));
        };
        let stem = stem.to_owned();
        for number in 2..=count {
            let path = self
                .path
                .with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"));
            let part = self.add_part(&path)?;
            if part.int("split.no") != Some(number - 1) {
                return Err(refuse(&path, format!("expected `split.no` {}", number - 1)));
            }
        }
        match self.metadata.int("split.tensors.count") {
            Some(stated) if usize::try_from(stated) != Ok(self.tensors.len()) => {
                let found = self.tensors.len();
                Err(self.refuse(format!(
                    "`split.tensors.count` is {stated}, found {found} tensors"
                )))
            }
            _ => Ok(()),
        }
    }
}

fn refuse(path: &Path, problem: impl Into<String>) -> Error {
    Error::Gguf {
        path: path.into(),
        problem: problem.into(),
    }
}

/// Name, format, shape and place of a tensor.
type Info = (String, BlockFormat, Vec<usize>, Range<usize>);

struct Parsed {
    metadata: Metadata,
    tensors: Vec<Info>,
}

/// What is wrong with a file.
type Problem = String;

/// Parses the header of one file and places its tensors.
fn parse(bytes: &[u8]) -> Result<Parsed, Problem> {
    let mut cursor = Cursor { bytes, at: 0 };
    version(&mut cursor)?;
    let num_tensors = cursor.count(LEAST_INFO)?;
    let num_pairs = cursor.count(LEAST_PAIR)?;
    let metadata = metadata(&mut cursor, num_pairs)?;
    let alignment = alignment(&metadata)?;
    let infos = (0..num_tensors).map(|_| info(&mut cursor));
    let infos = infos.collect::<Result<Vec<_>, _>>()?;
    let start = align(cursor.at as u64, alignment)?;
    let mut expected = 0;
    let mut tensors = Vec::with_capacity(infos.len());
    for (name, format, shape, offset) in infos {
        if offset != expected {
            return Err(format!("`{name}` has offset {offset}, expected {expected}"));
        }
        let size = num_bytes(format, &shape).ok_or_else(|| {
            format!(
                "`{name}` has shape {shape:?}: not whole blocks of {}, or too large",
                format.name()
            )
        })?;
        let end = offset
            .checked_add(size)
            .and_then(|end| end.checked_add(start));
        let end = end
            .filter(|end| *end <= bytes.len() as u64)
            .ok_or_else(|| {
                format!(
                    "is truncated: `{name}` ends after the {} bytes of the file",
                    bytes.len()
                )
            })?;
        expected = align(offset + size, alignment)?;
        // Both ends are at most the length of the file, which is a usize.
        tensors.push((name, format, shape, (start + offset) as usize..end as usize));
    }
    Ok(Parsed { metadata, tensors })
}

fn version(cursor: &mut Cursor<'_>) -> Result<(), Problem> {
    if cursor.take(4)? != MAGIC {
        return Err("is not a GGUF file: it does not start with `GGUF`".into());
    }
    match cursor.number(u32::from_le_bytes)? {
        2 | 3 => Ok(()),
        version if version.swap_bytes() <= 3 => {
            Err("is big-endian, which is not supported: convert it first".into())
        }
        version => Err(format!(
            "has GGUF version {version}, expected 2 or 3: convert it again"
        )),
    }
}

fn metadata(cursor: &mut Cursor<'_>, num_pairs: usize) -> Result<Metadata, Problem> {
    let (mut metadata, mut seen) = (Metadata::default(), BTreeSet::new());
    for _ in 0..num_pairs {
        let key = cursor.text("a key")?;
        if key.is_empty() {
            return Err("has an empty key".into());
        }
        let kind = cursor.number(u32::from_le_bytes)?;
        let value = value(cursor, kind).map_err(|problem| format!("{problem} (key `{key}`)"))?;
        if !seen.insert(key) {
            return Err(format!("has key `{key}` a second time"));
        }
        metadata.push(key.to_owned(), value);
    }
    Ok(metadata)
}

fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Value::Int(value)) if *value > 0 && value.count_ones() == 1 => Ok(*value as u64),
        Some(value) => Err(format!(
            "`general.alignment` must be a power of two, found {value:?}"
        )),
    }
}

fn align(offset: u64, alignment: u64) -> Result<u64, Problem> {
    let aligned = offset.checked_next_multiple_of(alignment);
    aligned.ok_or_else(|| "has tensors beyond any file".into())
}

fn value(cursor: &mut Cursor<'_>, kind: u32) -> Result<Value, Problem> {
    Ok(match kind {
        7 => Value::Bool(cursor.take(1)? != [0]),
        8 => Value::Text(cursor.text("a string")?.to_owned()),
        9 => array(cursor)?,
        6 | 12 => Value::Float(float(cursor, kind)?),
        _ => Value::Int(int(cursor, kind)?),
    })
}

fn array(cursor: &mut Cursor<'_>) -> Result<Value, Problem> {
    let kind = cursor.number(u32::from_le_bytes)?;
    let least = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err("has a list of lists".into()),
        _ => return Err(unknown_kind(kind)),
    };
    let elements = 0..cursor.count(least)?;
    Ok(match kind {
        8 => Value::Texts(
            elements
                .map(|_| cursor.text("a string").map(str::to_owned))
                .collect::<Result<_, _>>()?,
        ),
        6 | 12 => Value::Floats(
            elements
                .map(|_| float(cursor, kind))
                .collect::<Result<_, _>>()?,
        ),
        7 => Value::Ints(
            elements
                .map(|_| Ok(i64::from(cursor.take(1)? != [0])))
                .collect::<Result<_, Problem>>()?,
        ),
        _ => Value::Ints(
            elements
                .map(|_| int(cursor, kind))
                .collect::<Result<_, _>>()?,
        ),
    })
}

fn float(cursor: &mut Cursor<'_>, kind: u32) -> Result<f64, Problem> {
    match kind {
        6 => cursor.number(f32::from_le_bytes).map(f64::from),
        _ => cursor.number(f64::from_le_bytes),
    }
}

fn int(cursor: &mut Cursor<'_>, kind: u32) -> Result<i64, Problem> {
    match kind {
        0 => cursor.number(u8::from_le_bytes).map(i64::from),
        1 => cursor.number(i8::from_le_bytes).map(i64::from),
        2 => cursor.number(u16::from_le_bytes).map(i64::from),
        3 => cursor.number(i16::from_le_bytes).map(i64::from),
        4 => cursor.number(u32::from_le_bytes).map(i64::from),
        5 => cursor.number(i32::from_le_bytes).map(i64::from),
        11 => cursor.number(i64::from_le_bytes),
        10 => i64::try_from(cursor.number(u64::from_le_bytes)?)
            .map_err(|_| "has an integer above 2^63".into()),
        _ => Err(unknown_kind(kind)),
    }
}

fn unknown_kind(kind: u32) -> Problem {
    format!("has a value of the unknown type {kind}")
}

/// Reads what is said about one tensor, its offset last.
fn info(cursor: &mut Cursor<'_>) -> Result<(String, BlockFormat, Vec<usize>, u64), Problem> {
    let name = cursor.text("the name of a tensor")?;
    if name.len() > MAX_NAME {
        return Err(format!(
            "has a tensor name of {} bytes, above {MAX_NAME}",
            name.len()
        ));
    }
    let num_dims = cursor.number(u32::from_le_bytes)?;
    if num_dims > MAX_DIMS {
        return Err(format!(
            "`{name}` has {num_dims} dimensions, above {MAX_DIMS}"
        ));
    }
    let dim = |cursor: &mut Cursor<'_>| {
        let dim = cursor.number(u64::from_le_bytes)?;
        usize::try_from(dim).map_err(|_| format!("`{name}` has a dimension of {dim}"))
    };
    let dims = (0..num_dims).map(|_| dim(cursor));
    let mut shape = dims.collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    let kind = cursor.number(u32::from_le_bytes)?;
    let format = FORMATS.iter().find(|(number, _)| *number == kind);
    let Some((_, format)) = format else {
        let known = BlockFormat::ALL.map(BlockFormat::name).join(", ");
        return Err(format!(
            "`{name}` has tensor type {kind}, which is none of {known}"
        ));
    };
    let offset = cursor.number(u64::from_le_bytes)?;
    Ok((name.to_owned(), *format, shape, offset))
}

/// Returns the bytes of a tensor, `None` where rows are not whole blocks or the product overflows.
fn num_bytes(format: BlockFormat, shape: &[usize]) -> Option<u64> {
    let block = format.block_values();
    let row = shape.last().copied().unwrap_or(1);
    let product = |values: &[usize]| {
        values
            .iter()
            .try_fold(1_u64, |all, n| all.checked_mul(*n as u64))
    };
    if !row.is_multiple_of(block) {
        return None;
    }
    (product(shape)? / block as u64).checked_mul(format.block_bytes() as u64)
}

/// A place in the bytes of a file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Problem> {
        if len > self.left() {
            let at = self.at;
            return Err(format!(
                "is truncated: expected {len} more bytes at offset {at}"
            ));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn number<const N: usize, T>(&mut self, from: fn([u8; N]) -> T) -> Result<T, Problem> {
        let bytes = self.take(N)?;
        Ok(from(bytes.try_into().expect("N bytes were taken")))
    }

    /// Reads a count of things of at least `least` bytes each, for which the file has room.
    fn count(&mut self, least: usize) -> Result<usize, Problem> {
        let (at, count) = (self.at, self.number(u64::from_le_bytes)?);
        let fits = usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.left() / least);
        fits.ok_or_else(|| format!("is truncated: counts {count} elements at offset {at}"))
    }

    fn text(&mut self, what: &str) -> Result<&'a str, Problem> {
        let len = self.count(1)?;
        let at = self.at;
        std::str::from_utf8(self.take(len)?)
            .map_err(|_| format!("has {what} at offset {at} that is not UTF-8"))
    }
}
