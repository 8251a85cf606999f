//! A parameter: its values, and optionally a layout packed for matrix products.

use std::sync::Arc;

use crate::gemm::{Matrix, Panels, Right};
use crate::{DType, Isa, LowRank, Precision, Tensor};

/// A model parameter.
///
/// Holds the values (`f32`, bf16 at rest, or codes, which are packed from the start) and, for matrices, the [`Precision`] in which products
/// with it are computed. [`Weight::pack`] builds a layout for repeated products (decoding); writing
/// through [`Weight::values_mut`] drops it. A [`LowRank`] part is added in every product but not to the values.
///
/// Clones share values and layout until one of them is written to.
#[derive(Clone, Debug)]
pub struct Weight {
    values: Arc<Tensor>,
    precision: Precision,
    panels: Option<Arc<Panels>>,
    low_rank: Option<Box<LowRank>>,
}

impl Weight {
    /// Wraps values whose products are computed in `precision`.
    pub fn new(values: Tensor, precision: Precision) -> Self {
        Self {
            values: Arc::new(values),
            precision,
            panels: None,
            low_rank: None,
        }
    }

    /// Returns the weight without its low-rank part.
    pub fn base(&self) -> Self {
        Self {
            values: Arc::clone(&self.values),
            precision: self.precision,
            panels: self.panels.clone(),
            low_rank: None,
        }
    }

    /// Returns the weight with a low-rank part in place of the one it had.
    ///
    /// # Panics
    /// If the shapes of the factors do not fit the values.
    pub fn with_low_rank(mut self, low_rank: LowRank) -> Self {
        let ([outputs, inputs], [rank, _]) = (self.values.dims2(), low_rank.a.dims2());
        assert_eq!(low_rank.a.shape(), [rank, inputs], "factor A");
        assert_eq!(low_rank.b.shape(), [outputs, rank], "factor B");
        self.low_rank = Some(Box::new(low_rank));
        self
    }

    /// Returns the low-rank part.
    pub fn low_rank(&self) -> Option<&LowRank> {
        self.low_rank.as_deref()
    }

    /// Returns the low-rank part for writing.
    pub fn low_rank_mut(&mut self) -> Option<&mut LowRank> {
        self.low_rank.as_deref_mut()
    }

    /// Returns the values.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Returns the values for writing, and forgets the packed layout. Values that a clone shares are
    /// copied.
    pub fn values_mut(&mut self) -> &mut Tensor {
        self.panels = None;
        Arc::make_mut(&mut self.values)
    }

    /// Returns the precision of products with this weight.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Builds the packed layout that [`linear`](crate::linear()) and [`crate::head_rows`] use. Idempotent.
    pub fn pack(&mut self) {
        if self.panels.is_none() && !self.is_coded() {
            let transposed = Matrix::of(&self.values).transposed();
            let panels = Panels::new(Isa::active(), self.precision, transposed);
            self.panels = Some(Arc::new(panels));
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
