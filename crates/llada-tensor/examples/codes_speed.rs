//! Prints the speed of products with codes in the shapes of LLaDA2.0-mini, on two threads.
//!
//! `cargo run --release -p llada-tensor --example codes_speed [TYPE...]`, of all types by default. The best of several runs counts, since
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

/// Draws weights of one kind of codes.
struct Weights {
    codes: Codes,
    state: u32,
}

impl Weights {
    fn random(&mut self) -> u32 {
        self.state = self
            .state
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.state >> 16
    }

    /// Returns a weight of blocks that are drawn from a few.
    fn draw(&mut self, outputs: usize, inputs: usize) -> Weight {
        let format = self.codes.format();
        let values: Vec<f32> = (0..64 * format.block_values())
            .map(|_| self.random() as f32 / 65536.0 - 0.5)
            .collect();
        let mut few = Vec::new();
        format.quantise(&values, &mut few);
        let mut blocks = Vec::new();
        for _ in 0..outputs * inputs / format.block_values() {
            let at = self.random() as usize % 64 * format.block_bytes();
            blocks.extend_from_slice(&few[at..at + format.block_bytes()]);
        }
        let values = Tensor::from_codes(self.codes, [outputs, inputs], &blocks);
        Weight::new(values, Precision::F32)
    }
}

/// Chooses experts at random, different ones for each row.
fn routing(rows: usize, weights: &mut Weights) -> Routing {
    let mut experts = Vec::new();
    for _ in 0..rows {
        let mut row: Vec<u32> = Vec::new();
        while row.len() < TOP_K {
            let expert = weights.random() % EXPERTS as u32;
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
fn measure(name: &str, bytes: usize, multiply_adds: usize, mut body: impl FnMut(usize)) {
    let mut best = f64::INFINITY;
    for run in 0..RUNS {
        let began = Instant::now();
        body(run);
        best = best.min(began.elapsed().as_secs_f64());
    }
    let [read, ops] = [bytes as f64, 2.0 * multiply_adds as f64].map(|n| n / best / 1e9);
    println!("{name:24}{:9.3}{read:9.1}{ops:9.0}", best * 1e3);
}

fn main() {
    let (read, ops) = (read_rate(1 << 29) / 1e9, integer_rate() / 1e9);
    println!("this machine: {read:.1} GB/s, {ops:.0} Gop/s");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for codes in Codes::ALL {
        let name = codes.format().name();
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            println!("\n{name:27}ms     GB/s    Gop/s");
            measure_all(codes);
        }
    }
}

fn measure_all(codes: Codes) {
    let mut weights = Weights { codes, state: 1 };
    let qkv: Vec<Weight> = (0..COPIES).map(|_| weights.draw(QKV, HIDDEN)).collect();
    let head = weights.draw(VOCAB, HIDDEN);
    let layer: Vec<[Weight; 3]> = (0..EXPERTS)
        .map(|_| [[FFN, HIDDEN], [FFN, HIDDEN], [HIDDEN, FFN]].map(|[n, k]| weights.draw(n, k)))
        .collect();
    let layer: Vec<ExpertWeights<'_>> = layer
        .iter()
        .map(|[gate, up, down]| ExpertWeights { gate, up, down })
        .collect();
    for rows in [1, 4, 32, 512] {
        let values = (0..rows * HIDDEN).map(|i| (i % 97) as f32 / 97.0 - 0.5);
        let x = Tensor::from_f32(&[rows, HIDDEN], values.collect());
        measure(
            &format!("qkv, {rows} rows"),
            qkv[0].values().num_bytes(),
            rows * QKV * HIDDEN,
            |run| {
                black_box(linear(&x, &qkv[run % COPIES], None));
            },
        );
        let routing = routing(rows, &mut weights);
        let mut used = routing.experts.clone();
        used.sort_unstable();
        used.dedup();
        let expert = 3 * FFN * HIDDEN;
        let bytes: usize = used
            .iter()
            .map(|&e| &layer[e as usize])
            .flat_map(|e| [e.gate, e.up, e.down])
            .map(|weight| weight.values().num_bytes())
            .sum();
        let name = format!("{} experts, {rows} rows", used.len());
        measure(&name, bytes, rows * TOP_K * expert, |_| {
            black_box(experts(&x, &routing, &layer));
        });
        if rows <= 32 {
            measure(
                &format!("head, {rows} rows"),
                head.values().num_bytes(),
                rows * VOCAB * HIDDEN,
                |_| {
                    black_box(head_rows(&x, &head, None, None));
                },
            );
        }
    }
}
