//! Rows rounded to signed bytes, a scale per block of 32, in the order in which the kernel reads them.

use std::ops::Range;

use rayon::prelude::*;

use super::{BLOCK, Codes};
use crate::Isa;
use crate::buffer::Buffer;
use crate::gemm::Matrix;
use crate::parallel::rows_per_task;
use crate::simd::{Kernel, Simd, dispatch};

/// Largest magnitude of a rounded element.
const LARGEST: f32 = 127.0;
/// 1.5 * 2^23: from here to 2^24, neighbours among `f32` differ by one.
const UNITS: f32 = 12_582_912.0;

/// 32 elements of a row.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBlock {
    /// Four signed bytes each, as the bits of an `f32` so that they can be splatted like one.
    pub(super) quads: [f32; BLOCK / 4],
    /// What an element is worth per unit.
    pub(super) scale: f32,
    /// What the codes' biases or offsets take from a product, by [`Codes`]: minus the sum of the elements times
    /// the bias, as the bits of an `i32`, all in the first or each half for itself; minus the sum of the
    /// elements where weights have an offset.
    pub(super) offsets: [f32; 2],
}

/// `f32`s of a block.
const WORDS: usize = size_of::<RowBlock>() / size_of::<f32>();

// SAFETY: it consists of `f32`s alone, without padding.
unsafe impl bytemuck::Zeroable for RowBlock {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for RowBlock {}

/// Most rows of a tile.
const TALL: usize = 6;
/// Element operations that rounding an element costs.
const OPS: usize = 4;

/// Rows [M, K] rounded for products with codes of one kind, in parts that have operands of their own.
///
/// A part's rows are divided into as few tiles as there can be, of about equal heights. The blocks of
/// a tile lie as the kernel reads them: the first of every row, the second of every row, and so on.
#[derive(Clone, Debug)]
pub(super) struct CodeRows {
    blocks: Buffer<f32>,
    blocks_per_row: usize,
}

impl CodeRows {
    /// Rounds every block of 32 elements to 255 levels that reach its largest magnitude.
    ///
    /// # Panics
    /// If the width is not a multiple of 32, or the parts do not follow each other over all rows.
    pub(super) fn new(isa: Isa, codes: Codes, x: Matrix<'_>, parts: &[Range<usize>]) -> Self {
        let ([rows, width], x) = (x.shape(), x.f32_rows());
        Self::fill(rows, width, parts, OPS, |rows, blocks| {
            let round = Round {
                codes,
                x: &x[rows.start * width..rows.end * width],
                blocks_per_row: width / BLOCK,
                blocks,
            };
            dispatch(isa, round);
        })
    }

    /// The same of rows that are picked from `x`, each of which is rounded once.
    ///
    /// # Panics
    /// As [`CodeRows::new`], or if a row does not exist.
    pub(super) fn picked(
        isa: Isa,
        codes: Codes,
        x: Matrix<'_>,
        picked: &[u32],
        parts: &[Range<usize>],
    ) -> Self {
        let [rows, width] = x.shape();
        let alone: Vec<_> = (0..rows).map(|row| row..row + 1).collect();
        let rounded = Self::new(isa, codes, x, &alone);
        let each = |row: u32| rounded.part(row as usize..row as usize + 1).blocks;
        Self::fill(picked.len(), width, parts, 1, |rows, blocks| {
            let mut from = [&[][..]; TALL];
            for (from, &row) in from.iter_mut().zip(&picked[rows.clone()]) {
                *from = each(row);
            }
            for (index, blocks) in blocks.chunks_exact_mut(rows.len()).enumerate() {
                for (block, from) in blocks.iter_mut().zip(from) {
                    *block = from[index];
                }
            }
        })
    }

    /// Calls `fill` with the rows of every tile, whose elements cost `ops` each, and their blocks.
    fn fill(
        rows: usize,
        width: usize,
        parts: &[Range<usize>],
        ops: usize,
        fill: impl Fn(Range<usize>, &mut [RowBlock]) + Sync,
    ) -> Self {
        assert!(
            width.is_multiple_of(BLOCK),
            "{width} elements in blocks of {BLOCK}"
        );
        let blocks_per_row = width / BLOCK;
        let mut blocks = Buffer::scratch(rows * blocks_per_row * WORDS);
        let (mut rest, mut done) = (bytemuck::cast_slice_mut(&mut blocks), 0);
        let mut work = Vec::new();
        for rows in parts.iter().flat_map(tiles) {
            assert_eq!(rows.start, done, "parts of rows");
            done = rows.end;
            let (blocks, others) =
                std::mem::take(&mut rest).split_at_mut(rows.len() * blocks_per_row);
            rest = others;
            work.push((rows, blocks));
        }
        assert_eq!(done, rows, "parts of rows");
        let task = rows_per_task(work.len(), TALL * width * ops);
        let work = work.into_par_iter().with_min_len(task);
        work.for_each(|(rows, blocks)| fill(rows, blocks));
        Self {
            blocks,
            blocks_per_row,
        }
    }

