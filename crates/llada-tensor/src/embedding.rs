//! Token embedding.

use crate::{DType, Tensor, Weight};

/// Returns the rows of `table` named by `ids`, as f32. # Shapes: table [V, D] -> [N, D].
///
/// # Panics
/// If an id is not below V.
pub fn embed(ids: &[u32], table: &Weight) -> Tensor {
    let table = table.values();
    let [_, width] = table.dims2();
    let mut values = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        let row = id as usize * width..(id as usize + 1) * width;
        match table.dtype() {
            DType::Bf16 => values.extend(table.bf16s()[row].iter().map(|v| v.to_f32())),
            _ => values.extend_from_slice(&table.f32s()[row]),
        }
    }
    Tensor::from_f32(&[ids.len(), width], values)
}

/// Adds row i of `dy` to row `ids[i]` of `dtable`, in row order.
pub fn embed_backward(ids: &[u32], dy: &Tensor, dtable: &mut Tensor) {
    crate::scatter_add_rows(dtable, ids, dy);
}
