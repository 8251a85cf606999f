//! The output head against the reference and against finite differences.

use llada_tensor::reference::head;
use llada_tensor::{
    Gradient, HeadRow, Precision, Tensor, Weight, head_backward, head_rows, head_rows_and_backward,
};

use crate::data::{
    PRECISIONS, assert_close, doubles, for_every_isa, matrix, noise, seen, weight, with_threads,
};

/// (rows, width, vocabulary): short rows, ragged tails, several stretches of a row.
const SHAPES: [[usize; 3]; 6] = [
    [1, 8, 5],
    [3, 17, 16],
    [5, 16, 33],
    [2, 31, 700],
    [67, 5, 1025],
    [33, 40, 100],
];

fn targets(rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|i| (i * 7 % vocab) as u32).collect()
}

#[test]
fn statistics_agree_with_the_reference() {
    for_every_isa(|| {
        for [n, d, v] in SHAPES {
            for precision in PRECISIONS {
                let (h, w) = (matrix(1, [n, d]), weight(2, [v, d], precision));
                let logits = head::logits(
                    &seen(&h, precision),
                    &seen(w.values(), precision),
                    [n, d, v],
                );
                let (targets, banned) = (targets(n, v), 3);
                let rows = head_rows(&h, &w, Some(&targets), Some(banned));
                for (i, (row, z)) in rows.iter().zip(logits.chunks_exact(v)).enumerate() {
                    let want = head::statistics(z, Some(banned as usize));
                    assert_eq!(row.argmax as usize, want.argmax);
                    let got = [row.lse, row.entropy, row.target_logit, row.argmax_logit];
                    let target = z[targets[i] as usize];
                    assert_close(
                        &got,
                        &[want.lse, want.entropy, target, z[want.argmax]],
                        1e-5,
                    );
                }
            }
        }
    });
}

/// Returns the row for logits that are given directly: h is one and w holds them.
fn row_of(logits: &[f32], banned: Option<u32>) -> HeadRow {
    let h = Tensor::from_f32(&[1, 1], vec![1.0]);
    let w = Tensor::from_f32(&[logits.len(), 1], logits.to_vec());
    head_rows(&h, &Weight::new(w, Precision::F32), None, banned)[0]
}

#[test]
fn equal_logits_choose_the_lower_id() {
    let mut logits = vec![0.0; 1200];
    logits[700] = 2.0;
    logits[3] = 2.0;
    logits[5] = 2.0;
    for_every_isa(|| {
        assert_eq!(row_of(&logits, None).argmax, 3);
        assert_eq!(row_of(&logits, Some(3)).argmax, 5);
        assert_eq!(row_of(&[-1.0, -1.0], Some(0)).argmax, 1);
    });
}

#[test]
fn the_banned_id_counts_in_the_sum_only() {
    for_every_isa(|| {
        let (free, banned) = (
            row_of(&[1.0, 9.0, 2.0], None),
            row_of(&[1.0, 9.0, 2.0], Some(1)),
        );
        assert_eq!((free.argmax, free.argmax_logit), (1, 9.0));
        assert_eq!((banned.argmax, banned.argmax_logit), (2, 2.0));
        assert_eq!((banned.lse, banned.entropy), (free.lse, free.entropy));
        assert!(banned.target_logit.is_nan(), "no target was given");
    });
}

#[test]
fn large_logits_do_not_overflow() {
    for_every_isa(|| {
        let row = row_of(&[1e30, -1e30, 1e30], None);
        assert_eq!(row.lse, 1e30);
        assert_close(&[row.entropy], &[2f64.ln()], 1e-6);
    });
}

#[test]
fn non_finite_logits_show_in_the_sum() {
    for_every_isa(|| {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = vec![0.5; 30];
            logits[17] = bad;
            assert!(!row_of(&logits, None).lse.is_finite(), "{bad}");
        }
    });
}

#[test]
fn a_row_does_not_depend_on_its_chunk() {
    // Above 256 rows there is a second chunk.
    let (h, mut w) = (matrix(1, [300, 24]), weight(2, [70, 24], Precision::Bf16));
    for_every_isa(|| {
        let all = head_rows(&h, &w, Some(&targets(300, 70)), None);
        for i in [0, 255, 256, 299] {
            let alone = Tensor::from_f32(&[1, 24], h.row(i).to_vec());
            let target = targets(300, 70)[i];
            assert_eq!(head_rows(&alone, &w, Some(&[target]), None), [all[i]]);
        }
    });
    let plain = head_rows(&h, &w, Some(&targets(300, 70)), None);
    w.pack();
    assert_eq!(head_rows(&h, &w, Some(&targets(300, 70)), None), plain);
}

/// One case of the backward: [N, D] and [V, D] with weights per row, one of them zero.
struct Case {
    shape: [usize; 3],
    h: Tensor,
    w: Weight,
    targets: Vec<u32>,
    nll_weights: Vec<f32>,
    entropy_weights: Vec<f32>,
}

