//! One thread's part of a product with codes: as many rows and vectors of columns as registers hold.

use std::ops::Range;

use super::BLOCK;
use super::formats::{Format, Group, Q4_0, Q4K, Q5K, Q6K, Q8_0, Strip};
use super::layout::{Codes, HALF};
use super::panels::CodePanels;
use super::rows::{Part, RowBlock, UNITS};
use crate::Isa;
use crate::gemm::Start;
use crate::gemm::matrix::Target;
use crate::gemm::pack::{Line, PANEL};
use crate::simd::{Kernel, Simd, dispatch};

/// Most panels that are multiplied at a time.
const WIDE: usize = 2;
/// Bytes of the rows that meet all columns before the next ones do: they stay in the second-level cache.
const ROW_BYTES: usize = 350 << 10;
/// Rows whose products take as long as reading the codes.
const CODES_COST_ROWS: usize = 4;

/// `C += A B` or `C = A B` for some rows of A and some panels of B.
pub(super) struct Sweep<'a> {
    a: Part<'a>,
    b: &'a CodePanels,
    first_panel: usize,
    c: Target<'a>,
    /// What this thread reads next.
    next: &'a [Line],
}

impl<'a> Sweep<'a> {
    /// The product of rows and all columns. # Panics if the shapes disagree.
    pub(super) fn new(a: Part<'a>, b: &'a CodePanels, c: Target<'a>) -> Self {
        let [_, n] = b.shape();
        Self::of_columns(a, b, 0..n, c)
    }

    /// The product of rows and some columns, which begin with a panel. # Panics if they do not, or the shapes disagree.
    pub(super) fn of_columns(
        a: Part<'a>,
        b: &'a CodePanels,
        columns: Range<usize>,
        c: Target<'a>,
    ) -> Self {
        let [k, n] = b.shape();
        assert_eq!(k, a.width(), "elements of rows and columns");
        assert!(
            columns.start.is_multiple_of(PANEL) && columns.end <= n,
            "columns {columns:?} of {n}"
        );
        assert_eq!(c.shape(), [a.rows(), columns.len()], "rows and columns");
        Self {
            a,
            b,
            first_panel: columns.start / PANEL,
            c,
            next: &[],
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

    /// Returns the scales and codes that are read first.
    pub(super) fn first_lines(&self) -> &'a [Line] {
        first_lines(self.b, self.first_panel)
    }

    /// Lets the last columns ask for what is read after them.
    pub(super) fn followed_by(self, next: &'a [Line]) -> Self {
        Self { next, ..self }
    }

    /// Returns a vector of columns.
    #[inline(always)]
    fn strip(&self, column: usize) -> Strip<'a> {
        Strip {
            lines: self.b.panel(self.first_panel + column / PANEL),
            lane: column % PANEL,
        }
    }

    /// Returns what is read after the columns before `end`: some panels.
    #[inline(always)]
    fn lines_from(&self, end: usize, panels: usize) -> &'a [Line] {
        let [_, n] = self.c.shape();
        let first = self.first_panel + end / PANEL;
        let last = self.first_panel + n.div_ceil(PANEL);
        match first < last {
            true => self.b.lines(first..last.min(first + panels)),
            false => self.next,
        }
    }
}

/// Returns the scales and codes that a product of the columns from a panel on reads first.
pub(super) fn first_lines(b: &CodePanels, panel: usize) -> &[Line] {
    b.lines(panel..panel + WIDE)
}

/// Asks for lines that will be read soon.
pub(super) fn ask_for(isa: Isa, lines: &[Line]) {
    dispatch(isa, Ask(lines));
}

struct Ask<'a>(&'a [Line]);

impl Kernel for Ask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for line in self.0 {
            s.prefetch(line, 0);
        }
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
    let [num_rows, n] = sweep.c.shape();
    // Two vectors share what is read of the rows; few rows wait for memory, and a panel alone is one stream.
    let has_pairs = S::LANES < PANEL || num_rows > tile_rows::<S>();
    let paired = if has_pairs { n - n % (2 * S::LANES) } else { 0 };
    let (tiles, together) = (sweep.a.num_tiles(), sweep.a.tiles_of(ROW_BYTES));
    for first in (0..tiles).step_by(together) {
        let tiles = first..tiles.min(first + together);
        for column in (0..paired).step_by(2 * S::LANES) {
            strip::<S, F, 2>(s, &mut sweep, tiles.clone(), column);
        }
        for column in (paired..n).step_by(S::LANES) {
            strip::<S, F, 1>(s, &mut sweep, tiles.clone(), column);
        }
    }
}

