//! One thread's part of a product: blocks that fit the caches, and the tile of C held in registers.

use std::cell::RefCell;
use std::ops::Range;

use super::matrix::{Matrix, Target};
use super::pack::{
    Format, Line, PANEL, Pair, PanelsView, Single, lines_of, pack_panel, pack_right,
};
use super::{Precision, Right, Start};
use crate::Isa;
use crate::simd::{Kernel, Simd};

/// A multiple of the height of every tile.
pub(super) const TALL: usize = 8;
/// Words along k of a block: a tile's panels of B stay in the L1 or L2 cache.
const BLOCK_WORDS: usize = 512;
/// Rows of a block of A, a multiple of [`TALL`]: the packed block stays in the L2 cache.
const BLOCK_ROWS: usize = 192;
/// Columns of a block of B, which stays in the L3 cache.
const BLOCK_COLUMNS: usize = 1024;

/// Packed blocks, reused by all products of a thread.
#[derive(Default)]
struct Buffers {
    a: Vec<f32>,
    b: Vec<Line>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// `C += A B` or `C = A B` for a rectangle of C.
pub(super) struct Block<'a> {
    pub(super) isa: Isa,
    pub(super) precision: Precision,
    /// The rows of A of this rectangle.
    pub(super) a: Matrix<'a>,
    /// All of B.
    pub(super) b: Right<'a>,
    /// First column of B of this rectangle; a multiple of [`PANEL`].
    pub(super) first_column: usize,
    pub(super) c: Target<'a>,
}

impl Block<'_> {
    /// Cuts before row `at`.
    pub(super) fn split_rows(self, at: usize) -> [Self; 2] {
        let [rows, k] = self.a.shape();
        let [above, below] = self.c.split_rows(at);
        [
            Self {
                a: self.a.block(0..at, 0..k),
                c: above,
                ..self
            },
            Self {
                a: self.a.block(at..rows, 0..k),
                c: below,
                ..self
            },
        ]
    }

    /// Cuts before column `at`, a multiple of [`PANEL`] or the end.
    pub(super) fn split_columns(self, at: usize) -> [Self; 2] {
        let [left, right] = self.c.split_columns(at);
        [
            Self { c: left, ..self },
            Self {
                first_column: self.first_column + at,
                c: right,
                ..self
            },
        ]
    }
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut buffers = BUFFERS.take();
        match self.precision {
            Precision::F32 => multiply::<S, Single>(s, self, &mut buffers),
            Precision::Bf16 => multiply::<S, Pair>(s, self, &mut buffers),
        }
        BUFFERS.set(buffers);
    }
}

/// Returns consecutive ranges of `step` that cover `0..len`.
#[inline(always)]
fn ranges(len: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len)
        .step_by(step)
        .map(move |start| start..len.min(start + step))
}

#[inline(always)]
fn multiply<S: Simd, F: Format>(s: S, block: Block<'_>, buffers: &mut Buffers) {
    let Block {
        a,
        b,
        first_column,
        mut c,
        ..
    } = block;
    let [m, n] = c.shape();
    let k = a.shape()[1];
    for depth in ranges(k, BLOCK_WORDS * F::DEPTH) {
        for columns in ranges(n, BLOCK_COLUMNS) {
            let b = match b {
                Right::Plain(b) => {
                    let columns = first_column + columns.start..first_column + columns.end;
                    let b = b.block(depth.clone(), columns);
                    let count = buffers.b.len().max(lines_of::<F>(b.shape()));
                    buffers.b.resize(count, Line([0.0; PANEL]));
                    pack_right::<S, F>(s, b, &mut buffers.b)
                }
                Right::Packed(panels) => panels.view(
                    first_column + columns.start,
                    depth.start / F::DEPTH,
                    depth.len().div_ceil(F::DEPTH),
                ),
                Right::Codes(_) => unreachable!("products with codes have a kernel of their own"),
            };
            for rows in ranges(m, BLOCK_ROWS) {
                let a = a.block(rows.clone(), depth.clone());
                let mut c = c.block(rows, columns.clone());
                if depth.start > 0 {
                    c.start_from(Start::Sum); // of the depths before
                }
                multiply_block::<S, F>(s, a, b, c, &mut buffers.a);
            }
        }
    }
}

/// Rows of the tiles that cover most of a block.
#[inline(always)]
fn tile_rows<S: Simd>() -> usize {
    // Half of the 32 or of the 16 registers accumulate.
    if S::LANES == 16 { 8 } else { 4 }
}

