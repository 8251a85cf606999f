//! The low-rank part of a weight (LoRA, arXiv:2106.09685): two thin matrices that are trained in place of
//! a large one.

use std::ops::Range;

use crate::gemm::{Matrix, Right, gemm, gemm_over};
use crate::{Isa, Precision, Tensor};

/// `scale * B A`, which products with a [`Weight`](crate::Weight) add to its values W: `y = W x + scale B (A x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// A, [R, I].
    pub a: Tensor,
    /// B, [O, R].
    pub b: Tensor,
    /// Factor on the product; alpha over R.
    pub scale: f32,
}

impl LowRank {
    /// Adds `scale (x A^T) B^T` to `y`. # Shapes: x [N, I], y [N, O].
    pub fn add_product(&self, x: &Tensor, precision: Precision, y: &mut Tensor) {
        self.add_product_of(Isa::active(), precision, Matrix::of(x), y.f32s_mut());
    }

    /// Adds rows `rows` of `scale B A`, computed in f32, to values of that many rows of a weight.
    ///
    /// # Panics
    /// If B has no such rows, or `values` is not as long as they are.
    pub fn add_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        let [_, inputs] = self.a.dims2();
        let mut product = Tensor::scratch(&[rows.len(), inputs]);
        let b = Matrix::of(&self.b).block(rows, 0..self.b.dims2()[1]);
        let a = Right::Plain(Matrix::of(&self.a));
        gemm_over(Isa::active(), Precision::F32, b, a, product.f32s_mut());
        assert_eq!(values.len(), product.len(), "rows of a weight");
        for (value, product) in values.iter_mut().zip(product.f32s()) {
            *value += self.scale * product;
        }
    }

    pub(crate) fn add_product_of(
        &self,
        isa: Isa,
        precision: Precision,
        x: Matrix<'_>,
        y: &mut [f32],
    ) {
        let inner = self.inner(isa, precision, x);
        let b = Right::Plain(Matrix::of(&self.b).transposed());
        gemm(isa, precision, Matrix::of(&inner), b, y);
    }

    pub(crate) fn add_backward_of(
        &self,
        isa: Isa,
        precision: Precision,
        dy: Matrix<'_>,
        dx: &mut [f32],
    ) {
        let dinner = self.dinner(isa, precision, dy);
        self.add_input_of(isa, precision, &dinner, dx);
    }

    /// Adds `dinner A` to `dx`. # Shapes: dinner [N, R], dx [N, I].
    pub(crate) fn add_input_of(
        &self,
        isa: Isa,
        precision: Precision,
        dinner: &Tensor,
        dx: &mut [f32],
    ) {
        let a = Right::Plain(Matrix::of(&self.a));
        gemm(isa, precision, Matrix::of(dinner), a, dx);
    }

    /// Adds the gradients of both factors. # Shapes: x [N, I], dy [N, O], dinner [N, R], da [R, I], db [O, R].
    pub(crate) fn add_gradients(
        &self,
        isa: Isa,
        precision: Precision,
        [x, dy]: [Matrix<'_>; 2],
        dinner: &Tensor,
        [da, db]: [&mut Tensor; 2],
    ) {
        let inner = self.inner(isa, precision, x);
        let inner = Right::Plain(Matrix::of(&inner));
        gemm(isa, precision, dy.transposed(), inner, db.f32s_mut());
        let dinner = Matrix::of(dinner).transposed();
        gemm(isa, precision, dinner, Right::Plain(x), da.f32s_mut());
    }

    /// Returns `scale x A^T`, [N, R].
    fn inner(&self, isa: Isa, precision: Precision, x: Matrix<'_>) -> Tensor {
        let a = Right::Plain(Matrix::of(&self.a).transposed());
        self.scaled(isa, precision, x, a)
    }

    /// Returns `scale dy B`, [N, R], which the gradients of input and factors share.
    pub(crate) fn dinner(&self, isa: Isa, precision: Precision, dy: Matrix<'_>) -> Tensor {
        self.scaled(isa, precision, dy, Right::Plain(Matrix::of(&self.b)))
    }

    fn scaled(
        &self,
        isa: Isa,
        precision: Precision,
        rows: Matrix<'_>,
        factor: Right<'_>,
    ) -> Tensor {
        let ([rank, _], [num_rows, _]) = (self.a.dims2(), rows.shape());
        let mut product = Tensor::scratch(&[num_rows, rank]);
        gemm_over(isa, precision, rows, factor, product.f32s_mut());
        let values = product.f32s_mut();
        values.iter_mut().for_each(|value| *value *= self.scale);
        product
    }
}
