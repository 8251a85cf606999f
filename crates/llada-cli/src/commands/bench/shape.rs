//! Forwards of a model of random codes, beside the least time that this machine could take for them.
//!
//! A forward must read every weight that it uses and every key and value before it once, and multiply; the
//! limit is the longer of the two at the rates measured in the same run. Norms, routing, rounding, the products
//! of attention and everything else that takes time without being in these two sums counts against the forward.
//!
//! To reach that limit, reading and multiplying would have to go on at the same time from the first product to the
//! last, but one needs what the other comes to, and which experts to read is known when the rows before them are.
//! The serial limit is the sum of what each product takes at least, the longer one of its own bytes and operations.

use std::time::{Duration, Instant};

use anyhow::Context;
use llada_model::{CachedInput, CachedOutput, Config, KvStore, Mlp, Model, Swiglu, Weights};
use llada_tensor::{DType, Precision, RowGroup, Weight, integer_rate, num_threads, read_rate};
use serde::Serialize;

use crate::args::{PrecisionArg, ShapeArgs};
use crate::{failure, ui};

/// Bytes over which reading is measured: more than caches hold.
const READ_BYTES: usize = 1 << 29;
/// Rows of a block of a checkpoint that does not say.
const BLOCK_ROWS: usize = 32;
/// Rows of one forward of a prompt.
const CHUNK_ROWS: usize = 512;
/// Times a forward is repeated at least; the fastest counts, as for the rates.
const TRIES: usize = 5;
/// Time for which a forward is repeated at least: other users of the memory come and go.
const SPAN: Duration = Duration::from_secs(1);

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    parameters: u64,
    resident_bytes: u64,
    threads: usize,
    bandwidth_gb_per_s: f64,
    int8_ops_per_s: f64,
    ar: Forward,
    block: Forward,
    prefill: Prefill,
    /// Tokens before those of `ar` and `block`.
    context: usize,
    /// From the first row of a prompt of `context` tokens to the first step of its first block.
    first_block_ms: f64,
}

/// A forward of few rows.
#[derive(Debug, Serialize)]
struct Forward {
    rows: usize,
    ms: f64,
    bytes: u64,
    ops: u64,
    limit_ms: f64,
    of_limit: f64,
    serial_limit_ms: f64,
    of_serial_limit: f64,
    /// Mean number of distinct experts that the rows used.
    #[serde(skip_serializing_if = "Option::is_none")]
    experts_per_layer: Option<f64>,
}

/// A forward of the rows of a prompt.
#[derive(Debug, Serialize)]
struct Prefill {
    tokens: usize,
    ms: f64,
    tokens_per_second: f64,
    of_peak: f64,
}

pub(super) fn run(
    args: &ShapeArgs,
    kv_precision: Option<PrecisionArg>,
    as_json: bool,
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.config)
        .with_context(|| format!("cannot read `{}`", args.config.display()))?;
    let config = Config::from_json(&text).map_err(failure::usage)?;
    let context = args.context.get();
    if context + BLOCK_ROWS > config.max_position_embeddings {
        return Err(failure::usage(format!(
            "--context {context} and a block of {BLOCK_ROWS} exceed the {} positions of `{}`",
            config.max_position_embeddings,
            args.config.display()
        )));
    }
    ui::say("drawing weights");
    let weights = Weights::random_codes(&config, 1, args.quant.into());
    // As for any checkpoint of quantised weights.
    let kv_precision = kv_precision.map_or(Precision::Bf16, Into::into);
    let mut model = Model::new(config, weights);
    model.pack();
    let report = Bench::new(model, kv_precision, context)?.report();
    match as_json {
        true => ui::line(serde_json::to_string(&report)?),
        false => ui::write(&report.table()),
    }
}

/// A model, its store, and the rates of the machine.
struct Bench {
    model: Model,
    store: KvStore,
    kv_precision: Precision,
    context: usize,
    bytes_per_second: f64,
    ops_per_second: f64,
}

impl Bench {
    fn new(model: Model, kv_precision: Precision, context: usize) -> anyhow::Result<Self> {
        let rows = context.max(CHUNK_ROWS) + BLOCK_ROWS;
        Ok(Self {
            store: KvStore::new(&model.config, kv_precision, rows)?,
            kv_precision,
            model,
            context,
            bytes_per_second: read_rate(READ_BYTES),
            ops_per_second: integer_rate(),
        })
    }