/// Rows whose sums and dot products with two vectors of columns fit the registers, beside a few others.
const fn tile_rows<S: Simd>() -> usize {
    S::REGISTERS / 5
}

/// Computes some vectors of columns for the rows of some tiles.
#[inline(always)]
fn strip<S: Simd, F: Format, const VECTORS: usize>(
    s: S,
    sweep: &mut Sweep<'_>,
    tiles: Range<usize>,
    column: usize,
) {
    let [num_rows, n] = sweep.c.shape();
    let columns = column..n.min(column + VECTORS * S::LANES);
    let mut b = [sweep.strip(column); VECTORS];
    for (vector, b) in b.iter_mut().enumerate().skip(1) {
        *b = sweep.strip(column + vector * S::LANES);
    }
    let mut ahead = match num_rows <= tile_rows::<S>() {
        true => Ahead::Stream,
        false => {
            let panels = (VECTORS * S::LANES).div_ceil(PANEL);
            Ahead::Next(sweep.lines_from(columns.end, panels))
        }
    };
    for tile_index in tiles {
        let (rows, blocks) = sweep.a.tile(tile_index);
        let (height, mut done) = (rows.len(), 0);
        while done < height {
            let now = (height - done).min(tile_rows::<S>());
            let first = rows.start + done;
            let a = Rows {
                blocks,
                blocks_per_row: sweep.a.width() / BLOCK,
                height,
                first: done,
            };
            let c = sweep.c.block(first..first + now, columns.clone());
            match now {
                6 => tile::<S, F, 6, VECTORS>(s, a, b, &mut ahead, c),
                5 => tile::<S, F, 5, VECTORS>(s, a, b, &mut ahead, c),
                4 => tile::<S, F, 4, VECTORS>(s, a, b, &mut ahead, c),
                3 => tile::<S, F, 3, VECTORS>(s, a, b, &mut ahead, c),
                2 => tile::<S, F, 2, VECTORS>(s, a, b, &mut ahead, c),
                _ => tile::<S, F, 1, VECTORS>(s, a, b, &mut ahead, c),
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
    blocks_per_row: usize,
    /// Rows of the whole tile.
    height: usize,
    first: usize,
}

/// Which lines of codes and scales are asked for while others are multiplied.
enum Ahead<'a> {
    /// Those that follow in the one panel that is read, for no other rows.
    Stream,
    /// Those of the next columns, as they lie. A tile asks for as many as it reads of a panel, block by block, so
    /// that memory is not asked for all of them at once.
    Next(&'a [Line]),
}

impl Ahead<'_> {
    /// Asks for as many lines as are read now.
    #[inline(always)]
    fn ask<S: Simd>(&mut self, s: S, read: &[Line]) {
        match self {
            Self::Stream => {
                for line in read {
                    s.prefetch_stream(line);
                }
            }
            Self::Next(lines) => {
                if let Some((now, rest)) = lines.split_at_checked(read.len()) {
                    for line in now {
                        s.prefetch(line, 0);
                    }
                    *lines = rest;
                }
            }
        }
    }
}

/// Computes some vectors of columns of some rows in registers.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators of vectors are not always compiled into this function"
)]
#[inline(always)]
fn tile<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(
    s: S,
    a: Rows<'_>,
    b: [Strip<'_>; VECTORS],
    ahead: &mut Ahead<'_>,
    mut c: Target<'_>,
) {
    let mut acc = [[s.splat(0.0); ROWS]; VECTORS];
    if c.start() == Start::Sum {
        for v in 0..VECTORS {
            for i in 0..ROWS {
                acc[v][i] = s.load_or(c.row_from(i, v * S::LANES), 0.0);
            }
        }
    }
    for index in 0..a.blocks_per_row {
        let (group, block) = (index / F::GROUP, index % F::GROUP);
        let mut b_group = [b[0].group::<F>(group); VECTORS];
        for v in 1..VECTORS {
            b_group[v] = b[v].group::<F>(group);
        }
        if block == 0 {
            ahead.ask(s, b_group[0].head);
        }
        let rows = &a.blocks[index * a.height + a.first..][..ROWS];
        let mut codes = [&b[0].lines[..0]; VECTORS];
        for v in 0..VECTORS {
            codes[v] = b_group[v].codes::<F>(block);
        }
        ahead.ask(s, codes[0]);
        let mut dots = [[s.splat(0.0); ROWS]; VECTORS];
        start(s, rows, 0, &mut dots);
        for quad in 0..HALF {
            multiply::<S, F, ROWS, VECTORS>(s, b, codes, rows, quad, &mut dots);
        }
        if F::SCALES == 2 {
            add_scaled::<S, F, ROWS, VECTORS>(s, dots, b_group, [block, 0], rows, &mut acc);
            start(s, rows, 1, &mut dots);
        }
        for quad in HALF..2 * HALF {
            multiply::<S, F, ROWS, VECTORS>(s, b, codes, rows, quad, &mut dots);
        }
        add_scaled::<S, F, ROWS, VECTORS>(s, dots, b_group, [block, 1], rows, &mut acc);
        if F::HAS_OFFSET {
            for v in 0..VECTORS {
                let offset = F::offset(s, b_group[v], block);
                for i in 0..ROWS {
                    acc[v][i] = s.fma(offset, s.splat(rows[i].starts[1]), acc[v][i]);
                }
            }
        }
    }
    for v in 0..VECTORS {
        for i in 0..ROWS {
            s.store_some(acc[v][i], c.row_from(i, v * S::LANES));
        }
    }
}

/// Begins dot products of half a block, or of all of it, with what the codes' bias takes from them.
#[expect(
    clippy::needless_range_loop,
    reason = "iterators of vectors are not always compiled into this function"
)]
#[inline(always)]
fn start<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    rows: &[RowBlock],
    half: usize,
    dots: &mut [[S::V; ROWS]; VECTORS],
) {
    for v in 0..VECTORS {
        for i in 0..ROWS {
            dots[v][i] = s.splat(rows[i].starts[half]);
        }
    }
}

