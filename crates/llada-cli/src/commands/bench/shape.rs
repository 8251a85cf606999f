//! Forwards of a model of random codes, beside the least time that this machine could take for them.
//!
//! A forward must read every weight that it uses and every key and value before it once, and multiply; the
//! limit is the longer of the two at the rates measured in the same run. Norms, routing, rounding, the products
//! of attention and everything else that takes time without being in these two sums counts against the forward.

use std::time::{Duration, Instant};

use anyhow::Context;
use llada_model::{CachedInput, CachedOutput, Config, KvStore, Mlp, Model, ParamKind, Weights};
use llada_tensor::{DType, Precision, RowGroup, integer_rate, num_threads, read_rate};
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
        let (prefill_seconds, _) = self.fastest(0, chunk, 1);
        let ops = self.ops(chunk, 1);
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
                of_peak: ops as f64 / self.ops_per_second / prefill_seconds,
            },
            context: self.context,
            first_block_ms,
        }
    }

    /// Compares the seconds of a forward of `rows` rows, all of which were scored, with the least possible.
    fn beside_limit(&self, rows: usize, (seconds, output): &(f64, CachedOutput)) -> Forward {
        let bytes = self.weight_bytes(output) + self.cached_bytes(rows);
        let ops = self.ops(rows, rows);
        let limit = (bytes as f64 / self.bytes_per_second).max(ops as f64 / self.ops_per_second);
        let experts: u32 = output.experts.iter().sum();
        let mean = f64::from(experts) / output.experts.len() as f64;
        Forward {
            rows,
            ms: seconds * 1e3,
            bytes,
            ops,
            limit_ms: limit * 1e3,
            of_limit: limit / seconds,
            experts_per_layer: (!output.experts.is_empty()).then_some(mean),
        }
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

    /// Computes rows from position `first` on, which see each other and all before them, and scores
    /// the last `outputs`.
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
        let group = RowGroup {
            rows: 0..rows,
            keys: std::iter::once(0..first + rows).collect(),
            visible: vec![(first + rows) as u32; rows],
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

    /// Returns the bytes of keys and values that rows behind the context read.
    fn cached_bytes(&self, rows: usize) -> u64 {
        let per_row = KvStore::bytes_per_row(&self.model.config, self.kv_precision);
        ((self.context + rows) * per_row) as u64
    }

    /// Returns the bytes of the weights that a forward with scored rows reads.
    fn weight_bytes(&self, output: &CachedOutput) -> u64 {
        let weights = &self.model.weights;
        let specs = Weights::specs(&self.model.config).into_params();
        let (mut bytes, is_tied) = (0, weights.head.is_none());
        for ((name, spec), (_, weight)) in specs.iter().zip(weights.params()) {
            let is_read = match spec.kind {
                ParamKind::Embedding => is_tied,
                _ => !name.contains(".experts."),
            };
            bytes += if is_read {
                weight.values().num_bytes()
            } else {
                0
            };
        }
        let mut used = output.experts.iter();
        for layer in &weights.layers {
            if let Mlp::Moe(moe) = &layer.mlp {
                let expert = [
                    &moe.experts[0].gate,
                    &moe.experts[0].up,
                    &moe.experts[0].down,
                ];
                let size: usize = expert
                    .iter()
                    .map(|weight| weight.values().num_bytes())
                    .sum();
                bytes += size * used.next().map_or(0, |&used| used as usize);
            }
        }
        bytes as u64
    }

    /// Returns the operations of the products with weights of codes, two per multiply and add.
    fn ops(&self, rows: usize, outputs: usize) -> u64 {
        let config = &self.model.config;
        let used = config.moe.as_ref().map_or(0.0, |moe| {
            moe.num_experts_per_tok as f64 / moe.num_experts as f64
        });
        let specs = Weights::specs(config).into_params();
        let mut per_row = 0.0;
        let mut per_output = 0.0;
        for ((name, spec), (_, weight)) in specs.iter().zip(self.model.weights.params()) {
            let ops = 2.0 * spec.num_elements() as f64;
            match (spec.kind, weight.values().dtype()) {
                (ParamKind::Head, _) => per_output += ops,
                (ParamKind::Embedding, _) if self.model.weights.head.is_none() => per_output += ops,
                (ParamKind::Matrix, DType::Codes(_)) if name.contains(".experts.") => {
                    per_row += used * ops
                }
                (ParamKind::Matrix, DType::Codes(_)) => per_row += ops,
                _ => {}
            }
        }
        (per_row * rows as f64 + per_output * outputs as f64) as u64
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
                &["forward", "rows", "ms", "limit ms", "of limit", "experts"],
                &rows
            ),
            self.context,
            self.first_block_ms
        )
    }
}
