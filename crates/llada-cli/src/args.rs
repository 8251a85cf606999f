//! Command-line arguments. New knobs of a training run go into the recipe, not into flags.

mod bench;
mod eval;
mod quantize;
mod serve;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use llada_diffusion::LabelAlignment;
use llada_model::BlockFormat;
use llada_request::Settings;

pub(crate) use bench::{BenchArgs, ServingArgs, ShapeArgs};
pub(crate) use eval::{
    CompareArgs, EvalArgs, EvalCommand, EvalReportArgs, EvalRunArgs, EvalScoreArgs, EvalSumsArgs,
    EvalTasksArgs, EvalTextArgs, NllArgs, Sweep,
};
pub(crate) use quantize::QuantizeArgs;
use quantize::quant;
pub(crate) use serve::{AdapterName, LogFormat, ModelName, ServeArgs};

/// Block-diffusion language models of the LLaDA2 family: convert, train, evaluate, generate.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    /// Worker threads (default: one per core). Results do not depend on it.
    #[arg(long, global = true)]
    pub threads: Option<usize>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows the whole point on real models: load, convert, train, decode in parallel.
    Demo(DemoArgs),
    /// Turns an AR checkpoint into a block-diffusion checkpoint.
    Convert(ConvertArgs),
    /// Trains a model as a recipe says.
    Train(TrainArgs),
    /// Says what the data of a recipe are, before a run.
    Data(DataArgs),
    /// Averages checkpoints, those named or the best of a run; or merges an adapter into its base.
    Merge(MergeArgs),
    /// Draws the curves of runs side by side, in one page without external parts.
    Report(ReportArgs),
    /// Generates text, by parallel block decoding or (--ar) token by token.
    Generate(GenerateArgs),
    /// Talks with a model in the terminal.
    Chat(ChatArgs),
    /// Answers over HTTP, to OpenAI's clients and to a page of its own.
    Serve(ServeArgs),
    /// Shows recorded decoding.
    Trace(TraceArgs),
    /// Measures likelihood, accuracy and speed.
    Eval(EvalArgs),
    /// Shows what a checkpoint is; computes logits; checks golden vectors.
    #[command(args_conflicts_with_subcommands = true)]
    Inspect(InspectArgs),
    /// Writes a checkpoint as a GGUF file of codes.
    Quantize(QuantizeArgs),
    /// Makes worked sums, the demo's task with exact answers.
    Sums(SumsArgs),
    /// Times requests at several concurrencies, beside what the machine could do.
    Bench(BenchArgs),
    /// Confines itself as told and becomes the program: `eval` starts model-written ones this way.
    #[command(hide = true, name = crate::commands::sandbox_exec::NAME)]
    SandboxExec {
        /// What may be done, as JSON.
        spec: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  llada demo --quick")]
pub(crate) struct DemoArgs {
    /// About half a minute: less training, fewer sums and stories.
    #[arg(long)]
    pub quick: bool,
    /// Where the run directories go.
    #[arg(long, default_value = "runs/demo")]
    pub out: PathBuf,
    /// Directory with the shipped checkpoints and texts.
    #[arg(long, default_value = "assets")]
    pub assets: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  llada convert assets/tinystories-656k runs/child --block-size 8 --label-alignment shifted"
)]
pub(crate) struct ConvertArgs {
    /// AR parent: a checkpoint directory or a Hub id.
    pub parent: PathBuf,
    /// Directory to create.
    pub out: PathBuf,
    /// Text of the MASK token; a new token if there is none (default: the tokenizer's, or <|mask|>).
    #[arg(long, conflicts_with = "mask_id")]
    pub mask_token: Option<String>,
    /// Id of a special token or spare row to use as MASK.
    #[arg(long)]
    pub mask_id: Option<u32>,
    /// Block size written into the checkpoint.
    #[arg(long, default_value_t = 32)]
    pub block_size: usize,
    /// Which row predicts a token: `same` position (LLaDA2) or `shifted` as in the parent.
    #[arg(long, default_value = "shifted")]
    pub label_alignment: LabelAlignment,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  llada train recipes/stories-demo-2core.toml --run-dir runs/stories --set train.steps=200"
)]
pub(crate) struct TrainArgs {
    /// Recipe (TOML).
    #[arg(required_unless_present = "import_dfactory")]
    pub recipe: Option<PathBuf>,
    /// Only prints the recipe that a dFactory YAML file stands for, or names what it cannot be.
    #[arg(long, value_name = "YAML", exclusive = true)]
    pub import_dfactory: Option<PathBuf>,
    /// Overrides one key of the recipe; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Where config.toml, metrics.jsonl, checkpoints/ and final/ go.
    #[arg(long, default_value = "runs/train")]
    pub run_dir: PathBuf,
    /// Continues from the run directory's latest checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Only says what memory the run needs; reads the recipe and config.json, no weights or data.
    #[arg(long, conflicts_with = "resume")]
    pub plan: bool,
    /// With --plan: JSON on stdout.
    #[arg(long, requires = "plan")]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  llada merge runs/a/final runs/b/final --out runs/merged\n  llada merge --run runs/cpt --metric block_32 --best 5 --out runs/merged\n  llada merge runs/sft/final --adapter runs/lora/final/adapter --out runs/merged"
)]
pub(crate) struct MergeArgs {
    /// Checkpoint directories or Hub ids; with --adapter its base.
    #[arg(required_unless_present = "run", conflicts_with = "run")]
    pub checkpoints: Vec<PathBuf>,
    /// Directory of an adapter (LoRA, in the layout of PEFT) to merge into one checkpoint.
    #[arg(long, value_name = "DIR", conflicts_with = "run")]
    pub adapter: Option<PathBuf>,
    /// Directory to create.
    #[arg(long)]
    pub out: PathBuf,
    /// Run directory to take the best checkpoints of.
    #[arg(long, requires = "metric")]
    pub run: Option<PathBuf>,
    /// Validation that decides which are best, such as block_32 (the lowest) or dpo_accuracy (the
    /// highest).
    #[arg(long, value_name = "NAME", requires = "run")]
    pub metric: Option<String>,
    /// How many to take [default: 5].
    #[arg(long, value_name = "K", requires = "run")]
    pub best: Option<NonZeroUsize>,
    /// Element type to write [default: bf16; with --adapter that of the base].
    #[arg(long)]
    pub dtype: Option<PrecisionArg>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  llada report runs/a runs/b --out compared.html")]
pub(crate) struct ReportArgs {
    /// Run directories.
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Page to write.
    #[arg(long, default_value = "report.html")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub what: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Reads all rows as a run would: lengths, share that is learned, rows left out and why.
    #[command(
        long_about = "Reads all rows as a run would: lengths, share that is learned, rows left out and why. Fails if a row would end the run.",
        after_help = "Example:\n  llada data check recipes/stories-sft.toml --json"
    )]
    Check(DataCheckArgs),
    /// Has a model answer a task, and writes the right answers with the step that placed each token.
    #[command(
        long_about = "Has a model answer the items of a task, and writes the right answers with the step of its block in which each token was placed: the data of recipes with `[trajectory]`. Answers that an edit changed, or whose blocks overlapped, are left out: their states are not told by steps.",
        after_help = "Example:\n  llada sums write --seed 7 --count 1000 --out sums.jsonl\n  llada data record runs/sft/final --task worked_sums --data sums.jsonl --threshold 0.95 --out recorded.jsonl"
    )]
    Record(Box<DataRecordArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct DataRecordArgs {
    /// Checkpoint directory, GGUF file or Hub id.
    pub model: PathBuf,
    /// Task of `llada eval`, or a file of one's own that ends in .toml.
    #[arg(long)]
    pub task: String,
    /// Rows of the task.
    #[arg(long)]
    pub data: PathBuf,
    /// File to write.
    #[arg(long)]
    pub out: PathBuf,
    /// Precision of matrix products.
    #[arg(long, default_value = "f32")]
    pub precision: PrecisionArg,
    /// Requests that run together. Answers do not depend on it.
    #[arg(long, default_value = "64")]
    pub concurrency: NonZeroUsize,
    #[command(flatten)]
    pub decoding: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct DataCheckArgs {
    /// Recipe (TOML).
    pub recipe: PathBuf,
    /// Overrides one key of the recipe; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub overrides: Vec<String>,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  llada generate assets/stories-child --prompt \"Once upon a time\" --threshold 0.7\n  llada generate assets/tinystories-656k --ar --prompt \"Once upon a time\" --json\n  llada generate assets/worked-sums/child --prompt 12+34= --regex '[^;]*;[0-9]+'\n  llada generate assets/stories-child --requests requests.jsonl --json --concurrency 16\n  llada generate inclusionAI/LLaDA2.0-mini --quant q4_0 --prompt \"Once upon a time\""
)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub weights: QuantArgs,
    #[command(flatten)]
    pub source: PromptArgs,
    /// One JSON object per request on stdout, in the order of the requests.
    #[arg(long)]
    pub json: bool,
    /// Requests that run together. Answers do not depend on it, only what the cache saves.
    #[arg(long, default_value = "1", requires = "json")]
    pub concurrency: NonZeroUsize,
    /// Pages of keys and values [default: as many as fit a gibibyte]. Answers do not depend on it.
    #[arg(long, value_name = "PAGES")]
    pub page_budget: Option<NonZeroUsize>,
    #[command(flatten)]
    pub decoding: Settings,
}

/// A checkpoint to decode with, and what it does not say itself.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Checkpoint directory, GGUF file, or Hub id: org/name or org/name@revision.
    #[arg(value_name = "MODEL")]
    pub dir: PathBuf,
    /// Token by token with a causal model.
    #[arg(long)]
    pub ar: bool,
    #[command(flatten)]
    pub ids: IdArgs,
    #[command(flatten)]
    pub precision: PrecisionArgs,
}

