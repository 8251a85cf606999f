//! Moving rows and columns of matrices.

use crate::Tensor;

/// Adds `y` to `x` element by element.
pub fn add_assign(x: &mut Tensor, y: &Tensor) {
    assert_eq!(x.shape(), y.shape(), "add_assign: x and y");
    add(x.f32s_mut(), y.f32s());
}

/// Returns the chosen rows of `x`, in the given order. # Shapes: x [N, D] -> [rows.len(), D].
pub fn gather_rows(x: &Tensor, rows: &[u32]) -> Tensor {
    let [_, width] = x.dims2();
    let mut values = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        values.extend_from_slice(x.row(row as usize));
    }
    Tensor::from_f32(&[rows.len(), width], values)
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
        let mut values = Vec::with_capacity(rows * width);
        for row in x.f32s().chunks_exact(columns.max(1)) {
            values.extend_from_slice(&row[start..start + width]);
        }
        start += width;
        Tensor::from_f32(&[rows, width], values)
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
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for part in parts {
            values.extend_from_slice(part.row(row));
        }
    }
    Tensor::from_f32(&[rows, columns], values)
}

/// Adds `y` to `x` element by element.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
