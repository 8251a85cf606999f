//! Token embedding.

use crate::rows::fill_rows;
use crate::{Gradient, Tensor, Weight};

/// Returns the rows of `table` named by `ids`, as f32. # Shapes: table [V, D] -> [N, D].
///
/// # Panics
/// If an id is not below V.
pub fn embed(ids: &[u32], table: &Weight) -> Tensor {
    let table = table.values();
    let [_, width] = table.dims2();
    let mut x = Tensor::scratch(&[ids.len(), width]);
    fill_rows(&mut x, |i, x| table.read_row(ids[i] as usize, x));
    x
}

/// Adds row i of `dy` to row `ids[i]` of `dtable`, in row order.
pub fn embed_backward(ids: &[u32], dy: &Tensor, dtable: &mut Gradient) {
    if let Some(dtable) = dtable.values_mut() {
        crate::scatter_add_rows(dtable, ids, dy);
    }
}
