//! `y = x W^T + b` and its three gradients.

use crate::gemm::{Matrix, gemm, gemm_over};
use crate::{Gradient, Isa, Tensor, Weight};

/// Returns `x W^T (+ bias)`. # Shapes: x [N, I], w [O, I], bias `[O]` -> [N, O].
pub fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Tensor {
    let ([rows, _], [outputs, _]) = (x.dims2(), w.values().dims2());
    let mut y = Tensor::scratch(&[rows, outputs]);
    let (isa, precision, x) = (Isa::active(), w.precision(), Matrix::of(x));
    match bias {
        Some(bias) => {
            for row in y.f32s_mut().chunks_exact_mut(outputs.max(1)) {
                row.copy_from_slice(bias.f32s());
            }
            gemm(isa, precision, x, w.transposed(), y.f32s_mut());
        }
        None => gemm_over(isa, precision, x, w.transposed(), y.f32s_mut()),
    }
    if let Some(low_rank) = w.low_rank() {
        low_rank.add_product_of(isa, precision, x, y.f32s_mut());
    }
    y // [N, O]
}

/// Returns `dx = dy W`. # Shapes: dy [N, O], w [O, I] -> [N, I].
pub fn linear_backward_input(dy: &Tensor, w: &Weight) -> Tensor {
    let ([rows, _], [_, inputs]) = (dy.dims2(), w.values().dims2());
    let mut dx = Tensor::scratch(&[rows, inputs]);
    let (isa, precision, dy) = (Isa::active(), w.precision(), Matrix::of(dy));
    gemm_over(isa, precision, dy, w.plain(), dx.f32s_mut());
    if let Some(low_rank) = w.low_rank() {
        low_rank.add_backward_of(isa, precision, dy, dx.f32s_mut());
    }
    dx // [N, I]
}

/// Adds `dy W` to `dx`, for an input of several products. # Shapes: dy [N, O], w [O, I], dx [N, I].
pub fn add_backward_input(dy: &Tensor, w: &Weight, dx: &mut Tensor) {
    let ([rows, _], [_, inputs]) = (dy.dims2(), w.values().dims2());
    assert_eq!(dx.shape(), [rows, inputs], "gradient of an input");
    let (isa, precision, dy) = (Isa::active(), w.precision(), Matrix::of(dy));
    gemm(isa, precision, dy, w.plain(), dx.f32s_mut());
    if let Some(low_rank) = w.low_rank() {
        low_rank.add_backward_of(isa, precision, dy, dx.f32s_mut());
    }
}

/// Adds `dy^T x` to `dw`, or what follows for the factors of a low-rank part.
/// # Shapes: x [N, I], dy [N, O], w [O, I].
pub fn linear_backward_weight(x: &Tensor, dy: &Tensor, w: &Weight, dw: &mut Gradient) {
    dw.add_product(Isa::active(), w, Matrix::of(x), Matrix::of(dy));
}

/// Adds the column sums of `dy` to `db`, row by row. # Shapes: dy [N, O], db `[O]`.
pub fn bias_backward(dy: &Tensor, db: &mut Gradient) {
    let (Some(db), [_, outputs]) = (db.values_mut(), dy.dims2()) else {
        return;
    };
    assert_eq!(db.shape(), [outputs], "gradient of a bias");
    for row in dy.f32s().chunks_exact(outputs.max(1)) {
        for (db, dy) in db.f32s_mut().iter_mut().zip(row) {
            *db += dy;
        }
    }
}
