//! How fast this machine reads and multiplies: the roofs under which the kernels run.
//!
//! A rate is the best of several tries with all threads of the current pool, so that a time computed
//! from it is a floor: the same reads and products take at least as long.

use std::hint::black_box;
use std::time::Instant;

use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Precision, Tensor, Weight, linear, map_parallel, num_threads};

/// Bytes read per try, and the most that are held: more than usual caches keep.
const READ_BYTES: usize = 1 << 29;
/// Fewest bytes held per thread; below, the loop is measured rather than the cache.
const MIN_SHARE_BYTES: usize = 1 << 14;
/// Words of an accumulator, enough to hide the latency of an addition.
const LANES: usize = 16;
const TRIES: usize = 5;

/// Returns the bytes per second at which all threads together read `bytes` bytes again and again.
///
/// A working set that fits a cache is read as fast as that cache gives it; from about half a gibibyte
/// on, the rate is that of the memory.
pub fn read_rate(bytes: usize) -> f64 {
    let share = (bytes.min(READ_BYTES) / num_threads()).max(MIN_SHARE_BYTES);
    let words = share.div_ceil(size_of::<u64>()).next_multiple_of(LANES);
    let held: Vec<Vec<u64>> = map_parallel(vec![words; num_threads()], |_, words| vec![1; words]);
    let held_bytes = words * size_of::<u64>() * held.len();
    let passes = READ_BYTES.div_ceil(held_bytes);
    let seconds = fastest(|| {
        map_parallel(held.iter().collect(), |_, words: &Vec<u64>| {
            for _ in 0..passes {
                black_box(checksum(black_box(words)));
            }
        });
    });
    (passes * held_bytes) as f64 / seconds
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
/// registers.
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
/// Dot products that advance together, enough to hide the latency of one.
const CHAINS: usize = 12;

/// Dot products of registers with themselves.
struct Dots;

impl Kernel for Dots {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let x = s.splat(black_box(1.0));
        let mut acc = [s.splat(0.0); CHAINS];
        for _ in 0..DOT_STEPS {
            for acc in &mut acc {
                *acc = s.dot_bytes(x, x, *acc);
            }
        }
        acc.into_iter()
            .map(|acc| s.reduce_add(s.int_to_f32(acc)))
            .sum()
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

/// Reads every word of a multiple of [`LANES`].
fn checksum(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; LANES];
    for chunk in words.chunks_exact(LANES) {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        let words: Vec<u64> = (0..3 * LANES as u64).collect();
        assert_eq!(checksum(&words), words.iter().sum());
    }

    #[test]
    fn rates_of_the_smallest_working_set_are_positive_numbers() {
        for rate in [read_rate(0), product_rate(Precision::F32), integer_rate()] {
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
