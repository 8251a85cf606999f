//! How the kernel reads the codes and the scales of a vector of columns, format by format.

use half::f16;

use super::BLOCK;
use super::layout::{Codes, HALF};
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

/// What turns the dot products of a block of columns into numbers.
#[derive(Clone, Copy)]
pub(super) struct Scales<V> {
    /// Of each half; of both in the first and the second where one holds for the block.
    pub(super) scale: [V; 2],
    /// What every weight has less; not looked at where there is none.
    pub(super) offset: V,
}

/// How the codes of a block lie, and under which scales.
pub(super) trait Format {
    /// Lines of a block.
    const LINES: usize;
    /// Scales of a block: one, or one for each half.
    const SCALES: usize = 1;
    /// Whether something is subtracted from every weight.
    const HAS_OFFSET: bool = false;

    /// Returns the fours of the two halves of a block, as unsigned bytes.
    fn codes<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2];

    /// Returns the scales of a block.
    fn scales<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V>;
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const LINES: usize = 4;

    #[inline(always)]
    fn codes<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2] {
        nibbles(s, lines, lane)
    }

    #[inline(always)]
    fn scales<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V> {
        single(s, strip, block)
    }
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const LINES: usize = 8;

    #[inline(always)]
    fn codes<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2] {
        [load(s, lines, lane, 0), load(s, lines, lane, HALF)]
    }

    #[inline(always)]
    fn scales<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V> {
        single(s, strip, block)
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const LINES: usize = 4;
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2] {
        nibbles(s, lines, lane)
    }

    #[inline(always)]
    fn scales<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V> {
        affine(s, strip, Codes::Q4K, block)
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const LINES: usize = 5;
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn codes<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2] {
        let [first, last] = nibbles(s, lines, lane);
        let bits = s.load(&lines[HALF].0[lane..]);
        let moved = s.bits_left(bits, 4, 0xf0);
        [add_bits(s, first, bits), add_bits(s, last, moved)]
    }

    #[inline(always)]
    fn scales<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V> {
        affine(s, strip, Codes::Q5K, block)
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const LINES: usize = 6;
    const SCALES: usize = 2;

    #[inline(always)]
    fn codes<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2] {
        let [first, last] = nibbles(s, lines, lane);
        let pairs = s.load(&lines[HALF].0[lane..]);
        let more = s.load(&lines[HALF + 1].0[lane..]);
        [add_pairs(s, first, pairs), add_pairs(s, last, more)]
    }

    #[inline(always)]
    fn scales<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V> {
        let span = Codes::Q6K.span() / BLOCK;
        let (d, small) = strip.head(Codes::Q6K, block / span).split_at(PANEL);
        let small: &[i8] = bytemuck::cast_slice(small);
        let small = &small[2 * (block % span) * PANEL..][..2 * PANEL];
        let d = s.load_f16(&d[strip.lane..]);
        Scales {
            scale: [
                s.mul(d, s.load_i8(&small[strip.lane..])),
                s.mul(d, s.load_i8(&small[PANEL + strip.lane..])),
            ],
            offset: d,
        }
    }
}

/// Reads four lines.
#[inline(always)]
fn load<S: Simd>(s: S, lines: &[Line], lane: usize, first: usize) -> [S::V; HALF] {
    [
        s.load(&lines[first].0[lane..]),
        s.load(&lines[first + 1].0[lane..]),
        s.load(&lines[first + 2].0[lane..]),
        s.load(&lines[first + 3].0[lane..]),
    ]
}

/// Reads the low halves of the bytes of four lines, and the high ones.
#[inline(always)]
fn nibbles<S: Simd>(s: S, lines: &[Line], lane: usize) -> [[S::V; HALF]; 2] {
    let [a, b, c, d] = load(s, lines, lane, 0);
    [
        [
            s.bits_right(a, 0, 0x0f),
            s.bits_right(b, 0, 0x0f),
            s.bits_right(c, 0, 0x0f),
            s.bits_right(d, 0, 0x0f),
        ],
        [
            s.bits_right(a, 4, 0x0f),
            s.bits_right(b, 4, 0x0f),
            s.bits_right(c, 4, 0x0f),
            s.bits_right(d, 4, 0x0f),
        ],
    ]
}

/// Adds the fifth bits, which lie from bit 4 of every byte on.
#[inline(always)]
fn add_bits<S: Simd>(s: S, [a, b, c, d]: [S::V; HALF], bits: S::V) -> [S::V; HALF] {
    [
        s.or(a, s.bits_right(bits, 0, 0x10)),
        s.or(b, s.bits_right(bits, 1, 0x10)),
        s.or(c, s.bits_right(bits, 2, 0x10)),
        s.or(d, s.bits_right(bits, 3, 0x10)),
    ]
}

/// Adds the two high bits, which lie at bits 4, 6, 0 and 2 of every byte.
#[inline(always)]
fn add_pairs<S: Simd>(s: S, [a, b, c, d]: [S::V; HALF], pairs: S::V) -> [S::V; HALF] {
    [
        s.or(a, s.bits_right(pairs, 0, 0x30)),
        s.or(b, s.bits_right(pairs, 2, 0x30)),
        s.or(c, s.bits_left(pairs, 4, 0x30)),
        s.or(d, s.bits_left(pairs, 2, 0x30)),
    ]
}

/// A scale for the block.
#[inline(always)]
fn single<S: Simd>(s: S, strip: Strip<'_>, block: usize) -> Scales<S::V> {
    let scale = s.load_f16(&strip.head[block * PANEL + strip.lane..]);
    Scales {
        scale: [scale; 2],
        offset: scale,
    }
}

/// Small scales and offsets under two numbers for the span.
#[inline(always)]
fn affine<S: Simd>(s: S, strip: Strip<'_>, codes: Codes, block: usize) -> Scales<S::V> {
    let span = codes.span() / BLOCK;
    let (halves, small) = strip.head(codes, block / span).split_at(2 * PANEL);
    let small: &[i8] = bytemuck::cast_slice(small);
    let at = (block % span) * PANEL + strip.lane;
    let d = s.load_f16(&halves[strip.lane..]);
    let dmin = s.load_f16(&halves[PANEL + strip.lane..]);
    let scale = s.mul(d, s.load_i8(&small[at..]));
    Scales {
        scale: [scale; 2],
        offset: s.mul(dmin, s.load_i8(&small[span * PANEL + at..])),
    }
}
