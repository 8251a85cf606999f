//! `linear` and its gradients against the reference, and their bit-identities.

use llada_tensor::reference::matmul::{matmul, transpose};
use llada_tensor::{
    Codes, Gradient, LinearBackward, PageFile, Precision, Tensor, Weight, bias_backward, linear,
};

use crate::data::{
    PRECISIONS, assert_close, doubles, for_every_isa, matrix, noise, seen, weight, with_threads,
};

/// (rows, inputs, outputs): every tile height and its tails, odd k, more than one block of k.
const SHAPES: [[usize; 3]; 14] = [
    [1, 1, 1],
    [1, 128, 384],
    [2, 7, 33],
    [3, 64, 15],
    [4, 17, 100],
    [5, 33, 130],
    [7, 129, 16],
    [9, 31, 47],
    [17, 600, 31],
    [25, 16, 160],
    [33, 130, 65],
    [60, 1100, 20],
    [200, 40, 24],
    [3, 9, 1100],
];

const TOLERANCE: f64 = 1e-5;

#[test]
fn linear_agrees_with_the_reference() {
    for_every_isa(|| {
        for [n, i, o] in SHAPES {
            for precision in PRECISIONS {
                let (x, w) = (matrix(1, [n, i]), weight(2, [o, i], precision));
                let transposed = transpose(&seen(w.values(), precision), [o, i]);
                let want = matmul(&seen(&x, precision), &transposed, [n, i, o]);
                let y = linear(&x, &w, None);
                assert_eq!(y.shape(), [n, o]);
                assert_close(y.f32s(), &want, TOLERANCE);
            }
        }
    });
}

#[test]
fn linear_starts_from_the_bias() {
    let (x, w) = (matrix(1, [5, 20]), weight(2, [33, 20], Precision::F32));
    let bias = Tensor::from_f32(&[33], noise(3, 33));
    let plain = linear(&x, &w, None);
    let want: Vec<f64> = (0..5 * 33)
        .map(|i| f64::from(plain.f32s()[i]) + f64::from(bias.f32s()[i % 33]))
        .collect();
    for_every_isa(|| assert_close(linear(&x, &w, Some(&bias)).f32s(), &want, TOLERANCE));
}

#[test]
fn input_gradient_agrees_with_the_reference() {
    for_every_isa(|| {
        for [n, i, o] in SHAPES {
            for precision in PRECISIONS {
                let (dy, w) = (matrix(1, [n, o]), weight(2, [o, i], precision));
                let want = matmul(
                    &seen(&dy, precision),
                    &seen(w.values(), precision),
                    [n, o, i],
                );
                assert_close(
                    LinearBackward::new(&dy, &w).input().f32s(),
                    &want,
                    TOLERANCE,
                );
            }
        }
    });
}

#[test]
fn weight_gradient_is_added_to_what_is_there() {
    for_every_isa(|| {
        for [n, i, o] in SHAPES {
            for precision in PRECISIONS {
                let (x, dy, before) = (matrix(1, [n, i]), matrix(2, [n, o]), matrix(3, [o, i]));
                let dy_transposed = transpose(&seen(&dy, precision), [n, o]);
                let mut want = matmul(&dy_transposed, &seen(&x, precision), [o, n, i]);
                want.iter_mut()
                    .zip(doubles(before.f32s()))
                    .for_each(|(w, b)| *w += b);
                let mut dw = Gradient::Values(before);
                let w = weight(4, [o, i], precision);
                LinearBackward::new(&dy, &w).weight(&x, &mut dw);
                assert_close(dw.tensors()[0].f32s(), &want, TOLERANCE);
            }
        }
    });
}

#[test]
fn bias_gradient_sums_the_rows() {
    let dy = Tensor::from_f32(&[2, 3], vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0]);
    let mut db = Gradient::Values(Tensor::from_f32(&[3], vec![0.5, 0.0, 0.0]));
    bias_backward(&dy, &mut db);
    assert_eq!(db.tensors()[0].f32s(), [11.5, 22.0, 33.0]);
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    for_every_isa(|| {
        for precision in PRECISIONS {
            let (x, mut w) = (matrix(1, [41, 700]), weight(2, [150, 700], precision));
            let batch = linear(&x, &w, None);
            for packed in [false, true] {
                if packed {
                    w.pack();
                }
                for row in [0, 7, 31, 40] {
                    let alone = Tensor::from_f32(&[1, 700], x.row(row).to_vec());
                    assert_eq!(linear(&alone, &w, None).row(0), batch.row(row));
                }
            }
        }
    });
}

#[test]
fn packed_weights_give_the_same_bits() {
    for_every_isa(|| {
        for [n, i, o] in SHAPES {
            for precision in PRECISIONS {
                let (x, mut w) = (matrix(1, [n, i]), weight(2, [o, i], precision));
                let plain = linear(&x, &w, None);
                w.pack();
                assert_eq!(linear(&x, &w, None), plain);
            }
        }
    });
}

