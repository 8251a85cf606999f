//! Copies operands into panels: the order in which the kernel reads them.
//!
//! The unit is a word of 32 bits: one `f32`, or two bf16 that follow each other along k. A panel holds
//! W rows of A (or columns of B): its words for the first k, then for the next, and so on.

use std::io;

use half::bf16;

use super::Precision;
use super::matrix::{Matrix, Order, Values};
use crate::Isa;
use crate::buffer::Buffer;
use crate::paging::{PageFile, Paged};
use crate::simd::{Kernel, Simd, dispatch};

/// Columns of a panel of B.
pub(crate) const PANEL: usize = 16;

/// The words of a panel of B for one step along k; a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(super) [f32; PANEL]);

// SAFETY: sixteen `f32`, 64 bytes at an alignment of 64, without padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// What a word holds, and the product of two words.
pub(crate) trait Format {
    /// Elements of a word.
    const DEPTH: usize;

    /// Returns the words of a vector's worth of consecutive elements; missing ones are zero.
    fn words<S: Simd, E: Element>(s: S, elements: &[E]) -> S::V;
    /// Returns words that begin with an element of `first` and go on with one of `next`, if they do.
    fn join<S: Simd, E: Element>(s: S, first: &[E], next: &[E]) -> S::V;
    /// Adds the products of the elements of two words to `acc`, lane by lane.
    fn multiply<S: Simd>(s: S, a: S::V, b: S::V, acc: S::V) -> S::V;
}

/// Words are `f32`.
pub(crate) struct Single;

impl Format for Single {
    const DEPTH: usize = 1;

    #[inline(always)]
    fn words<S: Simd, E: Element>(s: S, elements: &[E]) -> S::V {
        E::load(s, elements)
    }

    #[inline(always)]
    fn join<S: Simd, E: Element>(s: S, first: &[E], _next: &[E]) -> S::V {
        E::load(s, first)
    }

    #[inline(always)]
    fn multiply<S: Simd>(s: S, a: S::V, b: S::V, acc: S::V) -> S::V {
        s.fma(a, b, acc)
    }
}

/// Words are pairs of bf16, the first in the low half.
pub(crate) struct Pair;

impl Format for Pair {
    const DEPTH: usize = 2;

    #[inline(always)]
    fn words<S: Simd, E: Element>(s: S, elements: &[E]) -> S::V {
        let (low, high) = elements.split_at(elements.len().min(S::LANES));
        s.pack_bf16(E::load(s, low), E::load(s, high))
    }

    #[inline(always)]
    fn join<S: Simd, E: Element>(s: S, first: &[E], next: &[E]) -> S::V {
        s.join_bf16(E::load(s, first), E::load(s, next))
    }

    #[inline(always)]
    fn multiply<S: Simd>(s: S, a: S::V, b: S::V, acc: S::V) -> S::V {
        s.dot_bf16(a, b, acc)
    }
}

/// An element of an operand.
pub(crate) trait Element: Copy {
    /// Reads up to a vector of elements as `f32`; missing lanes are zero.
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V {
        s.load_or(x, 0.0)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V {
        let mut values = [0.0; PANEL];
        for (value, x) in values[..S::LANES].iter_mut().zip(x) {
            *value = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
        s.load(&values)
    }
}

/// Packs a matrix of at most W rows into one panel; missing rows become zeros.
#[inline(always)]
pub(super) fn pack_panel<S: Simd, F: Format, const W: usize>(
    s: S,
    matrix: Matrix<'_>,
    panel: &mut [f32],
) {
    match matrix.values {
        Values::F32(values) => pack_values::<S, F, _, W>(s, values, matrix, panel),
        Values::Bf16(values) => pack_values::<S, F, _, W>(s, values, matrix, panel),
    }
}

#[inline(always)]
fn pack_values<S: Simd, F: Format, E: Element, const W: usize>(
    s: S,
    values: &[E],
    matrix: Matrix<'_>,
    panel: &mut [f32],
) {
    let [rows, k] = matrix.shape;
    let lines = values.chunks(matrix.stride.max(1));
    match matrix.order {
        Order::RowMajor => {
            let mut row = [&[][..]; W];
            for (row, line) in row.iter_mut().zip(lines.take(rows)) {
                *row = &line[..k];
            }
            interleave_rows::<S, F, E, W>(s, row, panel);
        }
        Order::ColumnMajor => {
            let mut lines = lines.take(k).map(|line| &line[..rows]);
            for words in panel.chunks_exact_mut(W) {
                let Some(first) = lines.next() else { break };
                let next = if F::DEPTH == 2 { lines.next() } else { None };
                join_columns::<S, F, E>(s, first, next.unwrap_or_default(), words);
            }
        }
    }
}

/// Writes the words of rows of A side by side, a vector of every row at a time. Empty rows become
/// zeros.
#[inline(always)]
fn interleave_rows<S: Simd, F: Format, E: Element, const W: usize>(
    s: S,
    rows: [&[E]; W],
    panel: &mut [f32],
) {
    for (index, panel) in panel.chunks_mut(S::LANES * W).enumerate() {
        let first = index * S::LANES * F::DEPTH;
        let mut words = [s.splat(0.0); W];
        for (words, row) in words.iter_mut().zip(rows) {
            if let Some(row) = row.get(first..) {
                *words = F::words(s, row);
            }
        }
        let words = transposed(s, words);
        for (words, panel) in words.into_iter().zip(panel.chunks_mut(S::LANES)) {
            s.store_some(words, panel);
        }
    }
}

/// Transposes W rows of a vector each; W is a power of two.
///
/// Zipping the first half of all elements with the second makes the highest bit of an element's index
/// the lowest. Once for every bit of the row number, that puts the row last.
#[inline(always)]
fn transposed<S: Simd, const W: usize>(s: S, mut rows: [S::V; W]) -> [S::V; W] {
    for _ in 0..W.ilog2() {
        let halves = rows;
        for i in 0..W / 2 {
            [rows[2 * i], rows[2 * i + 1]] = s.zip(halves[i], halves[i + W / 2]);
        }
    }
    rows
}

/// Writes the words of the columns `first` and `next` of A side by side. Missing rows become zeros.
#[inline(always)]
fn join_columns<S: Simd, F: Format, E: Element>(s: S, first: &[E], next: &[E], words: &mut [f32]) {
    for (index, words) in words.chunks_mut(S::LANES).enumerate() {
        let [first, next] = [first, next].map(|x| x.get(index * S::LANES..).unwrap_or_default());
        s.store_some(F::join(s, first, next), words);
    }
}

/// Panels of B, or a range of the steps of each.
#[derive(Clone, Copy)]
pub(super) struct PanelsView<'a> {
    /// The panels one after the other.
    pub(super) lines: &'a [Line],
    /// Lines from one panel to the next.
    pub(super) pitch: usize,
    /// First line in use of every panel.
    pub(super) first: usize,
    /// Lines in use of every panel.
    pub(super) words: usize,
}

impl<'a> PanelsView<'a> {
    /// Returns the lines in use of a panel.
    #[inline(always)]
    pub(super) fn panel(&self, index: usize) -> &'a [Line] {
        &self.lines[index * self.pitch + self.first..][..self.words]
    }
}

