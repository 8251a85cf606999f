//! `swiglu` and its gradient.

use llada_tensor::{SwigluGrads, Tensor, reference, swiglu, swiglu_backward};

use crate::data::{assert_close, doubles, for_every_isa, matrix, with_threads};
use crate::gradients::numeric_gradient;

const SHAPES: [[usize; 2]; 4] = [[1, 1], [2, 16], [3, 37], [5, 100]];

#[test]
fn values_agree_with_the_reference() {
    for_every_isa(|| {
        for shape in SHAPES {
            let (gate, up) = (matrix(1, shape), matrix(2, shape));
            let want = reference::swiglu::swiglu(&doubles(gate.f32s()), &doubles(up.f32s()));
            assert_close(swiglu(&gate, &up).f32s(), &want, 1e-6);
        }
    });
}

#[test]
fn gradients_agree_with_finite_differences() {
    for_every_isa(|| {
        for shape in SHAPES {
            let (gate, up, dy) = (matrix(1, shape), matrix(2, shape), matrix(3, shape));
            let [gate64, up64, dy64] = [&gate, &up, &dy].map(|t| doubles(t.f32s()));
            let forward = swiglu(&gate, &up);
            let SwigluGrads {
                gate: dgate,
                up: dup,
                y,
            } = swiglu_backward(gate, up, dy);
            assert_eq!(y, forward);
            let of_gate = |gate: &[f64]| reference::swiglu::swiglu(gate, &up64);
            let of_up = |up: &[f64]| reference::swiglu::swiglu(&gate64, up);
            assert_close(
                dgate.f32s(),
                &numeric_gradient(&gate64, &dy64, of_gate),
                2e-6,
            );
            assert_close(dup.f32s(), &numeric_gradient(&up64, &dy64, of_up), 2e-6);
        }
    });
}

#[test]
fn large_gates_saturate_without_overflow() {
    for_every_isa(|| {
        let gate = Tensor::from_f32(&[1, 2], vec![-1000.0, 1000.0]);
        let ones = Tensor::from_f32(&[1, 2], vec![1.0, 1.0]);
        assert_eq!(swiglu(&gate, &ones).f32s(), [0.0, 1000.0]);
        let grads = swiglu_backward(gate, ones.clone(), ones);
        assert_eq!(
            (grads.gate.f32s(), grads.up.f32s()),
            (&[0.0, 1.0][..], &[0.0, 1000.0][..])
        );
    });
}

#[test]
fn one_and_two_threads_are_bit_identical() {
    let (gate, up, dy) = (
        matrix(1, [999, 130]),
        matrix(2, [999, 130]),
        matrix(3, [999, 130]),
    );
    let run = || {
        (
            swiglu(&gate, &up),
            swiglu_backward(gate.clone(), up.clone(), dy.clone()),
        )
    };
    assert_eq!(with_threads(1, run), with_threads(2, run));
}

#[test]
fn a_row_alone_is_bit_identical_to_the_row_in_a_batch() {
    let (gate, up) = (matrix(1, [9, 37]), matrix(2, [9, 37]));
    for_every_isa(|| {
        let batch = swiglu(&gate, &up);
        for row in 0..9 {
            let alone = |x: &Tensor| Tensor::from_f32(&[1, 37], x.row(row).to_vec());
            assert_eq!(swiglu(&alone(&gate), &alone(&up)).f32s(), batch.row(row));
        }
    });
}
