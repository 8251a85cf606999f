//! Little-endian bytes of weight files to and from numbers.

use std::borrow::Cow;

use half::{bf16, f16};
use llada_tensor::{DType, Tensor};
use safetensors::Dtype;

use crate::StorageDtype;

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and written as they are in memory");

/// Appends the values of `bytes`, which hold whole elements of `dtype`, as `f32`.
///
/// # Panics
/// If `dtype` is not one of F32, BF16 and F16.
pub(crate) fn append_f32(values: &mut Vec<f32>, dtype: Dtype, bytes: &[u8]) {
    match dtype {
        Dtype::F32 => values.extend(elements(bytes).map(f32::from_le_bytes)),
        Dtype::BF16 => values.extend(elements(bytes).map(|b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F16 => values.extend(elements(bytes).map(|b| f16::from_le_bytes(b).to_f32())),
        _ => panic!("element type {dtype:?} was accepted by mistake"),
    }
}

/// Appends bf16 elements as they are.
pub(crate) fn append_bf16(values: &mut Vec<bf16>, bytes: &[u8]) {
    values.extend(elements(bytes).map(bf16::from_le_bytes));
}

/// Cuts bytes into elements of N bytes. The data of a file need not be aligned, so no cast.
fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// Returns the bytes of elements `range` of `tensor` as `dtype`, borrowed when nothing changes.
pub(crate) fn encode(
    tensor: &Tensor,
    range: std::ops::Range<usize>,
    dtype: StorageDtype,
) -> Cow<'_, [u8]> {
    match (tensor.dtype(), dtype) {
        (DType::Bf16, StorageDtype::Bf16) => bytemuck::cast_slice(&tensor.bf16s()[range]).into(),
        (DType::Bf16, StorageDtype::F32) => tensor.bf16s()[range]
            .iter()
            .flat_map(|v| v.to_f32().to_le_bytes())
            .collect(),
        (_, StorageDtype::F32) => bytemuck::cast_slice(&tensor.f32s()[range]).into(),
        (_, StorageDtype::Bf16) => tensor.f32s()[range]
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect(),
    }
}
