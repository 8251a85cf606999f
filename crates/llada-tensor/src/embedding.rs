//! Token embedding.

use crate::rows::fill_rows;
use crate::{DType, Tensor, Weight};

/// Returns the rows of `table` named by `ids`, as f32. # Shapes: table [V, D] -> [N, D].
///
/// # Panics
/// If an id is not below V.
pub fn embed(ids: &[u32], table: &Weight) -> Tensor {
    let table = table.values();
    let [_, width] = table.dims2();
    let mut x = Tensor::scratch(&[ids.len(), width]);
    fill_rows(&mut x, |i, x| {
        let row = ids[i] as usize * width..(ids[i] as usize + 1) * width;
        match table.dtype() {
            DType::Bf16 => {
                let row = &table.bf16s()[row];
                x.iter_mut().zip(row).for_each(|(x, v)| *x = v.to_f32());
            }
            _ => x.copy_from_slice(&table.f32s()[row]),
        }
    });
    x
}

/// Adds row i of `dy` to row `ids[i]` of `dtable`, in row order.
pub fn embed_backward(ids: &[u32], dy: &Tensor, dtable: &mut Tensor) {
    crate::scatter_add_rows(dtable, ids, dy);
}
