//! `llada quantize`: a checkpoint becomes a GGUF file; sizes and errors by group, likelihood on request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llada_diffusion::BlockSize;
use llada_model::{
    BlockFormat, Config, FormatChoice, StorageDtype, TensorGroup, WrittenTensor, write_gguf,
};
use llada_tensor::Precision;
use llada_train::{Mode, nll};
use serde_json::{Value, json};

use super::gguf::{load_tokenizer, tokenizer_keys};
use super::{decoding, eval, load_model, models};
use crate::args::QuantizeArgs;
use crate::{failure, ui};

/// Block size of a diffusion checkpoint that does not say its own, as published.
const BLOCK_SIZE: usize = 32;
/// Noise draws per document, and tokens after which documents are cut.
const DRAWS: usize = 8;
const MAX_LEN: usize = 512;

pub(crate) fn run(args: &QuantizeArgs) -> anyhow::Result<()> {
    let input = models::whole(&args.input)?;
    let config = Config::of_checkpoint(&input)?;
    let mut groups: BTreeMap<Group, Sums> = BTreeMap::new();
    let choice = choice(args, &config);
    write(&input, &args.out, &config, &choice, &mut |tensor| {
        let group = (tensor.group, tensor.format);
        groups.entry(group).or_default().add(tensor);
    })?;
    let both = |text: &PathBuf| -> anyhow::Result<[f64; 2]> {
        Ok([likelihood(&input, text)?, likelihood(&args.out, text)?])
    };
    let likelihood = args.text.as_ref().map(both).transpose()?;
    report(args, &groups, likelihood)
}

/// Writes a checkpoint as a GGUF file, with its tokenizer, and tells of every tensor.
pub(super) fn write(
    input: &Path,
    out: &Path,
    config: &Config,
    choice: &FormatChoice,
    told: &mut dyn FnMut(&WrittenTensor),
) -> anyhow::Result<()> {
    let tokenizer = decoding::tokenizer(input)?;
    let keys = tokenizer_keys(tokenizer.as_ref(), config.vocab_size)?;
    let bar = ui::bar(config.parameter_counts().total, "weights");
    let written = write_gguf(input, out, choice, &keys, &mut |tensor| {
        bar.inc(tensor.num_values as u64);
        told(tensor);
    });
    bar.finish_and_clear();
    for warning in written? {
        ui::say(format!("warning: {warning}"));
    }
    Ok(())
}

fn choice(args: &QuantizeArgs, config: &Config) -> FormatChoice {
    let own = match config.storage {
        StorageDtype::F32 => BlockFormat::F32,
        StorageDtype::Bf16 => BlockFormat::Bf16,
    };
    let kept = args.keep.iter();
    FormatChoice {
        default: args.format,
        kept: kept
            .map(|keep| (keep.group, keep.format.unwrap_or(own)))
            .collect(),
    }
}

/// Tensors that are reported together.
type Group = (TensorGroup, BlockFormat);

/// Totals over the tensors of a group.
#[derive(Default)]
struct Sums {
    tensors: usize,
    values: usize,
    bytes: usize,
    squares: f64,
    error_squares: f64,
}

impl Sums {
    fn add(&mut self, tensor: &WrittenTensor) {
        self.tensors += 1;
        self.values += tensor.num_values;
        self.bytes += tensor.num_bytes;
        self.squares += tensor.squares;
        self.error_squares += tensor.error_squares;
    }

    /// Returns the root mean square error over the root mean square of the values.
    fn relative_error(&self) -> f64 {
        match self.squares {
            0.0 => 0.0,
            squares => (self.error_squares / squares).sqrt(),
        }
    }
}

/// Measures nats per token: of a causal model token by token, else the block-diffusion bound.
fn likelihood(model: &Path, text: &Path) -> anyhow::Result<f64> {
    let tokenizer = load_tokenizer(model)?;
    let model = load_model(model, Precision::F32)?;
    let mode = match model.config.label_alignment {
        None => Mode::Ar,
        Some(_) => {
            let size = model.config.block_size.unwrap_or(BLOCK_SIZE);
            Mode::Block(BlockSize::new(size).map_err(failure::usage)?)
        }
    };
    let documents = eval::documents(text, &tokenizer, &model, MAX_LEN)?;
    Ok(nll(&model, &documents, mode, DRAWS)?.nll_per_token)
}

fn report(
    args: &QuantizeArgs,
    groups: &BTreeMap<Group, Sums>,
    likelihood: Option<[f64; 2]>,
) -> anyhow::Result<()> {
    let file_bytes = std::fs::metadata(&args.out)?.len();
    if args.json {
        return ui::line(json!({
            "file": args.out,
            "bytes": file_bytes,
            "groups": groups.iter().map(group_json).collect::<Vec<_>>(),
            "nll_per_token": likelihood.map(|[before, after]| json!({ "before": before, "after": after })),
        }));
    }
    let rows: Vec<_> = groups.iter().map(cells).collect();
    let header = [
        "group",
        "type",
        "tensors",
        "weights",
        "size",
        "relative error",
    ];
    ui::write(&ui::table(&header, &rows))?;
    ui::line(format!(
        "{}: {}",
        args.out.display(),
        indicatif::DecimalBytes(file_bytes)
    ))?;
    match likelihood {
        Some([before, after]) => ui::line(format!(
            "nats per token: {before:.4} before, {after:.4} after ({:+.4})",
            after - before
        )),
        None => Ok(()),
    }
}

fn group_json((&(group, format), sums): (&Group, &Sums)) -> Value {
    json!({
        "group": group.name(),
        "type": format.name(),
        "tensors": sums.tensors,
        "weights": sums.values,
        "bytes": sums.bytes,
        "relative_error": sums.relative_error(),
    })
}

fn cells((&(group, format), sums): (&Group, &Sums)) -> Vec<String> {
    vec![
        group.name().into(),
        format.name().into(),
        sums.tensors.to_string(),
        indicatif::HumanCount(sums.values as u64).to_string(),
        indicatif::DecimalBytes(sums.bytes as u64).to_string(),
        format!("{:.3} %", 100.0 * sums.relative_error()),
    ]
}