    /// Returns a part.
    pub(super) fn part(&self, rows: Range<usize>) -> Part<'_> {
        let blocks = rows.start * self.blocks_per_row..rows.end * self.blocks_per_row;
        Part {
            rows: rows.len(),
            blocks: &bytemuck::cast_slice(&self.blocks)[blocks],
            blocks_per_row: self.blocks_per_row,
        }
    }
}

/// The rows of a part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    rows: usize,
    blocks: &'a [RowBlock],
    blocks_per_row: usize,
}

impl<'a> Part<'a> {
    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the elements of a row.
    pub(super) fn width(&self) -> usize {
        self.blocks_per_row * BLOCK
    }

    /// Returns the rows of every tile, counted from the part's first, and its blocks.
    #[inline(always)]
    pub(super) fn tiles(self) -> impl Iterator<Item = (Range<usize>, &'a [RowBlock])> {
        let all = self.blocks;
        tiles(&(0..self.rows)).map(move |rows| {
            let blocks = rows.start * self.blocks_per_row..rows.end * self.blocks_per_row;
            (rows, &all[blocks])
        })
    }
}

/// Divides the rows of a part into tiles.
#[inline(always)]
fn tiles(part: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (first, len) = (part.start, part.len());
    let count = len.div_ceil(TALL);
    let cut = move |tile| first + tile * len / count;
    (0..count).map(move |tile| cut(tile)..cut(tile + 1))
}

/// Rounds the rows of a tile.
struct Round<'a> {
    codes: Codes,
    /// Row by row.
    x: &'a [f32],
    blocks_per_row: usize,
    /// In the order of the tile.
    blocks: &'a mut [RowBlock],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.x.chunks_exact((self.blocks_per_row * BLOCK).max(1));
        let height = rows.len();
        for (row, x) in rows.enumerate() {
            let (x, _) = x.as_chunks();
            for (index, x) in x.iter().enumerate() {
                self.blocks[index * height + row] = round(s, self.codes, x);
            }
        }
    }
}

#[inline(always)]
fn round<S: Simd>(s: S, codes: Codes, x: &[f32; BLOCK]) -> RowBlock {
    let zero = s.splat(0.0);
    let (mut high, mut low, mut zeros) = (zero, zero, zero);
    for x in x.chunks_exact(S::LANES) {
        let x = s.load(x);
        (high, low) = (s.max(x, high), s.min(x, low));
        zeros = s.fma(x, zero, zeros);
    }
    let largest = s.reduce_max(s.max(high, s.sub(zero, low)));
    let per_unit = if largest > 0.0 {
        LARGEST / largest
    } else {
        0.0
    };
    let (mut quads, mut sums) = ([0.0; BLOCK / 4], [0.0; 2]);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut quads);
    let halves = x
        .chunks_exact(BLOCK / 2)
        .zip(bytes.chunks_exact_mut(BLOCK / 2));
    for ((x, bytes), sum) in halves.zip(&mut sums) {
        let mut integers = zero;
        for (x, bytes) in x
            .chunks_exact(S::LANES)
            .zip(bytes.chunks_exact_mut(S::LANES))
        {
            // The sum has units of one, so it is rounded to an integer, ties to even; its low byte is that integer's.
            let units = s.splat(UNITS);
            let x = s.add(s.mul(s.load(x), s.splat(per_unit)), units);
            s.store_bytes(x, bytes);
            integers = s.add(integers, s.sub(x, units));
        }
        *sum = s.reduce_add(integers);
    }
    // A NaN or an infinity must not vanish in the rounding; zero times it is NaN.
    let is_finite = s.reduce_add(zeros) == 0.0;
    let scale = if is_finite {
        largest / LARGEST
    } else {
        f32::NAN
    };
    let [first, last] = sums;
    let bias = |sum: f32| f32::from_bits((-codes.bias() * sum as i32) as u32);
    RowBlock {
        quads,
        scale,
        offsets: match codes {
            Codes::Q4_0 | Codes::Q8_0 => [bias(first + last), 0.0],
            Codes::Q4K | Codes::Q5K => [scale * -(first + last), 0.0],
            Codes::Q6K => [bias(first), bias(last)],
        },
    }
}
