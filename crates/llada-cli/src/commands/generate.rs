//! `llada generate`: one prompt, or a file of requests in order.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use llada_engine::{
    Acceptance, Answer, Engine, Method, Options, Policy, Quota, Request, Sampling, Schedule,
};
use llada_text::{IncrementalDetokenizer, Tokenizer};
use serde::Deserialize;
use serde_json::json;

use super::load_model;
use crate::args::{DecodingArgs, GenerateArgs};
use crate::{failure, ui};

/// One line of a request file. What it leaves out, the command line says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prompt: Option<String>,
    ids: Option<Vec<u32>>,
    max_new_tokens: Option<usize>,
    block_length: Option<usize>,
    threshold: Option<f32>,
    steps: Option<usize>,
    min_transfer: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    seed: Option<u64>,
    eos_early_stop: Option<bool>,
    trace: Option<bool>,
    reference_schedule: Option<bool>,
}

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let rows = rows(args)?;
    let tokenizer = tokenizer(&args.model, &rows)?;
    let model = load_model(&args.model, args.precision.into())?;
    let mut options = Options::new(&model.config);
    options.mask_token_id = args.mask_id.or(options.mask_token_id);
    if let Some(id) = args.eos_id {
        options.eos_token_ids = vec![id];
    }
    let mut engine = Engine::new(&model, options)?;
    for row in rows {
        let request = Request {
            method: if args.ar {
                Method::Autoregression
            } else {
                Method::BlockDiffusion
            },
            ..request(row, &args.decoding, tokenizer.as_ref())?
        };
        answer(args, &mut engine, &request, tokenizer.as_ref())?;
    }
    Ok(())
}

/// Reads the requests that the arguments name.
fn rows(args: &GenerateArgs) -> anyhow::Result<Vec<Row>> {
    if let Some(prompt) = &args.source.prompt {
        return Ok(vec![Row {
            prompt: Some(prompt.clone()),
            ..Row::default()
        }]);
    }
    if let Some(ids) = &args.source.ids {
        return Ok(vec![Row {
            ids: Some(ids.clone()),
            ..Row::default()
        }]);
    }
    let path = args.source.requests.as_deref().context("no prompt given")?;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| failure::usage(format!("{}:{}: {error}", path.display(), number + 1)))
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(parse)
        .collect()
}

