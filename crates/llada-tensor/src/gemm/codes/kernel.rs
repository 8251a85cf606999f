//! One thread's part of a product with codes: two vectors of columns at a time, as many rows as
//! registers hold.

use super::formats::{Format, Q4_0, Q4K, Q5K, Q6K, Q8_0, Strip};
use super::layout::{Codes, HALF};
use super::panels::CodePanels;
use super::rows::{Part, RowBlock};
use crate::gemm::Start;
use crate::gemm::matrix::Target;
use crate::gemm::pack::PANEL;
use crate::simd::{Kernel, Simd};

/// Rows whose products take as long as reading the codes.
const CODES_COST_ROWS: usize = 4;
/// How far ahead of the codes and scales in use others are asked for, in bytes: so far that they come while
/// products are computed.
const FAR: usize = 20480;
/// The same for codes that are used once: the processor sees one stream of them and asks for the rest.
const NEAR: usize = 2048;

/// `C += A B` or `C = A B` for some rows of A and some panels of B.
pub(super) struct Sweep<'a> {
    a: Part<'a>,
    b: &'a CodePanels,
    first_panel: usize,
    c: Target<'a>,
}

impl<'a> Sweep<'a> {
    /// The product of rows and all columns. # Panics if the shapes disagree.
    pub(super) fn new(a: Part<'a>, b: &'a CodePanels, c: Target<'a>) -> Self {
        let [k, n] = b.shape();
        assert_eq!(k, a.width(), "elements of rows and columns");
        assert_eq!(c.shape(), [a.rows(), n], "rows and columns");
        Self {
            a,
            b,
            first_panel: 0,
            c,
        }
    }

    /// Returns about how long the sweep takes, in multiply-adds.
    pub(super) fn cost(&self) -> usize {
        let [m, n] = self.c.shape();
        n * self.a.width() * m.max(CODES_COST_ROWS)
    }

    /// Returns how many columns, in whole panels, take about this long.
    pub(super) fn columns_for(&self, cost: usize) -> usize {
        let [_, n] = self.c.shape();
        let panels = n * cost / self.cost().max(1) / PANEL;
        (panels * PANEL).min(n)
    }

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
            Codes::Q4_0 => sweep::<S, Q4_0>(s, self),
            Codes::Q8_0 => sweep::<S, Q8_0>(s, self),
            Codes::Q4K => sweep::<S, Q4K>(s, self),
            Codes::Q5K => sweep::<S, Q5K>(s, self),
            Codes::Q6K => sweep::<S, Q6K>(s, self),
        }
    }
}

#[inline(always)]
fn sweep<S: Simd, F: Format>(s: S, mut sweep: Sweep<'_>) {
    let [_, n] = sweep.c.shape();
    for column in (0..n).step_by(S::LANES) {
        strip::<S, F>(s, &mut sweep, column);
    }
}

/// Computes a vector of columns for all rows.
#[inline(always)]
fn strip<S: Simd, F: Format>(s: S, sweep: &mut Sweep<'_>, column: usize) {
    let [num_rows, n] = sweep.c.shape();
    let (head, lines) = sweep.b.panel(sweep.first_panel + column / PANEL);
    let b = Strip {
        head,
        lines,
        lane: if S::LANES == PANEL { 0 } else { column % PANEL },
    };
    let columns = column..n.min(column + S::LANES);
    for (rows, blocks) in sweep.a.tiles() {
        let (height, mut done) = (rows.len(), 0);
        while done < height {
            let now = (height - done).min(S::REGISTERS / 4);
            let first = rows.start + done;
            let a = Rows {
                blocks,
                height,
                first: done,
                ahead: match first {
                    0 if now == num_rows && S::LANES == PANEL => Ahead::Once,
                    0 => Ahead::Far,
                    _ => Ahead::Nothing,
                },
            };
            let c = sweep.c.block(first..first + now, columns.clone());
            match now {
                8 => tile::<S, F, 8>(s, a, b, c),
                7 => tile::<S, F, 7>(s, a, b, c),
                6 => tile::<S, F, 6>(s, a, b, c),
                5 => tile::<S, F, 5>(s, a, b, c),
                4 => tile::<S, F, 4>(s, a, b, c),
                3 => tile::<S, F, 3>(s, a, b, c),
                2 => tile::<S, F, 2>(s, a, b, c),
                _ => tile::<S, F, 1>(s, a, b, c),
            }
            done += now;
        }
    }
}

