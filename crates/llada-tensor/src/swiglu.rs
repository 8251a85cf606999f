//! The gated activation `silu(gate) * up`.

use rayon::prelude::*;

use crate::parallel::rows_per_task;
use crate::simd::{Kernel, Simd, dispatch};
use crate::{Isa, Tensor};

/// Cost of one element in element operations, mostly the exponential.
const OPS: usize = 4;

/// Returns `silu(gate) * up`. # Shapes: gate, up [N, F] -> [N, F].
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    assert_eq!(gate.shape(), up.shape(), "swiglu: gate and up");
    let isa = Isa::active();
    let mut y = Tensor::zeros(gate.shape());
    let task = rows_per_task(gate.len(), OPS);
    let inputs = gate.f32s().par_chunks(task).zip(up.f32s().par_chunks(task));
    y.f32s_mut()
        .par_chunks_mut(task)
        .zip(inputs)
        .for_each(|(y, (gate, up))| dispatch(isa, Forward { gate, up, y }));
    y
}

/// Returns (dgate, dup). # Shapes: all [N, F].
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> (Tensor, Tensor) {
    assert_eq!(gate.shape(), up.shape(), "swiglu_backward: gate and up");
    assert_eq!(gate.shape(), dy.shape(), "swiglu_backward: gate and dy");
    let isa = Isa::active();
    let (mut dgate, mut dup) = (Tensor::zeros(gate.shape()), Tensor::zeros(gate.shape()));
    let task = rows_per_task(gate.len(), 2 * OPS);
    let inputs = gate.f32s().par_chunks(task).zip(up.f32s().par_chunks(task));
    let grads = dgate
        .f32s_mut()
        .par_chunks_mut(task)
        .zip(dup.f32s_mut().par_chunks_mut(task));
    grads.zip(inputs.zip(dy.f32s().par_chunks(task))).for_each(
        |((dgate, dup), ((gate, up), dy))| {
            dispatch(
                isa,
                Backward {
                    gate,
                    up,
                    dy,
                    dgate,
                    dup,
                },
            );
        },
    );
    (dgate, dup)
}

struct Forward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = self.gate.chunks(S::LANES).zip(self.up.chunks(S::LANES));
        for (y, (gate, up)) in self.y.chunks_mut(S::LANES).zip(inputs) {
            let (gate, up) = (s.load_or(gate, 0.0), s.load_or(up, 0.0));
            s.store_some(s.mul(s.mul(gate, s.sigmoid(gate)), up), y);
        }
    }
}

/// With `t = sigmoid(gate)`: `dup = dy * gate * t` and `dgate = dy * up * t * (1 + gate * (1 - t))`.
struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    dy: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        let inputs = self.gate.chunks(S::LANES).zip(self.up.chunks(S::LANES));
        let grads = self
            .dgate
            .chunks_mut(S::LANES)
            .zip(self.dup.chunks_mut(S::LANES));
        for (((gate, up), dy), (dgate, dup)) in inputs.zip(self.dy.chunks(S::LANES)).zip(grads) {
            let [gate, up, dy] = [s.load_or(gate, 0.0), s.load_or(up, 0.0), s.load_or(dy, 0.0)];
            let t = s.sigmoid(gate);
            let scaled = s.mul(dy, t);
            let slope = s.fma(gate, s.sub(one, t), one);
            s.store_some(s.mul(scaled, gate), dup);
            s.store_some(s.mul(s.mul(scaled, up), slope), dgate);
        }
    }
}
