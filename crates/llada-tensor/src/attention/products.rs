//! The two matrix products that attention and its gradient consist of.

use std::marker::PhantomData;

use crate::gemm::Format;
use crate::simd::Simd;

/// A matrix whose rows lie `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
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

    /// Returns `width` elements of a row, at most a vector; missing lanes are zero.
    ///
    /// # Safety
    /// They lie inside the extents that were checked.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, row: usize, column: usize, width: usize) -> S::V {
        let start = row * self.stride + column;
        // SAFETY: the caller vouches for it.
        s.load_or(
            unsafe { self.values.get_unchecked(start..start + width) },
            0.0,
        )
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
    m: View<'_>,
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
            m,
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
    m: View<'a>,
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
        for k in 0..self.depth {
            let mut m = [s.splat(0.0); V];
            for (v, m) in m.iter_mut().enumerate() {
                // SAFETY: k is below the depth, and the vector ends with the columns.
                *m = unsafe { self.m.load(s, k, column + v * S::LANES, width) };
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
