//! How the kernel reads the codes and the scales of a vector of columns, format by format.

use half::f16;

use super::BLOCK;
use super::layout::{Codes, HALF, HIGH, bit_at, pair_at};
use crate::gemm::pack::{Line, PANEL};
use crate::simd::Simd;

/// A vector of columns.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    /// The whole panel.
    pub(super) lines: &'a [Line],
    /// The first of the columns among those of the panel.
    pub(super) lane: usize,
}

impl<'a> Strip<'a> {
    /// Returns a group of blocks.
    #[inline(always)]
    pub(super) fn group<F: Format>(&self, index: usize) -> Group<'a> {
        let lines = &self.lines[index * F::GROUP_LINES..];
        let (head, lines) = lines.split_at(F::HEAD);
        Group {
            head,
            lines,
            lane: self.lane,
        }
    }
}

/// A group of blocks of a vector of columns.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    /// Scales of the panel's columns.
    pub(super) head: &'a [Line],
    /// Their codes, from the group's first block on.
    lines: &'a [Line],
    lane: usize,
}

impl<'a> Group<'a> {
    /// Returns the codes of a block.
    #[inline(always)]
    pub(super) fn codes<F: Format>(&self, block: usize) -> &'a [Line] {
        &self.lines[block * F::LINES..][..F::LINES]
    }

    /// Returns the scales of a span of blocks.
    #[inline(always)]
    fn head_of_span<F: Format>(&self, span: usize) -> &'a [f16] {
        let (head, len) = (bytemuck::cast_slice(self.head), F::CODES.head_len());
        &head[span * len..][..len]
    }
}

/// How the codes of a block lie, and under which scales.
pub(super) trait Format {
    const CODES: Codes;
    /// Lines of a block.
    const LINES: usize = Self::CODES.bits();
    /// Lines of the scales of a group.
    const HEAD: usize = Self::CODES.head_lines();
    /// Lines of a group.
    const GROUP_LINES: usize = Self::CODES.lines_of_group();
    /// Blocks of a group.
    const GROUP: usize = Self::CODES.blocks_of_group();
    /// Scales of a block: one, or one for each half.
    const SCALES: usize = 1;
    /// Whether something is subtracted from every weight.
    const HAS_OFFSET: bool = false;

    /// Returns a four of a block, as unsigned bytes.
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V;

    /// Returns the scales of half a block of a group, or of all of it where it has one.
    fn scale<S: Simd>(s: S, group: Group<'_>, block: usize, half: usize) -> S::V;

    /// Returns what every weight of a block has less.
    #[inline(always)]
    fn offset<S: Simd>(s: S, _group: Group<'_>, _block: usize) -> S::V {
        s.splat(0.0)
    }
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const CODES: Codes = Codes::Q4_0;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        nibble(s, lines, lane, quad)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, group: Group<'_>, block: usize, _half: usize) -> S::V {
        single::<S, Self>(s, group, block)
    }
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const CODES: Codes = Codes::Q8_0;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        s.load(&lines[quad].0[lane..])
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, group: Group<'_>, block: usize, _half: usize) -> S::V {
        single::<S, Self>(s, group, block)
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const CODES: Codes = Codes::Q4K;
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        nibble(s, lines, lane, quad)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, group: Group<'_>, block: usize, _half: usize) -> S::V {
        affine::<S, Self>(s, group, block, 0)
    }

    #[inline(always)]
    fn offset<S: Simd>(s: S, group: Group<'_>, block: usize) -> S::V {
        affine::<S, Self>(s, group, block, 1)
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const CODES: Codes = Codes::Q5K;
    const HAS_OFFSET: bool = true;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        let bits = s.load(&lines[HALF].0[lane..]);
        let high = to_high(s, bits, bit_at(quad), 0x10);
        s.or(nibble(s, lines, lane, quad), high)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, group: Group<'_>, block: usize, _half: usize) -> S::V {
        affine::<S, Self>(s, group, block, 0)
    }

    #[inline(always)]
    fn offset<S: Simd>(s: S, group: Group<'_>, block: usize) -> S::V {
        affine::<S, Self>(s, group, block, 1)
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const CODES: Codes = Codes::Q6K;
    const SCALES: usize = 2;

    #[inline(always)]
    fn quad<S: Simd>(s: S, lines: &[Line], lane: usize, quad: usize) -> S::V {
        let pairs = s.load(&lines[HALF + quad / HALF].0[lane..]);
        let high = to_high(s, pairs, pair_at(quad % HALF), 0x30);
        s.or(nibble(s, lines, lane, quad), high)
    }

    #[inline(always)]
    fn scale<S: Simd>(s: S, group: Group<'_>, block: usize, half: usize) -> S::V {
        let span = Self::CODES.span() / BLOCK;
        let (d, small) = group.head_of_span::<Self>(block / span).split_at(PANEL);
        let small: &[i8] = bytemuck::cast_slice(small);
        let small = &small[(2 * (block % span) + half) * PANEL..][..PANEL];
        s.mul(
            s.load_f16(&d[group.lane..]),
            s.load_i8(&small[group.lane..]),
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
fn single<S: Simd, F: Format>(s: S, group: Group<'_>, block: usize) -> S::V {
    s.load_f16(&group.head_of_span::<F>(block)[group.lane..])
}

/// The small numbers of the block of one kind, scales or offsets, under a number for the span.
#[inline(always)]
fn affine<S: Simd, F: Format>(s: S, group: Group<'_>, block: usize, kind: usize) -> S::V {
    let span = F::CODES.span() / BLOCK;
    let (halves, small) = group.head_of_span::<F>(block / span).split_at(2 * PANEL);
    let small: &[i8] = bytemuck::cast_slice(small);
    let small = &small[(kind * span + block % span) * PANEL..][..PANEL];
    let d = s.load_f16(&halves[kind * PANEL + group.lane..]);
    s.mul(d, s.load_i8(&small[group.lane..]))
}
