//! Inputs and comparisons shared by the tests.

use llada_tensor::{Isa, Precision, Tensor, Weight, with_isa};

/// Both precisions of a product.
pub(crate) const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Returns reproducible values in -1..1 that look random.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    for _ in 0..8 {
        next(); // the first values of similar seeds are similar
    }
    (0..len).map(|_| next()).collect()
}

/// Returns a matrix of [`noise`].
pub(crate) fn matrix(seed: u64, shape: [usize; 2]) -> Tensor {
    Tensor::from_f32(&shape, noise(seed, shape[0] * shape[1]))
}

/// Returns a weight of [`noise`].
pub(crate) fn weight(seed: u64, shape: [usize; 2], precision: Precision) -> Weight {
    Weight::new(matrix(seed, shape), precision)
}

/// Returns the values as a product of the given precision sees them.
pub(crate) fn seen(x: &Tensor, precision: Precision) -> Vec<f64> {
    let x = match precision {
        Precision::F32 => x.to_f32(),
        Precision::Bf16 => x.to_bf16().to_f32(),
    };
    doubles(x.f32s())
}

/// Returns the values in f64.
pub(crate) fn doubles(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

/// Asserts that the values differ by at most `tolerance` times the largest expected magnitude.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= tolerance * scale,
            "element {i}: {got} instead of {want}"
        );
    }
}

/// Runs `body` once per instruction set of this machine, with that set in use.
pub(crate) fn for_every_isa(body: impl Fn()) {
    for isa in Isa::available() {
        with_isa(isa, &body);
    }
}

/// Runs `body` in a pool of the given number of threads, with the caller's instruction set.
pub(crate) fn with_threads<T: Send>(threads: usize, body: impl FnOnce() -> T + Send) -> T {
    let isa = Isa::active();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads can be started");
    pool.install(|| with_isa(isa, body))
}

/// Returns the central differences of `f` at `x`.
pub(crate) fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let len = x.len();
    let mut x = x.to_vec();
    let mut shifted = |i: usize, by: f64| {
        let saved = x[i];
        x[i] += by;
        let value = f(&x);
        x[i] = saved;
        value
    };
    (0..len)
        .map(|i| (shifted(i, STEP) - shifted(i, -STEP)) / (2.0 * STEP))
        .collect()
}
