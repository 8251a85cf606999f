//! A contiguous row-major array with its element type and shape.

use half::bf16;
use half::vec::HalfBitsVecExt;

use crate::buffer::Buffer;
use crate::gemm::{CodeMatrix, Codes, Matrix, Panels};
use crate::paging::PageFile;
use crate::rows::{fill_rows, rounded};
use crate::{Isa, Precision};

/// Element type of a [`Tensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// bfloat16.
    Bf16,
    /// 32-bit signed integer.
    I32,
    /// Unsigned byte.
    U8,
    /// A matrix of codes, in blocks of 32 along its rows; those of the first row, where they are of several kinds.
    Codes(Codes),
}

/// Where the elements live. A device other than the CPU is a further variant here.
#[derive(Clone, Debug, PartialEq)]
enum Storage {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
    I32(Vec<i32>),
    U8(Vec<u8>),
    /// Transposed: rows of the matrix are columns of the panels.
    Codes(CodeMatrix),
    /// A matrix, transposed as for codes.
    Panels(Panels),
}

impl Storage {
    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::Bf16,
            Self::I32(_) => DType::I32,
            Self::U8(_) => DType::U8,
            Self::Codes(matrix) => DType::Codes(matrix.codes()),
            Self::Panels(panels) => match panels.precision() {
                Precision::F32 => DType::F32,
                Precision::Bf16 => DType::Bf16,
            },
        }
    }

    /// Ends with what was expected and what is there.
    fn refuse(&self, expected: &str) -> ! {
        let packed = match self {
            Self::Panels(_) => "packed ",
            _ => "",
        };
        panic!("expected {expected}, found {packed}{:?}", self.dtype())
    }
}

/// A contiguous row-major array. Cloning copies the elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

