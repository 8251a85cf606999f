//! Memory for keys and values, layer by layer.

use half::bf16;
use llada_tensor::{Precision, Tensor, write_rows};

use crate::{Config, Error};

/// Rows of keys and values for every layer. Which row belongs to which token of which text is the
/// caller's business; see [`Model::forward_cached`](crate::Model::forward_cached).
#[derive(Debug)]
pub struct KvStore {
    /// Per layer (keys, values), each [rows, G*P], `f32` or bf16.
    layers: Vec<(Tensor, Tensor)>,
    rows: usize,
}

impl KvStore {
    /// Reserves memory for `rows` rows of a model of this configuration, which are rounded to `precision`;
    /// it comes into use row by row.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is not enough.
    pub fn new(config: &Config, precision: Precision, rows: usize) -> Result<Self, Error> {
        let width = width(config);
        let zeros = || zeros(precision, rows, width);
        let layer = || Some((zeros()?, zeros()?));
        let layers: Option<Vec<_>> = (0..config.num_hidden_layers).map(|_| layer()).collect();
        let layers = layers.ok_or(Error::Memory {
            rows,
            bytes_per_row: Self::bytes_per_row(config, precision),
        })?;
        Ok(Self { layers, rows })
    }

    /// Returns the bytes that one row takes over all layers.
    pub fn bytes_per_row(config: &Config, precision: Precision) -> usize {
        let size = match precision {
            Precision::F32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<bf16>(),
        };
        2 * config.num_hidden_layers * width(config) * size
    }

    /// Returns the number of rows.
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Writes row i of `keys` and `values` to row `slots[i]` of a layer.
    pub(crate) fn write(&mut self, layer: usize, slots: &[u32], keys: &Tensor, values: &Tensor) {
        let (stored_keys, stored_values) = &mut self.layers[layer];
        write_rows(stored_keys, slots, keys);
        write_rows(stored_values, slots, values);
    }

    /// Returns all keys and values of a layer, [rows, G*P] each.
    pub(crate) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }
}

fn width(config: &Config) -> usize {
    config.num_key_value_heads * config.head_dim
}

/// Returns zeros, or nothing if memory is lacking.
///
/// The system hands zeroed pages out when they are first written, so rows that are never used cost
/// nothing; but asking it for zeroed memory aborts where it refuses, hence the trial before.
fn zeros(precision: Precision, rows: usize, width: usize) -> Option<Tensor> {
    let len = rows.checked_mul(width)?;
    match precision {
        Precision::F32 => {
            Vec::<f32>::new().try_reserve_exact(len).ok()?;
            Some(Tensor::zeros(&[rows, width]))
        }
        Precision::Bf16 => {
            Vec::<bf16>::new().try_reserve_exact(len).ok()?;
            Some(Tensor::zeros_bf16(&[rows, width]))
        }
    }
}