/// Some rows of a tile.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// The blocks of the whole tile.
    blocks: &'a [RowBlock],
    /// Rows of the whole tile.
    height: usize,
    first: usize,
    ahead: Ahead,
}

/// Which codes and scales are asked for ahead of use.
#[derive(Clone, Copy)]
enum Ahead {
    /// Those that no other rows will read.
    Once,
    /// Those that other rows will read again.
    Far,
    /// None: the rows before have asked.
    Nothing,
}

/// Computes a vector of columns of some rows in registers.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators of vectors are not always compiled into this function"
)]
#[inline(always)]
fn tile<S: Simd, F: Format, const ROWS: usize>(s: S, a: Rows<'_>, b: Strip<'_>, mut c: Target<'_>) {
    let blocks = a.blocks.chunks_exact(a.height);
    let scales_of_a_block = b.head.len() / blocks.len().max(1);
    let mut acc = [s.splat(0.0); ROWS];
    if c.start() == Start::Sum {
        for i in 0..ROWS {
            acc[i] = s.load_or(c.row_from(i, 0), 0.0);
        }
    }
    for (block, rows) in blocks.enumerate() {
        let rows = &rows[a.first..][..ROWS];
        let lines = &b.lines[block * F::LINES..][..F::LINES];
        let scales = &b.head[block * scales_of_a_block];
        match a.ahead {
            Ahead::Once => {
                s.prefetch_once(scales, FAR);
                for line in lines {
                    s.prefetch_once(line, NEAR);
                }
            }
            Ahead::Far => {
                s.prefetch(scales, FAR);
                for line in lines {
                    s.prefetch(line, FAR);
                }
            }
            Ahead::Nothing => {}
        }
        let scales = F::scales(s, b, block);
        let [first, last] = F::codes(s, lines, b.lane);
        let mut dots = [s.splat(0.0); ROWS];
        if !F::HAS_OFFSET {
            for i in 0..ROWS {
                dots[i] = s.splat(rows[i].offsets[0]);
            }
        }
        multiply(s, first, rows, 0, &mut dots);
        if F::SCALES == 2 {
            add_scaled(s, dots, scales.scale[0], rows, &mut acc);
            for i in 0..ROWS {
                dots[i] = s.splat(rows[i].offsets[1]);
            }
        }
        multiply(s, last, rows, HALF, &mut dots);
        add_scaled(s, dots, scales.scale[1], rows, &mut acc);
        if F::HAS_OFFSET {
            for i in 0..ROWS {
                acc[i] = s.fma(scales.offset, s.splat(rows[i].offsets[0]), acc[i]);
            }
        }
    }
    for i in 0..ROWS {
        s.store_some(acc[i], c.row_from(i, 0));
    }
}

/// Adds the products of half a block, whose fours of a row begin with number `first`.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators of vectors are not always compiled into this function"
)]
#[inline(always)]
fn multiply<S: Simd, const ROWS: usize>(
    s: S,
    codes: [S::V; HALF],
    rows: &[RowBlock],
    first: usize,
    dots: &mut [S::V; ROWS],
) {
    for quad in 0..HALF {
        for i in 0..ROWS {
            let a = s.splat(rows[i].quads[first + quad]);
            dots[i] = s.dot_bytes(codes[quad], a, dots[i]);
        }
    }
}

/// Adds dot products times the scales of columns and rows.
#[inline(always)]
fn add_scaled<S: Simd, const ROWS: usize>(
    s: S,
    dots: [S::V; ROWS],
    scale: S::V,
    rows: &[RowBlock],
    acc: &mut [S::V; ROWS],
) {
    for i in 0..ROWS {
        let scale = s.mul(scale, s.splat(rows[i].scale));
        acc[i] = s.fma(s.int_to_f32(dots[i]), scale, acc[i]);
    }
}
