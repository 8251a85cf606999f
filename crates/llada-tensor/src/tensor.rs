//! A contiguous row-major array with its element type and shape.

use half::bf16;

use crate::buffer::Buffer;

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
}

/// Where the elements live. A device other than the CPU is a further variant here.
#[derive(Clone, Debug, PartialEq)]
enum Storage {
    F32(Buffer),
    Bf16(Vec<bf16>),
    I32(Vec<i32>),
    U8(Vec<u8>),
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
        Self::wrap(shape, values.len(), Storage::Bf16(values))
    }

    /// Wraps `i32` elements. Panics as [`Tensor::from_f32`].
    pub fn from_i32(shape: &[usize], values: Vec<i32>) -> Self {
        Self::wrap(shape, values.len(), Storage::I32(values))
    }

    /// Wraps bytes. Panics as [`Tensor::from_f32`].
    pub fn from_u8(shape: &[usize], values: Vec<u8>) -> Self {
        Self::wrap(shape, values.len(), Storage::U8(values))
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
        match self.storage {
            Storage::F32(_) => DType::F32,
            Storage::Bf16(_) => DType::Bf16,
            Storage::I32(_) => DType::I32,
            Storage::U8(_) => DType::U8,
        }
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
            _ => panic!("expected f32, found {:?}", self.dtype()),
        }
    }

    /// Returns the elements of an `f32` array for writing. Panics as [`Tensor::f32s`].
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        let dtype = self.dtype();
        match &mut self.storage {
            Storage::F32(values) => values,
            _ => panic!("expected f32, found {dtype:?}"),
        }
    }

    /// Returns the elements of a bf16 array. Panics as [`Tensor::f32s`].
    pub fn bf16s(&self) -> &[bf16] {
        match &self.storage {
            Storage::Bf16(values) => values,
            _ => panic!("expected bf16, found {:?}", self.dtype()),
        }
    }

    /// Returns the elements of an `i32` array. Panics as [`Tensor::f32s`].
    pub fn i32s(&self) -> &[i32] {
        match &self.storage {
            Storage::I32(values) => values,
            _ => panic!("expected i32, found {:?}", self.dtype()),
        }
    }

    /// Returns the elements of a byte array. Panics as [`Tensor::f32s`].
    pub fn u8s(&self) -> &[u8] {
        match &self.storage {
            Storage::U8(values) => values,
            _ => panic!("expected u8, found {:?}", self.dtype()),
        }
    }

    /// Returns row `index` of an `f32` matrix. Panics as [`Tensor::f32s`] and on a row out of range.
    pub fn row(&self, index: usize) -> &[f32] {
        let [_, columns] = self.dims2();
        &self.f32s()[index * columns..(index + 1) * columns]
    }

    /// Returns the same values as `f32` (from `f32` or bf16).
    pub fn to_f32(&self) -> Self {
        match &self.storage {
            Storage::Bf16(values) => {
                Self::from_f32(&self.shape, values.iter().map(|v| v.to_f32()).collect())
            }
            _ => Self::from_f32(&self.shape, self.f32s().to_vec()),
        }
    }

    /// Returns the values rounded to bf16 (to nearest, ties to even).
    pub fn to_bf16(&self) -> Self {
        match &self.storage {
            Storage::Bf16(values) => Self::from_bf16(&self.shape, values.clone()),
            _ => {
                let values = self.f32s().iter().map(|&v| bf16::from_f32(v)).collect();
                Self::from_bf16(&self.shape, values)
            }
        }
    }
}
