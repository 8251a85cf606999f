//! Q6_K: 256 values in 16 sub-blocks of 16, each `d * sc * (q - 32)` (`gguf.md` 5.3).
//!
//! Layout: 128 bytes of low nibbles, 64 bytes of the two high bits, 16 signed scales, f16 d.

use half::f16;

use super::{extreme, half_at};

const SUBS: usize = 16;
const SUB: usize = 16;
/// Magnitude below which a sub-block, or a block, counts as zero.
const TINY: f32 = 1e-15;
const SCALES: usize = 192;
const SCALE: usize = 208;

/// Appends a block.
pub(super) fn quantise(x: &[f32; 256], to: &mut Vec<u8>) {
    let subs = x.as_chunks::<SUB>().0;
    let fits: [(f32, [u8; SUB]); SUBS] = std::array::from_fn(|j| fit(&subs[j]));
    let largest = extreme(&fits.map(|(scale, _)| scale));
    if largest.abs() < TINY {
        return to.extend([0; SCALE + 2]);
    }
    let inverse = -128.0 / largest;
    let d = f16::from_f32(1.0 / inverse);
    let scales = fits.map(|(scale, _)| (inverse * scale).round_ties_even() as i8);
    let codes: [[u8; SUB]; SUBS] = std::array::from_fn(|j| {
        let scale = d.to_f32() * f32::from(scales[j]);
        match scale == 0.0 {
            true => fits[j].1,
            false => subs[j].map(|x| (nearest(x / scale) + 32.0) as u8),
        }
    });
    pack(codes.as_flattened(), to);
    to.extend(scales.map(i8::cast_unsigned));
    to.extend(d.to_le_bytes());
}

/// A block: value i of sub-block j is `d * scales[j] * (q_i - 32)`.
pub(crate) struct Block {
    pub(crate) d: f16,
    pub(crate) scales: [i8; SUBS],
    pub(crate) codes: [[u8; SUB]; SUBS],
}

/// Takes a block apart.
pub(crate) fn unpack(block: &[u8]) -> Block {
    Block {
        d: half_at(block, SCALE),
        scales: std::array::from_fn(|j| block[SCALES + j].cast_signed()),
        codes: std::array::from_fn(|j| std::array::from_fn(|i| code(block, j * SUB + i))),
    }
}

/// Reads a block.
pub(super) fn dequantise(block: &[u8], to: &mut [f32]) {
    let block = unpack(block);
    for (j, to) in to.chunks_exact_mut(SUB).enumerate() {
        let scale = block.d.to_f32() * f32::from(block.scales[j]);
        for (to, code) in to.iter_mut().zip(block.codes[j]) {
            *to = scale * f32::from(code.cast_signed() - 32);
        }
    }
}

/// Searches the scale of a sub-block among guesses near `-32 / extreme`, by least squares with
/// weights x². Returns it with the codes under it.
fn fit(x: &[f32; SUB]) -> (f32, [u8; SUB]) {
    let largest = extreme(x);
    if largest.abs() < TINY {
        return (0.0, [0; SUB]);
    }
    let guess = |inverse: f32| {
        let levels = x.map(|x| nearest(inverse * x));
        let pairs = || x.iter().zip(levels);
        let cross = pairs().fold(0.0, |sum, (x, l)| sum + x * x * x * l);
        let square = pairs().fold(0.0, |sum, (x, l)| sum + x * x * l * l);
        (cross, square, levels)
    };
    let (cross, square, mut levels) = guess(-32.0 / largest);
    let mut scale = if square > 0.0 { cross / square } else { 0.0 };
    let mut best = scale * cross;
    for t in (-9_i8..=9).filter(|t| *t != 0) {
        let (cross, square, these) = guess(-(32.0 + 0.1 * f32::from(t)) / largest);
        if square > 0.0 && cross * cross > best * square {
            scale = cross / square;
            best = scale * cross;
            levels = these;
        }
    }
    (scale, levels.map(|level| (level + 32.0) as u8))
}

/// Rounds to the nearest level, ties to even.
fn nearest(x: f32) -> f32 {
    x.round_ties_even().clamp(-32.0, 31.0)
}

/// Appends 256 codes of 6 bits: in each half, codes l, l + 32, l + 64 and l + 96 share bytes.
fn pack(codes: &[u8], to: &mut Vec<u8>) {
    for half in codes.chunks_exact(128) {
        to.extend((0..64).map(|l| half[l] & 15 | half[l + 64] << 4));
    }
    for half in codes.chunks_exact(128) {
        to.extend((0..32).map(|l| {
            let pair = |byte, t: usize| byte | half[32 * t + l] >> 4 << (2 * t);
            (0..4).fold(0, pair)
        }));
    }
}

/// Reads code `i` of what [`pack`] wrote.
fn code(block: &[u8], i: usize) -> u8 {
    let (half, t, l) = (i / 128, i / 32 % 4, i % 32);
    let low = block[64 * half + 32 * (t % 2) + l] >> (t / 2 * 4) & 15;
    let high = block[128 + 32 * half + l] >> (2 * t) & 3;
    low | high << 4
}
