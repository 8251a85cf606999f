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
    let mut y = Tensor::scratch(gate.shape());
    let task = rows_per_task(gate.len(), OPS);
    let inputs = gate.f32s().par_chunks(task).zip(up.f32s().par_chunks(task));
    y.f32s_mut()
        .par_chunks_mut(task)
        .zip(inputs)
        .for_each(|(y, (gate, up))| swiglu_to(isa, gate, up, y));
    y
}

/// Writes `silu(gate) * up` to `y`, all of one length.
pub(crate) fn swiglu_to(isa: Isa, gate: &[f32], up: &[f32], y: &mut [f32]) {
    dispatch(isa, Forward { gate, up, y });
}

/// What [`swiglu_backward`] returns, each [N, F].
#[derive(Clone, Debug, PartialEq)]
pub struct SwigluGrads {
    /// Gradient of `gate`.
    pub gate: Tensor,
    /// Gradient of `up`.
    pub up: Tensor,
    /// The forward's result once more, so that nobody needs to keep it.
    pub y: Tensor,
}

/// Returns the gradients of the inputs, and the forward's result. They overwrite the arguments, so
/// that the largest arrays of a layer exist once. # Shapes: all [N, F].
pub fn swiglu_backward(mut gate: Tensor, mut up: Tensor, mut dy: Tensor) -> SwigluGrads {
    assert_eq!(gate.shape(), up.shape(), "swiglu_backward: gate and up");
    assert_eq!(gate.shape(), dy.shape(), "swiglu_backward: gate and dy");
    let isa = Isa::active();
    let task = rows_per_task(gate.len(), 2 * OPS);
    let inputs = gate
        .f32s_mut()
        .par_chunks_mut(task)
        .zip(up.f32s_mut().par_chunks_mut(task));
    inputs
        .zip(dy.f32s_mut().par_chunks_mut(task))
        .for_each(|((gate, up), dy)| dispatch(isa, Backward { gate, up, dy }));
    SwigluGrads { gate, up, y: dy }
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

/// With `t = sigmoid(gate)`: `dup = dy * gate * t`, `dgate = dy * up * t * (1 + gate * (1 - t))` and
/// `y = gate * t * up` take the places of up, gate and dy.
struct Backward<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
    dy: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        let inputs = self
            .gate
            .chunks_mut(S::LANES)
            .zip(self.up.chunks_mut(S::LANES));
        for ((gate_at, up_at), dy_at) in inputs.zip(self.dy.chunks_mut(S::LANES)) {
            let [gate, up, dy] = [
                s.load_or(gate_at, 0.0),
                s.load_or(up_at, 0.0),
                s.load_or(dy_at, 0.0),
            ];
            let t = s.sigmoid(gate);
            let scaled = s.mul(dy, t);
            let slope = s.fma(gate, s.sub(one, t), one);
            s.store_some(s.mul(s.mul(scaled, up), slope), gate_at);
            s.store_some(s.mul(scaled, gate), up_at);
            s.store_some(s.mul(s.mul(gate, t), up), dy_at);
        }
    }
}