/// Rows of the one tile that covers the rest.
#[inline(always)]
fn low_tile_rows<S: Simd>(rest: usize) -> usize {
    match rest {
        0..=2 => rest.max(1),
        3 | 4 => 4,
        _ => tile_rows::<S>(),
    }
}

/// Adds a product of which A and the view of B fit the caches.
#[inline(always)]
fn multiply_block<S: Simd, F: Format>(
    s: S,
    a: Matrix<'_>,
    b: PanelsView<'_>,
    mut c: Target<'_>,
    buffer: &mut Vec<f32>,
) {
    let [m, n] = c.shape();
    let k = a.shape()[1];
    let tall = m - m % tile_rows::<S>();
    for (rows, height) in [
        (0..tall, tile_rows::<S>()),
        (tall..m, low_tile_rows::<S>(m - tall)),
    ] {
        let (a, c) = (a.block(rows.clone(), 0..k), c.block(rows, 0..n));
        match (S::LANES, height) {
            (_, 1) => sweep::<S, F, 1, 8>(s, a, b, c, buffer),
            (_, 2) => sweep::<S, F, 2, 4>(s, a, b, c, buffer),
            (16, 4) => sweep::<S, F, 4, 4>(s, a, b, c, buffer),
            (16, _) => sweep::<S, F, 8, 2>(s, a, b, c, buffer),
            _ => sweep::<S, F, 4, 2>(s, a, b, c, buffer),
        }
    }
}

/// Packs A, then computes C tile by tile; the panels of B change slowest.
#[inline(always)]
fn sweep<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(
    s: S,
    a: Matrix<'_>,
    b: PanelsView<'_>,
    mut c: Target<'_>,
    buffer: &mut Vec<f32>,
) {
    let [m, n] = c.shape();
    let a = pack_left::<S, F, ROWS>(s, a, b.words, buffer);
    let last_panel = n.div_ceil(PANEL).saturating_sub(1);
    for columns in ranges(n, VECTORS * S::LANES) {
        let mut panels = [&[][..]; VECTORS];
        for (j, panel) in panels.iter_mut().enumerate() {
            // Vectors past the end repeat the last panel; their results are not stored.
            *panel = b.panel(((columns.start + j * S::LANES) / PANEL).min(last_panel));
        }
        for (rows, a) in ranges(m, ROWS).zip(a.chunks_exact(ROWS * b.words)) {
            let c = c.block(rows, columns.clone());
            multiply_tile::<S, F, ROWS, VECTORS>(s, a, panels, c);
        }
    }
}

/// Packs A into panels of ROWS rows, each of `words` steps.
#[inline(always)]
fn pack_left<'a, S: Simd, F: Format, const ROWS: usize>(
    s: S,
    a: Matrix<'_>,
    words: usize,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    let [rows, k] = a.shape();
    let len = rows.next_multiple_of(ROWS) * words;
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    for (rows, panel) in ranges(rows, ROWS).zip(buffer.chunks_exact_mut(ROWS * words)) {
        pack_panel::<S, F, ROWS>(s, a.block(rows, 0..k), panel);
    }
    &buffer[..len]
}

/// Computes one tile of C in registers.
#[inline(always)]
fn multiply_tile<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(
    s: S,
    a: &[f32],
    panels: [&[Line]; VECTORS],
    mut c: Target<'_>,
) {
    let [m, _] = c.shape();
    let loaded = match c.start() {
        Start::Sum => m,
        Start::Zero => 0,
    };
    // Loops over constants with a condition inside, so that `acc` stays in registers.
    let mut acc = [[s.splat(0.0); VECTORS]; ROWS];
    for (i, acc) in acc.iter_mut().enumerate() {
        for (j, acc) in acc.iter_mut().enumerate() {
            if i < loaded {
                *acc = s.load_or(c.row_from(i, j * S::LANES), 0.0);
            }
        }
    }
    let words = a.len() / ROWS;
    let panels = panels.map(|panel| &panel[..words]);
    for (p, a) in a.chunks_exact(ROWS).enumerate() {
        let mut b = [s.splat(0.0); VECTORS];
        for j in 0..VECTORS {
            b[j] = s.load(&panels[j][p].0[j * S::LANES % PANEL..]);
        }
        for (acc, &a) in acc.iter_mut().zip(a) {
            let a = s.splat(a);
            for (acc, &b) in acc.iter_mut().zip(&b) {
                *acc = F::multiply(s, a, b, *acc);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, acc) in acc.iter().enumerate() {
            if i < m {
                s.store_some(*acc, c.row_from(i, j * S::LANES));
            }
        }
    }
}
