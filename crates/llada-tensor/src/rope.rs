//! Rotary position embedding, half-split layout on the first R dims of each head (`model.md` 5).

use rayon::prelude::*;

use crate::Tensor;
use crate::parallel::rows_per_task;

/// Cosines and sines of every (row, frequency), computed once per forward pass.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Frequencies per row, R/2.
    pub half: usize,
    /// cos(pos * freq) * scale, [N, R/2].
    pub cos: Vec<f32>,
    /// sin(pos * freq) * scale, [N, R/2].
    pub sin: Vec<f32>,
}

impl Rotation {
    /// Computes the rotation of rows at `positions`; `scale` multiplies cos and sin (YaRN's m).
    pub fn new(positions: &[u32], inv_freq: &[f32], scale: f32) -> Self {
        let len = positions.len() * inv_freq.len();
        let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
        for &position in positions {
            for freq in inv_freq {
                let (s, c) = (position as f32 * freq).sin_cos();
                cos.push(c * scale);
                sin.push(s * scale);
            }
        }
        Self {
            half: inv_freq.len(),
            cos,
            sin,
        }
    }
}

/// Rotates every head of every row in place. # Shapes: x [N, heads*P].
pub fn rope(x: &mut Tensor, head_dim: usize, rotation: &Rotation) {
    rotate(x, head_dim, rotation, |sin| sin);
}

/// Turns the gradient of the rotated x into that of x, in place (the transposed rotation).
pub fn rope_backward(dx: &mut Tensor, head_dim: usize, rotation: &Rotation) {
    rotate(dx, head_dim, rotation, |sin| -sin);
}

/// Rotates with `sine(sin)` in place of sin: the transpose of a rotation is that of the opposite angle.
fn rotate(x: &mut Tensor, head_dim: usize, rotation: &Rotation, sine: impl Fn(f32) -> f32 + Sync) {
    let [rows, columns] = x.dims2();
    let half = rotation.half;
    assert!(
        head_dim > 0 && columns % head_dim == 0,
        "rope: {columns} columns, head {head_dim}"
    );
    assert!(
        2 * half <= head_dim,
        "rope: {half} frequencies, head {head_dim}"
    );
    assert_eq!(
        rotation.cos.len(),
        rows * half,
        "rope: rotation of other rows"
    );
    if half == 0 {
        return;
    }
    let task = rows_per_task(rows, columns);
    let angles = rotation
        .cos
        .par_chunks(task * half)
        .zip(rotation.sin.par_chunks(task * half));
    x.f32s_mut()
        .par_chunks_mut(task * columns)
        .zip(angles)
        .for_each(|(x, (cos, sin))| {
            let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
            for (row, (cos, sin)) in x.chunks_exact_mut(columns).zip(angles) {
                for head in row.chunks_exact_mut(head_dim) {
                    let (low, high) = head[..2 * half].split_at_mut(half);
                    for i in 0..half {
                        let (u, w, sin) = (low[i], high[i], sine(sin[i]));
                        low[i] = u * cos[i] - w * sin;
                        high[i] = w * cos[i] + u * sin;
                    }
                }
            }
        });
}
