//! AVX-512 with VNNI, and with BF16 or without it: sixteen lanes, masked tails, dot products of bytes and of bf16
//! pairs.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::stream::Stream;
use super::{Kernel, Simd};

/// Proof that the machine has AVX-512 F, BW, VL, DQ and VNNI, and BF16 if it says so.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>(Stream);

impl<const BF16: bool> Avx512<BF16> {
    pub(super) fn new() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        detected.then(|| Self(Stream::of_machine()))
    }

    /// Runs a kernel compiled for this instruction set.
    pub(super) fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn enabled<K: Kernel>(s: Avx512<false>, kernel: K) -> K::Output {
            kernel.run(s)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
        fn enabled_bf16<K: Kernel>(s: Avx512<true>, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: `self` proves that the features exist.
        unsafe {
            match BF16 {
                true => enabled_bf16(Avx512(self.0), kernel),
                false => enabled(Avx512(self.0), kernel),
            }
        }
    }
}

/// Defines lane-wise operations from expressions of intrinsics.
macro_rules! operations {
    ($(fn $name:ident($($arg:ident),*) { $body:expr })*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: __m512),*) -> __m512 {
            // SAFETY: `self` proves that the features exist; no memory is touched.
            unsafe { $body }
        }
    )*};
}

/// The mask of the first `len` lanes.
#[inline(always)]
fn first(len: usize) -> __mmask16 {
    if len >= 16 { !0 } else { (1 << len) - 1 }
}

/// Reads the bits of a vector as bf16 pairs.
#[inline(always)]
fn pairs(v: __m512) -> __m512bh {
    // SAFETY: both types are 64 bytes in which every bit pattern is valid.
    unsafe { std::mem::transmute(v) }
}

/// The first and the second value of every bf16 pair.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn unpack_pairs(pairs: __m512) -> [__m512; 2] {
    // SAFETY: the caller vouches for AVX-512.
    unsafe {
        let bits = _mm512_castps_si512(pairs);
        let low = _mm512_slli_epi32::<16>(bits);
        let high = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
        [_mm512_castsi512_ps(low), _mm512_castsi512_ps(high)]
    }
}

/// The bits of every lane rounded to bf16 (to nearest, ties to even).
///
/// # Safety
/// The machine has AVX-512 F and BW.
#[inline(always)]
unsafe fn round_bf16(x: __m512) -> __m256i {
    // SAFETY: the caller vouches for AVX-512.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        // Made quiet, a NaN needs no rounding.
        let rounded = _mm512_mask_or_epi32(
            _mm512_add_epi32(bits, half),
            is_nan,
            bits,
            _mm512_set1_epi32(0x0040_0000),
        );
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves that the features exist.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> __m512 {
        let x = &x[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has sixteen elements.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_or(self, x: &[f32], fill: f32) -> __m512 {
        // SAFETY: `self` proves that the features exist; lanes past the slice are masked out.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32]) {
        let to = &mut to[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has sixteen elements.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_some(self, v: __m512, to: &mut [f32]) {
        // SAFETY: `self` proves that the features exist; lanes past the slice are masked out.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), v) }
    }

    operations! {
        fn add(a, b) { _mm512_add_ps(a, b) }
        fn sub(a, b) { _mm512_sub_ps(a, b) }
        fn mul(a, b) { _mm512_mul_ps(a, b) }
        fn div(a, b) { _mm512_div_ps(a, b) }
        fn fma(a, b, c) { _mm512_fmadd_ps(a, b, c) }
        fn max(a, b) { _mm512_max_ps(a, b) }
        fn min(a, b) { _mm512_min_ps(a, b) }
        fn round(a) {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
        }
        fn scale_pow2(a, n) { _mm512_scalef_ps(a, n) }
        fn dot_bf16(a, b, acc) {
            if BF16 {
                // The last operand may be read from memory, and `a` is the one that is splatted.
                _mm512_dpbf16_ps(acc, pairs(b), pairs(a))
            } else {
                let ([a0, a1], [b0, b1]) = (unpack_pairs(a), unpack_pairs(b));
                _mm512_fmadd_ps(a0, b0, _mm512_fmadd_ps(a1, b1, acc))
            }
        }
        fn dot_bytes(a, b, acc) {{
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(acc), a, b))
        }}
        fn or(a, b) { _mm512_or_ps(a, b) }
    }

    #[inline(always)]
    fn store_bytes(self, a: __m512, to: &mut [u8]) {
        let to = &mut to[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has sixteen bytes.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(a));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
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
    fn load_f16(self, x: &[f16]) -> __m512 {
        let x = &x[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has sixteen elements.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8]) -> __m512 {
        let x = &x[..Self::LANES];
        // SAFETY: `self` proves that the features exist, and the slice has sixteen elements.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn bits_right(self, a: __m512, shift: u32, mask: u8) -> __m512 {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            let shifted =
                _mm512_srlv_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(shift as i32));
            _mm512_castsi512_ps(_mm512_and_si512(
                shifted,
                _mm512_set1_epi8(mask.cast_signed()),
            ))
        }
    }

    #[inline(always)]
    fn bits_left(self, a: __m512, shift: u32, mask: u8) -> __m512 {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            let shifted =
                _mm512_sllv_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(shift as i32));
            _mm512_castsi512_ps(_mm512_and_si512(
                shifted,
                _mm512_set1_epi8(mask.cast_signed()),
            ))
        }
    }

    #[inline(always)]
    fn join_bf16(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            // Lane i takes the halves i, of a, and 16 + i, of b.
            let low = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let high = _mm512_slli_epi32::<16>(_mm512_add_epi32(low, _mm512_set1_epi32(16)));
            let packed = _mm512_castps_si512(self.pack_bf16(a, b));
            let joined = _mm512_permutexvar_epi16(_mm512_or_si512(low, high), packed);
            _mm512_castsi512_ps(joined)
        }
    }

    #[inline(always)]
    fn pack_bf16(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the features exist; all types are bytes in which every bit pattern is valid.
        unsafe {
            if BF16 {
                std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(b, a))
            } else {
                let a = _mm512_castsi256_si512(round_bf16(a));
                _mm512_castsi512_ps(_mm512_inserti64x4::<1>(a, round_bf16(b)))
            }
        }
    }

    #[inline(always)]
    fn pair_bf16(self, high: &[bf16], low: &[bf16]) -> __m512 {
        let (high, low) = (&high[..Self::LANES], &low[..Self::LANES]);
        // SAFETY: `self` proves that the features exist, and the slices have sixteen elements.
        unsafe {
            let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(high.as_ptr().cast()));
            let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(low.as_ptr().cast()));
            let pairs = _mm512_or_si512(_mm512_slli_epi32::<16>(high), low);
            _mm512_castsi512_ps(pairs)
        }
    }

    #[inline(always)]
    fn zip(self, a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: `self` proves that the features exist; no memory is touched.
        unsafe {
            // Lane i of `b` has number 16 + i.
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [
                _mm512_permutex2var_ps(a, low, b),
                _mm512_permutex2var_ps(a, high, b),
            ]
        }
    }

    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        // SAFETY: `self` proves that the features exist.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        // SAFETY: `self` proves that the features exist.
        unsafe { _mm512_reduce_max_ps(a) }
    }
}
