//! A small vector trait and its instruction sets.
//!
//! A kernel is a struct of its arguments that implements [`Kernel`]; its `run` is generic over
//! [`Simd`] and marked `#[inline(always)]`. [`dispatch`] compiles it once per instruction set, inside
//! a function that enables the set's features, so that every vector operation becomes one
//! instruction:
//!
//! ```ignore
//! struct Scale<'a> { x: &'a mut [f32], factor: f32 }
//!
//! impl Kernel for Scale<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) {
//!         let factor = s.splat(self.factor);
//!         for chunk in self.x.chunks_mut(S::LANES) {
//!             let scaled = s.mul(s.load_or(chunk, 0.0), factor); // a short last chunk is padded
//!             s.store_some(scaled, chunk);                       // ... and cut again
//!         }
//!     }
//! }
//!
//! dispatch(Isa::active(), Scale { x: &mut values, factor: 2.0 });
//! ```
//!
//! Rules: functions that `run` calls are `#[inline(always)]` too, as are closures that hold vectors
//! (otherwise they are compiled without the features, which is correct but slow). Hot loops use
//! `chunks_exact(S::LANES)` with [`Simd::load`], whose bounds checks then vanish, and treat the
//! remainder with [`Simd::load_or`]. Tasks on other threads call `dispatch` themselves.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod stream;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
use scalar::Scalar;

/// Vectors of `f32` of one instruction set. A value of the type proves that the machine has it.
pub(crate) trait Simd: Copy + Send + Sync {
    /// One vector.
    type V: Copy;
    /// Elements of a vector; divides 16.
    const LANES: usize;
    /// Vectors that can be held at a time.
    const REGISTERS: usize;

    /// Returns a vector with every lane `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads the first `LANES` elements. Panics when there are fewer.
    fn load(self, x: &[f32]) -> Self::V;
    /// Reads up to `LANES` elements; missing lanes get `fill`.
    fn load_or(self, x: &[f32], fill: f32) -> Self::V;
    /// Writes the first `LANES` elements. Panics when there are fewer.
    fn store(self, v: Self::V, to: &mut [f32]);
    /// Writes the first `LANES` elements, or all when there are fewer.
    fn store_some(self, v: Self::V, to: &mut [f32]);

    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c; rounded once except in scalar code.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// a if a > b, else b; hence b when one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a if a < b, else b; hence b when one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// a * 2^n for integers n in -252..=254.
    fn scale_pow2(self, a: Self::V, n: Self::V) -> Self::V;
    /// Adds to `acc` the products of two bf16 pairs per lane: that of the high halves, then that of the low
    /// ones, each rounded, but for scalar code once per product and sum together.
    fn dot_bf16(self, a: Self::V, b: Self::V, acc: Self::V) -> Self::V;

    /// Writes the low bytes of the first `LANES` lanes. Panics when there is room for fewer.
    #[inline(always)]
    fn store_bytes(self, a: Self::V, to: &mut [u8]) {
        let mut x = [0.0_f32; 16];
        self.store(a, &mut x);
        let lanes = to[..Self::LANES].iter_mut().zip(x);
        lanes.for_each(|(to, x)| *to = x.to_bits() as u8);
    }

    /// Asks for the cache line that is `bytes` after `from`, whether or not it exists. It comes into the
    /// second level: the first can wait for few lines at a time, and then computing waits with it.
    fn prefetch<T>(self, from: &T, bytes: usize);
    /// Asks for what lies ahead of `from` in memory that is read once and in order, for every line of it: the
    /// processor sees one stream.
    fn prefetch_stream<T>(self, from: &T);
    /// Reads the first `LANES` elements. Panics when there are fewer.
    fn load_f16(self, x: &[f16]) -> Self::V;
    /// Lanes are four bytes each: adds to the integers in `acc` the products of unsigned bytes of `a` and
    /// signed bytes of `b`, exactly.
    fn dot_bytes(self, a: Self::V, b: Self::V, acc: Self::V) -> Self::V;
    /// As [`Simd::dot_bytes`] where no byte of `a` is above 127.
    #[inline(always)]
    fn dot_small_bytes(self, a: Self::V, b: Self::V, acc: Self::V) -> Self::V {
        self.dot_bytes(a, b, acc)
    }
    /// Reads the first `LANES` elements as `f32`. Panics when there are fewer.
    fn load_i8(self, x: &[i8]) -> Self::V;
    /// Every byte becomes its bits from `shift` on that `mask` keeps, which must be its own.
    fn bits_right(self, a: Self::V, shift: u32, mask: u8) -> Self::V;
    /// As [`Simd::bits_right`], shifted to the left.
    fn bits_left(self, a: Self::V, shift: u32, mask: u8) -> Self::V;
    /// The bits of both.
    fn or(self, a: Self::V, b: Self::V) -> Self::V;

