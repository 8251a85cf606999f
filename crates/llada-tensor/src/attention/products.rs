//! The two matrix products that attention and its gradient consist of, for a handful of rows.

use crate::simd::Simd;

/// Rows that are computed together, so that what they share is loaded once.
const BLOCK: usize = 8;

/// A matrix whose rows lie `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// A [`View`] for writing.
pub(super) struct ViewMut<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
}

/// Adds `x m` to `c`; every element is one chain of additions in the order of m's rows.
/// # Shapes: x [R, K], m [K, C], c [R, C]; C is a multiple of the vector length.
#[inline(always)]
pub(super) fn add_product<S: Simd>(
    s: S,
    [rows, depth, columns]: [usize; 3],
    x: View<'_>,
    m: View<'_>,
    c: ViewMut<'_>,
) {
    let mut row = 0;
    while row < rows {
        let x = View {
            values: &x.values[row * x.stride..],
            ..x
        };
        let c = ViewMut {
            values: &mut c.values[row * c.stride..],
            ..c
        };
        row += match rows - row {
            BLOCK.. => product_block::<S, BLOCK>(s, depth, columns, x, m, c),
            4.. => product_block::<S, 4>(s, depth, columns, x, m, c),
            2.. => product_block::<S, 2>(s, depth, columns, x, m, c),
            _ => product_block::<S, 1>(s, depth, columns, x, m, c),
        };
    }
}

/// Adds the first R rows of the product and returns R.
#[inline(always)]
fn product_block<S: Simd, const R: usize>(
    s: S,
    depth: usize,
    columns: usize,
    x: View<'_>,
    m: View<'_>,
    c: ViewMut<'_>,
) -> usize {
    let x: [&[f32]; R] = std::array::from_fn(|r| &x.values[r * x.stride..][..depth]);
    for column in (0..columns).step_by(S::LANES) {
        let mut sums = [s.splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = s.load(&c.values[r * c.stride + column..]);
        }
        for k in 0..depth {
            let m = s.load(&m.values[k * m.stride + column..]);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = s.fma(s.splat(x[k]), m, *sum);
            }
        }
        for (r, sum) in sums.into_iter().enumerate() {
            s.store(sum, &mut c.values[r * c.stride + column..]);
        }
    }
    R
}

/// Adds `x^T y` to `c`; every element is one chain of additions in the order of the rows.
/// # Shapes: x [R, K], y [R, C], c [K, C]; C is a multiple of the vector length.
#[inline(always)]
pub(super) fn add_transposed_product<S: Simd>(
    s: S,
    [rows, depth, columns]: [usize; 3],
    x: View<'_>,
    y: View<'_>,
    c: ViewMut<'_>,
) {
    let mut row = 0;
    while row < rows {
        let x = View {
            values: &x.values[row * x.stride..],
            ..x
        };
        let y = View {
            values: &y.values[row * y.stride..],
            ..y
        };
        let c = ViewMut {
            values: &mut *c.values,
            ..c
        };
        row += match rows - row {
            BLOCK.. => transposed_block::<S, BLOCK>(s, depth, columns, x, y, c),
            4.. => transposed_block::<S, 4>(s, depth, columns, x, y, c),
            2.. => transposed_block::<S, 2>(s, depth, columns, x, y, c),
            _ => transposed_block::<S, 1>(s, depth, columns, x, y, c),
        };
    }
}

/// Adds what the first R rows contribute and returns R.
#[inline(always)]
fn transposed_block<S: Simd, const R: usize>(
    s: S,
    depth: usize,
    columns: usize,
    x: View<'_>,
    y: View<'_>,
    c: ViewMut<'_>,
) -> usize {
    let x: [&[f32]; R] = std::array::from_fn(|r| &x.values[r * x.stride..][..depth]);
    for column in (0..columns).step_by(S::LANES) {
        let mut ys = [s.splat(0.0); R];
        for (r, to) in ys.iter_mut().enumerate() {
            *to = s.load(&y.values[r * y.stride + column..]);
        }
        for k in 0..depth {
            let c = &mut c.values[k * c.stride + column..][..S::LANES];
            let mut sum = s.load(c);
            for (x, y) in x.iter().zip(ys) {
                sum = s.fma(s.splat(x[k]), y, sum);
            }
            s.store(sum, c);
        }
    }
    R
}

/// Returns the dot product of vectors whose length is a multiple of the vector length.
#[inline(always)]
pub(super) fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for (x, y) in x.chunks_exact(S::LANES).zip(y.chunks_exact(S::LANES)) {
        sum = s.fma(s.load(x), s.load(y), sum);
    }
    s.reduce_add(sum)
}
