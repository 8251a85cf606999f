//! A parameter: its values, and optionally a layout packed for matrix products.

use crate::gemm::{Matrix, Panels, Right};
use crate::{DType, Isa, Precision, Tensor};

/// A model parameter.
///
/// Holds the values (`f32`, bf16 at rest, or codes, which are packed from the start) and, for matrices, the [`Precision`] in which products
/// with it are computed. [`Weight::pack`] builds a layout for repeated products (decoding); writing
/// through [`Weight::values_mut`] drops it.
#[derive(Clone, Debug)]
pub struct Weight {
    values: Tensor,
    precision: Precision,
    panels: Option<Panels>,
}

impl Weight {
    /// Wraps values whose products are computed in `precision`.
    pub fn new(values: Tensor, precision: Precision) -> Self {
        Self {
            values,
            precision,
            panels: None,
        }
    }

    /// Returns the values.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Returns the values for writing, and forgets the packed layout.
    pub fn values_mut(&mut self) -> &mut Tensor {
        self.panels = None;
        &mut self.values
    }

    /// Returns the precision of products with this weight.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Builds the packed layout that [`linear`](crate::linear()) and [`crate::head_rows`] use. Idempotent.
    pub fn pack(&mut self) {
        if self.panels.is_none() && !self.is_coded() {
            let transposed = Matrix::of(&self.values).transposed();
            self.panels = Some(Panels::new(Isa::active(), self.precision, transposed));
        }
    }

    /// Returns `W^T` as the right operand of a product, packed if [`Weight::pack`] was called.
    pub(crate) fn transposed(&self) -> Right<'_> {
        match &self.panels {
            _ if self.is_coded() => Right::Codes(self.values.codes()),
            Some(panels) => Right::Packed(panels),
            None => Right::Plain(Matrix::of(&self.values).transposed()),
        }
    }

    fn is_coded(&self) -> bool {
        matches!(self.values.dtype(), DType::Codes(_))
    }

    /// Returns `W` as the right operand of a product. Panics if the values are codes.
    pub(crate) fn plain(&self) -> Right<'_> {
        Right::Plain(Matrix::of(&self.values))
    }
}
