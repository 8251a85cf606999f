//! `y = x W^T + b` and its three gradients.

use crate::gemm::{Matrix, Right, gemm};
use crate::{Isa, Precision, Tensor, Weight};

/// Returns `x W^T (+ bias)`. # Shapes: x [N, I], w [O, I], bias `[O]` -> [N, O].
pub fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>) -> Tensor {
    let ([rows, _], [outputs, _]) = (x.dims2(), w.values().dims2());
    let mut y = match bias {
        Some(bias) => Tensor::from_f32(&[rows, outputs], bias.f32s().repeat(rows)),
        None => Tensor::zeros(&[rows, outputs]),
    };
    gemm(
        Isa::active(),
        w.precision(),
        Matrix::of(x),
        w.transposed(),
        y.f32s_mut(),
    );
    y // [N, O]
}

/// Returns `dx = dy W`. # Shapes: dy [N, O], w [O, I] -> [N, I].
pub fn linear_backward_input(dy: &Tensor, w: &Weight) -> Tensor {
    let ([rows, _], [_, inputs]) = (dy.dims2(), w.values().dims2());
    let mut dx = Tensor::zeros(&[rows, inputs]);
    gemm(
        Isa::active(),
        w.precision(),
        Matrix::of(dy),
        w.plain(),
        dx.f32s_mut(),
    );
    dx // [N, I]
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
