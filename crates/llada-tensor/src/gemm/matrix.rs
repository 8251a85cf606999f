//! Views of matrices: the operands to read and the target to write.

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use super::Start;
use crate::{DType, Tensor};

/// Elements of an operand.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// Which index moves along contiguous elements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    RowMajor,
    ColumnMajor,
}

/// A matrix to read, contiguous along its rows or along its columns.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(super) values: Values<'a>,
    pub(super) shape: [usize; 2],
    /// Elements from one contiguous line to the next.
    pub(super) stride: usize,
    pub(super) order: Order,
}

impl<'a> Matrix<'a> {
    /// Views rows of `columns` elements.
    pub(crate) fn new(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len().checked_div(columns).unwrap_or(0);
        let values = Values::F32(values);
        Self {
            values,
            shape: [rows, columns],
            stride: columns,
            order: Order::RowMajor,
        }
    }

    /// Views a tensor of `f32` or bf16.
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        let shape = tensor.dims2();
        let values = match tensor.dtype() {
            DType::Bf16 => Values::Bf16(tensor.bf16s()),
            _ => Values::F32(tensor.f32s()),
        };
        Self {
            values,
            shape,
            stride: shape[1],
            order: Order::RowMajor,
        }
    }

    /// Returns the transposed view.
    pub(crate) fn transposed(self) -> Self {
        let [rows, columns] = self.shape;
        let order = match self.order {
            Order::RowMajor => Order::ColumnMajor,
            Order::ColumnMajor => Order::RowMajor,
        };
        Self {
            shape: [columns, rows],
            order,
            ..self
        }
    }

    /// Returns the elements of whole rows of `f32`.
    ///
    /// # Panics
    /// If the matrix is none of those.
    pub(super) fn f32_rows(&self) -> &'a [f32] {
        match self.values {
            Values::F32(values)
                if self.order == Order::RowMajor && self.stride == self.shape[1] =>
            {
                &values[..self.shape[0] * self.stride]
            }
            _ => panic!("expected rows of f32 to multiply with codes"),
        }
    }

    /// Returns the extents.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns the part with the given rows and columns, which exist.
    pub(crate) fn block(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let shape = [rows.len(), columns.len()];
        let start = match self.order {
            _ if rows.is_empty() || columns.is_empty() => 0,
            Order::RowMajor => rows.start * self.stride + columns.start,
            Order::ColumnMajor => columns.start * self.stride + rows.start,
        };
        let values = match self.values {
            Values::F32(values) => Values::F32(&values[start..]),
            Values::Bf16(values) => Values::Bf16(&values[start..]),
        };
        Self {
            values,
            shape,
            ..self
        }
    }
}

/// A row-major matrix to write, or a rectangle of one. Splitting gives disjoint rectangles, which
/// different threads may write.
pub(super) struct Target<'a> {
    first: *mut f32,
    shape: [usize; 2],
    stride: usize,
    /// What the additions to the elements start from.
    start: Start,
    elements: PhantomData<&'a mut [f32]>,
}

// SAFETY: a target is a unique borrow of its elements, like `&mut [f32]`.
unsafe impl Send for Target<'_> {}

impl<'a> Target<'a> {
    /// Borrows a whole matrix.
    pub(super) fn new(values: &'a mut [f32], shape: [usize; 2], start: Start) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "shape {shape:?}");
        Self {
            first: values.as_mut_ptr(),
            shape,
            stride: shape[1],
            start,
            elements: PhantomData,
        }
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Borrows the part with the given rows and columns.
    #[inline(always)]
    pub(super) fn block(&mut self, rows: Range<usize>, columns: Range<usize>) -> Target<'_> {
        assert!(
            rows.end <= self.shape[0] && columns.end <= self.shape[1],
            "block of a target"
        );
        let shape = [rows.len(), columns.len()];
        let first = self
            .first
            .wrapping_add(rows.start * self.stride + columns.start);
        Target {
            first,
            shape,
            stride: self.stride,
            start: self.start,
            elements: PhantomData,
        }
    }

    /// Returns what the additions start from.
    pub(super) fn start(&self) -> Start {
        self.start
    }

    /// Changes what the additions start from.
    pub(super) fn start_from(&mut self, start: Start) {
        self.start = start;
    }

    /// Cuts before row `at`.
    pub(super) fn split_rows(self, at: usize) -> [Self; 2] {
        let [rows, columns] = self.shape;
        assert!(at <= rows, "row {at} of {rows}");
        let below = self.first.wrapping_add(at * self.stride);
        [
            Self {
                shape: [at, columns],
                ..self
            },
            Self {
                first: below,
                shape: [rows - at, columns],
                ..self
            },
        ]
    }

    /// Cuts before column `at`.
    pub(super) fn split_columns(self, at: usize) -> [Self; 2] {
        let [rows, columns] = self.shape;
        assert!(at <= columns, "column {at} of {columns}");
        let beside = self.first.wrapping_add(at);
        [
            Self {
                shape: [rows, at],
                ..self
            },
            Self {
                first: beside,
                shape: [rows, columns - at],
                ..self
            },
        ]
    }

    /// Returns the elements of a row from a column on; none when the row ends before it.
    #[inline(always)]
    pub(super) fn row_from(&mut self, row: usize, column: usize) -> &mut [f32] {
        let [rows, columns] = self.shape;
        assert!(row < rows, "row of a target");
        let column = column.min(columns);
        let start = self.first.wrapping_add(row * self.stride + column);
        // SAFETY: the elements lie in this target's rectangle of the borrowed matrix, which no other
        // target overlaps while `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(start, columns - column) }
    }
}
