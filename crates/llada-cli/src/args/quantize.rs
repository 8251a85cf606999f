//! Arguments of `llada quantize`.

use std::path::PathBuf;

use clap::Args;
use llada_model::{BlockFormat, TensorGroup};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  llada quantize assets/stories-child child.gguf --type q8_0 --keep head=bf16 --text assets/stories/valid.jsonl"
)]
pub(crate) struct QuantizeArgs {
    /// Checkpoint directory, GGUF file or Hub id.
    pub input: PathBuf,
    /// File to create.
    pub out: PathBuf,
    /// Format of matrices: q4_0, q8_0, q4_k, q5_k, q6_k, bf16, f16, f32 and a few more.
    #[arg(long = "type", value_name = "TYPE", value_parser = format)]
    pub format: BlockFormat,
    /// Groups with another format, `GROUP=TYPE`; without a type, that of the checkpoint.
    #[arg(long, value_delimiter = ',', value_parser = keep)]
    pub keep: Vec<Keep>,
    /// Documents whose likelihood is measured before and after, as for `eval nll --data`.
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// A group that gets a format of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    pub group: TensorGroup,
    /// `None` for the checkpoint's own.
    pub format: Option<BlockFormat>,
}

/// Formats that `--quant` takes.
const QUANT: [BlockFormat; 5] = [
    BlockFormat::Q4_0,
    BlockFormat::Q8_0,
    BlockFormat::Q4K,
    BlockFormat::Q6K,
    BlockFormat::Bf16,
];

pub(super) fn quant(text: &str) -> Result<BlockFormat, String> {
    one_of(&QUANT, text)
}

fn format(text: &str) -> Result<BlockFormat, String> {
    one_of(&BlockFormat::ALL, text)
}

fn one_of(formats: &[BlockFormat], text: &str) -> Result<BlockFormat, String> {
    let found = formats.iter().find(|format| format.name() == text);
    found.copied().ok_or_else(|| {
        let known: Vec<_> = formats.iter().map(|format| format.name()).collect();
        format!("expected one of {}, found `{text}`", known.join(", "))
    })
}

fn keep(text: &str) -> Result<Keep, String> {
    let (name, asked) = match text.split_once('=') {
        Some((name, asked)) => (name, Some(format(asked)?)),
        None => (text, None),
    };
    let found = TensorGroup::ALL
        .into_iter()
        .find(|group| group.name() == name);
    let group = found.ok_or_else(|| {
        let known = TensorGroup::ALL.map(TensorGroup::name).join(", ");
        format!("expected one of {known}, found `{name}`")
    })?;
    match asked {
        Some(asked) if group.is_always_f32() && asked != BlockFormat::F32 => {
            Err(format!("`{name}` is f32 always, found `{}`", asked.name()))
        }
        _ => Ok(Keep {
            group,
            format: asked,
        }),
    }
}