/// Loads the tokenizer; a directory without one serves requests that give ids.
fn tokenizer(dir: &Path, rows: &[Row]) -> anyhow::Result<Option<Tokenizer>> {
    match Tokenizer::load(dir) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(_) if rows.iter().all(|row| row.ids.is_some()) && !has_tokenizer(dir) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_tokenizer(dir: &Path) -> bool {
    ["tokenizer.json", "vocab.json", "encoder.json"]
        .iter()
        .any(|name| dir.join(name).exists())
}

fn request(
    row: Row,
    defaults: &DecodingArgs,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<Request> {
    let prompt = match (row.ids, row.prompt, tokenizer) {
        (Some(ids), None, _) => ids,
        (None, Some(text), Some(tokenizer)) => tokenizer.encode(&text).map_err(failure::usage)?,
        _ => return Err(failure::usage("a request needs either `prompt` or `ids`")),
    };
    // A row's own choice between steps and min_transfer replaces that of the command line.
    let (steps, min_transfer) = match (row.steps, row.min_transfer) {
        (None, None) => (defaults.steps, defaults.min_transfer),
        own => own,
    };
    let quota = match (steps, min_transfer) {
        (Some(_), Some(_)) => {
            return Err(failure::usage(
                "`steps` and `min_transfer` exclude each other; give one",
            ));
        }
        (Some(steps), None) => Quota::Steps(steps),
        (None, min_transfer) => Quota::MinTransfer(min_transfer.unwrap_or(1)),
    };
    let eos_early_stop = row.eos_early_stop.unwrap_or(defaults.eos_early_stop);
    let schedule = if row
        .reference_schedule
        .unwrap_or(defaults.reference_schedule)
    {
        Schedule::Reference { eos_early_stop }
    } else {
        Schedule::Exact
    };
    Ok(Request {
        block_length: row.block_length.or(defaults.block_length),
        policy: Policy {
            acceptance: Acceptance::Threshold(row.threshold.unwrap_or(defaults.threshold)),
            quota,
            ..Policy::default()
        },
        schedule,
        sampling: Sampling {
            temperature: row.temperature.unwrap_or(defaults.temperature),
            top_k: row.top_k.unwrap_or(defaults.top_k),
            top_p: row.top_p.unwrap_or(defaults.top_p),
            seed: row.seed.unwrap_or(defaults.seed),
            ..Sampling::default()
        },
        trace: row.trace.unwrap_or(defaults.trace),
        ..Request::new(
            prompt,
            row.max_new_tokens.unwrap_or(defaults.max_new_tokens),
        )
    })
}

fn answer(
    args: &GenerateArgs,
    engine: &mut Engine<'_>,
    request: &Request,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<()> {
    let mut stream = Stream::new(if args.json { None } else { tokenizer }, &request.prompt)?;
    let start = Instant::now();
    let answer = engine
        .generate(request, &mut |ids| stream.push(ids))
        .map_err(failure::usage)?;
    let elapsed = start.elapsed();
    stream.finish()?;
    if args.json {
        return ui::line(to_json(&request.prompt, &answer, tokenizer)?);
    }
    if tokenizer.is_none() {
        ui::line(format!("{:?}", answer.output_ids))?;
    }
    let (tokens, denoise) = (answer.output_ids.len(), answer.forwards.denoise);
    ui::say(format!(
        "{tokens} tokens in {denoise} forwards ({:.2} tokens per forward), {:.0} tokens/s",
        tokens as f64 / denoise as f64,
        tokens as f64 / elapsed.as_secs_f64(),
    ));
    Ok(())
}

fn to_json(
    prompt: &[u32],
    answer: &Answer,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<serde_json::Value> {
    let text = tokenizer
        .map(|tokenizer| tokenizer.decode(&answer.output_ids))
        .transpose()?;
    let trace = answer
        .trace
        .iter()
        .map(|step| json!({ "block": step.block, "step": step.step, "ids": step.ids }));
    Ok(json!({
        "prompt_ids": prompt,
        "output_ids": answer.output_ids,
        "text": text,
        "finish_reason": answer.finish_reason.to_string(),
        "forwards": {
            "prefill": answer.forwards.prefill,
            "denoise": answer.forwards.denoise,
            "commit": answer.forwards.commit,
        },
        "trace": trace.collect::<Vec<_>>(),
    }))
}

/// Text on stdout as it becomes final.
struct Stream {
    detokenizer: Option<IncrementalDetokenizer>,
    result: anyhow::Result<()>,
}

impl Stream {
    /// Starts with the prompt, so that the text reads on from it.
    fn new(tokenizer: Option<&Tokenizer>, prompt: &[u32]) -> anyhow::Result<Self> {
        let mut detokenizer = tokenizer.map(|t| IncrementalDetokenizer::new(t.clone()));
        if let Some(detokenizer) = &mut detokenizer {
            write(&detokenizer.extend(prompt)?)?;
        }
        Ok(Self {
            detokenizer,
            result: Ok(()),
        })
    }

    fn push(&mut self, ids: &[u32]) {
        let Some(detokenizer) = &mut self.detokenizer else {
            return;
        };
        if self.result.is_ok() {
            self.result = detokenizer
                .extend(ids)
                .map_err(Into::into)
                .and_then(|text| write(&text));
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        self.result?;
        match self.detokenizer {
            Some(detokenizer) => write(&(detokenizer.finish()? + "\n")),
            None => Ok(()),
        }
    }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}
