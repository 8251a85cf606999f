//! `y = x W^T + b` and its three gradients.

use crate::gemm::{Matrix, gemm, gemm_over};
use crate::{Gradient, Isa, LowRank, Tensor, Weight};

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

/// The backward pass of `y = x W^T`: gradients of input and weight, which share `scale dy B` of a low-rank part.
#[derive(Debug)]
pub struct LinearBackward<'a> {
    dy: &'a Tensor,
    w: &'a Weight,
    /// `scale dy B`, [N, R].
    dinner: Option<Tensor>,
}

impl<'a> LinearBackward<'a> {
    /// Begins the pass. # Shapes: dy [N, O], w [O, I].
    pub fn new(dy: &'a Tensor, w: &'a Weight) -> Self {
        let dinner = |low_rank: &LowRank| {
            low_rank.dinner(Isa::active(), w.precision(), Matrix::of(dy)) // [N, R]
        };
        let dinner = w.low_rank().map(dinner);
        Self { dy, w, dinner }
    }

    /// Returns `dx = dy W`, [N, I].
    pub fn input(&self) -> Tensor {
        let mut dx = self.base_input();
        self.add_low_rank_input(&mut dx);
        dx
    }

    /// Adds `dy W` to `dx`, for an input of several products. # Shapes: dx [N, I].
    pub fn add_input(&self, dx: &mut Tensor) {
        let ([rows, _], [_, inputs]) = (self.dy.dims2(), self.w.values().dims2());
        assert_eq!(dx.shape(), [rows, inputs], "gradient of an input");
        let (isa, precision, dy) = (Isa::active(), self.w.precision(), Matrix::of(self.dy));
        gemm(isa, precision, dy, self.w.plain(), dx.f32s_mut());
        self.add_low_rank_input(dx);
    }

    /// Returns what the values of the weight alone give, [N, I].
    pub fn base_input(&self) -> Tensor {
        let ([rows, _], [_, inputs]) = (self.dy.dims2(), self.w.values().dims2());
        let mut dx = Tensor::scratch(&[rows, inputs]);
        let (isa, precision, dy) = (Isa::active(), self.w.precision(), Matrix::of(self.dy));
        gemm_over(isa, precision, dy, self.w.plain(), dx.f32s_mut());
        dx // [N, I]
    }

    /// Adds what the low-rank part alone gives. # Shapes: dx [N, I].
    pub fn add_low_rank_input(&self, dx: &mut Tensor) {
        if let (Some(low_rank), Some(dinner)) = (self.w.low_rank(), &self.dinner) {
            low_rank.add_input_of(Isa::active(), self.w.precision(), dinner, dx.f32s_mut());
        }
    }

    /// Adds `dy^T x` to `dw`, or what follows for the factors of a low-rank part. # Shapes: x [N, I].
    pub fn weight(&self, x: &Tensor, dw: &mut Gradient) {
        let products = [Matrix::of(x), Matrix::of(self.dy)];
        dw.add_product(Isa::active(), self.w, products, self.dinner.as_ref());
    }
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
