//! AdamW and the gradient norm.

use llada_tensor::{AdamW, Tensor, adamw_step, reference, sum_of_squares};

use crate::data::{assert_close, doubles, for_every_isa, noise, with_threads};

fn config(step_num: u64) -> AdamW {
    AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step_num,
    }
}

fn vector(values: Vec<f32>) -> Tensor {
    Tensor::from_f32(&[values.len()], values)
}

#[test]
fn three_steps_agree_with_the_reference() {
    const LEN: usize = 37;
    for_every_isa(|| {
        let mut param = vector(noise(1, LEN));
        let (mut first, mut second) = (vector(vec![0.0; LEN]), vector(vec![0.0; LEN]));
        let mut want: Vec<(f64, [f64; 2])> = doubles(param.f32s())
            .into_iter()
            .map(|param| (param, [0.0; 2]))
            .collect();
        for step in 1..=3 {
            let grad = vector(noise(10 + step, LEN));
            adamw_step(
                &config(step),
                &mut param,
                &grad,
                0.5,
                &mut first,
                &mut second,
            );
            for ((param, moments), &grad) in want.iter_mut().zip(grad.f32s()) {
                let grad = 0.5 * f64::from(grad);
                (*param, *moments) = reference::optim::adamw(&config(step), *param, grad, *moments);
            }
        }
        let column = |f: fn(&(f64, [f64; 2])) -> f64| want.iter().map(f).collect::<Vec<_>>();
        assert_close(param.f32s(), &column(|w| w.0), 1e-6);
        assert_close(first.f32s(), &column(|w| w.1[0]), 1e-6);
        assert_close(second.f32s(), &column(|w| w.1[1]), 1e-6);
    });
}

#[test]
fn the_first_step_moves_by_the_learning_rate_against_the_gradient() {
    let (mut first, mut second) = (vector(vec![0.0; 2]), vector(vec![0.0; 2]));
    let mut param = vector(vec![1.0, 1.0]);
    let config = AdamW {
        weight_decay: 0.0,
        ..config(1)
    };
    adamw_step(
        &config,
        &mut param,
        &vector(vec![1e-3, -20.0]),
        1.0,
        &mut first,
        &mut second,
    );
    assert_close(param.f32s(), &[0.99, 1.01], 1e-5);
}

#[test]
fn without_gradient_only_the_decay_acts() {
    let (mut first, mut second) = (vector(vec![0.0; 2]), vector(vec![0.0; 2]));
    let mut param = vector(vec![2.0, -4.0]);
    adamw_step(
        &config(1),
        &mut param,
        &vector(vec![0.0; 2]),
        1.0,
        &mut first,
        &mut second,
    );
    assert_close(param.f32s(), &[2.0 * 0.999, -4.0 * 0.999], 1e-7);
}

#[test]
fn squares_are_summed_in_double_precision() {
    let mut values = vec![1.0; 1000];
    values[0] = 1e6;
    assert_eq!(sum_of_squares(&vector(values)), 1e12 + 999.0);
    let values = noise(1, 77);
    let want: f64 = doubles(&values).iter().map(|x| x * x).sum();
    assert!((sum_of_squares(&vector(values)) - want).abs() < 1e-12);
}

#[test]
fn one_and_two_threads_are_bit_identical() {
    const LEN: usize = 300_001;
    let (start, grad) = (vector(noise(1, LEN)), vector(noise(2, LEN)));
    let run = || {
        let (mut first, mut second) = (vector(noise(3, LEN)), vector(vec![0.5; LEN]));
        let mut param = start.clone();
        adamw_step(&config(4), &mut param, &grad, 1.0, &mut first, &mut second);
        (sum_of_squares(&param), param, first, second)
    };
    assert_eq!(with_threads(1, run), with_threads(2, run));
}
