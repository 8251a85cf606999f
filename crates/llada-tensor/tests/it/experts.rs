//! Routed experts against the reference and against finite differences.

use llada_tensor::reference::experts::{Expert, experts as reference};
use llada_tensor::{
    Codes, ExpertGrads, ExpertWeights, Gradient, Precision, Routing, Tensor, Weight, experts,
    experts_backward,
};

use crate::data::{
    PRECISIONS, assert_close, differences, doubles, for_every_isa, matrix, noise, seen, weight,
    with_threads,
};

/// A small layer of experts and a routing of some rows.
struct Case {
    x: Tensor,
    routing: Routing,
    /// Gate, up and down of every expert.
    weights: Vec<[Weight; 3]>,
}

impl Case {
    /// N rows of width D, A of E experts each, of width F; the last expert is never chosen.
    fn new([n, d, a, e, f]: [usize; 5], precision: Precision) -> Self {
        let experts = (0..n).flat_map(|i| (0..a).map(move |s| ((i * 5 + s * 3) % (e - 1)) as u32));
        let weights =
            |expert| [[f, d], [f, d], [d, f]].map(|shape| weight(10 + expert, shape, precision));
        Self {
            x: matrix(1, [n, d]),
            routing: Routing {
                top_k: a,
                experts: experts.collect(),
                weights: noise(2, n * a),
            },
            weights: (0..e as u64).map(weights).collect(),
        }
    }

    /// The same with codes, gates and ups of one kind and downs of another.
    fn of_codes(shape: [usize; 5], [gate_up, down]: [Codes; 2]) -> Self {
        let mut case = Self::new(shape, Precision::F32);
        for weight in &mut case.weights {
            let kinds = [gate_up, gate_up, down];
            for (weight, codes) in weight.iter_mut().zip(kinds) {
                let mut blocks = Vec::new();
                codes.format().quantise(weight.values().f32s(), &mut blocks);
                let values = Tensor::from_codes(codes, weight.values().dims2(), &blocks);
                *weight = Weight::new(values, Precision::F32);
            }
        }
        case
    }

    fn experts(&self) -> Vec<ExpertWeights<'_>> {
        self.weights
            .iter()
            .map(|[gate, up, down]| ExpertWeights { gate, up, down })
            .collect()
    }

    fn forward(&self) -> Tensor {
        experts(&self.x, &self.routing, &self.experts()).0
    }

    /// Computes row `i` alone.
    fn row(&self, i: usize) -> Tensor {
        let top_k = self.routing.top_k;
        let slots = i * top_k..(i + 1) * top_k;
        let routing = Routing {
            top_k,
            experts: self.routing.experts[slots.clone()].to_vec(),
            weights: self.routing.weights[slots].to_vec(),
        };
        let x = Tensor::from_f32(&[1, self.x.dims2()[1]], self.x.row(i).to_vec());
        experts(&x, &routing, &self.experts()).0
    }

    /// Returns dx, dweights and every expert's gradients for the loss `sum dy * y`.
    fn backward(&self, dy: &Tensor) -> (Tensor, Vec<f32>, Vec<[Gradient; 3]>) {
        let weights = self.experts();
        let (_, saved) = experts(&self.x, &self.routing, &weights);
        let zeros = |w: &[Weight; 3]| w.each_ref().map(Gradient::zeros);
        let mut gradients: Vec<[Gradient; 3]> = self.weights.iter().map(zeros).collect();
        let mut grads: Vec<_> = gradients
            .iter_mut()
            .map(|[gate, up, down]| ExpertGrads { gate, up, down })
            .collect();
        let (x, routing) = (&self.x, &self.routing);
        let (dx, dweights) = experts_backward(x, routing, &weights, saved, dy, &mut grads);
        (dx, dweights, gradients)
    }

    fn reference_experts(&self, precision: Precision) -> Vec<Expert> {
        let seen = |w: &Weight| seen(w.values(), precision);
        self.weights
            .iter()
            .map(|[gate, up, down]| Expert {
                gate: seen(gate),
                up: seen(up),
                down: seen(down),
            })
            .collect()
    }

    /// Returns `sum dy * y` by the reference.
    fn loss(&self, x: &[f64], weights: &[f64], experts: &[Expert], dy: &[f64]) -> f64 {
        let Routing {
            top_k,
            experts: chosen,
            ..
        } = &self.routing;
        let y = reference(x, chosen, weights, *top_k, experts);
        y.iter().zip(dy).map(|(y, dy)| y * dy).sum()
    }
}

