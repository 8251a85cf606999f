//! Blocks of 32 values with one scale: Q4_0, Q5_0, Q4_1, Q5_1 and Q8_0 (`gguf.md` 5.1).
//!
//! Codes of 4 and 5 bits differ in one plane only: the fifth bits lie together in a word of their own.

use half::f16;

use super::{extreme, half_at, inverse};

/// Appends a block `(q - 2^(BITS-1)) * d`. The value of largest magnitude gets the code 0.
pub(super) fn centred<const BITS: u32>(x: &[f32; 32], to: &mut Vec<u8>) {
    let centre = (1 << (BITS - 1)) as f32;
    let scale = extreme(x) / -centre;
    let id = inverse(scale); // of the scale before it is rounded, as in the reference
    to.extend(f16::from_f32(scale).to_le_bytes());
    let codes = x.map(|x| ((x * id + (centre + 0.5)) as u8).min(largest::<BITS>()));
    pack::<BITS>(&codes, to);
}

/// Appends a block `q * d + m` where m is the least value.
pub(super) fn offset<const BITS: u32>(x: &[f32; 32], to: &mut Vec<u8>) {
    let least = x.iter().copied().fold(f32::INFINITY, f32::min);
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (most - least) / f32::from(largest::<BITS>());
    let id = inverse(scale);
    to.extend(f16::from_f32(scale).to_le_bytes());
    to.extend(f16::from_f32(least).to_le_bytes());
    let codes = x.map(|x| (((x - least) * id + 0.5) as u8).min(largest::<BITS>()));
    pack::<BITS>(&codes, to);
}

/// Appends a block of signed bytes, `q * d`. Alone among the formats, ties round away from zero.
pub(super) fn bytes(x: &[f32; 32], to: &mut Vec<u8>) {
    let scale = extreme(x).abs() / 127.0;
    let id = inverse(scale);
    to.extend(f16::from_f32(scale).to_le_bytes());
    to.extend(x.map(|x| ((x * id).round() as i8).cast_unsigned()));
}

/// Reads a block of [`centred`].
pub(super) fn read_centred<const BITS: u32>(block: &[u8], to: &mut [f32]) {
    let scale = half_at(block, 0).to_f32();
    let codes = unpack::<BITS>(&block[2..]);
    for (to, code) in to.iter_mut().zip(codes) {
        *to = (i32::from(code) - (1 << (BITS - 1))) as f32 * scale;
    }
}

/// Reads a block of [`offset`].
pub(super) fn read_offset<const BITS: u32>(block: &[u8], to: &mut [f32]) {
    let (scale, least) = (half_at(block, 0).to_f32(), half_at(block, 2).to_f32());
    let codes = unpack::<BITS>(&block[4..]);
    for (to, code) in to.iter_mut().zip(codes) {
        *to = f32::from(code) * scale + least;
    }
}

/// Reads a block of [`bytes`].
pub(super) fn read_bytes(block: &[u8], to: &mut [f32]) {
    let scale = half_at(block, 0).to_f32();
    for (to, code) in to.iter_mut().zip(&block[2..]) {
        *to = f32::from(code.cast_signed()) * scale;
    }
}

/// Returns the largest code.
const fn largest<const BITS: u32>() -> u8 {
    (1 << BITS) - 1
}

/// Appends codes: with 5 bits a word of the fifth bits, then bytes of codes j and j + 16.
fn pack<const BITS: u32>(codes: &[u8; 32], to: &mut Vec<u8>) {
    if BITS == 5 {
        let fifth = |word, (j, code): (usize, &u8)| word | u32::from(code >> 4) << j;
        let word: u32 = codes.iter().enumerate().fold(0, fifth);
        to.extend(word.to_le_bytes());
    }
    let (low, high) = codes.split_at(16);
    to.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
}

/// Reads the codes that [`pack`] wrote.
fn unpack<const BITS: u32>(bytes: &[u8]) -> [u8; 32] {
    let (fifth, nibbles) = bytes.split_at(if BITS == 5 { 4 } else { 0 });
    std::array::from_fn(|j| {
        let pair = nibbles[j % 16];
        let low = if j < 16 { pair & 15 } else { pair >> 4 };
        match fifth {
            [] => low,
            _ => low | (fifth[j / 8] >> (j % 8) & 1) << 4,
        }
    })
}
