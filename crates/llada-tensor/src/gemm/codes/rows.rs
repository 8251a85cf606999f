//! Rows rounded to signed bytes, a unit per block of 32, in the order in which the kernel reads them.
//!
//! Where units are powers of two this is MXINT8 of OCP's Microscaling formats.

use std::cmp::Reverse;
use std::ops::Range;

use bytemuck::Zeroable;
use rayon::prelude::*;

use super::{BLOCK, Codes};
use crate::Isa;
use crate::buffer::Buffer;
use crate::gemm::{Left, Matrix};
use crate::parallel::{from_both_ends, rows_per_task};
use crate::simd::{Kernel, Simd, dispatch};

/// Largest magnitude of a rounded element.
const LARGEST: f32 = 127.0;
/// 1.5 * 2^23: from 2^23 to 2^24, neighbours among `f32` differ by one. So the integers around zero can be added to its
/// bits, and it be subtracted then, to make numbers of them.
pub(super) const UNITS: f32 = 12_582_912.0;
/// The bits of an `f32` below its exponent.
const FRACTION: u32 = (1 << (f32::MANTISSA_DIGITS - 1)) - 1;

/// 32 elements of a row.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RowBlock {
    /// Four signed bytes each, as the bits of an `f32` so that they can be splatted like one.
    pub(super) quads: [f32; BLOCK / 4],
    /// What an element is worth per unit; times [`UNITS`] if that is a power of two. NaN if a number is not finite, or too
    /// large for that.
    pub(super) unit: f32,
    /// What the product of each half begins with if halves have scales of their own, else that of all and what an offset
    /// of the weights is multiplied by: [`UNITS`], times the unit as above, less the sum of the elements times the codes'
    /// bias; minus the value of that sum.
    pub(super) starts: [f32; 2],
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
pub(crate) struct CodeRows {
    blocks: Buffer<f32>,
    blocks_per_row: usize,
}

impl CodeRows {
    /// Rounds the rows of an operand, in its order.
    ///
    /// # Panics
    /// As [`CodeRows::new`] and [`CodeRows::picked`].
    pub(super) fn of(isa: Isa, codes: Codes, a: Left<'_>, parts: &[Range<usize>]) -> Self {
        let x = Matrix::of(a.x);
        match a.rows {
            Some(picked) => Self::picked(isa, codes, x, picked, parts),
            None => Self::new(isa, codes, x, parts),
        }
    }

    /// Rounds every block of 32 elements to multiples of a unit, 127 of which reach its largest magnitude.
    ///
    /// # Panics
    /// If the width is not a multiple of 32, or the parts do not follow each other over all rows.
    pub(super) fn new(isa: Isa, codes: Codes, x: Matrix<'_>, parts: &[Range<usize>]) -> Self {
        let ([_, width], x) = (x.shape(), x.f32_rows());
        let tiles: Vec<_> = parts.iter().flat_map(tiles).collect();
        let task = rows_per_task(tiles.len(), TALL * width * OPS);
        let rounded = Self::fill(width, &tiles, task, |rows, blocks| {
            let x = &x[rows.start * width..rows.end * width];
            round_tile(isa, codes, x, width, blocks);
        });
        assert_eq!(rounded.rows() * width, x.len(), "parts of rows");
        rounded
    }

    /// The same of rows that are picked from `x`, each of which is rounded once.
    ///
    /// # Panics
    /// As [`CodeRows::new`], or if a row does not exist.
    fn picked(
        isa: Isa,
        codes: Codes,
        x: Matrix<'_>,
        picked: &[u32],
        parts: &[Range<usize>],
    ) -> Self {
        let [_, width] = x.shape();
        let alone = Self::alone(isa, codes, x);
        let tiles: Vec<_> = parts.iter().flat_map(tiles).collect();
        let task = rows_per_task(tiles.len(), TALL * width);
        let all = Self::fill(width, &tiles, task, |rows, blocks| {
            alone.copy_tile(&picked[rows], blocks);
        });
        assert_eq!(all.rows() * width, picked.len() * width, "parts of rows");
        all
    }

    /// Rounds every row as a part of its own.
    pub(super) fn alone(isa: Isa, codes: Codes, x: Matrix<'_>) -> Self {
        let [rows, _] = x.shape();
        let parts: Vec<_> = (0..rows).map(|row| row..row + 1).collect();
        Self::new(isa, codes, x, &parts)
    }