    /// Rounds to bf16 (to nearest, ties to even): lane i holds the pair of `a[i]`, in its low half, and
    /// `b[i]`. As in [`Simd::dot_bf16`], subnormal numbers may become zero.
    #[inline(always)]
    fn join_bf16(self, a: Self::V, b: Self::V) -> Self::V {
        let (mut low, mut high) = ([0.0; 16], [0.0; 16]);
        self.store(a, &mut low);
        self.store(b, &mut high);
        for (low, high) in low.iter_mut().zip(high) {
            *low = f32::from_bits(bf16_bits(*low) | bf16_bits(high) << 16);
        }
        self.load(&low)
    }
    /// As [`Simd::join_bf16`] for the pairs of neighbours a0 a1, a2 a3 ..., then those of b.
    #[inline(always)]
    fn pack_bf16(self, a: Self::V, b: Self::V) -> Self::V {
        let mut x = [0.0; 32];
        self.store(a, &mut x);
        self.store(b, &mut x[Self::LANES..]);
        let mut pairs = [0.0; 16];
        for (pair, x) in pairs.iter_mut().zip(x.chunks_exact(2)) {
            *pair = f32::from_bits(bf16_bits(x[0]) | bf16_bits(x[1]) << 16);
        }
        self.load(&pairs)
    }

    /// Lane i holds the pair of `high[i]` and `low[i]`, bit by bit. Panics when there are fewer than `LANES` of either.
    fn pair_bf16(self, high: &[bf16], low: &[bf16]) -> Self::V;

    /// a0 b0 a1 b1 ...: the lanes of both, alternately.
    fn zip(self, a: Self::V, b: Self::V) -> [Self::V; 2];

    /// Sum of the lanes, in a fixed order.
    fn reduce_add(self, a: Self::V) -> f32;
    /// Largest lane; not a NaN unless all are (then anything).
    fn reduce_max(self, a: Self::V) -> f32;

    /// e^a within 2 ulp: 0 for -inf, inf above the range, NaN for NaN.
    ///
    /// a = n ln 2 + r with |r| <= ln(2)/2, then the polynomial of Cephes' `expf` in r.
    #[inline(always)]
    fn exp(self, a: Self::V) -> Self::V {
        const POLYNOMIAL: [f32; 6] = [
            1.987_569_1e-4,
            1.398_2e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ];
        // Outside this range the result is 0 or inf; the order of the operands keeps NaN.
        let a = self.max(self.splat(-104.0), self.min(self.splat(89.0), a));
        let n = self.round(self.mul(a, self.splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, the first with few bits so that n * part is exact.
        let r = self.fma(n, self.splat(-0.693_359_4), a);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let mut p = self.splat(POLYNOMIAL[0]);
        for coefficient in &POLYNOMIAL[1..] {
            p = self.fma(p, r, self.splat(*coefficient));
        }
        let p = self.fma(p, self.mul(r, r), self.add(r, self.splat(1.0)));
        self.scale_pow2(p, n)
    }

    /// 1 / (1 + e^-a).
    #[inline(always)]
    fn sigmoid(self, a: Self::V) -> Self::V {
        let one = self.splat(1.0);
        self.div(one, self.add(one, self.exp(self.sub(self.splat(0.0), a))))
    }
}

/// A computation that is compiled once per instruction set; see the [module](self).
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// Computes. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Returns whether this machine has the instruction set.
pub(crate) fn supports(isa: Isa) -> bool {
    match isa {
        Isa::Scalar => true,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::<false>::new().is_some(),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Avx2::<true>::new().is_some(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => Avx512::<false>::new().is_some(),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::<true>::new().is_some(),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Avx512 => false,
    }
}

/// Runs the kernel with the instruction set, or with portable code if the machine lacks it.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512 => {
            if let Some(s) = Avx512::<true>::new() {
                return s.call(kernel);
            }
        }
        Isa::Avx512Vnni => {
            if let Some(s) = Avx512::<false>::new() {
                return s.call(kernel);
            }
        }
        Isa::AvxVnni => {
            if let Some(s) = Avx2::<true>::new() {
                return s.call(kernel);
            }
        }
        Isa::Avx2 => {
            if let Some(s) = Avx2::<false>::new() {
                return s.call(kernel);
            }
        }
        Isa::Scalar => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = isa;
    kernel.run(Scalar)
}

/// Returns the bits of `x` rounded to bf16: `bf16::from_f32` without a branch, so that loops over it
/// become vectors.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet_nan = bits >> 16 | 0x40;
    if x.is_nan() { quiet_nan } else { rounded }
}

/// Splits the bits of a bf16 pair into its two values.
#[inline(always)]
fn unpack_pair(pair: f32) -> [f32; 2] {
    let bits = pair.to_bits();
    [
        f32::from_bits(bits << 16),
        f32::from_bits(bits & 0xffff_0000),
    ]
}