/// Returns the lines of a packed right operand [K, N].
pub(super) const fn lines_of<F: Format>([k, n]: [usize; 2]) -> usize {
    k.div_ceil(F::DEPTH) * n.div_ceil(PANEL)
}

/// Packs B [K, N] into the first of `lines`. Panics when there are too few.
#[inline(always)]
pub(super) fn pack_right<'a, S: Simd, F: Format>(
    s: S,
    b: Matrix<'_>,
    lines: &'a mut [Line],
) -> PanelsView<'a> {
    let [k, n] = b.shape;
    let words = k.div_ceil(F::DEPTH);
    let lines = &mut lines[..lines_of::<F>(b.shape)];
    for (index, panel) in lines.chunks_exact_mut(words.max(1)).enumerate() {
        let columns = index * PANEL..n.min((index + 1) * PANEL);
        pack_panel::<S, F, PANEL>(
            s,
            b.block(0..k, columns).transposed(),
            bytemuck::cast_slice_mut(panel),
        );
    }
    PanelsView {
        lines,
        pitch: words,
        first: 0,
        words,
    }
}

/// A right operand packed once for many products.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Panels {
    lines: Paged<Line>,
    shape: [usize; 2],
    precision: Precision,
}

impl Panels {
    /// Packs B [K, N].
    pub(crate) fn new(isa: Isa, precision: Precision, b: Matrix<'_>) -> Self {
        let lines = dispatch(isa, PackAll { precision, b });
        Self {
            lines: lines.into(),
            shape: b.shape(),
            precision,
        }
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Returns what the elements are rounded to.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the bytes of memory that a product reads.
    pub(crate) fn num_bytes(&self) -> usize {
        size_of_val(&self.lines[..])
    }

    /// Moves the elements to the end of a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn move_to(&mut self, file: &mut PageFile) -> io::Result<()> {
        self.lines.move_to(file)
    }

    /// Writes column `index` as numbers.
    ///
    /// # Panics
    /// If there is no such column, or `to` has not K elements.
    pub(crate) fn column(&self, index: usize, to: &mut [f32]) {
        let [k, n] = self.shape;
        assert!(index < n, "column {index} of {n}");
        assert_eq!(to.len(), k, "elements of a column");
        let view = self.view(index, 0, k.div_ceil(self.depth()));
        let words = view.panel(0).iter().map(|line| line.0[index % PANEL]);
        match self.precision {
            Precision::F32 => to.iter_mut().zip(words).for_each(|(to, word)| *to = word),
            Precision::Bf16 => to.chunks_mut(2).zip(words).for_each(|(to, word)| {
                let bits = word.to_bits();
                let pair = [bits << 16, bits & 0xffff_0000].map(f32::from_bits);
                to.copy_from_slice(&pair[..to.len()]);
            }),
        }
    }

    /// Returns the elements of a word.
    fn depth(&self) -> usize {
        match self.precision {
            Precision::F32 => Single::DEPTH,
            Precision::Bf16 => Pair::DEPTH,
        }
    }

    /// Views `words` steps from step `first` of the panels from column `column` on.
    #[inline(always)]
    pub(super) fn view(&self, column: usize, first: usize, words: usize) -> PanelsView<'_> {
        let pitch = self.shape[0].div_ceil(self.depth());
        PanelsView {
            lines: &self.lines[column / PANEL * pitch..],
            pitch,
            first,
            words,
        }
    }
}

/// Packs a whole right operand.
struct PackAll<'a> {
    precision: Precision,
    b: Matrix<'a>,
}

impl Kernel for PackAll<'_> {
    type Output = Buffer<Line>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Buffer<Line> {
        match self.precision {
            Precision::F32 => self.pack::<S, Single>(s),
            Precision::Bf16 => self.pack::<S, Pair>(s),
        }
    }
}

impl PackAll<'_> {
    #[inline(always)]
    fn pack<S: Simd, F: Format>(self, s: S) -> Buffer<Line> {
        let mut lines = Buffer::scratch(lines_of::<F>(self.b.shape));
        pack_right::<S, F>(s, self.b, &mut lines);
        lines
    }
}
