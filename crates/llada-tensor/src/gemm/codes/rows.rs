//! Rows rounded to signed bytes, a scale per block of 32.

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK, Codes};
use crate::Isa;
use crate::parallel::rows_per_task;
use crate::simd::{Kernel, Simd, dispatch};

/// Largest magnitude of a rounded element.
const LARGEST: f32 = 127.0;
/// 1.5 * 2^23: from here to 2^24, neighbours among `f32` differ by one.
const UNITS: f32 = 12_582_912.0;

/// 32 elements of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBlock {
    /// Four signed bytes each, as the bits of an `f32` so that they can be splatted like one.
    pub(super) quads: [f32; BLOCK / 4],
    /// What an element is worth per unit.
    pub(super) scale: f32,
    /// Minus the sum of the elements times the bias of the codes; the bits of an `i32`.
    pub(super) offset: f32,
}

impl RowBlock {
    const ZERO: Self = Self {
        quads: [0.0; BLOCK / 4],
        scale: 0.0,
        offset: 0.0,
    };
}

/// Rows [M, K] rounded for products with codes of one kind.
#[derive(Clone, Debug)]
pub(super) struct CodeRows {
    blocks: Vec<RowBlock>,
    width: usize,
}

impl CodeRows {
    /// Rounds every block of 32 elements to 255 levels that reach its largest magnitude.
    ///
    /// # Panics
    /// If the width is not a multiple of 32.
    pub(super) fn new(isa: Isa, codes: Codes, x: &[f32], width: usize) -> Self {
        assert!(
            width.is_multiple_of(BLOCK),
            "{width} elements in blocks of {BLOCK}"
        );
        let task = rows_per_task(x.len() / BLOCK, BLOCK) * BLOCK;
        let mut blocks = vec![RowBlock::ZERO; x.len() / BLOCK];
        let parts = blocks.par_chunks_mut(task / BLOCK).zip(x.par_chunks(task));
        parts.for_each(|(blocks, x)| dispatch(isa, Round { codes, x, blocks }));
        Self { blocks, width }
    }

    /// Returns the elements of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Returns the blocks of some rows, row by row.
    #[inline(always)]
    pub(super) fn blocks(&self, rows: Range<usize>) -> &[RowBlock] {
        let per_row = self.width / BLOCK;
        &self.blocks[rows.start * per_row..rows.end * per_row]
    }
}

/// Rounds whole blocks.
struct Round<'a> {
    codes: Codes,
    x: &'a [f32],
    blocks: &'a mut [RowBlock],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (block, x) in self.blocks.iter_mut().zip(self.x.as_chunks().0) {
            *block = round(s, self.codes, x);
        }
    }
}

#[inline(always)]
fn round<S: Simd>(s: S, codes: Codes, x: &[f32; BLOCK]) -> RowBlock {
    let (mut high, mut low) = (s.splat(0.0), s.splat(0.0));
    for x in x.chunks_exact(S::LANES) {
        let x = s.load(x);
        (high, low) = (s.max(x, high), s.min(x, low));
    }
    let largest = s.reduce_max(s.max(high, s.sub(s.splat(0.0), low)));
    let per_unit = if largest > 0.0 {
        LARGEST / largest
    } else {
        0.0
    };
    // The sum has units of one, so it is rounded to an integer, ties to even; its low byte is that integer's.
    let bytes = x.map(|x| (x * per_unit + UNITS).to_bits() as u8);
    let sum: i32 = bytes.iter().map(|&x| i32::from(x as i8)).sum();
    let quad = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| bytes[4 * i + j]));
    // A NaN or an infinity must not vanish in the rounding.
    let is_finite = x.iter().fold(0.0, |sum, x| sum + x * 0.0) == 0.0;
    RowBlock {
        quads: std::array::from_fn(|i| f32::from_bits(quad(i))),
        scale: if is_finite {
            largest / LARGEST
        } else {
            f32::NAN
        },
        offset: f32::from_bits((-codes.bias() * sum) as u32),
    }
}
