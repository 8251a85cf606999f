//! Prints the speed of `linear` and of its weight gradient on one thread.
//!
//! `cargo run --release -p llada-tensor --example gemm_speed`. The best of many runs counts, since
//! other programs may use the machine.

#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::hint::black_box;
use std::time::Instant;

use llada_tensor::{Gradient, Isa, LinearBackward, Precision, Tensor, Weight, linear};

/// (rows, outputs, inputs): decoding one row and one block, large layers, a small model's training.
const SHAPES: [[usize; 3]; 5] = [
    [1, 128, 384],
    [32, 128, 384],
    [32, 2048, 2048],
    [1024, 2048, 2048],
    [4096, 384, 128],
];

/// Time spent on one measurement.
const SECONDS: f64 = 0.5;

/// Returns an array without zeros or special values.
fn filled(shape: [usize; 2]) -> Tensor {
    let values = (0..shape[0] * shape[1])
        .map(|i| (i % 97) as f32 / 97.0 - 0.5)
        .collect();
    Tensor::from_f32(&shape, values)
}

/// Returns the seconds of the fastest run.
fn best_time(mut body: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < SECONDS {
        let run = Instant::now();
        body();
        best = best.min(run.elapsed().as_secs_f64());
    }
    best
}

fn measure(precision: Precision, [n, o, i]: [usize; 3]) {
    let (x, dy) = (filled([n, i]), filled([n, o]));
    let mut w = Weight::new(filled([o, i]), precision);
    let mut dw = Gradient::zeros(&w);
    let plain = best_time(|| drop(black_box(linear(black_box(&x), &w, None))));
    let gradient = best_time(|| LinearBackward::new(&dy, &w).weight(black_box(&x), &mut dw));
    w.pack();
    let packed = best_time(|| drop(black_box(linear(black_box(&x), &w, None))));
    let speed = |seconds: f64| 2e-9 * (n * o * i) as f64 / seconds;
    let shape = format!("{n} x {o} x {i}");
    let [packed, plain, gradient] = [packed, plain, gradient].map(speed);
    println!("{precision:?}\t{shape:20}{packed:8.1}{plain:8.1}{gradient:8.1}");
}

fn main() {
    let isa = Isa::active().name();
    println!("GFLOP/s on one thread, {isa}\n\trows x out x in       packed   plain      dw");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("one thread can be started").install(|| {
        for precision in [Precision::F32, Precision::Bf16] {
            SHAPES
                .into_iter()
                .for_each(|shape| measure(precision, shape));
        }
    });
}