#[test]
fn outputs_agree_with_the_reference() {
    for_every_isa(|| {
        for shape in [[1, 8, 1, 2, 4], [3, 17, 2, 5, 9], [40, 16, 3, 6, 33]] {
            for (precision, tolerance) in PRECISIONS.into_iter().zip([1e-5, 1e-2]) {
                let case = Case::new(shape, precision);
                let (x, experts) = (seen(&case.x, precision), case.reference_experts(precision));
                let weights = doubles(&case.routing.weights);
                let want = reference(&x, &case.routing.experts, &weights, shape[2], &experts);
                assert_close(case.forward().f32s(), &want, tolerance);
            }
        }
    });
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    let mut case = Case::new([50, 24, 3, 6, 20], Precision::Bf16);
    for_every_isa(|| {
        let batch = case.forward();
        for i in [0, 17, 49] {
            assert_eq!(case.row(i).row(0), batch.row(i));
        }
    });
    let plain = case.forward();
    case.weights.iter_mut().flatten().for_each(Weight::pack);
    assert_eq!(case.forward(), plain);
}

/// Many rows per expert go another way than few.
#[test]
fn a_row_alone_equals_the_row_in_a_batch_of_codes() {
    let (q4_0, q8_0, q4_k, q6_k) = (Codes::Q4_0, Codes::Q8_0, Codes::Q4K, Codes::Q6K);
    for kinds in [[q4_0, q4_0], [q8_0, q4_0], [q4_k, q6_k]] {
        let case = Case::of_codes([60, 512, 3, 7, 256], kinds);
        for_every_isa(|| {
            let batch = with_threads(2, || case.forward());
            for i in [0, 31, 59] {
                assert_eq!(case.row(i).row(0), batch.row(i), "{kinds:?}");
            }
        });
    }
}

#[test]
fn gradients_of_rows_and_weights_agree_with_finite_differences() {
    for_every_isa(|| {
        let case = Case::new([7, 5, 2, 4, 6], Precision::F32);
        let dy = matrix(9, [7, 5]);
        let (dx, dweights, _) = case.backward(&dy);
        let (x, weights) = (doubles(case.x.f32s()), doubles(&case.routing.weights));
        let (experts, dy) = (case.reference_experts(Precision::F32), doubles(dy.f32s()));
        let want = differences(&x, |x| case.loss(x, &weights, &experts, &dy));
        assert_close(dx.f32s(), &want, 1e-5);
        let want = differences(&weights, |weights| case.loss(&x, weights, &experts, &dy));
        assert_close(&dweights, &want, 1e-5);
    });
}

#[test]
fn gradients_of_experts_agree_with_finite_differences() {
    for_every_isa(|| {
        let case = Case::new([7, 5, 2, 4, 6], Precision::F32);
        let dy = matrix(9, [7, 5]);
        let (_, _, gradients) = case.backward(&dy);
        let (x, weights) = (doubles(case.x.f32s()), doubles(&case.routing.weights));
        let (plain, dy) = (case.reference_experts(Precision::F32), doubles(dy.f32s()));
        for (e, got) in gradients.iter().enumerate() {
            let replaced = |replace: &dyn Fn(&mut Expert)| {
                let mut experts = plain.clone();
                replace(&mut experts[e]);
                case.loss(&x, &weights, &experts, &dy)
            };
            let want = [
                differences(&plain[e].gate, |w| {
                    replaced(&|expert| expert.gate = w.to_vec())
                }),
                differences(&plain[e].up, |w| replaced(&|expert| expert.up = w.to_vec())),
                differences(&plain[e].down, |w| {
                    replaced(&|expert| expert.down = w.to_vec())
                }),
            ];
            for (got, want) in got.iter().zip(&want) {
                assert_close(got.tensors()[0].f32s(), want, 1e-5);
            }
        }
    });
}

#[test]
fn gradients_of_experts_are_added_to_what_is_there() {
    let case = Case::new([6, 8, 2, 3, 4], Precision::F32);
    let (dy, weights) = (matrix(9, [6, 8]), case.experts());
    let (_, _, fresh) = case.backward(&dy);
    let (_, saved) = experts(&case.x, &case.routing, &weights);
    let mut total: Vec<[Gradient; 3]> = fresh.clone();
    let mut grads: Vec<_> = total
        .iter_mut()
        .map(|[gate, up, down]| ExpertGrads { gate, up, down })
        .collect();
    experts_backward(&case.x, &case.routing, &weights, saved, &dy, &mut grads);
    for (total, fresh) in total.iter().flatten().zip(fresh.iter().flatten()) {
        let want: Vec<f64> = fresh.tensors()[0]
            .f32s()
            .iter()
            .map(|g| 2.0 * f64::from(*g))
            .collect();
        assert_close(total.tensors()[0].f32s(), &want, 1e-5);
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let case = Case::new([400, 64, 3, 7, 48], Precision::Bf16);
    let dy = matrix(9, [400, 64]);
    let run = || (case.forward(), case.backward(&dy));
    assert!(with_threads(2, run) == with_threads(1, run));
}
