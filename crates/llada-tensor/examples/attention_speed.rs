//! Prints how fast attention runs on the shapes of training and decoding.
//!
//! `cargo run --release -p llada-tensor --example attention_speed`
#![expect(clippy::print_stdout, reason = "a measurement for people")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use llada_tensor::{
    Heads, KeyRanges, KeyValues, Precision, RowGroup, Tensor, attention, attention_backward,
    attention_paged,
};

const HEADS: Heads = Heads {
    query: 8,
    key_value: 4,
    dim: 16,
};

/// Those of the dense model of `benches/peers`.
const DENSE: Heads = Heads {
    query: 6,
    key_value: 6,
    dim: 48,
};

/// Those of LLaDA2.0-mini.
const MINI: Heads = Heads {
    query: 16,
    key_value: 4,
    dim: 128,
};

const PAGE_ROWS: usize = 32;

/// Bytes of keys and values that calls take in turn, as the layers of a model do: more than caches hold.
const CYCLE: usize = 256 << 20;

fn main() {
    println!("{HEADS:?}");
    for block in [8, 32] {
        let name = format!("train, block {block}");
        measure(&name, HEADS, &training_rows(4096, 200, block));
    }
    let causal: Vec<_> = (0..4096).map(|i| [i / 200 * 200, i + 1, 0, 0]).collect();
    measure("train, causal", HEADS, &causal);
    for rows in [32, 1] {
        let ranges = vec![[0, 200 - rows, 200 - rows, 200]; rows as usize];
        measure(&format!("decode, {rows} x 200 keys"), HEADS, &ranges);
    }
    println!("{DENSE:?}");
    let ranges = training_rows(2048, 1024, 32);
    measure("train, documents of 1024, block 32", DENSE, &ranges);
    println!("{MINI:?}, pages of {PAGE_ROWS}");
    for (num_rows, num_keys) in [(1, 4096), (1, 32768), (32, 4096), (32, 32768), (512, 4096)] {
        measure_pages(num_rows, num_keys);
    }
}

/// Returns the ranges of documents stored as clean rows, then noisy rows.
fn training_rows(rows: u32, document: u32, block: u32) -> Vec<KeyRanges> {
    let row = |i: u32| {
        let (clean, at) = (i / (2 * document) * 2 * document, i % (2 * document));
        let begin = at % document / block * block;
        let end = (begin + block).min(document);
        let noisy = clean + document;
        match at < document {
            true => [clean, clean + end, 0, 0],
            false => [clean, clean + begin, noisy + begin, noisy + end],
        }
    };
    (0..rows).map(row).collect()
}

/// Measures rows that see all keys, which lie in pages, in `f32` and in bf16.
fn measure_pages(num_rows: usize, num_keys: usize) {
    let heads = MINI;
    let q = matrix(1, [num_rows, heads.query * heads.dim]);
    let [keys, values] = [3, 4].map(|seed| matrix(seed, [num_keys, heads.key_value * heads.dim]));
    let pages = (0..num_keys).step_by(PAGE_ROWS);
    let group = RowGroup {
        rows: 0..num_rows,
        keys: pages.map(|start| start..start + PAGE_ROWS).collect(),
        visible: vec![num_keys as u32; num_rows],
    };
    let flops = 4.0 * (num_rows * num_keys * heads.query * heads.dim) as f64;
    let slots: Vec<u32> = (0..num_keys as u32).collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let bytes = num_keys * KeyValues::bytes_per_row(precision, heads);
        let layer = |_| {
            let mut stored = KeyValues::new(precision, num_keys, heads)?;
            stored.write(&slots, &keys, &values);
            Some(stored)
        };
        let layers: Option<Vec<_>> = (0..CYCLE.div_ceil(bytes)).map(layer).collect();
        let Some(layers) = layers else {
            return println!("{num_rows} x {num_keys} keys {precision:?}: not enough memory");
        };
        let call = Cell::new(0);
        let time = best_time(|| {
            let stored = &layers[call.replace(call.get() + 1) % layers.len()];
            attention_paged(&q, stored, std::slice::from_ref(&group), heads, 0.088)
        });
        let rate = bytes as f64 / time.as_secs_f64() / 1e9;
        let name = format!("{num_rows} x {num_keys} keys {precision:?}");
        report(&format!("{name}, {rate:.1} GB/s"), flops, time);
    }
}

/// Measures both directions, over keys and values in `f32` and in bf16.
fn measure(name: &str, heads: Heads, ranges: &[KeyRanges]) {
    let num_keys = ranges.iter().flatten().max().map_or(0, |&end| end as usize);
    let (query_shape, key_shape) = (
        [ranges.len(), heads.query * heads.dim],
        [num_keys, heads.key_value * heads.dim],
    );
    let [q, dout] = [1, 2].map(|seed| matrix(seed, query_shape));
    let [keys, values] = [3, 4].map(|seed| matrix(seed, key_shape));
    let pairs: u32 = ranges
        .iter()
        .map(|[a0, a1, b0, b1]| a1 - a0 + b1 - b0)
        .sum();
    let flops = 2.0 * f64::from(pairs) * (heads.query * heads.dim) as f64;
    for [keys, values] in [[&keys, &values].map(Tensor::to_bf16), [keys, values]] {
        let forward = || attention(&q, &keys, &values, ranges, heads, 0.25);
        let saved = forward();
        let backward =
            || attention_backward(&q, &keys, &values, ranges, heads, 0.25, &saved, &dout);
        let name = format!("{name}, {:?}", keys.dtype());
        let times = [best_time(forward), best_time(backward)];
        report(&format!("{name}, forward"), 2.0 * flops, times[0]);
        report(&format!("{name}, backward"), 5.0 * flops, times[1]);
    }
}

fn report(name: &str, flops: f64, time: Duration) {
    let (micros, rate) = (time.as_secs_f64() * 1e6, flops / time.as_secs_f64() / 1e9);
    println!("{name:40} {micros:9.1} us {rate:7.1} GFLOP/s");
}

/// Returns the shortest time of a call within half a second.
fn best_time<T>(call: impl Fn() -> T) -> Duration {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(500) {
        let call_start = Instant::now();
        std::hint::black_box(call());
        best = best.min(call_start.elapsed());
    }
    best
}

fn matrix(seed: u32, shape: [usize; 2]) -> Tensor {
    let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) ^ seed) as f32 / u32::MAX as f32;
    Tensor::from_f32(
        &shape,
        (0..shape[0] * shape[1]).map(|i| value(i) - 0.5).collect(),
    )
}
