//! The safetensors files of a checkpoint directory, memory-mapped and listed by tensor name.
//!
//! Headers are checked by the safetensors crate: sizes, types and offsets fit the file. Nothing is
//! copied until a tensor is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use llada_tensor::{MappedFile, map_file};
use safetensors::{Dtype, SafeTensors};

use crate::{Error, names};

/// Name of a checkpoint of one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the file that lists the shards of a checkpoint.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Stored>,
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    file: usize,
    bytes: Range<usize>,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Maps the single file or every shard of the index in `dir`.
    ///
    /// # Errors
    /// If there is neither, a shard is missing or damaged, or the index and the shards disagree.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        let mut shards = Self::default();
        if index.exists() {
            shards.add_indexed(dir, &index)?;
        } else if single.exists() {
            shards.add(&single)?;
        } else {
            let problem = format!("has no weights: expected `{SINGLE}` or `{INDEX}`");
            return Err(Error::Checkpoint {
                path: dir.into(),
                problem,
            });
        }
        Ok(shards)
    }

    fn add_indexed(&mut self, dir: &Path, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let index: Index = serde_json::from_str(&text).map_err(|source| Error::Json {
            file: path.display().to_string(),
            source,
        })?;
        let files: BTreeSet<_> = index.weight_map.values().collect();
        for file in files {
            let shard = shard_path(dir, file);
            let shard = shard.ok_or_else(|| {
                disagrees(
                    path,
                    &format!("lists `{file}`, which is not a plain file name"),
                )
            })?;
            self.add(&shard)?;
        }
        let listed = index
            .weight_map
            .keys()
            .filter_map(|name| names::normalised(name));
        let absent: Vec<_> = listed.filter(|name| self.get(name).is_none()).collect();
        match absent.first() {
            None => Ok(()),
            Some(first) => Err(disagrees(
                path,
                &format!(
                    "lists {} tensors that no shard has, such as `{first}`",
                    absent.len()
                ),
            )),
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let map = map_file(path).map_err(Error::io("map", path))?;
        let (header_len, metadata) =
            SafeTensors::read_metadata(&map).map_err(|source| Error::Safetensors {
                path: path.into(),
                source,
            })?;
        let start = size_of::<u64>() + header_len; // the data follow the header and its length
        for (name, info) in metadata.tensors() {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            let (dtype, shape, file) = (info.dtype, info.shape.clone(), self.files.len());
            self.insert(
                &name,
                Stored {
                    dtype,
                    shape,
                    file,
                    bytes,
                },
                path,
            )?;
        }
        for (alias, name) in metadata.metadata().iter().flatten() {
            if let (Some(stored), None) = (self.get(name).cloned(), self.get(alias)) {
                self.insert(alias, stored, path)?; // a tied tensor, stored under its other name
            }
        }
        self.files.push(map);
        Ok(())
    }

    fn insert(&mut self, name: &str, stored: Stored, path: &Path) -> Result<(), Error> {
        let Some(name) = names::normalised(name) else {
            return Ok(());
        };
        match self.tensors.insert(name.clone(), stored) {
            None => Ok(()),
            Some(_) => Err(disagrees(
                path,
                &format!("holds `{name}`, which was already found elsewhere"),
            )),
        }
    }

    /// Returns the mapped files.
    pub(crate) fn maps(&self) -> &[MappedFile] {
        &self.files
    }

    /// Finds a tensor.
    pub(crate) fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// Lists the names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the bytes of a tensor of these shards.
    pub(crate) fn bytes(&self, stored: &Stored) -> &[u8] {
        &self.files[stored.file][stored.bytes.clone()]
    }
}

/// Returns the path of a shard, `None` when the index tries to leave the directory.
fn shard_path(dir: &Path, file: &str) -> Option<PathBuf> {
    (Path::new(file).file_name()? == file).then(|| dir.join(file))
}

fn disagrees(path: &Path, what: &str) -> Error {
    Error::Checkpoint {
        path: path.into(),
        problem: format!("{what}; fetch the checkpoint again"),
    }
}
