//! Portable vectors: arrays that the compiler may or may not vectorise.

use half::{bf16, f16};

use super::{Simd, unpack_pair};

/// Portable code.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

type V = [f32; 8];

#[inline(always)]
fn lanewise(a: V, b: V, op: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| op(a[i], b[i]))
}

/// 2^n for n in -126..=127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

impl Simd for Scalar {
    type V = V;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 8]
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> V {
        std::array::from_fn(|i| x[..8][i])
    }

    #[inline(always)]
    fn load_or(self, x: &[f32], fill: f32) -> V {
        std::array::from_fn(|i| x.get(i).copied().unwrap_or(fill))
    }

    #[inline(always)]
    fn store(self, v: V, to: &mut [f32]) {
        to[..8].copy_from_slice(&v);
    }

    #[inline(always)]
    fn store_some(self, v: V, to: &mut [f32]) {
        for (to, v) in to.iter_mut().zip(v) {
            *to = v;
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        lanewise(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        lanewise(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        lanewise(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        lanewise(a, b, |a, b| a / b)
    }

    // `f32::mul_add` without hardware support is a slow library call.
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        lanewise(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        lanewise(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn round(self, a: V) -> V {
        a.map(f32::round_ties_even)
    }

    // Two factors, because 2^n alone may leave the range of normal numbers.
    #[inline(always)]
    fn scale_pow2(self, a: V, n: V) -> V {
        lanewise(a, n, |a, n| {
            let n = n as i32;
            a * pow2(n >> 1) * pow2(n - (n >> 1))
        })
    }

    #[inline(always)]
    fn dot_bf16(self, a: V, b: V, acc: V) -> V {
        std::array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (unpack_pair(a[i]), unpack_pair(b[i]));
            (acc[i] + a1 * b1) + a0 * b0
        })
    }

    #[inline(always)]
    fn prefetch<T>(self, _from: &T, _bytes: usize) {}

    #[inline(always)]
    fn prefetch_stream<T>(self, _from: &T) {}

    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> V {
        std::array::from_fn(|i| x[..8][i].to_f32())
    }

    #[inline(always)]
    fn dot_bytes(self, a: V, b: V, acc: V) -> V {
        std::array::from_fn(|i| {
            let (a, b) = (a[i].to_bits().to_le_bytes(), b[i].to_bits().to_le_bytes());
            let products = a
                .into_iter()
                .zip(b)
                .map(|(a, b)| i32::from(a) * i32::from(b as i8));
            f32::from_bits((acc[i].to_bits() as i32 + products.sum::<i32>()) as u32)
        })
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> V {
        std::array::from_fn(|i| f32::from(x[..8][i]))
    }

    #[inline(always)]
    fn bits_right(self, a: V, shift: u32, mask: u8) -> V {
        let mask = u32::from_ne_bytes([mask; 4]);
        a.map(|a| f32::from_bits(a.to_bits() >> shift & mask))
    }

    #[inline(always)]
    fn bits_left(self, a: V, shift: u32, mask: u8) -> V {
        let mask = u32::from_ne_bytes([mask; 4]);
        a.map(|a| f32::from_bits(a.to_bits() << shift & mask))
    }

    #[inline(always)]
    fn or(self, a: V, b: V) -> V {
        std::array::from_fn(|i| f32::from_bits(a[i].to_bits() | b[i].to_bits()))
    }

    #[inline(always)]
    fn pair_bf16(self, high: &[bf16], low: &[bf16]) -> V {
        let bits = |x: bf16| u32::from(x.to_bits());
        std::array::from_fn(|i| f32::from_bits(bits(high[i]) << 16 | bits(low[i])))
    }

    #[inline(always)]
    fn zip(self, a: V, b: V) -> [V; 2] {
        let lane = |i: usize| {
            if i.is_multiple_of(2) {
                a[i / 2]
            } else {
                b[i / 2]
            }
        };
        [
            std::array::from_fn(lane),
            std::array::from_fn(|i| lane(i + 8)),
        ]
    }

    #[inline(always)]
    fn reduce_add(self, a: V) -> f32 {
        let [a, b, c, d] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn reduce_max(self, a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
