//! How the kernel reads the codes and the scales of a vector of columns, format by format.

use half::f16;

use super::BLOCK;
use super::layout::{Codes, HALF, HIGH, bit_at, pair_at};
use crate::gemm::pack::{Line, PANEL};
use crate::simd::Simd;

/// The codes of a vector of columns.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// The scales of the whole panel, as the lines.
    pub(super) head: &'a [f16],
    pub(super) lines: &'a [Line],
    /// The first of the columns among those of the panel.
    pub(super) lane: usize,
}

impl<'a> Strip<'a> {
    /// Returns the scales of a span of blocks, from the first of the columns on.
    #[inline(always)]
    fn head(&self, codes: Codes, span: usize) -> &'a [f16] {
        &self.head[span * codes.head_len()..][..codes.head_len()]
    }
}

/// How the codes of a block lie, and under which scales.
pub(super) trait Format {
    /// Lines of a block.
    const LINES: usize;
    /// Scales of a block: one, or one for each half.
    const SCALES: usize = 1;
    /// Whether something is subtracted from every weight.
    const HAS_OFFSET: bool = false;

    /// Returns a four of a block, as unsigned bytes.
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V;

    /// Returns the scales of half a block, or of all of it where it has one.
    fn scale<S: Simd>(s: S, strip: Strip<'_>, block: usize, half: usize) -> S::V;

    /// Returns what every weight of a block has less.
    #[inline(always)]
    fn offset<S: Simd>(s: S, _strip: Strip<'_>, _block: usize) -> S::V {
        s.splat(0.0)
    }
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const LINES: usize = 4;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        nibble(s, lines, lane, quad)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, strip: Strip<'_>, block: usize, _half: usize) -> S::V {
        single(s, strip, block)
    }
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const LINES: usize = 8;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        s.load(&lines[quad].0[lane..])
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, strip: Strip<'_>, block: usize, _half: usize) -> S::V {
        single(s, strip, block)
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const LINES: usize = 4;
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        nibble(s, lines, lane, quad)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, strip: Strip<'_>, block: usize, _half: usize) -> S::V {
        affine(s, strip, Codes::Q4K, block, 0)
    }

    #[inline(always)]
    fn offset<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> S::V {
        affine(s, strip, Codes::Q4K, block, 1)
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const LINES: usize = 5;
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        let bits = s.load(&lines[HALF].0[lane..]);
        let high = to_high(s, bits, bit_at(quad), 0x10);
        s.or(nibble(s, lines, lane, quad), high)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, strip: Strip<'_>, block: usize, _half: usize) -> S::V {
        affine(s, strip, Codes::Q5K, block, 0)
    }

    #[inline(always)]
    fn offset<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> S::V {
        affine(s, strip, Codes::Q5K, block, 1)
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const LINES: usize = 6;
    const SCALES: usize = 2;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        let pairs = s.load(&lines[HALF + quad / HALF].0[lane..]);
        let high = to_high(s, pairs, pair_at(quad % HALF), 0x30);
        s.or(nibble(s, lines, lane, quad), high)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, strip: Strip<'_>, block: usize, half: usize) -> S::V {
        let span = Codes::Q6K.span() / BLOCK;
        let (d, small) = strip.head(Codes::Q6K, block / span).split_at(PANEL);
        let small: &[i8] = bytemuck::cast_slice(small);
        let small = &small[(2 * (block % span) + half) * PANEL..][..PANEL];
        s.mul(
            s.load_f16(&d[strip.lane..]),
            s.load_i8(&small[strip.lane..]),
        )
    }
}

/// Reads the low halves of the bytes of a line, or the high ones.
#[inline(always)]
fn nibble<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
    let line = s.load(&lines[quad % HALF].0[lane..]);
    s.bits_right(line, if quad < HALF { 0 } else { 4 }, 0x0f)
}

/// Moves the bits of every byte that lie at `at` above its low half, where `mask` keeps them.
#[inline(always)]
fn to_high<S: Simd>(s: S, bits: S::V, at: usize, mask: u8) -> S::V {
    match at.checked_sub(HIGH) {
        Some(shift) => s.bits_right(bits, shift as u32, mask),
        None => s.bits_left(bits, (HIGH - at) as u32, mask),
    }
}

/// A scale for the block.
#[inline(always)]
fn single<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> S::V {
    s.load_f16(&strip.head[block * PANEL + strip.lane..])
}

/// The small numbers of the block of one kind, scales or offsets, under a number for the span.
#[inline(always)]
fn affine<S: Simd>(s: S, strip: Strip<'_>, codes: Codes, block: usize, kind: usize) -> S::V {
    let span = codes.span() / BLOCK;
    let (halves, small) = strip.head(codes, block / span).split_at(2 * PANEL);
    let small: &[i8] = bytemuck::cast_slice(small);
    let small = &small[(kind * span + block % span) * PANEL..][..PANEL];
    let d = s.load_f16(&halves[kind * PANEL + strip.lane..]);
    s.mul(d, s.load_i8(&small[strip.lane..]))
}
