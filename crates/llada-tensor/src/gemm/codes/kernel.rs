//! One thread's part of a product with codes: a panel at a time, as many rows as registers hold.

use half::f16;

use super::BLOCK;
use super::panels::{CodePanels, Codes};
use super::rows::{CodeRows, RowBlock};
use crate::gemm::Start;
use crate::gemm::matrix::Target;
use crate::gemm::pack::{Line, PANEL};
use crate::simd::{Kernel, Simd};

/// Rows whose dot products advance together, so that none waits for its own last step.
const ABREAST: usize = 4;
/// Rows up to which memory is slower than the products with what it brings.
const MEMORY_BOUND_ROWS: usize = 8;
/// How far ahead of the codes in use others are asked for.
const AHEAD_BYTES: usize = 4096;
/// Vectors of codes of a block.
const QUADS: usize = BLOCK / 4;

/// `C += A B` or `C = A B` for some rows of A and some panels of B.
pub(super) struct Sweep<'a> {
    pub(super) a: &'a CodeRows,
    pub(super) b: &'a CodePanels,
    pub(super) first_panel: usize,
    pub(super) c: Target<'a>,
}

impl Sweep<'_> {
    /// Cuts before column `at`, a multiple of a panel or the end.
    pub(super) fn split(self, at: usize) -> [Self; 2] {
        let [left, right] = self.c.split_columns(at);
        [
            Self { c: left, ..self },
            Self {
                first_panel: self.first_panel + at / PANEL,
                c: right,
                ..self
            },
        ]
    }
}

impl Kernel for Sweep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.b.codes() {
            Codes::Q4_0 => sweep::<S, Nibbles>(s, self),
            Codes::Q8_0 => sweep::<S, Bytes>(s, self),
        }
    }
}

/// How the codes of a block lie in lines.
trait Format {
    const LINES: usize;

    /// Returns the codes of the columns from `lane` on, four elements of k per column and vector.
    fn unpack<S: Simd>(s: S, lines: &[Line], lane: usize) -> [S::V; QUADS];
}

struct Nibbles;

impl Format for Nibbles {
    const LINES: usize = 4;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, lines: &[Line], lane: usize) -> [S::V; QUADS] {
        let mut codes = [s.splat(0.0); QUADS];
        for i in 0..QUADS / 2 {
            let pairs = s.load(&lines[i].0[lane..]);
            codes[i] = s.low_nibbles(pairs);
            codes[i + QUADS / 2] = s.high_nibbles(pairs);
        }
        codes
    }
}

struct Bytes;

impl Format for Bytes {
    const LINES: usize = 8;

    #[inline(always)]
    fn unpack<S: Simd>(s: S, lines: &[Line], lane: usize) -> [S::V; QUADS] {
        let mut codes = [s.splat(0.0); QUADS];
        for i in 0..QUADS {
            codes[i] = s.load(&lines[i].0[lane..]);
        }
        codes
    }
}

#[inline(always)]
fn sweep<S: Simd, F: Format>(s: S, sweep: Sweep<'_>) {
    let Sweep {
        a,
        b,
        first_panel,
        mut c,
    } = sweep;
    let [m, n] = c.shape();
    for (index, first) in (0..n).step_by(PANEL).enumerate() {
        let panel = b.panel(first_panel + index);
        for lane in (0..PANEL.min(n - first)).step_by(S::LANES) {
            let mut done = 0;
            while done < m {
                let height = tile_rows(m - done);
                let a = a.blocks(done..done + height);
                let column = first + lane;
                let c = c.block(done..done + height, column..n.min(column + S::LANES));
                match height {
                    16 => tile::<S, F, 16>(s, a, panel, lane, c),
                    8 => tile::<S, F, 8>(s, a, panel, lane, c),
                    4 => tile::<S, F, 4>(s, a, panel, lane, c),
                    2 => tile::<S, F, 2>(s, a, panel, lane, c),
                    _ => tile::<S, F, 1>(s, a, panel, lane, c),
                }
                done += height;
            }
        }
    }
}

/// Returns the rows of the next tile.
#[inline(always)]
fn tile_rows(rest: usize) -> usize {
    [16, 8, 4, 2, 1]
        .into_iter()
        .find(|&rows| rows <= rest)
        .unwrap_or(1)
}

/// Computes one vector of columns of some rows in registers.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators of vectors are not always compiled into this function"
)]
#[inline(always)]
fn tile<S: Simd, F: Format, const ROWS: usize>(
    s: S,
    a: &[RowBlock],
    (scales, lines): (&[f16], &[Line]),
    lane: usize,
    mut c: Target<'_>,
) {
    let blocks = a.len() / ROWS;
    let (scales, lines) = (&scales[..blocks * PANEL], &lines[..blocks * F::LINES]);
    let mut acc = [s.splat(0.0); ROWS];
    if c.start() == Start::Sum {
        for i in 0..ROWS {
            acc[i] = s.load_or(c.row_from(i, 0), 0.0);
        }
    }
    for block in 0..blocks {
        let lines = &lines[block * F::LINES..][..F::LINES];
        if ROWS <= MEMORY_BOUND_ROWS {
            for i in 0..F::LINES {
                s.prefetch(&lines[i], AHEAD_BYTES);
            }
        }
        let codes = F::unpack(s, lines, lane);
        let scale = s.load_f16(&scales[block * PANEL + lane..]);
        for first in (0..ROWS).step_by(ABREAST) {
            let mut dots = [s.splat(0.0); ABREAST];
            for i in 0..ABREAST.min(ROWS) {
                dots[i] = s.splat(a[(first + i) * blocks + block].offset);
            }
            for quad in 0..QUADS {
                for i in 0..ABREAST.min(ROWS) {
                    let a = s.splat(a[(first + i) * blocks + block].quads[quad]);
                    dots[i] = s.dot_bytes(codes[quad], a, dots[i]);
                }
            }
            for i in 0..ABREAST.min(ROWS) {
                let scale = s.mul(scale, s.splat(a[(first + i) * blocks + block].scale));
                acc[first + i] = s.fma(s.int_to_f32(dots[i]), scale, acc[first + i]);
            }
        }
    }
    for i in 0..ROWS {
        s.store_some(acc[i], c.row_from(i, 0));
    }
}
