//! AVX2, FMA and F16C, with VNNI or without it: eight lanes.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::stream::Stream;
use super::{Kernel, Simd};

/// Lanes of a vector.
const WIDTH: usize = 8;

/// Proof that the machine has AVX2, FMA and F16C, and AVX-VNNI if it says so.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>(Stream);

impl<const VNNI: bool> Avx2<VNNI> {
    pub(super) fn new() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        detected.then(|| Self(Stream::of_machine()))
    }

    /// Runs a kernel compiled for this instruction set.
    pub(super) fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enabled<K: Kernel>(s: Avx2<false>, kernel: K) -> K::Output {
            kernel.run(s)
        }
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn enabled_vnni<K: Kernel>(s: Avx2<true>, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: `self` proves that the features exist.
        unsafe {
            match VNNI {
                true => enabled_vnni(Avx2(self.0), kernel),
                false => enabled(Avx2(self.0), kernel),
            }
        }
    }
}

/// Defines lane-wise operations from expressions of intrinsics.
macro_rules! operations {
    ($(fn $name:ident($($arg:ident),*) { $body:expr })*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m256),*) -> __m256 {
            // SAFETY: `self` proves that the features exist; no memory is touched.
            unsafe { $body }
        }
    )*};
}

/// 2^n for integers n in -126..=127.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn pow2(n: __m256i) -> __m256 {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

/// The first and the second value of every bf16 pair.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn unpack_pairs(pairs: __m256) -> [__m256; 2] {
    // SAFETY: the caller vouches for AVX2.
    unsafe {
        let bits = _mm256_castps_si256(pairs);
        let low = _mm256_slli_epi32::<16>(bits);
        let high = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type V = __m256;
    const LANES: usize = WIDTH;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves that the features exist.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> __m256 {
        let x = &x[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has eight elements.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_or(self, x: &[f32], fill: f32) -> __m256 {
        if x.len() >= Self::LANES {
            return self.load(x);
        }
        let mut lanes = [fill; WIDTH];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    #[inline(always)]
    fn store(self, v: __m256, to: &mut [f32]) {
        let to = &mut to[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has eight elements.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_some(self, v: __m256, to: &mut [f32]) {
        if to.len() >= Self::LANES {
            return self.store(v, to);
        }
        let mut lanes = [0.0; WIDTH];
        self.store(v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    operations! {
        fn add(a, b) { _mm256_add_ps(a, b) }
        fn sub(a, b) { _mm256_sub_ps(a, b) }
        fn mul(a, b) { _mm256_mul_ps(a, b) }
        fn div(a, b) { _mm256_div_ps(a, b) }
        fn fma(a, b, c) { _mm256_fmadd_ps(a, b, c) }
        fn max(a, b) { _mm256_max_ps(a, b) }
        fn min(a, b) { _mm256_min_ps(a, b) }
        fn round(a) { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
        // Two factors, because 2^n alone may leave the range of normal numbers.
        fn scale_pow2(a, n) {{
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            _mm256_mul_ps(_mm256_mul_ps(a, pow2(half)), pow2(_mm256_sub_epi32(n, half)))
        }}
        fn dot_bf16(a, b, acc) {{
            let ([a0, a1], [b0, b1]) = (unpack_pairs(a), unpack_pairs(b));
            _mm256_fmadd_ps(a0, b0, _mm256_fmadd_ps(a1, b1, acc))
        }}
        fn dot_bytes(a, b, acc) {{
            let (a, b, acc) = (
                _mm256_castps_si256(a),
                _mm256_castps_si256(b),
                _mm256_castps_si256(acc),
            );
            _mm256_castsi256_ps(if VNNI {
                _mm256_dpbusd_avx_epi32(acc, a, b)
            } else {
                // Bytes 0 and 2, then 1 and 3, as numbers of 16 bits: no product or sum is out of range.
                let even_a = _mm256_and_si256(a, _mm256_set1_epi16(0xff));
                let even_b = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
                let (odd_a, odd_b) = (_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
                let even = _mm256_madd_epi16(even_a, even_b);
                let odd = _mm256_madd_epi16(odd_a, odd_b);
                _mm256_add_epi32(acc, _mm256_add_epi32(even, odd))
            })
        }}
        fn or(a, b) { _mm256_or_ps(a, b) }
    }

    #[inline(always)]
    fn dot_small_bytes(self, a: __m256, b: __m256, acc: __m256) -> __m256 {
        if VNNI {
            return self.dot_bytes(a, b, acc);
        }
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            // The sum of two products is at most 2 * 127 * 128, which 16 bits hold.
            let pairs = _mm256_maddubs_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b));
            let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(acc), sums))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, from: &T, bytes: usize) {
        let address = std::ptr::from_ref(from).cast::<i8>().wrapping_add(bytes);
        // SAFETY: `self` proves that the features exist; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address) }
    }

    #[inline(always)]
    fn prefetch_stream<T>(self, from: &T) {
        self.0.ask(from);
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16]) -> __m256 {
        let x = &x[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has eight elements.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> __m256 {
        let x = &x[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has eight elements.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn bits_right(self, a: __m256, shift: u32, mask: u8) -> __m256 {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            let shifted =
                _mm256_srlv_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(shift as i32));
            _mm256_castsi256_ps(_mm256_and_si256(
                shifted,
                _mm256_set1_epi8(mask.cast_signed()),
            ))
        }
    }

    #[inline(always)]
    fn bits_left(self, a: __m256, shift: u32, mask: u8) -> __m256 {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            let shifted =
                _mm256_sllv_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(shift as i32));
            _mm256_castsi256_ps(_mm256_and_si256(
                shifted,
                _mm256_set1_epi8(mask.cast_signed()),
            ))
        }
    }

    #[inline(always)]
    fn pair_bf16(self, high: &[bf16], low: &[bf16]) -> __m256 {
        let (high, low) = (&high[..Self::LANES], &low[..Self::LANES]);
        // SAFETY: `self` proves that the features exist, and the slices have eight elements.
        unsafe {
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(high.as_ptr().cast()));
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(low.as_ptr().cast()));
            let pairs = _mm256_or_si256(_mm256_slli_epi32::<16>(high), low);
            _mm256_castsi256_ps(pairs)
        }
    }

    #[inline(always)]
    fn zip(self, a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            // Unpacking works in each half apart: both first halves, then both second halves.
            [
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            ]
        }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(a, &mut lanes);
        let [a, b, c, d] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn reduce_max(self, a: __m256) -> f32 {
        let mut lanes = [0.0; 8];
        self.store(a, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