/// How precisely a model is computed.
#[derive(Debug, Default, Args)]
pub(crate) struct PrecisionArgs {
    /// Precision of matrix products.
    #[arg(long = "precision", default_value = "f32")]
    pub products: PrecisionArg,
    /// Precision of keys and values [default: bf16 if products are in bf16 or weights quantised, else
    /// f32].
    #[arg(long)]
    pub kv_precision: Option<PrecisionArg>,
}

/// Special tokens of a checkpoint that does not say them.
#[derive(Debug, Default, Args)]
pub(crate) struct IdArgs {
    /// MASK id, for a checkpoint that does not say.
    #[arg(long)]
    pub mask_id: Option<u32>,
    /// End-of-text id, for a checkpoint that does not say.
    #[arg(long)]
    pub eos_id: Option<u32>,
    /// Id that deletes a position, for `--edit revise` with a checkpoint that does not say.
    #[arg(long)]
    pub delete_id: Option<u32>,
    /// Id that inserts a position, for `--edit revise` with a checkpoint that does not say.
    #[arg(long)]
    pub split_id: Option<u32>,
}

/// Types of weights other than the checkpoint's.
#[derive(Debug, Args)]
pub(crate) struct QuantArgs {
    /// Quantises the weights: q4_0, q8_0, q4_k, q6_k or bf16. The copy is kept for the next start.
    #[arg(long, value_name = "TYPE", value_parser = quant)]
    pub quant: Option<BlockFormat>,
}

