//! Root-mean-square normalisation (`model.md` 4).

use rayon::prelude::*;

use crate::parallel::rows_per_task;
use crate::rows::add;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Gradient, Isa, Tensor};

/// Groups whose contributions to the weight's gradient are summed by one task. A constant, so that the
/// order of additions does not depend on the number of threads.
const GRAD_CHUNK: usize = 128;

/// Returns `w * x / sqrt(mean(x^2) + eps)` for every group of D consecutive elements of a row.
/// # Shapes: x [N, k*D] (k >= 1 groups per row, e.g. heads), w `[D]` -> [N, k*D].
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Tensor {
    check(x, w);
    let (isa, w) = (Isa::active(), w.f32s());
    let mut y = Tensor::scratch(x.shape());
    let task = rows_per_task(x.len() / w.len(), 2 * w.len()) * w.len();
    y.f32s_mut()
        .par_chunks_mut(task)
        .zip(x.f32s().par_chunks(task))
        .for_each(|(y, x)| dispatch(isa, Forward { x, w, eps, y }));
    y
}

/// Returns dx and adds the weight's gradient to `dw`. # Shapes: x, dy [N, k*D], w, dw `[D]`.
pub fn rms_norm_backward(
    x: &Tensor,
    w: &Tensor,
    eps: f32,
    dy: &Tensor,
    dw: &mut Gradient,
) -> Tensor {
    check(x, w);
    assert_eq!(x.shape(), dy.shape(), "rms_norm_backward: x and dy");
    let (isa, w) = (Isa::active(), w.f32s());
    let mut dx = Tensor::scratch(x.shape());
    let chunk = GRAD_CHUNK * w.len();
    let partial_dws: Vec<Vec<f32>> = dx
        .f32s_mut()
        .par_chunks_mut(chunk)
        .zip(x.f32s().par_chunks(chunk).zip(dy.f32s().par_chunks(chunk)))
        .with_min_len(rows_per_task(usize::MAX, 4 * chunk))
        .map(|(dx, (x, dy))| dispatch(isa, Backward { x, w, eps, dy, dx }))
        .collect();
    if let Some(dw) = dw.values_mut() {
        assert_eq!(w.len(), dw.len(), "rms_norm_backward: w and dw");
        for partial in &partial_dws {
            add(dw.f32s_mut(), partial);
        }
    }
    dx
}

fn check(x: &Tensor, w: &Tensor) {
    let ([_, columns], width) = (x.dims2(), w.len());
    assert!(
        width > 0 && columns % width == 0,
        "rms_norm: x {:?}, w {:?}",
        x.shape(),
        w.shape()
    );
}

/// Normalises some groups.
struct Forward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.w.len();
        for (y, x) in self
            .y
            .chunks_exact_mut(width)
            .zip(self.x.chunks_exact(width))
        {
            let scale = inverse_rms(s, x, self.eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(self.w) {
                *y = w * (x * scale);
            }
        }
    }
}

/// Writes dx of some groups and returns their contribution to dw. With r = 1/rms and g = w * dy:
/// `dx = r * g - x * r^3 * mean(g * x)` and `dw = dy * x * r`.
struct Backward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let (w, width) = (self.w, self.w.len());
        let mut dw = vec![0.0; width];
        let groups = self.x.chunks_exact(width).zip(self.dy.chunks_exact(width));
        for (dx, (x, dy)) in self.dx.chunks_exact_mut(width).zip(groups) {
            let scale = inverse_rms(s, x, self.eps);
            for ((dx, w), dy) in dx.iter_mut().zip(w).zip(dy) {
                *dx = w * dy;
            }
            for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                *dw += dy * (x * scale);
            }
            let pull = dot(s, dx, x) / width as f32 * scale * scale * scale;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = *dx * scale - x * pull;
            }
        }
        dw
    }
}

#[inline(always)]
fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(s, x, x) / x.len() as f32 + eps).sqrt()
}

#[inline(always)]
fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let (xs, ys) = (x.chunks_exact(S::LANES), y.chunks_exact(S::LANES));
    let (last_x, last_y) = (xs.remainder(), ys.remainder());
    let mut sum = s.splat(0.0);
    for (x, y) in xs.zip(ys) {
        sum = s.fma(s.load(x), s.load(y), sum);
    }
    s.reduce_add(s.fma(s.load_or(last_x, 0.0), s.load_or(last_y, 0.0), sum))
}
