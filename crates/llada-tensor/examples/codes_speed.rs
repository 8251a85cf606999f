//! Prints the speed of products with 4-bit codes in the shapes of LLaDA2.0-mini, on two threads.
//!
//! `cargo run --release -p llada-tensor --example codes_speed`. The best of several runs counts, since
//! other programs may use the machine. Weights are more than caches hold, as in a model.

#![expect(clippy::print_stdout, reason = "the output is the purpose")]

use std::hint::black_box;
use std::time::Instant;

use llada_tensor::{
    Codes, ExpertWeights, Precision, Routing, Tensor, Weight, experts, head_rows, integer_rate,
    linear, read_rate,
};

const HIDDEN: usize = 2048;
const FFN: usize = 512;
const EXPERTS: usize = 256;
const TOP_K: usize = 8;
const QKV: usize = 3072;
const VOCAB: usize = 157_184;
/// Weights of a kind, used in turn.
const COPIES: usize = 6;
const RUNS: usize = 15;

/// Returns a weight of arbitrary codes.
fn weight(outputs: usize, inputs: usize, draw: &mut impl FnMut() -> u32) -> Weight {
    let mut blocks = vec![0; outputs * inputs / Codes::BLOCK * Codes::Q4_0.block_bytes()];
    for block in blocks.chunks_exact_mut(Codes::Q4_0.block_bytes()) {
        block.fill_with(|| draw() as u8);
        block[1] = 0x20; // a scale near 0.01
    }
    let values = Tensor::from_codes(Codes::Q4_0, [outputs, inputs], &blocks);
    Weight::new(values, Precision::F32)
}

/// Chooses experts at random, different ones for each row.
fn routing(rows: usize, draw: &mut impl FnMut() -> u32) -> Routing {
    let mut experts = Vec::new();
    for _ in 0..rows {
        let mut row: Vec<u32> = Vec::new();
        while row.len() < TOP_K {
            let expert = draw() % EXPERTS as u32;
            if !row.contains(&expert) {
                row.push(expert);
            }
        }
        experts.extend(row);
    }
    Routing {
        top_k: TOP_K,
        weights: vec![1.0 / TOP_K as f32; experts.len()],
        experts,
    }
}

/// Prints what the fastest run of `body`, which is told its number, reads and computes in a second.
fn measure(name: &str, elements: usize, multiply_adds: usize, mut body: impl FnMut(usize)) {
    let mut best = f64::INFINITY;
    for run in 0..RUNS {
        let began = Instant::now();
        body(run);
        best = best.min(began.elapsed().as_secs_f64());
    }
    let bytes = (elements / Codes::BLOCK * Codes::Q4_0.block_bytes()) as f64;
    let [read, ops] = [bytes, 2.0 * multiply_adds as f64].map(|n| n / best / 1e9);
    println!("{name:24}{:9.3}{read:9.1}{ops:9.0}", best * 1e3);
}

fn main() {
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    let qkv: Vec<Weight> = (0..COPIES)
        .map(|_| weight(QKV, HIDDEN, &mut draw))
        .collect();
    let head = weight(VOCAB, HIDDEN, &mut draw);
    let mut shapes = |[outputs, inputs]: [usize; 2]| weight(outputs, inputs, &mut draw);
    let layer: Vec<[Weight; 3]> = (0..EXPERTS)
        .map(|_| [[FFN, HIDDEN], [FFN, HIDDEN], [HIDDEN, FFN]].map(&mut shapes))
        .collect();
    let layer: Vec<ExpertWeights<'_>> = layer
        .iter()
        .map(|[gate, up, down]| ExpertWeights { gate, up, down })
        .collect();
    let (read, ops) = (read_rate(1 << 29) / 1e9, integer_rate() / 1e9);
    println!(
        "this machine: {read:.1} GB/s, {ops:.0} Gop/s\n\n{:27}ms     GB/s    Gop/s",
        ""
    );
    for rows in [1, 4, 32, 512] {
        let values = (0..rows * HIDDEN).map(|i| (i % 97) as f32 / 97.0 - 0.5);
        let x = Tensor::from_f32(&[rows, HIDDEN], values.collect());
        measure(
            &format!("qkv, {rows} rows"),
            QKV * HIDDEN,
            rows * QKV * HIDDEN,
            |run| {
                black_box(linear(&x, &qkv[run % COPIES], None));
            },
        );
        let routing = routing(rows, &mut draw);
        let mut used = routing.experts.clone();
        used.sort_unstable();
        used.dedup();
        let expert = 3 * FFN * HIDDEN;
        let name = format!("{} experts, {rows} rows", used.len());
        measure(&name, used.len() * expert, rows * TOP_K * expert, |_| {
            black_box(experts(&x, &routing, &layer));
        });
        if rows <= 32 {
            measure(
                &format!("head, {rows} rows"),
                VOCAB * HIDDEN,
                rows * VOCAB * HIDDEN,
                |_| {
                    black_box(head_rows(&x, &head, None, None));
                },
            );
        }
    }
}
