//! Q4_K and Q5_K: 256 values in 8 sub-blocks of 32, each `d * sc * q - dmin * m` (`gguf.md` 5.2).
//!
//! Layout: f16 d, f16 dmin, 12 bytes of 6-bit scales and offsets, with 5 bits 32 bytes of fifth bits,
//! then 128 bytes of nibbles.

use half::f16;

use super::half_at;

const SUBS: usize = 8;
const SUB: usize = 32;
/// Bytes before the codes: two halves and the packed scales.
const HEAD: usize = 16;

/// Appends a block of BITS bits, 4 or 5.
pub(super) fn quantise<const BITS: u32>(x: &[f32; 256], to: &mut Vec<u8>) {
    let subs = x.as_chunks::<SUB>().0;
    let fits: [Fit; SUBS] = std::array::from_fn(|j| fit::<BITS>(&subs[j]));
    let [max_scale, max_offset] = [fits.map(|f| f.scale), fits.map(|f| f.offset)]
        .map(|values| values.into_iter().fold(0.0, f32::max));
    let halves = [max_scale, max_offset].map(|max| f16::from_f32(max / 63.0));
    let six_bits = |value: f32, max: f32| {
        let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
        ((inverse * value).round_ties_even() as u8).min(63)
    };
    let scales = fits.map(|f| six_bits(f.scale, max_scale));
    let offsets = fits.map(|f| six_bits(f.offset, max_offset));
    let [d, dmin] = halves.map(f16::to_f32);
    let codes: [[u8; SUB]; SUBS] = std::array::from_fn(|j| {
        let (scale, offset) = (d * f32::from(scales[j]), dmin * f32::from(offsets[j]));
        match scale == 0.0 {
            true => fits[j].codes,
            false => subs[j].map(|x| nearest::<BITS>((x + offset) / scale)),
        }
    });
    to.extend(halves.into_iter().flat_map(f16::to_le_bytes));
    to.extend(pack_scales(&scales, &offsets));
    pack::<BITS>(&codes, to);
}

/// A block: value i of sub-block j is `d * scales[j] * q_i - dmin * offsets[j]`.
pub(crate) struct Block {
    pub(crate) d: f16,
    pub(crate) dmin: f16,
    pub(crate) scales: [u8; SUBS],
    pub(crate) offsets: [u8; SUBS],
    pub(crate) codes: [[u8; SUB]; SUBS],
}

/// Takes a block of BITS bits, 4 or 5, apart.
pub(crate) fn unpack<const BITS: u32>(block: &[u8]) -> Block {
    let fifth_len = if BITS == 5 { SUB } else { 0 };
    let (fifth, nibbles) = block[HEAD..].split_at(fifth_len);
    let pairs: [_; SUBS] = std::array::from_fn(|j| scale_and_offset(&block[4..HEAD], j));
    let code = |j: usize, i: usize| {
        let low = nibbles[j / 2 * SUB + i] >> (j % 2 * 4) & 15;
        low | fifth.get(i).map_or(0, |bits| bits >> j & 1) << 4
    };
    Block {
        d: half_at(block, 0),
        dmin: half_at(block, 2),
        scales: pairs.map(|(scale, _)| scale),
        offsets: pairs.map(|(_, offset)| offset),
        codes: std::array::from_fn(|j| std::array::from_fn(|i| code(j, i))),
    }
}

/// Reads a block.
pub(super) fn dequantise<const BITS: u32>(block: &[u8], to: &mut [f32]) {
    let block = unpack::<BITS>(block);
    let [d, dmin] = [block.d, block.dmin].map(f16::to_f32);
    for (j, to) in to.chunks_exact_mut(SUB).enumerate() {
        let scale = d * f32::from(block.scales[j]);
        let offset = dmin * f32::from(block.offsets[j]);
        for (to, code) in to.iter_mut().zip(block.codes[j]) {
            *to = scale * f32::from(code) - offset;
        }
    }
}

/// Scale, offset and codes of a sub-block before the former two are rounded: `scale * q - offset`.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    offset: f32,
    codes: [u8; SUB],
}

