//! Arguments of `llada bench`: either requests to a checkpoint, or the shape of a model.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};

use llada_request::Settings;

use super::{ModelArgs, PrecisionArg};

const EXAMPLES: &str = "Examples:
  llada bench assets/worked-sums/child --requests prompts.jsonl --concurrency 1,4 --baseline assets/worked-sums/parent
  llada bench --config LLaDA2.0-mini/config.json --random-weights --quant q4_0 --threads 2";

/// Arguments of a shape.
const SHAPE: [&str; 4] = ["config", "random_weights", "quant", "context"];

/// What is measured.
#[derive(Debug)]
pub(crate) enum BenchArgs {
    /// How fast a checkpoint answers.
    Serving(Box<ServingArgs>),
    /// How fast the forwards of a shape are.
    Shape {
        /// The shape.
        shape: ShapeArgs,
        /// Precision of keys and values.
        kv_precision: Option<PrecisionArg>,
        /// Whether stdout gets JSON.
        json: bool,
    },
}

/// By hand, for clap's derive has no choice between two sets of arguments: what `ServingArgs` requires is
/// not required, and nothing of it allowed, beside `--config`.
impl Args for BenchArgs {
    fn augment_args(command: Command) -> Command {
        let serving = ServingArgs::augment_args(command).mut_args(|arg| {
            let arg = match arg.is_required_set() {
                true => arg.required(false).required_unless_present("config"),
                false => arg,
            };
            match arg.get_id().as_str() {
                "json" | "kv_precision" => arg,
                _ => arg.conflicts_with_all(SHAPE),
            }
        });
        ShapeArgs::augment_args(serving).after_help(EXAMPLES)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BenchArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        if !matches.contains_id("config") {
            return ServingArgs::from_arg_matches(matches)
                .map(Box::new)
                .map(Self::Serving);
        }
        Ok(Self::Shape {
            shape: ShapeArgs::from_arg_matches(matches)?,
            kv_precision: matches.get_one("kv_precision").copied(),
            json: matches.get_flag("json"),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Requests to a checkpoint.
#[derive(Debug, Args)]
pub(crate) struct ServingArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Requests, one JSON object per line as for `generate`.
    #[arg(long)]
    pub requests: PathBuf,
    /// Requests that run together, one setting each.
    #[arg(long, value_delimiter = ',', default_values = ["1", "4", "16", "64"])]
    pub concurrency: Vec<NonZeroUsize>,
    /// Causal model that writes token by token from the same prompts, for comparison.
    #[arg(long, value_name = "PARENT")]
    pub baseline: Option<PathBuf>,
    /// Runs of each setting; the median one is reported.
    #[arg(long, default_value = "1")]
    pub repeat: NonZeroUsize,
    /// Runs each setting once before it is timed.
    #[arg(long)]
    pub warmup: bool,
    /// Most rows of prompts in one forward (default: the engine's).
    #[arg(long)]
    pub prefill_rows: Option<NonZeroUsize>,
    /// Gives every finished block a forward of its own.
    #[arg(long)]
    pub no_fused_commit: bool,
    /// Computes every prompt, even if another began alike.
    #[arg(long)]
    pub no_prefix_cache: bool,
    #[command(flatten)]
    pub decoding: Settings,
    /// One JSON object per setting on stdout.
    #[arg(long)]
    pub json: bool,
}

/// A model of random weights: the speed of a published shape without its files.
#[derive(Debug, Args)]
pub(crate) struct ShapeArgs {
    /// A checkpoint's config.json; nothing else of it is needed.
    #[arg(long, required = false, requires = "random_weights")]
    pub config: PathBuf,
    /// Draws the weights.
    #[arg(long, requires = "config")]
    pub random_weights: bool,
    /// Format of matrices, embedding and head.
    #[arg(long, value_name = "TYPE", default_value = "q4_0", requires = "config")]
    pub quant: QuantArg,
    /// Tokens of the prompt before the first block.
    #[arg(long, default_value = "4096", requires = "config")]
    pub context: NonZeroUsize,
}

/// A format of quantised weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum QuantArg {
    /// 4.5 bits per weight.
    #[value(name = "q4_0")]
    Q4_0,
    /// 8.5 bits per weight.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits per weight, and 4.6 in memory.
    #[value(name = "q4_k")]
    Q4K,
    /// 5.5 bits per weight, and 5.6 in memory.
    #[value(name = "q5_k")]
    Q5K,
    /// 6.6 bits per weight.
    #[value(name = "q6_k")]
    Q6K,
}

impl From<QuantArg> for llada_tensor::Codes {
    fn from(quant: QuantArg) -> Self {
        match quant {
            QuantArg::Q4_0 => Self::Q4_0,
            QuantArg::Q8_0 => Self::Q8_0,
            QuantArg::Q4K => Self::Q4K,
            QuantArg::Q5K => Self::Q5K,
            QuantArg::Q6K => Self::Q6K,
        }
    }
}
