//! Moving rows and columns of matrices.

use half::bf16;
use rayon::prelude::*;

use crate::Tensor;
use crate::buffer::Buffer;
use crate::parallel::rows_per_task;
use crate::simd::bf16_bits;

/// Adds `y` to `x` element by element.
pub fn add_assign(x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "add_assign: x and y");
    let task = rows_per_task(x.len(), 1);
    x.f32s_mut()
        .par_chunks_mut(task)
        .zip(y.f32s().par_chunks(task))
        .for_each(|(x, y)| add(x, y));
}

/// Returns the chosen rows of `x`, in the given order. # Shapes: x [N, D] -> [rows.len(), D].
pub fn gather_rows(x: &Tensor, rows: &[u32]) -> Tensor {
    let [_, width] = x.dims2();
    let mut gathered = Tensor::scratch(&[rows.len(), width]);
    fill_rows(&mut gathered, |i, to| {
        to.copy_from_slice(x.row(rows[i] as usize));
    });
    gathered
}

/// Returns the elements rounded to bf16.
pub(crate) fn rounded(from: &[f32]) -> Buffer<bf16> {
    let mut rounded = Buffer::scratch(from.len());
    let task = rows_per_task(from.len(), 1);
    rounded
        .par_chunks_mut(task)
        .zip(from.par_chunks(task))
        .for_each(|(to, from)| round(from, to));
    rounded
}

/// Rounds to bf16 element by element.
fn round(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = bf16::from_bits(bf16_bits(*from) as u16);
    }
}

/// Adds row i of `y` to row `rows[i]` of `x`, in the order of i.
pub fn scatter_add_rows(x: &mut Tensor, rows: &[u32], y: &Tensor) {
    let [_, width] = x.dims2();
    assert_eq!(y.dims2(), [rows.len(), width], "scatter_add_rows: y");
    for (i, &row) in rows.iter().enumerate() {
        let start = row as usize * width;
        add(&mut x.f32s_mut()[start..start + width], y.row(i));
    }
}

/// Puts matrices of equal width on top of each other. Shapes: parts of `[N_i, D]` -> `[sum N_i, D]`.
pub fn stack_rows(parts: &[Tensor]) -> Tensor {
    let width = parts.first().map_or(0, |part| part.dims2()[1]);
    let values: Vec<f32> = parts.iter().flat_map(|part| part.f32s()).copied().collect();
    assert!(
        parts.iter().all(|part| part.dims2()[1] == width),
        "parts of one width"
    );
    Tensor::from_f32(
        &[parts.iter().map(|part| part.dims2()[0]).sum(), width],
        values,
    )
}

/// Cuts the columns of `x` into matrices of the given widths, which sum to its own. # Shapes: x [N, sum].
pub fn split_columns<const K: usize>(x: &Tensor, widths: [usize; K]) -> [Tensor; K] {
    let [rows, columns] = x.dims2();
    assert_eq!(
        widths.iter().sum::<usize>(),
        columns,
        "split_columns: {widths:?}"
    );
    let mut start = 0;
    widths.map(|width| {
        let taken = start..start + width;
        start += width;
        let mut part = Tensor::scratch(&[rows, width]);
        fill_rows(&mut part, |i, to| {
            to.copy_from_slice(&x.row(i)[taken.clone()]);
        });
        part
    })
}

/// Puts matrices with equal row counts side by side: the inverse of [`split_columns`].
pub fn join_columns(parts: &[&Tensor]) -> Tensor {
    let rows = parts.first().map_or(0, |part| part.dims2()[0]);
    let columns = parts.iter().map(|part| part.dims2()[1]).sum();
    assert!(
        parts.iter().all(|part| part.dims2()[0] == rows),
        "join_columns: rows differ"
    );
    let mut joined = Tensor::scratch(&[rows, columns]);
    fill_rows(&mut joined, |i, mut to| {
        for part in parts {
            let (left, right) = to.split_at_mut(part.dims2()[1]);
            left.copy_from_slice(part.row(i));
            to = right;
        }
    });
    joined
}

/// Calls `fill(i, row)` for every row of `x`, several at a time.
pub(crate) fn fill_rows(x: &mut Tensor, fill: impl Fn(usize, &mut [f32]) + Sync) {
    let [rows, width] = x.dims2();
    x.f32s_mut()
        .par_chunks_mut(width.max(1))
        .enumerate()
        .with_min_len(rows_per_task(rows, width))
        .for_each(|(i, row)| fill(i, row));
}

/// Adds `y` to `x` element by element.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