#[derive(Debug, Args)]
#[command(
    long_about = "Talks with a model in the terminal. Lines come from stdin, answers go to stdout. A \
                  checkpoint without a chat template continues the text instead.",
    after_help = "Commands: /help /reset /system TEXT /set NAME VALUE /quit. Ctrl-C ends an answer.\n\nExamples:\n  llada chat runs/sft/final --mode q\n  llada chat assets/stories-child --max-new-tokens 60\n  llada chat inclusionAI/LLaDA2.0-mini --quant q4_0"
)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub weights: QuantArgs,
    /// System message.
    #[arg(long)]
    pub system: Option<String>,
    #[command(flatten)]
    pub decoding: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    pub what: TraceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Replays recorded answers step by step; one line per step unless stdout is a terminal.
    #[command(
        after_help = "Example:\n  llada generate assets/stories-child --prompt \"Once upon a time\" --json --trace > trace.jsonl\n  llada trace show assets/stories-child trace.jsonl"
    )]
    Show(TraceShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TraceShowArgs {
    /// Checkpoint directory, GGUF file or Hub id.
    pub model: PathBuf,
    /// What `generate --json --trace` printed.
    pub file: PathBuf,
    /// Pause after each step on a terminal, in milliseconds.
    #[arg(long, default_value_t = 120)]
    pub delay_ms: u64,
    /// MASK id, for a checkpoint that does not say.
    #[arg(long)]
    pub mask_id: Option<u32>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptArgs {
    /// Prompt text.
    #[arg(long)]
    pub prompt: Option<String>,
    /// Prompt ids, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub ids: Option<Vec<u32>>,
    /// Requests, one JSON object per line with the same names in snake_case.
    #[arg(long)]
    pub requests: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    #[default]
    F32,
    Bf16,
}

impl From<PrecisionArg> for llada_tensor::Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  llada inspect assets/tinystories-656k --json\n  llada inspect logits assets/tinystories-656k --ids 1,80,147 --visibility causal --out logits.safetensors"
)]
pub(crate) struct InspectArgs {
    /// A config.json, a checkpoint directory, a GGUF file or a Hub id, of which no weights are fetched.
    pub path: Option<PathBuf>,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub what: Option<InspectCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InspectCommand {
    /// Writes the logits of every row to a safetensors file.
    Logits(LogitsArgs),
    /// Runs every case of a golden directory through the real code paths.
    Parity(ParityArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// Checkpoint directory, GGUF file or Hub id.
    pub model: PathBuf,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pub ids: Vec<u32>,
    /// `causal`, `full`, or `block:B`.
    #[arg(long)]
    pub visibility: String,
    /// File to write; its tensor `logits` is [T, vocab] f32.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ParityArgs {
    /// Directory laid out like testdata/golden.
    pub golden: PathBuf,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SumsArgs {
    #[command(subcommand)]
    pub what: SumsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SumsCommand {
    /// Writes a directory from which a parent is trained: config.json and a character tokenizer.
    #[command(after_help = "Example:\n  llada sums init runs/sums-init")]
    Init(SumsInitArgs),
    /// Writes problems as JSON lines with `prompt` and `response`.
    #[command(after_help = "Example:\n  llada sums write --seed 1 --count 1000 --out sums.jsonl")]
    Write(SumsWriteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SumsInitArgs {
    /// Directory to create.
    pub out: PathBuf,
    /// Width of the model.
    #[arg(long, default_value_t = 128)]
    pub hidden_size: usize,
    /// Depth of the model.
    #[arg(long, default_value_t = 4)]
    pub layers: usize,
    /// Adds two tokens that delete and insert, for recipes with `[levenshtein]`.
    #[arg(long)]
    pub edit_tokens: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SumsWriteArgs {
    /// Names the stream of problems.
    #[arg(long)]
    pub seed: u64,
    /// Number of problems.
    #[arg(long)]
    pub count: u64,
    /// Preference pairs for `[dpo]`: the right response as `chosen`, one with a wrong digit as
    /// `rejected`.
    #[arg(long)]
    pub pairs: bool,
    /// Countdown in place of sums: numbers to add and subtract, with `nums` and `target` for the task
    /// `plain_countdown`.
    #[arg(long, conflicts_with = "pairs")]
    pub countdown: bool,
    /// File to write.
    #[arg(long)]
    pub out: PathBuf,
}
