//! Keys and values of one sequence, layer by layer.

use llada_tensor::Tensor;

use crate::Config;

/// Keys and values of one sequence: `len` committed rows, and after them the rows of the latest
/// forward pass, which stay scratch until [`KvCache::advance`] commits them (`decoding.md` 5).
///
/// Committed rows must come from clean blocks only; the cache does not know what its rows mean.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// Per layer (keys, values), each [capacity, G*P].
    layers: Vec<(Tensor, Tensor)>,
    width: usize,
    len: usize,
}

impl KvCache {
    /// Creates an empty cache for a model of this configuration; it grows on demand.
    pub fn new(config: &Config) -> Self {
        let width = config.num_key_value_heads * config.head_dim;
        let empty = || (Tensor::zeros(&[0, width]), Tensor::zeros(&[0, width]));
        Self {
            layers: (0..config.num_hidden_layers).map(|_| empty()).collect(),
            width,
            len: 0,
        }
    }

    /// Returns the number of committed rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is committed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Commits the first `rows` rows of the latest forward pass.
    pub fn advance(&mut self, rows: usize) {
        self.len += rows;
    }

    /// Forgets committed rows from `len` on; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Writes rows of a forward pass, `offset` rows after the committed ones.
    pub(crate) fn write(&mut self, layer: usize, offset: usize, k: &Tensor, v: &Tensor) {
        let start = (self.len + offset) * self.width;
        let (keys, values) = &mut self.layers[layer];
        write_rows(keys, start, k);
        write_rows(values, start, v);
    }

    /// Returns all keys and values of a layer, [capacity, G*P] each.
    pub(crate) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }
}

/// Copies `rows` to element `start` of `into`, doubling its capacity when they do not fit.
fn write_rows(into: &mut Tensor, start: usize, rows: &Tensor) {
    let [capacity, width] = into.dims2();
    let end = start + rows.len();
    if end > into.len() {
        let grown = (end / width).max(2 * capacity).max(64);
        let mut elements = vec![0.0; grown * width];
        elements[..start].copy_from_slice(&into.f32s()[..start]);
        *into = Tensor::from_f32(&[grown, width], elements);
    }
    into.f32s_mut()[start..end].copy_from_slice(rows.f32s());
}
