//! `rope` and its gradient.

use llada_tensor::{Rotation, Tensor, reference, rope, rope_backward};

use crate::data::{assert_close, doubles, for_every_isa, matrix, with_threads};
use crate::gradients::numeric_gradient;

const INV_FREQ: [f32; 3] = [1.0, 0.25, 0.01];
const POSITIONS: [u32; 4] = [0, 1, 7, 200];
/// As YaRN's factor on cosines and sines.
const SCALE: f32 = 1.25;

fn reference(x: &[f64], head_dim: usize) -> Vec<f64> {
    reference::rope::rope(x, head_dim, &POSITIONS, &doubles(&INV_FREQ), SCALE.into())
}

#[test]
fn the_first_dimensions_of_every_head_rotate_as_in_the_reference() {
    for head_dim in [6, 8, 21] {
        let x = matrix(1, [4, 3 * head_dim]);
        let want = reference(&doubles(x.f32s()), head_dim);
        for_every_isa(|| {
            let mut y = x.clone();
            rope(
                &mut y,
                head_dim,
                &Rotation::new(&POSITIONS, &INV_FREQ, SCALE),
            );
            assert_close(y.f32s(), &want, 2e-6);
        });
    }
}

#[test]
fn gradient_agrees_with_finite_differences() {
    let (x, dy) = (matrix(1, [4, 16]), matrix(2, [4, 16]));
    let want = numeric_gradient(&doubles(x.f32s()), &doubles(dy.f32s()), |x| reference(x, 8));
    for_every_isa(|| {
        let mut dx = dy.clone();
        rope_backward(&mut dx, 8, &Rotation::new(&POSITIONS, &INV_FREQ, SCALE));
        assert_close(dx.f32s(), &want, 2e-6);
    });
}

#[test]
fn without_frequencies_nothing_rotates() {
    let x = matrix(1, [4, 8]);
    let mut y = x.clone();
    rope(&mut y, 4, &Rotation::new(&POSITIONS, &[], 1.0));
    assert_eq!(x, y);
}

#[test]
fn one_and_two_threads_are_bit_identical() {
    let (x, positions) = (matrix(1, [4000, 128]), (0..4000).collect::<Vec<_>>());
    let run = || {
        let mut y: Tensor = x.clone();
        rope(&mut y, 8, &Rotation::new(&positions, &INV_FREQ, 1.0));
        y
    };
    assert_eq!(with_threads(1, run), with_threads(2, run));
}