    /// Copies rows that are [`alone`](CodeRows::alone) to a part.
    pub(super) fn pick<'a>(&self, picked: &[u32], memory: &'a mut Vec<RowBlock>) -> Part<'a> {
        let len = picked.len() * self.blocks_per_row;
        memory.resize(memory.len().max(len), RowBlock::zeroed());
        let blocks = &mut memory[..len];
        for rows in tiles(&(0..picked.len())) {
            let to = rows.start * self.blocks_per_row..rows.end * self.blocks_per_row;
            self.copy_tile(&picked[rows], &mut blocks[to]);
        }
        Part {
            rows: picked.len(),
            blocks,
            blocks_per_row: self.blocks_per_row,
        }
    }

    /// Copies rows that are alone to a tile.
    fn copy_tile(&self, picked: &[u32], to: &mut [RowBlock]) {
        let mut from = [&[][..]; TALL];
        for (from, &row) in from.iter_mut().zip(picked) {
            *from = self.part(row as usize..row as usize + 1).blocks;
        }
        for (index, to) in to.chunks_exact_mut(picked.len()).enumerate() {
            for (block, from) in to.iter_mut().zip(from) {
                *block = from[index];
            }
        }
    }

    /// Calls `fill` with the number and the blocks of every part, several at a time: of most and of fewest rows.
    ///
    /// # Panics
    /// If the width is not a multiple of 32, or the parts do not follow each other.
    pub(super) fn of_parts(
        codes: Codes,
        width: usize,
        parts: &[Range<usize>],
        fill: impl Fn(usize, PartBlocks<'_>) + Sync,
    ) -> Self {
        let mut all = Self::scratch(width, parts);
        let mut work = all.cut(parts);
        work.sort_by_key(|(part, _)| Reverse(parts[*part].len()));
        from_both_ends(work, |(part, blocks)| {
            let rows = parts[part].len();
            fill(
                part,
                PartBlocks {
                    codes,
                    rows,
                    width,
                    blocks,
                },
            );
        });
        all
    }

    /// Calls `fill` with the rows and the blocks of every range; a thread takes at least `task` of them.
    fn fill(
        width: usize,
        ranges: &[Range<usize>],
        task: usize,
        fill: impl Fn(Range<usize>, &mut [RowBlock]) + Sync,
    ) -> Self {
        let mut all = Self::scratch(width, ranges);
        let work = all.cut(ranges).into_par_iter().with_min_len(task);
        work.for_each(|(index, blocks)| fill(ranges[index].clone(), blocks));
        all
    }

    /// Makes room for the rows of some ranges.
    fn scratch(width: usize, ranges: &[Range<usize>]) -> Self {
        assert!(
            width.is_multiple_of(BLOCK),
            "{width} elements in blocks of {BLOCK}"
        );
        let blocks_per_row = width / BLOCK;
        let rows = ranges.last().map_or(0, |rows| rows.end);
        Self {
            blocks: Buffer::scratch(rows * blocks_per_row * WORDS),
            blocks_per_row,
        }
    }

    /// Cuts into the numbers and the blocks of ranges that cover the rows.
    fn cut(&mut self, ranges: &[Range<usize>]) -> Vec<(usize, &mut [RowBlock])> {
        let (mut rest, mut done) = (bytemuck::cast_slice_mut(&mut self.blocks), 0);
        let mut cut = |(index, rows): (usize, &Range<usize>)| {
            assert_eq!(rows.start, done, "parts of rows");
            done = rows.end;
            let (blocks, others) =
                std::mem::take(&mut rest).split_at_mut(rows.len() * self.blocks_per_row);
            rest = others;
            (index, blocks)
        };
        ranges.iter().enumerate().map(&mut cut).collect()
    }

    /// Returns the number of rows.
    fn rows(&self) -> usize {
        self.blocks.len() / (self.blocks_per_row * WORDS).max(1)
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

/// Where the rows of a part go.
pub(super) struct PartBlocks<'a> {
    codes: Codes,
    rows: usize,
    width: usize,
    blocks: &'a mut [RowBlock],
}

impl PartBlocks<'_> {
    /// Returns the number of elements.
    pub(super) fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Rounds the rows. # Shapes: x [rows, width].
    pub(super) fn round(self, isa: Isa, x: &[f32]) {
        let (width, blocks_per_row) = (self.width, self.width / BLOCK);
        for rows in tiles(&(0..self.rows)) {
            let x = &x[rows.start * width..rows.end * width];
            let to = rows.start * blocks_per_row..rows.end * blocks_per_row;
            round_tile(isa, self.codes, x, width, &mut self.blocks[to]);
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

    /// Returns the number of tiles.
    pub(super) fn num_tiles(&self) -> usize {
        self.rows.div_ceil(TALL)
    }

    /// Returns how many tiles have so many bytes, at least one.
    pub(super) fn tiles_of(&self, bytes: usize) -> usize {
        let tile = TALL * self.blocks_per_row * size_of::<RowBlock>();
        (bytes / tile.max(1)).max(1)
    }

    /// Returns the rows of a tile, counted from the part's first, and its blocks.
    #[inline(always)]
    pub(super) fn tile(self, index: usize) -> (Range<usize>, &'a [RowBlock]) {
        let rows = tile_of(self.rows, index);
        let blocks = rows.start * self.blocks_per_row..rows.end * self.blocks_per_row;
        (rows, &self.blocks[blocks])
    }
}

/// Returns the rows of one of the tiles into which some rows, which exist, are divided.
#[inline(always)]
fn tile_of(rows: usize, index: usize) -> Range<usize> {
    let count = rows.div_ceil(TALL);
    index * rows / count..(index + 1) * rows / count
}

/// Divides the rows of a part into tiles.
fn tiles(part: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (first, len) = (part.start, part.len());
    (0..len.div_ceil(TALL)).map(move |index| {
        let rows = tile_of(len, index);
        first + rows.start..first + rows.end
    })
}

/// Rounds the rows of a tile. # Shapes: x [rows, width].
fn round_tile(isa: Isa, codes: Codes, x: &[f32], width: usize, blocks: &mut [RowBlock]) {
    let round = Round {
        codes,
        x,
        blocks_per_row: width / BLOCK,
        blocks,
    };
    dispatch(isa, round);
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
    let (mut high, mut low) = (zero, zero);
    for x in x.chunks_exact(S::LANES) {
        let x = s.load(x);
        (high, low) = (s.max(x, high), s.min(x, low));
    }
    let unit = unit(codes, s.reduce_max(s.max(high, s.sub(zero, low))));
    let per_unit = s.splat(1.0 / unit);
    let (mut quads, mut halves) = ([0.0; BLOCK / 4], [zero; 2]);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut quads);
    let parts = x
        .chunks_exact(BLOCK / 2)
        .zip(bytes.chunks_exact_mut(BLOCK / 2));
    for ((x, bytes), integers) in parts.zip(&mut halves) {
        for (x, bytes) in x
            .chunks_exact(S::LANES)
            .zip(bytes.chunks_exact_mut(S::LANES))
        {
            // The sum has units of one, so it is rounded to an integer, ties to even; its low byte is that integer's.
            let units = s.splat(UNITS);
            let x = s.add(s.mul(s.load(x), per_unit), units);
            s.store_bytes(x, bytes);
            *integers = s.add(*integers, s.sub(x, units));
        }
    }
    let all = s.reduce_add(s.add(halves[0], halves[1]));
    let step = if codes.has_binary_units() { unit } else { 1.0 };
    let base = step * UNITS;
    let start = |sum: f32| base - codes.bias() as f32 * sum * step; // exactly
    // A NaN or an infinity must not vanish in the rounding; either makes this sum NaN.
    let is_finite = (all + base + unit).is_finite();
    RowBlock {
        quads,
        unit: match (is_finite, codes.has_binary_units()) {
            (false, _) => f32::NAN,
            (true, true) => base,
            (true, false) => unit,
        },
        starts: match codes {
            Codes::Q4_0 | Codes::Q8_0 => [start(all), 0.0],
            Codes::Q4K | Codes::Q5K => [start(all), -all * unit],
            Codes::Q6K => halves.map(|half| start(s.reduce_add(half))),
        },
    }
}

/// Returns the unit of which [`LARGEST`] reach a magnitude, or the smallest power of two that does. Numbers near the
/// smallest there are become zeros.
#[inline(always)]
fn unit(codes: Codes, largest: f32) -> f32 {
    let exact = largest / LARGEST;
    let unit = match codes.has_binary_units() {
        true => f32::from_bits(exact.to_bits().wrapping_add(FRACTION) & !FRACTION),
        false => exact,
    };
    unit.max(f32::MIN_POSITIVE)
}