#[test]
fn packed_weights_have_the_same_rows_in_the_memory_of_one_copy() {
    for_every_isa(|| {
        for [_, i, o] in SHAPES {
            for precision in PRECISIONS {
                let values = matrix(2, [o, i]);
                let values = if precision == Precision::Bf16 {
                    values.to_bf16()
                } else {
                    values
                };
                let mut w = Weight::new(values.clone(), precision);
                w.pack();
                assert_eq!(w.values().dtype(), values.dtype());
                assert_eq!(w.values().to_f32(), values.to_f32());
                let padded = o.next_multiple_of(16) * i.next_multiple_of(2);
                assert!(w.values().num_bytes() <= values.num_bytes() * padded / (o * i));
                assert_eq!(w.values_mut(), &values);
            }
        }
    });
}

#[test]
fn a_weight_may_keep_what_products_round() {
    let (x, values) = (matrix(1, [3, 30]), matrix(2, [40, 30]));
    let mut w = Weight::new(values.clone(), Precision::Bf16);
    let y = linear(&x, &w, None);
    w.pack_beside();
    assert_eq!(w.values(), &values);
    assert_eq!(linear(&x, &w, None), y);
    w.pack();
    assert_eq!(w.values().to_f32(), values.to_bf16().to_f32());
    assert_eq!(linear(&x, &w, None), y);
}

#[test]
fn weights_in_a_file_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = PageFile::create_in(dir.path()).unwrap();
    let (x, blocks) = (matrix(1, [5, 64]), vec![0x5a; 40 * 64 / 32 * 18]);
    let codes = Tensor::from_codes(Codes::Q4_0, [40, 64], &blocks);
    let mut weights = vec![Weight::new(codes, Precision::F32)];
    weights.extend(PRECISIONS.map(|precision| weight(2, [40, 64], precision)));
    for mut w in weights {
        w.pack();
        let (y, values, before) = (linear(&x, &w, None), w.values().clone(), file.len());
        w.move_to(&mut file).unwrap();
        assert!(file.len() > before);
        assert_eq!(linear(&x, &w, None), y);
        assert_eq!(w.values(), &values);
    }
}

#[test]
fn writing_to_a_packed_weight_is_seen() {
    let (x, mut w) = (matrix(1, [2, 8]), weight(2, [4, 8], Precision::F32));
    w.pack();
    w.values_mut().f32s_mut().fill(0.0);
    assert_eq!(linear(&x, &w, None), Tensor::zeros(&[2, 4]));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for precision in PRECISIONS {
        let (x, dy) = (matrix(1, [330, 210]), matrix(2, [330, 350]));
        let w = weight(3, [350, 210], precision);
        let all = || {
            let mut dw = Gradient::zeros(&w);
            LinearBackward::new(&dy, &w).weight(&x, &mut dw);
            (
                linear(&x, &w, None),
                LinearBackward::new(&dy, &w).input(),
                dw,
            )
        };
        let one = with_threads(1, all);
        for threads in [2, 3] {
            assert_eq!(with_threads(threads, all), one);
        }
    }
}

#[test]
fn weights_at_rest_in_bf16_serve_both_precisions() {
    let rest = matrix(2, [37, 50]).to_bf16();
    let x = matrix(1, [6, 50]);
    for_every_isa(|| {
        for precision in PRECISIONS {
            let mut narrow = Weight::new(rest.clone(), precision);
            let wide = Weight::new(rest.to_f32(), precision);
            assert_eq!(linear(&x, &narrow, None), linear(&x, &wide, None));
            let dy = matrix(3, [6, 37]);
            assert_eq!(
                LinearBackward::new(&dy, &narrow).input(),
                LinearBackward::new(&dy, &wide).input()
            );
            narrow.pack();
            assert_eq!(linear(&x, &narrow, None), linear(&x, &wide, None));
        }
    });
}

#[test]
fn rounding_to_bf16_keeps_nan_and_infinity() {
    let w = Weight::new(Tensor::from_f32(&[1, 2], vec![1.0, 0.5]), Precision::Bf16);
    for_every_isa(|| {
        let product =
            |x: [f32; 2]| linear(&Tensor::from_f32(&[1, 2], x.to_vec()), &w, None).f32s()[0];
        assert!(product([f32::from_bits(0x7f80_0001), 0.0]).is_nan());
        assert_eq!(product([f32::INFINITY, 1.0]), f32::INFINITY);
        assert_eq!(product([1.0 + 1.0 / 256.0, 0.0]), 1.0, "ties go to even");
    });
}

#[test]
fn empty_products_have_empty_or_zero_results() {
    let none = linear(
        &Tensor::zeros(&[0, 4]),
        &weight(1, [3, 4], Precision::F32),
        None,
    );
    assert_eq!(none.shape(), [0, 3]);
    let zero = linear(
        &Tensor::zeros(&[2, 0]),
        &weight(1, [3, 0], Precision::Bf16),
        None,
    );
    assert_eq!(zero, Tensor::zeros(&[2, 3]));
}