    fn report(mut self) -> Report {
        let chunk = CHUNK_ROWS.min(self.context);
        let (prefill_seconds, output) = self.fastest(0, chunk, 1);
        let ops = Work::sum(&self.works(chunk, 1, &output)).ops;
        let began = Instant::now();
        for first in (0..self.context).step_by(chunk) {
            self.forward(first, chunk.min(self.context - first), 0);
        }
        self.forward(self.context, BLOCK_ROWS, BLOCK_ROWS);
        let first_block_ms = began.elapsed().as_secs_f64() * 1e3;
        let [ar, block] = [1, BLOCK_ROWS].map(|rows| self.fastest(self.context, rows, rows));
        // What others read beside the first measurement may have ended.
        self.bytes_per_second = self.bytes_per_second.max(read_rate(READ_BYTES));
        Report {
            parameters: Weights::specs(&self.model.config)
                .into_params()
                .iter()
                .map(|(_, spec)| spec.num_elements() as u64)
                .sum(),
            resident_bytes: ui::resident_bytes(),
            threads: num_threads(),
            bandwidth_gb_per_s: self.bytes_per_second / 1e9,
            int8_ops_per_s: self.ops_per_second,
            ar: self.beside_limit(1, &ar),
            block: self.beside_limit(BLOCK_ROWS, &block),
            prefill: Prefill {
                tokens: chunk,
                ms: prefill_seconds * 1e3,
                tokens_per_second: chunk as f64 / prefill_seconds,
                of_peak: ops / self.ops_per_second / prefill_seconds,
            },
            context: self.context,
            first_block_ms,
        }
    }

    /// Compares the seconds of a forward of `rows` rows, all of which were scored, with the least possible.
    fn beside_limit(&self, rows: usize, (seconds, output): &(f64, CachedOutput)) -> Forward {
        let works = self.works(rows, rows, output);
        let (limit, all) = (|work: &Work| self.seconds(work), Work::sum(&works));
        let serial: f64 = works.iter().map(limit).sum();
        let experts: u32 = output.experts.iter().sum();
        let mean = f64::from(experts) / output.experts.len() as f64;
        Forward {
            rows,
            ms: seconds * 1e3,
            bytes: all.bytes as u64,
            ops: all.ops as u64,
            limit_ms: limit(&all) * 1e3,
            of_limit: limit(&all) / seconds,
            serial_limit_ms: serial * 1e3,
            of_serial_limit: serial / seconds,
            experts_per_layer: (!output.experts.is_empty()).then_some(mean),
        }
    }

    /// Returns the least time that this machine could take.
    fn seconds(&self, work: &Work) -> f64 {
        (work.bytes / self.bytes_per_second).max(work.ops / self.ops_per_second)
    }

    /// Returns the seconds of the fastest of several forwards, and its output.
    fn fastest(&mut self, first: usize, rows: usize, outputs: usize) -> (f64, CachedOutput) {
        let mut output = self.forward(first, rows, outputs); // also warms up
        let mut seconds = f64::INFINITY;
        let (mut tries, all_began) = (0, Instant::now());
        while tries < TRIES || all_began.elapsed() < SPAN {
            let began = Instant::now();
            output = self.forward(first, rows, outputs);
            seconds = seconds.min(began.elapsed().as_secs_f64());
            tries += 1;
        }
        (seconds, output)
    }

    /// Computes rows from position `first` on, which see their block and all before it, and scores the last
    /// `outputs`.
    fn forward(&mut self, first: usize, rows: usize, outputs: usize) -> CachedOutput {
        let vocab = self.model.config.vocab_size as u32;
        let positions: Vec<u32> = (first..first + rows)
            .map(|position| position as u32)
            .collect();
        let ids: Vec<u32> = positions
            .iter()
            .map(|i| i.wrapping_mul(2_654_435_761) % vocab)
            .collect();
        let outputs: Vec<u32> = (rows - outputs..rows).map(|row| row as u32).collect();
        let end_of_block = |row: usize| (row / BLOCK_ROWS + 1) * BLOCK_ROWS;
        let group = RowGroup {
            rows: 0..rows,
            keys: std::iter::once(0..first + rows).collect(),
            visible: (0..rows)
                .map(|row| (first + end_of_block(row).min(rows)) as u32)
                .collect(),
        };
        let input = CachedInput {
            ids: &ids,
            positions: &positions,
            slots: &positions,
            groups: &[group],
            outputs: &outputs,
        };
        let output = self.model.forward_cached(&input, &mut self.store);
        if !outputs.is_empty() {
            self.model.head_rows(&output.hidden, None, None);
        }
        output
    }

