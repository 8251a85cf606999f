//! Reading recorded tensors.

use std::path::PathBuf;

use llada_tensor::Tensor;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::error::{Error, Result};

/// A safetensors file of little-endian 32-bit values.
pub(super) struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TensorFile {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let file = Self { path, bytes };
        file.parse()?;
        Ok(file)
    }

    /// Returns an `f32` tensor, or `None` if the file has none of this name.
    pub(super) fn floats_if_any(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.view(name)?.map(|view| {
            let values = words(&view).map(f32::from_bits).collect();
            Tensor::from_f32(view.shape(), values)
        }))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Tensor> {
        self.floats_if_any(name)?
            .ok_or_else(|| self.malformed(name))
    }

    /// Returns non-negative integers.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let view = self.view(name)?.ok_or_else(|| self.malformed(name))?;
        Ok(words(&view).collect())
    }

    pub(super) fn malformed(&self, name: &str) -> Error {
        Error::unsuitable(&self.path, format!("does not hold case or tensor `{name}`"))
    }

    fn view(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        let view = self.parse()?.tensor(name).ok();
        match view.filter(|view| view.dtype().bitsize() != 32) {
            Some(_) => Err(self.malformed(name)),
            None => Ok(self.parse()?.tensor(name).ok()),
        }
    }

    fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|e| Error::unsuitable(&self.path, format!("is malformed: {e}")))
    }
}

fn words<'a>(view: &TensorView<'a>) -> impl Iterator<Item = u32> + use<'a> {
    view.data()
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}
