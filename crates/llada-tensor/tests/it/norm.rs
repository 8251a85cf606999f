//! `rms_norm` and its gradient.

use llada_tensor::{Gradient, Tensor, reference, rms_norm, rms_norm_backward};

use crate::data::{assert_close, doubles, for_every_isa, matrix, noise, with_threads};
use crate::gradients::numeric_gradient;

const EPS: f32 = 1e-5;

/// (rows, groups per row, width): single elements, ragged vectors, heads.
const SHAPES: [[usize; 3]; 6] = [
    [1, 1, 1],
    [3, 1, 7],
    [5, 4, 16],
    [2, 3, 33],
    [4, 1, 128],
    [300, 2, 40],
];

#[test]
fn every_group_is_normalised_as_in_the_reference() {
    for_every_isa(|| {
        for [rows, groups, width] in SHAPES {
            let (x, w) = (
                matrix(1, [rows, groups * width]),
                Tensor::from_f32(&[width], noise(2, width)),
            );
            let want =
                reference::norm::rms_norm(&doubles(x.f32s()), &doubles(w.f32s()), EPS.into());
            assert_close(rms_norm(&x, &w, EPS).f32s(), &want, 1e-6);
        }
    });
}

#[test]
fn gradients_agree_with_finite_differences_and_dw_accumulates() {
    for_every_isa(|| {
        for [rows, groups, width] in &SHAPES[1..5] {
            let shape = [*rows, groups * width];
            let (x, dy) = (matrix(1, shape), matrix(3, shape));
            let w = Tensor::from_f32(&[*width], noise(2, *width));
            let [x64, w64, dy64] = [&x, &w, &dy].map(|t| doubles(t.f32s()));
            let want_dx = numeric_gradient(&x64, &dy64, |x| {
                reference::norm::rms_norm(x, &w64, EPS.into())
            });
            let want_dw: Vec<f64> = numeric_gradient(&w64, &dy64, |w| {
                reference::norm::rms_norm(&x64, w, EPS.into())
            });
            let mut dw = Gradient::Values(Tensor::from_f32(&[*width], vec![2.0; *width]));
            let dx = rms_norm_backward(&x, &w, EPS, &dy, &mut dw);
            assert_close(dx.f32s(), &want_dx, 1e-4);
            let want_dw: Vec<f64> = want_dw.iter().map(|dw| dw + 2.0).collect();
            assert_close(dw.tensors()[0].f32s(), &want_dw, 1e-5);
        }
    });
}

#[test]
fn a_row_alone_is_bit_identical_to_the_row_in_a_batch() {
    let (x, w) = (
        matrix(1, [20, 2 * 37]),
        Tensor::from_f32(&[37], noise(2, 37)),
    );
    for_every_isa(|| {
        let batch = rms_norm(&x, &w, EPS);
        for row in 0..20 {
            let alone = Tensor::from_f32(&[1, 2 * 37], x.row(row).to_vec());
            assert_eq!(rms_norm(&alone, &w, EPS).f32s(), batch.row(row));
        }
    });
}

#[test]
fn one_and_two_threads_are_bit_identical() {
    let (x, dy) = (matrix(1, [3000, 128]), matrix(2, [3000, 128]));
    let w = Tensor::from_f32(&[64], noise(3, 64));
    let run = || {
        let mut dw = Gradient::Values(Tensor::zeros(&[64]));
        let dx = rms_norm_backward(&x, &w, EPS, &dy, &mut dw);
        (rms_norm(&x, &w, EPS), dx, dw)
    };
    assert_eq!(with_threads(1, run), with_threads(2, run));
}