impl Tensor {
    /// Creates an `f32` array of zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        let values = Buffer::zeros(shape.iter().product());
        Self::wrap(shape, values.len(), Storage::F32(values))
    }

    /// Creates a bf16 array of zeros.
    pub fn zeros_bf16(shape: &[usize]) -> Self {
        // The allocator knows zeroed memory of integers, which costs nothing until it is used.
        let bits = vec![0_u16; shape.iter().product()];
        Self::from_bf16(shape, bits.reinterpret_into())
    }

    /// Creates an `f32` array of arbitrary values, for a result that overwrites them all.
    pub(crate) fn scratch(shape: &[usize]) -> Self {
        let values = Buffer::scratch(shape.iter().product());
        Self::wrap(shape, values.len(), Storage::F32(values))
    }

    /// Wraps `f32` elements.
    ///
    /// # Panics
    /// If the number of elements does not fit the shape.
    pub fn from_f32(shape: &[usize], values: Vec<f32>) -> Self {
        Self::wrap(shape, values.len(), Storage::F32(values.into()))
    }

    /// Wraps bf16 elements. Panics as [`Tensor::from_f32`].
    pub fn from_bf16(shape: &[usize], values: Vec<bf16>) -> Self {
        Self::wrap(shape, values.len(), Storage::Bf16(values.into()))
    }

    /// Wraps `i32` elements. Panics as [`Tensor::from_f32`].
    pub fn from_i32(shape: &[usize], values: Vec<i32>) -> Self {
        Self::wrap(shape, values.len(), Storage::I32(values))
    }

    /// Wraps bytes. Panics as [`Tensor::from_f32`].
    pub fn from_u8(shape: &[usize], values: Vec<u8>) -> Self {
        Self::wrap(shape, values.len(), Storage::U8(values))
    }

    /// Reads a matrix of codes from its blocks, row by row as in a GGUF file (`gguf.md` 5.1).
    ///
    /// # Panics
    /// If rows are not whole blocks, or the bytes are not those of the shape.
    pub fn from_codes(codes: Codes, shape: [usize; 2], blocks: &[u8]) -> Self {
        let matrix = Self::from_runs_of_codes(shape[1], &[(codes, blocks)]);
        assert_eq!(matrix.shape, shape, "bytes of codes");
        matrix
    }

    /// Reads a matrix whose rows are of several kinds, run after run.
    ///
    /// # Panics
    /// If there is no run, or the bytes of one are no whole rows of `columns` elements.
    pub fn from_runs_of_codes(columns: usize, runs: &[(Codes, &[u8])]) -> Self {
        let matrix = CodeMatrix::new(columns, runs);
        let [columns, rows] = matrix.shape();
        Self {
            shape: vec![rows, columns],
            storage: Storage::Codes(matrix),
        }
    }

    fn wrap(shape: &[usize], len: usize, storage: Storage) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            len,
            "shape {shape:?} for {len} elements"
        );
        Self {
            shape: shape.to_vec(),
            storage,
        }
    }

    /// Returns the extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the two extents of a matrix.
    ///
    /// # Panics
    /// If the array does not have two dimensions.
    pub fn dims2(&self) -> [usize; 2] {
        match self.shape[..] {
            [rows, columns] => [rows, columns],
            _ => panic!("expected a matrix, found shape {:?}", self.shape),
        }
    }

    /// Gives the same elements another shape of equal size. Panics as [`Tensor::from_f32`].
    pub fn reshape(self, shape: &[usize]) -> Self {
        let len = self.len();
        Self::wrap(shape, len, self.storage)
    }

    /// Returns the elements of an `f32` array.
    ///
    /// # Panics
    /// If the element type is another one.
    pub fn f32s(&self) -> &[f32] {
        match &self.storage {
            Storage::F32(values) => values,
            other => other.refuse("f32"),
        }
    }

    /// Returns the elements of an `f32` array for writing. Panics as [`Tensor::f32s`].
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        match &mut self.storage {
            Storage::F32(values) => values,
            other => other.refuse("f32"),
        }
    }

    /// Returns the elements of a bf16 array. Panics as [`Tensor::f32s`].
    pub fn bf16s(&self) -> &[bf16] {
        match &self.storage {
            Storage::Bf16(values) => values,
            other => other.refuse("bf16"),
        }
    }

    /// Returns the elements of an `i32` array. Panics as [`Tensor::f32s`].
    pub fn i32s(&self) -> &[i32] {
        match &self.storage {
            Storage::I32(values) => values,
            other => other.refuse("i32"),
        }
    }

    /// Returns the elements of a byte array. Panics as [`Tensor::f32s`].
    pub fn u8s(&self) -> &[u8] {
        match &self.storage {
            Storage::U8(values) => values,
            other => other.refuse("u8"),
        }
    }

    /// Returns the transposed codes of a matrix of codes. Panics as [`Tensor::f32s`].
    pub(crate) fn codes(&self) -> &CodeMatrix {
        match &self.storage {
            Storage::Codes(matrix) => matrix,
            other => other.refuse("codes"),
        }
    }

    /// Returns a matrix of `f32` or bf16 in the order in which products read it, rounded to `precision`. Its
    /// elements can only be read by row.
    pub(crate) fn packed(&self, precision: Precision) -> Self {
        let panels = Panels::new(Isa::active(), precision, Matrix::of(self).transposed());
        Self {
            shape: self.shape.clone(),
            storage: Storage::Panels(panels),
        }
    }

    /// Returns the packed elements of a matrix, if it is packed.
    pub(crate) fn panels(&self) -> Option<&Panels> {
        match &self.storage {
            Storage::Panels(panels) => Some(panels),
            _ => None,
        }
    }

    /// Moves codes and packed elements to the end of a file; others stay in memory.
    ///
    /// # Errors
    /// If it cannot be written; they stay in memory then.
    pub(crate) fn move_to(&mut self, file: &mut PageFile) -> std::io::Result<()> {
        match &mut self.storage {
            Storage::Codes(matrix) => matrix.move_to(file),
            Storage::Panels(panels) => panels.move_to(file),
            _ => Ok(()),
        }
    }

    /// Returns the bytes that the elements take in memory.
    pub fn num_bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(values) => size_of_val(&values[..]),
            Storage::Bf16(values) => size_of_val(&values[..]),
            Storage::I32(values) => size_of_val(&values[..]),
            Storage::U8(values) => values.len(),
            Storage::Codes(matrix) => matrix.num_bytes(),
            Storage::Panels(panels) => panels.num_bytes(),
        }
    }

    /// Writes row `index` of a matrix of `f32`, bf16 or codes as `f32`.
    ///
    /// # Panics
    /// If there is no such row, `to` is not as wide, or the elements are of another type.
    pub fn read_row(&self, index: usize, to: &mut [f32]) {
        let [_, columns] = self.dims2();
        let row = index * columns..(index + 1) * columns;
        match &self.storage {
            Storage::Codes(matrix) => matrix.column(index, to),
            Storage::Panels(panels) => panels.column(index, to),
            Storage::Bf16(values) => {
                let row = &values[row];
                to.iter_mut().zip(row).for_each(|(to, v)| *to = v.to_f32());
            }
            _ => to.copy_from_slice(&self.f32s()[row]),
        }
    }

    /// Returns row `index` of an `f32` matrix. Panics as [`Tensor::f32s`] and on a row out of range.
    pub fn row(&self, index: usize) -> &[f32] {
        let [_, columns] = self.dims2();
        &self.f32s()[index * columns..(index + 1) * columns]
    }

    /// Returns the same values as `f32` (from `f32`, bf16 or codes).
    pub fn to_f32(&self) -> Self {
        match &self.storage {
            Storage::Bf16(values) => {
                Self::from_f32(&self.shape, values.iter().map(|v| v.to_f32()).collect())
            }
            Storage::Codes(_) | Storage::Panels(_) => {
                let mut values = Self::scratch(&self.shape);
                fill_rows(&mut values, |index, row| self.read_row(index, row));
                values
            }
            _ => Self::from_f32(&self.shape, self.f32s().to_vec()),
        }
    }

    /// Returns the values rounded to bf16 (to nearest, ties to even).
    pub fn to_bf16(&self) -> Self {
        match &self.storage {
            Storage::Bf16(_) => self.clone(),
            Storage::Codes(_) | Storage::Panels(_) => self.to_f32().to_bf16(),
            _ => {
                let values = rounded(self.f32s());
                Self::wrap(&self.shape, values.len(), Storage::Bf16(values))
            }
        }
    }
}
