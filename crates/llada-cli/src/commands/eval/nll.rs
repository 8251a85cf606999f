//! `llada eval nll`: the likelihood of texts.

use std::path::Path;

use llada_diffusion::BlockSize;
use llada_model::Model;
use llada_text::Tokenizer;
use llada_train::data::{Document, Overflow, Reader, Unit};
use llada_train::{Mode, nll};
use serde_json::json;

use crate::args::NllArgs;
use crate::commands::gguf::load_tokenizer;
use crate::commands::{load_model, quantised};
use crate::{failure, ui};

pub(super) fn run(args: &NllArgs) -> anyhow::Result<()> {
    let mode = mode("--mode", &args.mode)?;
    if args.draws == 0 {
        return Err(failure::usage("--draws must be at least 1, found 0"));
    }
    let dir = quantised::open(&args.model, args.weights.quant)?;
    let model = load_model(&dir, args.precision.into())?;
    let tokenizer = load_tokenizer(&dir)?;
    let documents = documents(&args.data, &tokenizer, &model, args.max_len)?;
    let result = nll(&model, &documents, mode, args.draws)?;
    if args.json {
        return ui::line(json!({
            "nll_per_token": result.nll_per_token,
            "tokens": result.tokens,
            "stderr": result.stderr,
        }));
    }
    ui::line(format!(
        "{:.4} +- {:.4} nats per token over {} tokens ({})",
        result.nll_per_token, result.stderr, result.tokens, args.mode
    ))
}

/// Parses the value of a flag: `ar` or `block:B`.
pub(super) fn mode(flag: &str, text: &str) -> anyhow::Result<Mode> {
    let size = text
        .strip_prefix("block:")
        .and_then(|size| size.parse().ok());
    match (text, size) {
        ("ar", _) => Ok(Mode::Ar),
        (_, Some(size)) => Ok(Mode::Block(BlockSize::new(size).map_err(failure::usage)?)),
        _ => Err(failure::usage(format!(
            "{flag}: expected ar or block:B, found `{text}`"
        ))),
    }
}

/// Reads documents as they are: nothing appended to texts, long ones truncated.
pub(in crate::commands) fn documents(
    path: &Path,
    tokenizer: &Tokenizer,
    model: &Model,
    max_len: usize,
) -> anyhow::Result<Vec<Document>> {
    tokenizer.check_vocab_size(model.config.vocab_size)?;
    let eos = model.config.eos_token_ids.first().copied();
    let reader = Reader {
        unit: Unit::Document,
        tokenizer: Some(tokenizer),
        vocab_size: model.config.vocab_size,
        mask_token_id: model.config.mask_token_id,
        operations: None,
        eos_token_id: eos.or(tokenizer.specials().eos),
        append_eos: false,
        max_len,
        overflow: Overflow::Truncate,
        recorded: None,
    };
    Ok(reader.read(&[path.to_owned()])?.documents)
}
