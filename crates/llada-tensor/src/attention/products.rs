//! The two matrix products that attention and its gradient consist of.

use crate::simd::Simd;

/// Rows of the result that are computed together, so that what they share is loaded once.
const BLOCK: usize = 8;

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

/// Adds `x m` to `c`; every element is one chain of additions in the order of m's rows.
/// # Shapes: x [R, K], m [K, C], c [R, C] with rows `stride` apart.
#[inline(always)]
pub(super) fn add_product<S: Simd>(
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
    x.check(rows, depth);
    m.check(depth, columns);
    let mut row = 0;
    while row < rows {
        let x = View {
            values: &x.values[row * x.stride..],
            ..x
        };
        let c = &mut c[row * stride..];
        // SAFETY: the extents were checked, and the block has no more than the rows that are left.
        row += unsafe {
            match rows - row {
                BLOCK.. => product_block::<S, BLOCK>(s, depth, columns, x, m, c, stride),
                4.. => product_block::<S, 4>(s, depth, columns, x, m, c, stride),
                2.. => product_block::<S, 2>(s, depth, columns, x, m, c, stride),
                _ => product_block::<S, 1>(s, depth, columns, x, m, c, stride),
            }
        };
    }
}

/// Adds R rows of the product and returns R.
///
/// # Safety
/// x [R, depth] and m [depth, columns] were checked.
#[inline(always)]
unsafe fn product_block<S: Simd, const R: usize>(
    s: S,
    depth: usize,
    columns: usize,
    x: View<'_>,
    m: View<'_>,
    c: &mut [f32],
    stride: usize,
) -> usize {
    for column in (0..columns).step_by(S::LANES) {
        let width = S::LANES.min(columns - column);
        let mut sums = [s.splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = s.load_or(&c[r * stride + column..][..width], 0.0);
        }
        for k in 0..depth {
            // SAFETY: k is below the depth, and the column's vector ends with the columns.
            let m = unsafe { m.load(s, k, column, width) };
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: r is below R, k below the depth.
                *sum = s.fma(s.splat(unsafe { x.at(r, k) }), m, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            s.store_some(sum, &mut c[r * stride + column..][..width]);
        }
    }
    R
}

/// Adds `x^T y` to `c`; every element is one chain of additions in the order of x's rows.
/// # Shapes: x [K, R], y [K, C], c [R, C].
#[inline(always)]
pub(super) fn add_transposed_product<S: Simd>(
    s: S,
    [rows, depth, columns]: [usize; 3],
    x: View<'_>,
    y: View<'_>,
    c: &mut [f32],
) {
    if rows == 0 || depth == 0 || columns == 0 {
        return;
    }
    x.check(depth, rows);
    y.check(depth, columns);
    let mut row = 0;
    while row < rows {
        let x = View {
            values: &x.values[row..],
            ..x
        };
        let c = &mut c[row * columns..];
        // SAFETY: the extents were checked, and the block has no more than the rows that are left.
        row += unsafe {
            match rows - row {
                BLOCK.. => transposed_block::<S, BLOCK>(s, depth, columns, x, y, c),
                4.. => transposed_block::<S, 4>(s, depth, columns, x, y, c),
                2.. => transposed_block::<S, 2>(s, depth, columns, x, y, c),
                _ => transposed_block::<S, 1>(s, depth, columns, x, y, c),
            }
        };
    }
}

/// Adds R rows of the product and returns R.
///
/// # Safety
/// x [depth, R] and y [depth, columns] were checked.
#[inline(always)]
unsafe fn transposed_block<S: Simd, const R: usize>(
    s: S,
    depth: usize,
    columns: usize,
    x: View<'_>,
    y: View<'_>,
    c: &mut [f32],
) -> usize {
    for column in (0..columns).step_by(S::LANES) {
        let width = S::LANES.min(columns - column);
        let mut sums = [s.splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = s.load_or(&c[r * columns + column..][..width], 0.0);
        }
        for k in 0..depth {
            // SAFETY: k is below the depth, and the column's vector ends with the columns.
            let y = unsafe { y.load(s, k, column, width) };
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: r is below R, k below the depth.
                *sum = s.fma(s.splat(unsafe { x.at(k, r) }), y, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            s.store_some(sum, &mut c[r * columns + column..][..width]);
        }
    }
    R
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
