//! Element formats of weights in files: blocks of values that share a scale (`gguf.md` section 5).
//!
//! [`BlockFormat::quantise`] and [`BlockFormat::dequantise`] are plain scalar code, in `f32` and in
//! index order, so that the bytes are those of ggml's reference quantiser without an importance
//! matrix. They run once per file; products with weights of codes are in `gemm/codes`.

pub(crate) mod affine;
mod blocks32;
pub(crate) mod symmetric;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

use crate::Codes;

/// How values are written in a file. Names are those of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockFormat {
    /// 32-bit float.
    F32,
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 codes of 4 bits and a scale.
    Q4_0,
    /// 32 codes of 4 bits, a scale and an offset.
    Q4_1,
    /// 32 codes of 5 bits and a scale.
    Q5_0,
    /// 32 codes of 5 bits, a scale and an offset.
    Q5_1,
    /// 32 codes of 8 bits and a scale.
    Q8_0,
    /// 256 codes of 4 bits; 8 scales and offsets of 6 bits.
    Q4K,
    /// 256 codes of 5 bits; 8 scales and offsets of 6 bits.
    Q5K,
    /// 256 codes of 6 bits; 16 scales of 8 bits.
    Q6K,
}

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Returns the name in lower case, for example `q4_k`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Returns the number of values in a block. Rows consist of whole blocks.
    pub const fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Returns the bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Returns whether values are codes under a scale.
    pub fn is_quantised(self) -> bool {
        self.block_values() > 1
    }

    /// Returns the codes of this format that products read as they are, if there are any.
    pub fn codes(self) -> Option<Codes> {
        match self {
            Self::Q4_0 => Some(Codes::Q4_0),
            Self::Q8_0 => Some(Codes::Q8_0),
            Self::Q4K => Some(Codes::Q4K),
            Self::Q5K => Some(Codes::Q5K),
            Self::Q6K => Some(Codes::Q6K),
            _ => None,
        }
    }

    /// Appends finite values in this format.
    ///
    /// # Panics
    /// If they are not whole blocks.
    pub fn quantise(self, values: &[f32], to: &mut Vec<u8>) {
        let block = self.block_values();
        assert!(
            values.len().is_multiple_of(block),
            "{} values in blocks of {block}",
            values.len()
        );
        let (by_32, by_256) = (values.as_chunks::<32>().0, values.as_chunks::<256>().0);
        match self {
            Self::F32 => to.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::F16 => to.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Self::Bf16 => to.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            Self::Q4_0 => by_32.iter().for_each(|x| blocks32::centred::<4>(x, to)),
            Self::Q5_0 => by_32.iter().for_each(|x| blocks32::centred::<5>(x, to)),
            Self::Q4_1 => by_32.iter().for_each(|x| blocks32::offset::<4>(x, to)),
            Self::Q5_1 => by_32.iter().for_each(|x| blocks32::offset::<5>(x, to)),
            Self::Q8_0 => by_32.iter().for_each(|x| blocks32::bytes(x, to)),
            Self::Q4K => by_256.iter().for_each(|x| affine::quantise::<4>(x, to)),
            Self::Q5K => by_256.iter().for_each(|x| affine::quantise::<5>(x, to)),
            Self::Q6K => by_256.iter().for_each(|x| symmetric::quantise(x, to)),
        }
    }

    /// Writes the values of blocks to `to`.
    ///
    /// # Panics
    /// If the bytes are not the blocks of that many values.
    pub fn dequantise(self, blocks: &[u8], to: &mut [f32]) {
        let (values, bytes) = (self.block_values(), self.block_bytes());
        assert!(
            to.len().is_multiple_of(values) && blocks.len() == to.len() / values * bytes,
            "{} bytes of {} for {} values",
            blocks.len(),
            self.name(),
            to.len()
        );
        let pairs = to.chunks_exact_mut(values).zip(blocks.chunks_exact(bytes));
        match self {
            Self::F32 => read_each(to, blocks, f32::from_le_bytes),
            Self::F16 => read_each(to, blocks, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => read_each(to, blocks, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Self::Q4_0 => pairs.for_each(|(to, block)| blocks32::read_centred::<4>(block, to)),
            Self::Q5_0 => pairs.for_each(|(to, block)| blocks32::read_centred::<5>(block, to)),
            Self::Q4_1 => pairs.for_each(|(to, block)| blocks32::read_offset::<4>(block, to)),
            Self::Q5_1 => pairs.for_each(|(to, block)| blocks32::read_offset::<5>(block, to)),
            Self::Q8_0 => pairs.for_each(|(to, block)| blocks32::read_bytes(block, to)),
            Self::Q4K => pairs.for_each(|(to, block)| affine::dequantise::<4>(block, to)),
            Self::Q5K => pairs.for_each(|(to, block)| affine::dequantise::<5>(block, to)),
            Self::Q6K => pairs.for_each(|(to, block)| symmetric::dequantise(block, to)),
        }
    }
}

/// Reads elements of N bytes. The data of a file need not be aligned, so no cast.
fn read_each<const N: usize>(to: &mut [f32], bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
    let elements = bytes.as_chunks::<N>().0;
    to.iter_mut()
        .zip(elements)
        .for_each(|(to, b)| *to = read(*b));
}

/// Returns the first of the elements of largest magnitude, with its sign; 0 for none.
fn extreme(values: &[f32]) -> f32 {
    let larger = |best: f32, &x: &f32| if x.abs() > best.abs() { x } else { best };
    values.iter().fold(0.0, larger)
}

/// Returns 1 / x, and 0 for 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Reads the half-precision number at `offset`.
fn half_at(block: &[u8], offset: usize) -> f16 {
    f16::from_le_bytes([block[offset], block[offset + 1]])
}
