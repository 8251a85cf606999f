//! Little-endian bytes of weight files to and from numbers.

use std::borrow::Cow;

use half::bf16;
use llada_tensor::{DType, Tensor};

use crate::StorageDtype;

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and written as they are in memory");

/// Appends bf16 elements as they are.
pub(crate) fn append_bf16(values: &mut Vec<bf16>, bytes: &[u8]) {
    values.extend(elements(bytes).map(bf16::from_le_bytes));
}

/// Cuts bytes into elements of N bytes. The data of a file need not be aligned, so no cast.
fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Returns elements `range` of `tensor` as `f32`.
pub(crate) fn f32s(tensor: &Tensor, range: std::ops::Range<usize>) -> Vec<f32> {
    match tensor.dtype() {
        DType::Bf16 => tensor.bf16s()[range].iter().map(|v| v.to_f32()).collect(),
        _ => tensor.f32s()[range].to_vec(),
    }
}

/// Returns the bytes of elements `range` of `tensor` as `dtype`, borrowed when nothing changes.
pub(crate) fn encode(
    tensor: &Tensor,
    range: std::ops::Range<usize>,
    dtype: StorageDtype,
) -> Cow<'_, [u8]> {
    match (tensor.dtype(), dtype) {
        (DType::Bf16, StorageDtype::Bf16) => bytemuck::cast_slice(&tensor.bf16s()[range]).into(),
        (DType::Bf16, StorageDtype::F32) => f32s(tensor, range)
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect(),
        (_, StorageDtype::F32) => bytemuck::cast_slice(&tensor.f32s()[range]).into(),
        (_, StorageDtype::Bf16) => tensor.f32s()[range]
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
    }
}
