//! Root-mean-square normalisation (`model.md` 4).

use rayon::prelude::*;

use crate::Tensor;
use crate::parallel::rows_per_task;
use crate::rows::add;

/// Groups whose contributions to the weight's gradient are summed by one task. A constant, so that the
/// order of additions does not depend on the number of threads.
const GRAD_CHUNK: usize = 128;

/// Returns `w * x / sqrt(mean(x^2) + eps)` for every group of D consecutive elements of a row.
/// # Shapes: x [N, k*D] (k >= 1 groups per row, e.g. heads), w [D] -> [N, k*D].
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Tensor {
    let groups = check_groups(x, w);
    let (width, w) = (w.len(), w.f32s());
    let mut y = Tensor::zeros(x.shape());
    let task = rows_per_task(groups, 2 * width) * width;
    y.f32s_mut().par_chunks_mut(task).zip(x.f32s().par_chunks(task)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let scale = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = w * (x * scale);
            }
        }
    });
    y
}

/// Returns dx and adds the weight's gradient to `dw`. # Shapes: x, dy [N, k*D], w, dw [D].
pub fn rms_norm_backward(x: &Tensor, w: &Tensor, eps: f32, dy: &Tensor, dw: &mut Tensor) -> Tensor {
    check_groups(x, w);
    assert_eq!(x.shape(), dy.shape(), "rms_norm_backward: x and dy");
    assert_eq!(w.len(), dw.len(), "rms_norm_backward: w and dw");
    let (width, w) = (w.len(), w.f32s());
    let mut dx = Tensor::zeros(x.shape());
    let chunk = GRAD_CHUNK * width;
    let partial_dws: Vec<Vec<f32>> = dx
        .f32s_mut()
        .par_chunks_mut(chunk)
        .zip(x.f32s().par_chunks(chunk).zip(dy.f32s().par_chunks(chunk)))
        .with_min_len(rows_per_task(usize::MAX, 4 * chunk))
        .map(|(dx, (x, dy))| backward_chunk(x, w, eps, dy, dx))
        .collect();
    for partial in &partial_dws {
        add(dw.f32s_mut(), partial);
    }
    dx
}

/// Writes dx of some groups and returns their contribution to dw. With r = 1/rms and g = w * dy:
/// `dx = r * g - x * r^3 * mean(g * x)` and `dw = dy * x * r`.
fn backward_chunk(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) -> Vec<f32> {
    let width = w.len();
    let mut dw = vec![0.0; width];
    let groups = x.chunks_exact(width).zip(dy.chunks_exact(width));
    for (dx, (x, dy)) in dx.chunks_exact_mut(width).zip(groups) {
        let scale = inverse_rms(x, eps);
        for i in 0..width {
            dx[i] = w[i] * dy[i];
            dw[i] += dy[i] * (x[i] * scale);
        }
        let pull = dot(dx, x) / width as f32 * scale * scale * scale;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = *dx * scale - x * pull;
        }
    }
    dw
}

/// Returns the number of groups of `w.len()` elements in `x`.
fn check_groups(x: &Tensor, w: &Tensor) -> usize {
    let [rows, columns] = x.dims2();
    let width = w.len();
    assert!(width > 0 && columns % width == 0, "rms_norm: x {:?}, w {:?}", x.shape(), w.shape());
    rows * columns / width
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Returns the dot product, summed in 16 interleaved chains that the compiler keeps in vectors.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}
