//! The two matrix products that attention and its gradient consist of.

use std::marker::PhantomData;

use crate::gemm::{Format, PANEL};
use crate::simd::Simd;

/// A matrix whose rows lie `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// A matrix whose columns lie in panels of sixteen, the rows of a panel `stride` apart and panels `panel` apart.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) panel: usize,
    /// How many elements later the matrix of the next product lies, which is asked for; 0 if it is not.
    pub(super) ahead: isize,
}

impl<'a> From<View<'a>> for Columns<'a> {
    /// Panels side by side.
    #[inline(always)]
    fn from(View { values, stride }: View<'a>) -> Self {
        Self {
            values,
            stride,
            panel: PANEL,
            ahead: 0,
        }
    }
}

impl Columns<'_> {
    /// Returns where a column lies in the first row.
    #[inline(always)]
    fn start(&self, column: usize) -> usize {
        column / PANEL * self.panel + column % PANEL
    }

    /// Panics unless the matrix has the given extents, none of which is zero.
    #[inline(always)]
    fn check(&self, rows: usize, columns: usize) {
        assert!(
            self.panel >= PANEL
                && (rows - 1) * self.stride + self.start(columns - 1) < self.values.len(),
            "columns of a matrix"
        );
    }

    /// Returns `width` elements of a row from [`Columns::start`] on, at most a vector; missing lanes are zero.
    ///
    /// # Safety
    /// They lie inside the extents that were checked, in one panel.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, row: usize, start: usize, width: usize) -> S::V {
        let start = start + row * self.stride;
        // SAFETY: the caller vouches for it.
        s.load_or(
            unsafe { self.values.get_unchecked(start..start + width) },
            0.0,
        )
    }

    /// Asks for what lies [`Columns::ahead`] of a vector.
    ///
    /// # Safety
    /// The vector lies inside the extents that were checked.
    #[inline(always)]
    unsafe fn ask<S: Simd>(&self, s: S, row: usize, start: usize) {
        // SAFETY: the caller vouches for it.
        let from = unsafe { self.values.get_unchecked(start + row * self.stride) };
        s.prefetch(from, (self.ahead as usize).wrapping_mul(size_of::<f32>()));
    }
}

impl View<'_> {
    /// Panics unless the matrix has the given extents, none of which is zero.
    #[inline(always)]
    fn check(&self, rows: usize, columns: usize) {
        assert!(
            (rows - 1) * self.stride + columns <= self.values.len(),
            "rows of a matrix"
        );
    }

    /// Returns an element.
    ///
    /// # Safety
    /// It lies inside the extents that were checked.
    #[inline(always)]
    unsafe fn at(&self, row: usize, column: usize) -> f32 {
        // SAFETY: the caller vouches for it.
        unsafe { *self.values.get_unchecked(row * self.stride + column) }
    }
}

/// Adds `x m` to `c`, or `x^T m` if `TRANSPOSED`; every element is one chain of additions in the order of m's
/// rows. Words along K are of the format, those of `c` are `f32`.
/// # Shapes: x [R, K], transposed [K, R], m [K, C], c [R, C] with rows `stride` apart.
#[inline(always)]
pub(super) fn add_product<S: Simd, F: Format, const TRANSPOSED: bool>(
    s: S,
    [rows, depth, columns]: [usize; 3],
    x: View<'_>,
    m: Columns<'_>,
    c: &mut [f32],
    stride: usize,
) {
    if rows == 0 || depth == 0 || columns == 0 {
        return;
    }
    match TRANSPOSED {
        false => x.check(rows, depth),
        true => x.check(depth, rows),
    }
    m.check(depth, columns);
    let has_many = S::REGISTERS >= 32;
    let mut row = 0;
    while row < rows {
        let first = if TRANSPOSED { row } else { row * x.stride };
        let block = Block::<S, F, TRANSPOSED> {
            s,
            format: PhantomData,
            depth,
            columns,
            x: View {
                values: &x.values[first..],
                ..x
            },
            // Once is enough.
            m: Columns {
                ahead: if row == 0 { m.ahead } else { 0 },
                ..m
            },
        };
        let c = &mut c[row * stride..];
        // Enough chains to keep two multipliers busy, in as many registers as there are.
        // SAFETY: the extents were checked, and the block has no more than the rows that are left.
        row += unsafe {
            match rows - row {
                16.. if has_many && columns <= S::LANES => block.add::<16, 1>(c, stride),
                8.. if has_many => block.add::<8, 2>(c, stride),
                4.. if has_many => block.add::<4, 4>(c, stride),
                4.. => block.add::<4, 2>(c, stride),
                2.. => block.add::<2, 4>(c, stride),
                _ => block.add::<1, 4>(c, stride),
            }
        };
    }
}

