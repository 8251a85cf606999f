//! Low-rank parts of weights, against the same weight with the part merged into its values.

use llada_tensor::{
    ExpertGrads, ExpertWeights, Gradient, LinearBackward, LowRank, Precision, Routing, Tensor,
    Weight, experts, experts_backward, linear,
};

use crate::data::{assert_close, doubles, for_every_isa, matrix, weight, with_threads};

const SCALE: f32 = 1.5;
const RANK: usize = 3;

/// A weight of [o, i] with a low-rank part.
fn adapted(seed: u64, [o, i]: [usize; 2]) -> Weight {
    weight(seed, [o, i], Precision::F32).with_low_rank(LowRank {
        a: matrix(seed + 100, [RANK, i]),
        b: matrix(seed + 200, [o, RANK]),
        scale: SCALE,
    })
}

fn part(weight: &Weight) -> &LowRank {
    weight
        .low_rank()
        .expect("the weights of these tests have one")
}

fn merged(weight: &Weight) -> Weight {
    let mut values = weight.values().clone();
    let low_rank = part(weight);
    low_rank.add_rows(0..values.shape()[0], values.f32s_mut());
    Weight::new(values, weight.precision())
}

/// Returns the gradients of A and B that follow from that of the merged values:
/// dA = scale B^T dW, dB = scale dW A^T.
fn factors_of(dw: &Tensor, weight: &Weight) -> [Vec<f64>; 2] {
    let low_rank = part(weight);
    let [o, i] = dw.dims2();
    let scale = f64::from(SCALE);
    let (mut da, mut db) = (vec![0.0; RANK * i], vec![0.0; o * RANK]);
    for row in 0..o {
        for column in 0..i {
            let dw = scale * f64::from(dw.row(row)[column]);
            for r in 0..RANK {
                da[r * i + column] += dw * f64::from(low_rank.b.row(row)[r]);
                db[row * RANK + r] += dw * f64::from(low_rank.a.row(r)[column]);
            }
        }
    }
    [da, db]
}

fn assert_factors(got: &Gradient, full: &Gradient, weight: &Weight) {
    let want = factors_of(full.tensors()[0], weight);
    for (got, want) in got.tensors().into_iter().zip(&want) {
        assert_close(got.f32s(), want, 1e-4);
    }
}

#[test]
fn products_are_those_of_the_merged_weight() {
    for_every_isa(|| {
        let (x, dy, w) = (matrix(1, [5, 9]), matrix(2, [5, 7]), adapted(3, [7, 9]));
        let full = merged(&w);
        let bias = Tensor::from_f32(&[7], vec![0.5; 7]);
        for bias in [None, Some(&bias)] {
            let want = doubles(linear(&x, &full, bias).f32s());
            assert_close(linear(&x, &w, bias).f32s(), &want, 1e-5);
        }
        let want = doubles(LinearBackward::new(&dy, &full).input().f32s());
        assert_close(LinearBackward::new(&dy, &w).input().f32s(), &want, 1e-5);
        let (mut got, mut want) = (Gradient::zeros(&w), Gradient::zeros(&full));
        LinearBackward::new(&dy, &w).weight(&x, &mut got);
        LinearBackward::new(&dy, &full).weight(&x, &mut want);
        assert_factors(&got, &want, &w);
    });
}

#[test]
fn a_part_of_zero_changes_nothing() {
    let (x, mut w) = (matrix(1, [5, 9]), adapted(3, [7, 9]));
    w.low_rank_mut().unwrap().b.f32s_mut().fill(0.0);
    assert_eq!(linear(&x, &w, None), linear(&x, &w.base(), None));
}

#[test]
fn experts_with_low_rank_parts_are_those_of_merged_weights() {
    let weights: Vec<[Weight; 3]> = (0..4)
        .map(|e| [[5, 6], [5, 6], [6, 5]].map(|shape| adapted(10 * e + shape[0] as u64, shape)))
        .collect();
    let full: Vec<[Weight; 3]> = weights.iter().map(|w| w.each_ref().map(merged)).collect();
    let routing = Routing {
        top_k: 2,
        experts: vec![0, 3, 3, 2, 2, 0],
        weights: vec![0.3, 0.7, 0.5, 0.5, 0.9, 0.1],
    };
    let (x, dy) = (matrix(1, [3, 6]), matrix(2, [3, 6]));
    let run = |weights: &[[Weight; 3]]| {
        let views: Vec<_> = weights
            .iter()
            .map(|[gate, up, down]| ExpertWeights { gate, up, down })
            .collect();
        let (y, saved) = experts(&x, &routing, &views);
        let zeros = weights.iter().map(|w| w.each_ref().map(Gradient::zeros));
        let mut gradients: Vec<[Gradient; 3]> = zeros.collect();
        let mut grads: Vec<_> = gradients
            .iter_mut()
            .map(|[gate, up, down]| ExpertGrads { gate, up, down })
            .collect();
        let (dx, _) = experts_backward(&x, &routing, &views, saved, &dy, &mut grads);
        (y, dx, gradients)
    };
    for_every_isa(|| {
        let ((y, dx, got), (want_y, want_dx, want)) = (run(&weights), run(&full));
        assert_close(y.f32s(), &doubles(want_y.f32s()), 1e-5);
        assert_close(dx.f32s(), &doubles(want_dx.f32s()), 1e-5);
        let all = got.iter().flatten().zip(want.iter().flatten());
        for ((got, want), weight) in all.zip(weights.iter().flatten()) {
            assert_factors(got, want, weight);
        }
    });
}

#[test]
fn rows_merged_apart_are_the_rows_merged_together() {
    let w = adapted(3, [7, 9]);
    let low_rank = part(&w);
    let mut parts = w.values().clone();
    let (first, last) = parts.f32s_mut().split_at_mut(2 * 9);
    low_rank.add_rows(0..2, first);
    low_rank.add_rows(2..7, last);
    assert_eq!(&parts, merged(&w).values());
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (x, dy, w) = (
        matrix(1, [330, 210]),
        matrix(2, [330, 350]),
        adapted(3, [350, 210]),
    );
    let all = || {
        let mut dw = Gradient::zeros(&w);
        LinearBackward::new(&dy, &w).weight(&x, &mut dw);
        (
            linear(&x, &w, None),
            LinearBackward::new(&dy, &w).input(),
            dw,
        )
    };
    assert_eq!(with_threads(2, all), with_threads(1, all));
}

#[test]
fn what_is_frozen_stays_and_a_written_clone_leaves_the_original() {
    let (x, dy, w) = (matrix(1, [5, 9]), matrix(2, [5, 7]), adapted(3, [7, 9]));
    let mut frozen = Gradient::Frozen;
    LinearBackward::new(&dy, &w).weight(&x, &mut frozen);
    assert_eq!(frozen, Gradient::Frozen);
    let mut clone = w.clone();
    clone.values_mut().f32s_mut().fill(0.0);
    assert_ne!(w.values(), clone.values());
}
