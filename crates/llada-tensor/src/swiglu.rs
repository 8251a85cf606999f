//! The gated activation `silu(gate) * up`.

use rayon::prelude::*;

use crate::Tensor;
use crate::parallel::rows_per_task;

/// Cost of one element in element operations, mostly the exponential.
const OPS: usize = 8;

/// Returns `silu(gate) * up`. # Shapes: gate, up [N, F] -> [N, F].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    assert_eq!(gate.shape(), up.shape(), "swiglu: gate and up");
    let mut y = Tensor::zeros(gate.shape());
    let task = rows_per_task(gate.len(), OPS);
    let inputs = gate.f32s().par_chunks(task).zip(up.f32s().par_chunks(task));
    y.f32s_mut().par_chunks_mut(task).zip(inputs).for_each(|(y, (gate, up))| {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate * sigmoid(*gate) * up;
        }
    });
    y
}

/// Returns (dgate, dup). # Shapes: all [N, F].
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    assert_eq!(gate.shape(), up.shape(), "swiglu_backward: gate and up");
    assert_eq!(gate.shape(), dy.shape(), "swiglu_backward: gate and dy");
    let (mut dgate, mut dup) = (Tensor::zeros(gate.shape()), Tensor::zeros(gate.shape()));
    let task = rows_per_task(gate.len(), 2 * OPS);
    let inputs = gate.f32s().par_chunks(task).zip(up.f32s().par_chunks(task));
    let outputs = dgate.f32s_mut().par_chunks_mut(task).zip(dup.f32s_mut().par_chunks_mut(task));
    outputs.zip(inputs).zip(dy.f32s().par_chunks(task)).for_each(
        |(((dgate, dup), (gate, up)), dy)| {
            for i in 0..dy.len() {
                let s = sigmoid(gate[i]);
                dup[i] = dy[i] * gate[i] * s;
                dgate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
            }
        },
    );
    (dgate, dup)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