/// Adds the products of a four of a block.
#[inline(always)]
fn multiply<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(
    s: S,
    b: [Strip<'_>; VECTORS],
    lines: [&[Line]; VECTORS],
    rows: &[RowBlock],
    quad: usize,
    dots: &mut [[S::V; ROWS]; VECTORS],
) {
    let mut codes = [s.splat(0.0); VECTORS];
    for v in 0..VECTORS {
        codes[v] = F::quad(s, lines[v], b[v].lane, quad);
    }
    for i in 0..ROWS {
        let a = s.splat(rows[i].quads[quad]);
        for v in 0..VECTORS {
            dots[v][i] = match F::CODES.bits() {
                8 => s.dot_bytes(codes[v], a, dots[v][i]),
                _ => s.dot_small_bytes(codes[v], a, dots[v][i]),
            };
        }
    }
}

/// Adds dot products of half a block, or of all of it, times the scales of columns and the units of rows.
#[inline(always)]
fn add_scaled<S: Simd, F: Format, const ROWS: usize, const VECTORS: usize>(
    s: S,
    dots: [[S::V; ROWS]; VECTORS],
    b: [Group<'_>; VECTORS],
    [block, half]: [usize; 2],
    rows: &[RowBlock],
    acc: &mut [[S::V; ROWS]; VECTORS],
) {
    for v in 0..VECTORS {
        let scale = F::scale(s, b[v], block, half);
        for i in 0..ROWS {
            let (unit, dots) = (s.splat(rows[i].unit), dots[v][i]);
            acc[v][i] = match F::CODES.has_binary_units() {
                true => s.fma(s.sub(dots, unit), scale, acc[v][i]),
                false => s.fma(s.sub(dots, s.splat(UNITS)), s.mul(scale, unit), acc[v][i]),
            };
        }
    }
}
