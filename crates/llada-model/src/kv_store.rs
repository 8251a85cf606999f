//! Memory for keys and values, layer by layer.

use llada_tensor::{KeyValues, Precision, Tensor};

use crate::{Config, Error};

/// Rows of keys and values for every layer. Which row belongs to which token of which text is the
/// caller's business; see [`Model::forward_cached`](crate::Model::forward_cached).
#[derive(Debug)]
pub struct KvStore {
    layers: Vec<KeyValues>,
    rows: usize,
}

impl KvStore {
    /// Reserves memory for `rows` rows of a model of this configuration, which are rounded to `precision`;
    /// it comes into use row by row.
    ///
    /// # Errors
    /// [`Error::Memory`] if there is not enough.
    pub fn new(config: &Config, precision: Precision, rows: usize) -> Result<Self, Error> {
        let layer = |_| KeyValues::new(precision, rows, config.heads());
        let layers: Option<Vec<_>> = (0..config.num_hidden_layers).map(layer).collect();
        let layers = layers.ok_or(Error::Memory {
            rows,
            bytes_per_row: Self::bytes_per_row(config, precision),
        })?;
        Ok(Self { layers, rows })
    }

    /// Returns the bytes that one row takes over all layers.
    pub fn bytes_per_row(config: &Config, precision: Precision) -> usize {
        config.num_hidden_layers * KeyValues::bytes_per_row(precision, config.heads())
    }

    /// Returns the number of rows.
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Writes row i of `keys` and `values` to row `slots[i]` of a layer.
    pub(crate) fn write(&mut self, layer: usize, slots: &[u32], keys: &Tensor, values: &Tensor) {
        self.layers[layer].write(slots, keys, values);
    }

    /// Returns all keys and values of a layer.
    pub(crate) fn layer(&self, layer: usize) -> &KeyValues {
        &self.layers[layer]
    }
}
