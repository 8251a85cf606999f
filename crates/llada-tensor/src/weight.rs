//! A parameter: its values, and optionally a layout packed for matrix products.

use std::io;
use std::sync::Arc;

use crate::gemm::{Matrix, Right};
use crate::{DType, LowRank, PageFile, Precision, Tensor};

/// A model parameter.
///
/// Holds the values (`f32`, bf16 at rest, or codes, which are packed from the start) and, for matrices, the [`Precision`] in which products
/// with it are computed. [`Weight::pack`] changes to a layout for repeated products (decoding). A [`LowRank`] part is added in every product
/// but not to the values.
///
/// Clones share values and layout until one of them is packed or written to.
#[derive(Clone, Debug)]
pub struct Weight {
    values: Arc<Tensor>,
    precision: Precision,
    /// The values rounded and packed, see [`Weight::pack_beside`].
    packed: Option<Arc<Tensor>>,
    low_rank: Option<Box<LowRank>>,
}

impl Weight {
    /// Wraps values whose products are computed in `precision`.
    pub fn new(values: Tensor, precision: Precision) -> Self {
        Self {
            values: Arc::new(values),
            precision,
            packed: None,
            low_rank: None,
        }
    }

    /// Returns the weight without its low-rank part.
    pub fn base(&self) -> Self {
        Self {
            values: Arc::clone(&self.values),
            precision: self.precision,
            packed: self.packed.clone(),
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

    /// Returns the values for writing, no longer packed. Values that a clone shares are copied.
    pub fn values_mut(&mut self) -> &mut Tensor {
        self.packed = None;
        if self.values.panels().is_some() {
            self.values = Arc::new(match self.values.dtype() {
                DType::Bf16 => self.values.to_bf16(),
                _ => self.values.to_f32(),
            });
        }
        Arc::make_mut(&mut self.values)
    }

    /// Returns the precision of products with this weight.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Changes to the packed layout that [`linear`](crate::linear()) and [`crate::head_rows`] read, rounded to the precision:
    /// gradients of inputs can no longer be computed. Idempotent.
    pub fn pack(&mut self) {
        if !self.is_coded() && self.values.panels().is_none() {
            let packed = self.packed.take();
            self.values = packed.unwrap_or_else(|| Arc::new(self.values.packed(self.precision)));
        }
    }

    /// As [`Weight::pack`], but rows still read as they were: values that would be rounded stay beside the layout.
    pub fn pack_beside(&mut self) {
        match (self.values.dtype(), self.precision) {
            (DType::F32, Precision::Bf16) if self.packed.is_none() => {
                self.packed = Some(Arc::new(self.values.packed(self.precision)));
            }
            (DType::F32, Precision::Bf16) => {}
            _ => self.pack(),
        }
    }

    /// Packs, and moves what products read to the end of a file.
    ///
    /// # Errors
    /// If the file cannot be written, as on a full disk.
    pub fn move_to(&mut self, file: &mut PageFile) -> io::Result<()> {
        self.pack();
        Arc::make_mut(&mut self.values).move_to(file)
    }

    /// Returns `W^T` as the right operand of a product, packed if [`Weight::pack`] was called.
    pub(crate) fn transposed(&self) -> Right<'_> {
        let right = self.right();
        match right.panels() {
            _ if self.is_coded() => Right::Codes(right.codes()),
            Some(panels) => Right::Packed(panels),
            None => Right::Plain(Matrix::of(right).transposed()),
        }
    }

    /// Returns the values that products read.
    fn right(&self) -> &Tensor {
        self.packed.as_ref().unwrap_or(&self.values)
    }

    fn is_coded(&self) -> bool {
        matches!(self.values.dtype(), DType::Codes(_))
    }

    /// Returns `W` as the right operand of a product. Panics if the values are codes or packed.
    pub(crate) fn plain(&self) -> Right<'_> {
        Right::Plain(Matrix::of(&self.values))
    }
}
