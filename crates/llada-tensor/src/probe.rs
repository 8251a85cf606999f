//! How fast this machine reads and multiplies: the roofs under which the kernels run.
//!
//! A rate is the best of several tries with all threads of the current pool, so that a time computed
//! from it is a floor: the same reads and products take at least as long.

use std::hint::black_box;
use std::time::Instant;

use memmap2::MmapMut;

use crate::arena::large_pages;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Precision, Tensor, Weight, linear, map_parallel, num_threads};

/// Bytes read per try, and the most that are held: more than usual caches keep.
const READ_BYTES: usize = 1 << 29;
/// Fewest bytes held per thread; below, the loop is measured rather than the cache.
const MIN_SHARE_BYTES: usize = 1 << 14;
/// Numbers of a cache line.
const LINE: usize = 16;
/// Numbers that are asked for, and added, at a time.
const STEP: usize = CHAINS * LINE;
/// Sums or dot products that advance together, enough to hide the latency of one.
const CHAINS: usize = 12;
const TRIES: usize = 5;

/// Returns the bytes per second at which all threads together read `bytes` bytes again and again.
///
/// A working set that fits a cache is read as fast as that cache gives it; from about half a gibibyte
/// on, the rate is that of the memory.
pub fn read_rate(bytes: usize) -> f64 {
    let share = (bytes.min(READ_BYTES) / num_threads()).max(MIN_SHARE_BYTES);
    let numbers = share.div_ceil(size_of::<f32>()).next_multiple_of(STEP);
    let held = map_parallel(vec![(); num_threads()], |_, ()| pages_of_ones(numbers));
    let held_bytes = numbers * size_of::<f32>() * held.len();
    let (isa, passes) = (Isa::active(), READ_BYTES.div_ceil(held_bytes));
    let seconds = fastest(|| {
        map_parallel(held.iter().collect(), |_, pages: &MmapMut| {
            let numbers: &[f32] = bytemuck::cast_slice(pages);
            for _ in 0..passes {
                black_box(dispatch(isa, Sum(black_box(numbers))));
            }
        });
    });
    (passes * held_bytes) as f64 / seconds
}

/// Returns some numbers in pages like those of weights, which go back to the system afterwards.
fn pages_of_ones(numbers: usize) -> MmapMut {
    let mut pages =
        large_pages(numbers * size_of::<f32>()).expect("the system has memory for a measurement");
    bytemuck::cast_slice_mut(&mut pages).fill(1.0_f32);
    pages
}

/// Returns the floating-point operations per second, two per multiply and add, of a packed product
/// that is large in every direction.
pub fn product_rate(precision: Precision) -> f64 {
    let (rows, width) = (512, 1024);
    let mut weight = Weight::new(Tensor::zeros(&[width, width]), precision);
    weight.pack();
    let x = Tensor::zeros(&[rows, width]);
    let seconds = fastest(|| {
        black_box(linear(&x, &weight, None));
    });
    (2 * rows * width * width) as f64 / seconds
}

/// Returns the operations per second, two per multiply and add, of integer dot products of bytes in
/// registers, of codes of at most seven bits.
pub fn integer_rate() -> f64 {
    let isa = Isa::active();
    let seconds = fastest(|| {
        map_parallel(vec![(); num_threads()], |_, ()| {
            black_box(dispatch(isa, Dots))
        });
    });
    let lanes = dispatch(isa, Lanes);
    (num_threads() * DOT_STEPS * CHAINS * 2 * 4 * lanes) as f64 / seconds
}

/// Steps of a measurement of dot products.
const DOT_STEPS: usize = 1 << 20;

/// Dot products of registers with what comes out, so that none is known before.
struct Dots;

impl Kernel for Dots {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let x = s.splat(black_box(1.0));
        let mut acc = [s.splat(0.0); CHAINS];
        for _ in 0..DOT_STEPS {
            for acc in &mut acc {
                *acc = s.dot_small_bytes(*acc, x, *acc);
            }
        }
        acc.into_iter().map(|acc| s.reduce_add(acc)).sum()
    }
}

/// Lanes of a vector.
struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) -> usize {
        S::LANES
    }
}

/// Returns the seconds of the fastest of several tries.
fn fastest(mut body: impl FnMut()) -> f64 {
    let tries = (0..TRIES).map(|_| {
        let start = Instant::now();
        body();
        start.elapsed().as_secs_f64()
    });
    tries.fold(f64::INFINITY, f64::min)
}

/// Adds numbers, a multiple of [`STEP`] of them, and asks for memory as products do.
struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); CHAINS];
        for step in self.0.chunks_exact(STEP) {
            for line in step.chunks_exact(LINE) {
                s.prefetch_stream(&line[0]);
            }
            for step in step.chunks_exact(CHAINS * S::LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = s.add(*sum, s.load(&step[i * S::LANES..]));
                }
            }
        }
        sums.into_iter().map(|sum| s.reduce_add(sum)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_added_once() {
        let numbers: Vec<f32> = (0..3 * STEP as u32).map(|i| i as f32).collect();
        let sum: f32 = numbers.iter().sum(); // an integer below 2^24, as all on the way
        for isa in Isa::available() {
            assert_eq!(dispatch(isa, Sum(&numbers)), sum, "{isa:?}");
        }
    }

    #[test]
    fn rates_of_the_smallest_working_set_are_positive_numbers() {
        for rate in [read_rate(0), product_rate(Precision::F32), integer_rate()] {
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
