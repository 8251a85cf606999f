//! `y = x W^T + b` and its three gradients.

use crate::gemm::{Matrix, Right, gemm, gemm_over};
use crate::{Isa, Precision, Tensor, Weight};

/// Returns `x W^T (+ bias)`. # Shapes: x [N, I], w [O, I], bias `[O]` -> [N, O].
pub fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Tensor {
    let ([rows, _], [outputs, _]) = (x.dims2(), w.values().dims2());
    let mut y = Tensor::scratch(&[rows, outputs]);
    let (isa, precision, x, w) = (Isa::active(), w.precision(), Matrix::of(x), w.transposed());
    match bias {
        Some(bias) => {
            for row in y.f32s_mut().chunks_exact_mut(outputs.max(1)) {
                row.copy_from_slice(bias.f32s());
            }
            gemm(isa, precision, x, w, y.f32s_mut());
        }
        None => gemm_over(isa, precision, x, w, y.f32s_mut()),
    }
    y // [N, O]
}

/// Returns `dx = dy W`. # Shapes: dy [N, O], w [O, I] -> [N, I].
pub fn linear_backward_input(dy: &Tensor, w: &Weight) -> Tensor {
    let ([rows, _], [_, inputs]) = (dy.dims2(), w.values().dims2());
    let mut dx = Tensor::scratch(&[rows, inputs]);
    let (isa, precision) = (Isa::active(), w.precision());
    gemm_over(isa, precision, Matrix::of(dy), w.plain(), dx.f32s_mut());
    dx // [N, I]
}

/// Adds `dy W` to `dx`, for an input of several products. # Shapes: dy [N, O], w [O, I], dx [N, I].
pub fn add_backward_input(dy: &Tensor, w: &Weight, dx: &mut Tensor) {
    let ([rows, _], [_, inputs]) = (dy.dims2(), w.values().dims2());
    assert_eq!(dx.shape(), [rows, inputs], "gradient of an input");
    let (isa, precision) = (Isa::active(), w.precision());
    gemm(isa, precision, Matrix::of(dy), w.plain(), dx.f32s_mut());
}

/// Adds `dy^T x` to `dw`. # Shapes: x [N, I], dy [N, O], dw [O, I].
pub fn linear_backward_weight(x: &Tensor, dy: &Tensor, precision: Precision, dw: &mut Tensor) {
    let ([_, inputs], [_, outputs]) = (x.dims2(), dy.dims2());
    assert_eq!(dw.shape(), [outputs, inputs], "gradient of a weight");
    let (dy, x) = (Matrix::of(dy).transposed(), Right::Plain(Matrix::of(x)));
    gemm(Isa::active(), precision, dy, x, dw.f32s_mut());
}

/// Adds the column sums of `dy` to `db`, row by row. # Shapes: dy [N, O], db `[O]`.
pub fn bias_backward(dy: &Tensor, db: &mut Tensor) {
    let [_, outputs] = dy.dims2();
    assert_eq!(db.shape(), [outputs], "gradient of a bias");
    for row in dy.f32s().chunks_exact(outputs.max(1)) {
        for (db, dy) in db.f32s_mut().iter_mut().zip(row) {
            *db += dy;
        }
    }
}
