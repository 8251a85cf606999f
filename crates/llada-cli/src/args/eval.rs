//! Arguments of `llada eval`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::Value;

use llada_request::Settings;

use super::{ModelArgs, PrecisionArg, PrecisionArgs, QuantArgs};

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    pub what: EvalCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// Negative log-likelihood: exact for AR models and blocks of 1, an upper bound otherwise.
    #[command(
        after_help = "Example:\n  llada eval nll assets/tinystories-656k --data assets/stories/valid.jsonl --mode ar"
    )]
    Nll(NllArgs),
    /// Solves worked sums with a parent and its child: exact answers, speed, tokens per forward.
    #[command(
        after_help = "Example:\n  llada eval sums assets/worked-sums/parent assets/worked-sums/child"
    )]
    Sums(EvalSumsArgs),
    /// Writes texts with a parent and its child: speed, tokens per forward, and the parent's NLL of them.
    #[command(
        after_help = "Example:\n  llada eval text assets/tinystories-656k assets/stories-child --data assets/stories/valid.jsonl"
    )]
    Text(EvalTextArgs),
    /// Runs tasks with a model: scores, speed, and a report of both; goes on where it was stopped.
    #[command(
        after_help = "Examples:\n  llada sums write --seed 2 --count 200 --out data/sums.jsonl\n  llada eval run assets/worked-sums/child --tasks worked_sums --data data --baseline assets/worked-sums/parent --sweep threshold=0.5,0.7,0.9 --out runs/sums\n  llada eval run inclusionAI/LLaDA2.0-mini --quant q8_0 --tasks gsm8k --limit 100 --out runs/gsm8k"
    )]
    Run(Box<EvalRunArgs>),
    /// Joins the runs of several directories in one page.
    #[command(
        after_help = "Example:\n  llada eval report runs/sums runs/stories --out runs/report.html"
    )]
    Report(EvalReportArgs),
    /// Scores answers that were made elsewhere.
    #[command(
        after_help = "Example:\n  llada eval score --task gsm8k --data gsm8k/test.jsonl --answers answers.jsonl --out runs/scored --json"
    )]
    Score(EvalScoreArgs),
    /// Lists the tasks, the data that each needs and where the Hub has them.
    #[command(after_help = "Example:\n  llada eval tasks --json")]
    Tasks(EvalTasksArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NllArgs {
    /// Checkpoint directory, GGUF file or Hub id.
    pub model: PathBuf,
    #[command(flatten)]
    pub weights: QuantArgs,
    /// Documents, one JSON object per line with `text` or `input_ids`; or `prompt` and `response`, of which
    /// the response counts, with its end.
    #[arg(long)]
    pub data: PathBuf,
    /// `ar`, or `block:B`.
    #[arg(long)]
    pub mode: String,
    /// Noise draws per document.
    #[arg(long, default_value_t = 8)]
    pub draws: usize,
    /// Longer documents are cut.
    #[arg(long, default_value_t = 512)]
    pub max_len: usize,
    /// Precision of matrix products.
    #[arg(long, default_value = "f32")]
    pub precision: PrecisionArg,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// An AR parent and its diffusion child on the same engine.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// AR parent: a checkpoint directory, GGUF file or Hub id.
    pub parent: PathBuf,
    /// Its diffusion child.
    pub child: PathBuf,
    /// Thresholds of the child, one row each.
    #[arg(long, value_delimiter = ',', default_values_t = [0.99, 0.95, 0.9, 0.7, 0.5])]
    pub thresholds: Vec<f32>,
    /// Block length of the child (default: the checkpoint's).
    #[arg(long)]
    pub block_length: Option<usize>,
    #[command(flatten)]
    pub precision: PrecisionArgs,
    /// JSON rows on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvalSumsArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    /// Problems to solve, none of which the shipped models were trained on.
    #[arg(long, default_value_t = 500)]
    pub count: usize,
    /// Names the stream of problems.
    #[arg(long, default_value_t = 2)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct EvalTextArgs {
    #[command(flatten)]
    pub compare: CompareArgs,
    /// Documents whose first tokens are the prompts.
    #[arg(long)]
    pub data: PathBuf,
    /// Texts to write.
    #[arg(long, default_value_t = 20)]
    pub count: usize,
    /// Tokens of each document that are given.
    #[arg(long, default_value_t = 16)]
    pub prompt_tokens: usize,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 200)]
    pub max_new_tokens: usize,
}

#[derive(Debug, Args)]
pub(crate) struct EvalRunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub weights: QuantArgs,
    /// Names of tasks, or task files ending in .toml, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pub tasks: Vec<String>,
    /// Directory in which each task finds its file (`eval tasks` says where), one data file, or the
    /// Hub id of a copy of the tasks' data set [default: what the task names on the Hub].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// First items of each task only.
    #[arg(long)]
    pub limit: Option<NonZeroUsize>,
    /// Solved examples before each question, for tasks that have some [default: the task's].
    #[arg(long)]
    pub shots: Option<usize>,
    /// Answers per item, each from a seed of its own, for pass@k; needs --temperature.
    #[arg(long, default_value = "1")]
    pub samples: NonZeroUsize,
    /// Requests that run together. Answers do not depend on it.
    #[arg(long, default_value = "8")]
    pub concurrency: NonZeroUsize,
    /// Runs every value of a decoding setting, and every combination if there are several.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE,...")]
    pub sweep: Vec<Sweep>,
    /// Causal model that writes token by token from the same prompts, for comparison.
    #[arg(long, value_name = "PARENT")]
    pub baseline: Option<PathBuf>,
    /// Likelihood of choices and texts: `ar`, or `block:B`, exact for B = 1 [default: block:1, or ar
    /// with --ar].
    #[arg(long, value_name = "MODE")]
    pub likelihood: Option<String>,
    /// Noise draws per text of a bound.
    #[arg(long, default_value = "8")]
    pub draws: NonZeroUsize,
    /// Continues plain prompts, even if the checkpoint has a chat template.
    #[arg(long)]
    pub plain: bool,
    /// Where results.jsonl, costs.jsonl and report.html go.
    #[arg(long)]
    pub out: PathBuf,
    /// Runs model-written programs without a sandbox.
    #[arg(long)]
    pub unsafe_exec: bool,
    #[command(flatten)]
    pub decoding: Settings,
    /// One JSON object per task and setting on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvalReportArgs {
    /// What `eval run` was given as --out.
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// The page.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct EvalScoreArgs {
    /// Name of a task, or a task file ending in .toml.
    #[arg(long)]
    pub task: String,
    /// The task's data file, a directory in which it lies, or a Hub id, as for `eval run`.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Rows with `id` (the data's own, else the row number from 0) and `answer`.
    #[arg(long)]
    pub answers: PathBuf,
    /// Where results.jsonl and score.json go.
    #[arg(long)]
    pub out: PathBuf,
    /// Runs model-written programs without a sandbox.
    #[arg(long)]
    pub unsafe_exec: bool,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvalTasksArgs {
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// A decoding setting and its values, `threshold=0.5,0.7`.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    pub name: String,
    pub values: Vec<Value>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, values) = text
            .split_once('=')
            .ok_or_else(|| format!("expected NAME=VALUE,..., found `{text}`"))?;
        // A value that is no number, and not true or false, is a word.
        let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        Ok(Self {
            name: name.replace('-', "_"),
            values: values.split(',').map(value).collect(),
        })
    }
}