/// Searches scale and offset: for several first guesses of the scale, codes are rounded and both are
/// fitted to them by least squares with weights `rms + |x|`.
fn fit<const BITS: u32>(x: &[f32; SUB]) -> Fit {
    let rms = (sum(x, |x| x * x) / SUB as f32).sqrt();
    let weight = |x: f32| rms + x.abs();
    let mut least = x.iter().copied().fold(0.0, f32::min);
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut best = Fit {
        scale: 0.0,
        offset: -least,
        codes: [0; SUB],
    };
    if most == least {
        return best;
    }
    let [sw, swx] = [sum(x, weight), sum(x, |x| weight(x) * x)];
    let levels = ((1 << BITS) - 1) as f32;
    let inverse = levels / (most - least);
    best.scale = 1.0 / inverse;
    best.codes = x.map(|x| nearest::<BITS>(inverse * (x - least)));
    let error = |scale: f32, least: f32, codes: &[u8; SUB]| {
        sum_with(x, codes, |x, q| weight(x) * (scale * q + least - x).powi(2))
    };
    let mut best_error = error(best.scale, least, &best.codes);
    let (first, tries) = if BITS == 4 { (-1.0, 21) } else { (-0.5, 16) };
    for t in 0..tries {
        let inverse = (first + 0.1 * t as f32 + levels) / (most - least);
        let codes = x.map(|x| nearest::<BITS>(inverse * (x - least)));
        let swq = sum_with(x, &codes, |x, q| weight(x) * q);
        let swqq = sum_with(x, &codes, |x, q| weight(x) * q * q);
        let swqx = sum_with(x, &codes, |x, q| weight(x) * q * x);
        let det = sw * swqq - swq * swq;
        if det <= 0.0 {
            continue;
        }
        let mut scale = (sw * swqx - swx * swq) / det;
        let mut offset = (swqq * swx - swq * swqx) / det;
        if offset > 0.0 {
            (scale, offset) = (swqx / swqq, 0.0);
        }
        let this_error = error(scale, offset, &codes);
        if this_error < best_error {
            best_error = this_error;
            least = offset; // later guesses start from it, as in the reference
            (best.scale, best.codes) = (scale, codes);
        }
    }
    best.offset = -least;
    best
}

fn sum(x: &[f32; SUB], term: impl Fn(f32) -> f32) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + term(*x))
}

fn sum_with(x: &[f32; SUB], codes: &[u8; SUB], term: impl Fn(f32, f32) -> f32) -> f32 {
    let pairs = x.iter().zip(codes);
    pairs.fold(0.0, |sum, (x, q)| sum + term(*x, f32::from(*q)))
}

/// Rounds to the nearest code, ties to even.
fn nearest<const BITS: u32>(x: f32) -> u8 {
    (x.round_ties_even() as u8).min((1 << BITS) - 1)
}

/// Packs 8 scales and 8 offsets of 6 bits: the last four of each lend their two high bits to the
/// first four's bytes.
fn pack_scales(scales: &[u8; SUBS], offsets: &[u8; SUBS]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => offsets[i - 4] | offsets[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | offsets[i - 4] << 4,
    })
}

/// Reads what [`pack_scales`] wrote for sub-block `j`.
fn scale_and_offset(bytes: &[u8], j: usize) -> (u8, u8) {
    match j {
        0..4 => (bytes[j] & 63, bytes[j + 4] & 63),
        _ => (
            bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4,
            bytes[j + 4] >> 4 | bytes[j] >> 6 << 4,
        ),
    }
}

/// Appends codes: the fifth bits of all sub-blocks, then sub-blocks 2k and 2k + 1 in one byte's halves.
fn pack<const BITS: u32>(codes: &[[u8; SUB]; SUBS], to: &mut Vec<u8>) {
    if BITS == 5 {
        to.extend((0..SUB).map(|i| {
            let bit = |byte, (j, sub): (usize, &[u8; SUB])| byte | sub[i] >> 4 << j;
            codes.iter().enumerate().fold(0, bit)
        }));
    }
    for [low, high] in codes.as_chunks::<2>().0 {
        to.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
    }
}