    /// Returns what each product of a forward reads and computes, and the keys and values that rows behind the context
    /// read. Operations are those with weights of codes, two per multiply and add; the experts of a layer count as one
    /// product, and so do the three matrices of a dense one.
    fn works(&self, rows: usize, outputs: usize, output: &CachedOutput) -> Vec<Work> {
        let (config, weights) = (&self.model.config, &self.model.weights);
        let per_row = KvStore::bytes_per_row(config, self.kv_precision);
        let mut works = vec![Work {
            bytes: ((self.context + rows) * per_row) as f64,
            ops: 0.0,
        }];
        let top_k = config.moe.as_ref().map_or(0, |moe| moe.num_experts_per_tok);
        let mut experts_used = output.experts.iter();
        for (index, layer) in weights.layers.iter().enumerate() {
            // The last layer goes on with the rows that are scored.
            let is_last = index + 1 == weights.layers.len();
            let rows_after = if is_last { outputs } else { rows };
            let swiglu = |swiglu: &Swiglu<Weight>, used, rows| {
                let weights = [&swiglu.gate, &swiglu.up, &swiglu.down];
                Work::sum(&weights.map(|weight| Work::of(weight, used, rows)))
            };
            works.push(Work::of(&layer.qkv, 1, rows));
            works.push(Work::of(&layer.dense, 1, rows_after));
            match &layer.mlp {
                Mlp::Moe(moe) => {
                    let used = experts_used.next().map_or(0, |&used| used as usize);
                    let slots = rows_after * top_k;
                    works.push(Work::of(&moe.router, 1, rows_after));
                    works.push(swiglu(&moe.experts[0], used, slots));
                    works.extend(moe.shared.iter().map(|all| swiglu(all, 1, rows_after)));
                }
                Mlp::Dense(dense) => works.push(swiglu(dense, 1, rows_after)),
            }
        }
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        works.push(Work::of(head, 1, outputs));
        works
    }
}

/// What has to be done for some products.
#[derive(Clone, Copy, Debug)]
struct Work {
    bytes: f64,
    /// Operations with codes, which the integer rate counts.
    ops: f64,
}

impl Work {
    /// The products of rows with one or the other of weights like this one.
    fn of(weight: &Weight, weights: usize, rows: usize) -> Self {
        let values = weight.values();
        let ops = match values.dtype() {
            DType::Codes(_) => 2 * values.len() * rows,
            _ => 0,
        };
        Self {
            bytes: (values.num_bytes() * weights) as f64,
            ops: ops as f64,
        }
    }

    fn sum(works: &[Self]) -> Self {
        Self {
            bytes: works.iter().map(|work| work.bytes).sum(),
            ops: works.iter().map(|work| work.ops).sum(),
        }
    }
}

impl Report {
    fn table(&self) -> String {
        let rate = |forward: &Forward, name: &str| {
            vec![
                name.to_owned(),
                forward.rows.to_string(),
                format!("{:.1}", forward.ms),
                format!("{:.1}", forward.limit_ms),
                format!("{:.2}", forward.of_limit),
                format!("{:.2}", forward.of_serial_limit),
                forward
                    .experts_per_layer
                    .map_or("-".into(), |mean| format!("{mean:.0}")),
            ]
        };
        let prefill = vec![
            "prefill".to_owned(),
            self.prefill.tokens.to_string(),
            format!("{:.1}", self.prefill.ms),
            "-".to_owned(),
            format!("{:.2}", self.prefill.of_peak),
            "-".to_owned(),
            "-".to_owned(),
        ];
        let rows = [
            rate(&self.ar, "one token"),
            rate(&self.block, "block"),
            prefill,
        ];
        format!(
            "{:.2} G parameters in {:.2} GB; this machine reads {:.1} GB/s and multiplies {:.0} Gop/s with {} threads\n\n{}\nfirst block of a prompt of {} tokens, which the token and the block above come after: {:.0} ms\n",
            self.parameters as f64 / 1e9,
            self.resident_bytes as f64 / 1e9,
            self.bandwidth_gb_per_s,
            self.int8_ops_per_s / 1e9,
            self.threads,
            ui::table(
                &[
                    "forward",
                    "rows",
                    "ms",
                    "limit ms",
                    "of limit",
                    "of serial",
                    "experts"
                ],
                &rows
            ),
            self.context,
            self.first_block_ms
        )
    }
}