/// Rows of a product, from the first one of `x` on.
struct Block<'a, S, F, const TRANSPOSED: bool> {
    s: S,
    format: PhantomData<F>,
    depth: usize,
    columns: usize,
    x: View<'a>,
    m: Columns<'a>,
}

impl<S: Simd, F: Format, const TRANSPOSED: bool> Block<'_, S, F, TRANSPOSED> {
    /// Adds R rows, `V` vectors of columns at a time, and returns R.
    ///
    /// # Safety
    /// x [R, depth], or its transpose, and m [depth, columns] were checked.
    #[inline(always)]
    unsafe fn add<const R: usize, const V: usize>(&self, c: &mut [f32], stride: usize) -> usize {
        let mut column = 0;
        // SAFETY: the caller vouches for the extents, and all these columns are inside.
        unsafe {
            while column + V * S::LANES <= self.columns {
                self.add_columns::<R, V>(column, S::LANES, c, stride);
                column += V * S::LANES;
            }
            while V > 2 && column + 2 * S::LANES <= self.columns {
                self.add_columns::<R, 2>(column, S::LANES, c, stride);
                column += 2 * S::LANES;
            }
            while column < self.columns {
                let width = S::LANES.min(self.columns - column);
                self.add_columns::<R, 1>(column, width, c, stride);
                column += width;
            }
        }
        R
    }

    /// Adds R rows of `V` vectors of columns, each of which has `width` elements.
    ///
    /// # Safety
    /// As [`Self::add`], and the columns are inside the extents.
    #[inline(always)]
    unsafe fn add_columns<const R: usize, const V: usize>(
        &self,
        column: usize,
        width: usize,
        c: &mut [f32],
        stride: usize,
    ) {
        let (s, x) = (self.s, self.x);
        let mut sums = [[s.splat(0.0); V]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = s.load_or(&c[r * stride + column + v * S::LANES..][..width], 0.0);
            }
        }
        let mut starts = [0; V];
        for (v, start) in starts.iter_mut().enumerate() {
            *start = self.m.start(column + v * S::LANES);
        }
        for k in 0..self.depth {
            let mut m = [s.splat(0.0); V];
            for (m, start) in m.iter_mut().zip(starts) {
                // SAFETY: k is below the depth; a vector's columns are a part of a panel and end with the others.
                *m = unsafe { self.m.load(s, k, start, width) };
            }
            if self.m.ahead != 0 {
                for start in starts {
                    // SAFETY: as above.
                    unsafe { self.m.ask(s, k, start) };
                }
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let [row, of_row] = if TRANSPOSED { [k, r] } else { [r, k] };
                // SAFETY: r is below R, k below the depth.
                let x = s.splat(unsafe { x.at(row, of_row) });
                for (sum, m) in sums.iter_mut().zip(m) {
                    *sum = F::multiply(s, x, m, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                s.store_some(sum, &mut c[r * stride + column + v * S::LANES..][..width]);
            }
        }
    }
}

/// Returns the dot product.
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (x, y) in x.chunks(S::LANES).zip(y.chunks(S::LANES)) {
        sum = s.fma(s.load_or(x, 0.0), s.load_or(y, 0.0), sum);
    }
    s.reduce_add(sum)
}
