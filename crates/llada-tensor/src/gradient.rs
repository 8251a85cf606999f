//! What a backward pass adds up for a parameter.

use crate::gemm::{Matrix, Right, gemm};
use crate::{Isa, Tensor, Weight};

/// The gradient of a parameter, accumulated into.
#[derive(Clone, Debug, PartialEq)]
pub enum Gradient {
    /// The parameter is not trained: nothing is computed or kept.
    Frozen,
    /// Of its values, in their shape.
    Values(Tensor),
    /// Of the factors of its low-rank part, whose values are not trained.
    LowRank {
        /// Of A, [R, I].
        a: Tensor,
        /// Of B, [O, R].
        b: Tensor,
    },
}

impl Gradient {
    /// Returns a gradient of zero: of the low-rank part of a weight that has one, else of its values.
    pub fn zeros(weight: &Weight) -> Self {
        match weight.low_rank() {
            Some(low_rank) => Self::LowRank {
                a: Tensor::zeros(low_rank.a.shape()),
                b: Tensor::zeros(low_rank.b.shape()),
            },
            None => Self::Values(Tensor::zeros(weight.values().shape())),
        }
    }

    /// Lists the arrays it consists of: none, that of the values, or those of A and B.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Frozen => Vec::new(),
            Self::Values(values) => vec![values],
            Self::LowRank { a, b } => vec![a, b],
        }
    }

    /// Lists the arrays for writing, in the order of [`Gradient::tensors`].
    pub fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        match self {
            Self::Frozen => Vec::new(),
            Self::Values(values) => vec![values],
            Self::LowRank { a, b } => vec![a, b],
        }
    }

    /// Returns the array to which the gradient of the values is added, if they are trained.
    pub(crate) fn values_mut(&mut self) -> Option<&mut Tensor> {
        match self {
            Self::Values(values) => Some(values),
            Self::Frozen | Self::LowRank { .. } => None,
        }
    }

    /// Adds what `dy = d(x W^T)` gives; `dinner` is `scale dy B` of a low-rank part, if it is known.
    /// # Shapes: x [N, I], dy [N, O], w [O, I], dinner [N, R].
    ///
    /// # Panics
    /// If the gradient is not that of this weight.
    pub(crate) fn add_product(
        &mut self,
        isa: Isa,
        w: &Weight,
        [x, dy]: [Matrix<'_>; 2],
        dinner: Option<&Tensor>,
    ) {
        match self {
            Self::Frozen => {}
            Self::Values(dw) => {
                let ([_, inputs], [_, outputs]) = (x.shape(), dy.shape());
                assert_eq!(dw.shape(), [outputs, inputs], "gradient of a weight");
                let (dy, x) = (dy.transposed(), Right::Plain(x));
                gemm(isa, w.precision(), dy, x, dw.f32s_mut());
            }
            Self::LowRank { a, b } => {
                let low_rank = w.low_rank();
                let low_rank = low_rank.expect("the gradient of a low-rank part is of one");
                let computed = dinner
                    .is_none()
                    .then(|| low_rank.dinner(isa, w.precision(), dy));
                if let Some(dinner) = dinner.or(computed.as_ref()) {
                    low_rank.add_gradients(isa, w.precision(), [x, dy], dinner, [a, b]);
                }
            }
        }
    }
}