impl Case {
    fn new([n, d, v]: [usize; 3], precision: Precision) -> Self {
        let mut nll_weights = noise(3, n);
        nll_weights[n / 2] = 0.0;
        Self {
            shape: [n, d, v],
            h: matrix(1, [n, d]),
            w: weight(2, [v, d], precision),
            targets: targets(n, v),
            nll_weights,
            entropy_weights: noise(4, n),
        }
    }

    /// Returns dh and dw.
    fn backward(&self) -> (Tensor, Gradient) {
        let rows = head_rows(&self.h, &self.w, Some(&self.targets), None);
        let mut dw = Gradient::zeros(&self.w);
        let entropy_weights = Some(&self.entropy_weights[..]);
        let (targets, nll_weights) = (&self.targets, &self.nll_weights);
        let dh = head_backward(
            &self.h,
            &self.w,
            targets,
            &rows,
            nll_weights,
            entropy_weights,
            &mut dw,
        );
        (dh, dw)
    }

    fn reference_loss(&self, h: &[f64], w: &[f64]) -> f64 {
        let (nll, entropy) = (doubles(&self.nll_weights), doubles(&self.entropy_weights));
        head::loss(
            &head::logits(h, w, self.shape),
            &self.targets,
            &nll,
            &entropy,
        )
    }

    /// Returns central differences of the reference's loss by h and by w.
    fn differences(&self) -> [Vec<f64>; 2] {
        let (h, w) = (doubles(self.h.f32s()), doubles(self.w.values().f32s()));
        [
            crate::data::differences(&h, |h| self.reference_loss(h, &w)),
            crate::data::differences(&w, |w| self.reference_loss(&h, w)),
        ]
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for_every_isa(|| {
        for shape in [[3, 4, 7], [5, 6, 18]] {
            let case = Case::new(shape, Precision::F32);
            let ((dh, dw), [want_dh, want_dw]) = (case.backward(), case.differences());
            assert_close(dh.f32s(), &want_dh, 1e-5);
            assert_close(dw.tensors()[0].f32s(), &want_dw, 1e-5);
        }
    });
}

#[test]
fn gradients_in_bf16_are_near() {
    for_every_isa(|| {
        let (fine, coarse) = (
            Case::new([9, 16, 40], Precision::F32),
            Case::new([9, 16, 40], Precision::Bf16),
        );
        let ((dh, dw), (want_dh, want_dw)) = (coarse.backward(), fine.backward());
        let want_dw = want_dw.tensors()[0].f32s();
        assert_close(dh.f32s(), &doubles(want_dh.f32s()), 0.02);
        assert_close(dw.tensors()[0].f32s(), &doubles(want_dw), 0.02);
    });
}

#[test]
fn without_entropy_weights_they_count_as_zero() {
    let mut case = Case::new([4, 8, 12], Precision::F32);
    case.entropy_weights.fill(0.0);
    let rows = head_rows(&case.h, &case.w, Some(&case.targets), None);
    let mut dw = Gradient::zeros(&case.w);
    let dh = head_backward(
        &case.h,
        &case.w,
        &case.targets,
        &rows,
        &case.nll_weights,
        None,
        &mut dw,
    );
    assert_eq!((dh, dw), case.backward());
}

#[test]
fn one_pass_gives_the_rows_and_gradients_of_two() {
    // Above 256 rows there is a second chunk.
    for precision in PRECISIONS {
        let Case {
            h,
            w,
            targets,
            nll_weights,
            ..
        } = &Case::new([300, 24, 70], precision);
        for_every_isa(|| {
            let [mut dw, mut want_dw] = [(); 2].map(|()| Gradient::zeros(w));
            let want = head_rows(h, w, Some(targets), None);
            let want_dh = head_backward(h, w, targets, &want, nll_weights, None, &mut want_dw);
            let (rows, dh) = head_rows_and_backward(h, w, targets, nll_weights, &mut dw);
            assert_eq!((rows, dh, dw), (want, want_dh, want_dw));
        });
    }
}

#[test]
fn the_weight_gradient_continues_from_what_is_there() {
    let case = Case::new([3, 4, 7], Precision::F32);
    let (_, dw) = case.backward();
    let rows = head_rows(&case.h, &case.w, Some(&case.targets), None);
    let mut total = Gradient::Values(Tensor::from_f32(&[7, 4], vec![10.0; 28]));
    let (targets, nll, entropy) = (&case.targets, &case.nll_weights, &case.entropy_weights);
    head_backward(
        &case.h,
        &case.w,
        targets,
        &rows,
        nll,
        Some(entropy),
        &mut total,
    );
    let want: Vec<f64> = dw.tensors()[0]
        .f32s()
        .iter()
        .map(|dw| 10.0 + f64::from(*dw))
        .collect();
    assert_close(total.tensors()[0].f32s(), &want, 1e-6);
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let case = Case::new([300, 40, 200], Precision::Bf16);
    assert_eq!(
        with_threads(2, || case.backward()),
        with_threads(1, || case.backward())
    );
}
