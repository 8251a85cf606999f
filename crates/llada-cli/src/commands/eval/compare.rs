//! A parent against its child on one engine: worked sums, and texts judged by the parent.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use llada_engine::{Acceptance, Answer, Engine, Method, Options, Policy, Request};
use llada_model::{Input, Model};
use serde_json::json;

use super::nll::documents;
use crate::args::{CompareArgs, EvalSumsArgs, EvalTextArgs, PrecisionArgs};
use crate::commands::decoding::kv_precision;
use crate::commands::gguf::load_tokenizer;
use crate::commands::{load_model, models};
use crate::worked_sums::{Sum, unseen};
use crate::{failure, ui};

/// Longest answer to a worked sum, with room for a model that does not stop.
const SUM_TOKENS: usize = 96;

/// Sum and count of a quality figure, for the answer to prompt number `usize`.
type Judge<'a> = dyn Fn(usize, &Answer) -> anyhow::Result<(f64, usize)> + 'a;

/// Prompts with the judgement of their answers: a share of right answers, or a likelihood.
struct Task<'a> {
    prompts: Vec<Vec<u32>>,
    max_new_tokens: usize,
    judge: &'a Judge<'a>,
    quality: &'static str,
}

/// A decoding setting over all prompts: totals over totals, never a mean of ratios.
#[derive(Default)]
struct Outcome {
    tokens: usize,
    denoise: usize,
    forwards: usize,
    elapsed: Duration,
    quality: (f64, usize),
}

pub(super) fn sums(args: &EvalSumsArgs) -> anyhow::Result<()> {
    let tokenizer = load_tokenizer(&models::whole(&args.compare.parent)?)?;
    let problems: Vec<Sum> = unseen(args.seed).take(args.count).collect();
    let prompts = problems.iter().map(|sum| tokenizer.encode(&sum.prompt()));
    let task = Task {
        prompts: prompts.collect::<Result<_, _>>()?,
        max_new_tokens: SUM_TOKENS,
        judge: &|index, answer| {
            let text = tokenizer.decode(&answer.output_ids)?;
            Ok((f64::from(u8::from(problems[index].is_solved_by(&text))), 1))
        },
        quality: "exact",
    };
    let [parent, child] = load_pair(&args.compare)?;
    compare(&args.compare, &parent, &child, &task)
}

pub(super) fn text(args: &EvalTextArgs) -> anyhow::Result<()> {
    let tokenizer = load_tokenizer(&models::whole(&args.compare.parent)?)?;
    let [parent, child] = load_pair(&args.compare)?;
    let documents = documents(
        &args.data,
        &tokenizer,
        &parent.model,
        parent.model.config.max_position_embeddings,
    )?;
    let prompts = documents.iter().map(|document| document.ids.as_slice());
    let prompts: Vec<Vec<u32>> = prompts
        .filter(|ids| ids.len() > args.prompt_tokens)
        .take(args.count)
        .map(|ids| ids[..args.prompt_tokens].to_vec())
        .collect();
    let judged = prompts.clone();
    let task = Task {
        prompts,
        max_new_tokens: args.max_new_tokens,
        judge: &|index, answer| {
            Ok(continuation_nll(
                &parent.model,
                &judged[index],
                &answer.output_ids,
            ))
        },
        quality: "parent's NLL",
    };
    compare(&args.compare, &parent, &child, &task)
}

/// A model and how it is served.
struct Contender {
    model: Model,
    options: Options,
}

fn load_pair(args: &CompareArgs) -> anyhow::Result<[Contender; 2]> {
    Ok([
        Contender::load(&args.parent, &args.precision)?,
        Contender::load(&args.child, &args.precision)?,
    ])
}

impl Contender {
    /// Loads a model, to be served so that no request profits from an earlier one.
    fn load(given: &Path, precision: &PrecisionArgs) -> anyhow::Result<Self> {
        let dir = models::whole(given)?;
        let model = load_model(&dir, precision.products.into())?;
        let mut options = Options::with_kv_precision(&model.config, kv_precision(&dir, precision)?);
        options.savings.prefix_cache = false;
        Ok(Self { model, options })
    }
}

/// Prints one row for the parent and one per threshold for the child.
fn compare(
    args: &CompareArgs,
    parent: &Contender,
    child: &Contender,
    task: &Task<'_>,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        !task.prompts.is_empty(),
        failure::usage("there is no prompt: the data has too few or too short documents")
    );
    let bar = ui::bar(
        (task.prompts.len() * (1 + args.thresholds.len())) as u64,
        "prompts",
    );
    let mut rows = vec![("parent, one by one".to_owned(), None)];
    rows.extend(
        args.thresholds
            .iter()
            .map(|t| (format!("child, threshold {t}"), Some(*t))),
    );
    let mut outcomes = Vec::new();
    for (name, threshold) in rows {
        let asked = if threshold.is_some() { child } else { parent };
        let mut engine = Engine::new(&asked.model, asked.options.clone())?;
        let mut outcome = Outcome::default();
        for (index, prompt) in task.prompts.iter().enumerate() {
            let request = Request {
                block_length: args.block_length,
                ..Request::new(prompt.clone(), task.max_new_tokens)
            };
            let request = match threshold {
                Some(threshold) => Request {
                    policy: Policy {
                        acceptance: Acceptance::Threshold(threshold),
                        ..Policy::default()
                    },
                    ..request
                },
                None => Request {
                    method: Method::Autoregression,
                    ..request
                },
            };
            outcome.add(&mut engine, &request, index, task)?;
            bar.inc(1);
        }
        outcomes.push((name, threshold, outcome));
    }
    bar.finish_and_clear();
    print_outcomes(args, task, &outcomes)
}

impl Outcome {
    /// Serves one request, timed, and judges its answer, untimed.
    fn add(
        &mut self,
        engine: &mut Engine<'_>,
        request: &Request,
        index: usize,
        task: &Task<'_>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let answer = engine.generate(request, &mut |_| {})?;
        self.elapsed += start.elapsed();
        self.tokens += answer.output_ids.len();
        self.denoise += answer.forwards.denoise;
        self.forwards += answer.forwards.total();
        let (sum, count) = (task.judge)(index, &answer).context("cannot judge an answer")?;
        self.quality.0 += sum;
        self.quality.1 += count;
        Ok(())
    }

    fn quality(&self) -> f64 {
        self.quality.0 / self.quality.1 as f64
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64()
    }

    fn tokens_per_forward(&self) -> f64 {
        self.tokens as f64 / self.denoise as f64
    }
}

fn print_outcomes(
    args: &CompareArgs,
    task: &Task<'_>,
    outcomes: &[(String, Option<f32>, Outcome)],
) -> anyhow::Result<()> {
    let parent_speed = outcomes[0].2.tokens_per_second();
    if args.json {
        for (name, threshold, outcome) in outcomes {
            ui::line(json!({
                "setting": name,
                "threshold": threshold,
                task.quality: outcome.quality(),
                "tokens": outcome.tokens,
                "denoise_forwards": outcome.denoise,
                "forwards": outcome.forwards,
                "tokens_per_forward": outcome.tokens_per_forward(),
                "tokens_per_second": outcome.tokens_per_second(),
                "speedup": outcome.tokens_per_second() / parent_speed,
            }))?;
        }
        return Ok(());
    }
    let header = [
        "",
        task.quality,
        "tokens/s",
        "x parent",
        "TPF",
        "tokens",
        "denoise",
        "all forwards",
    ];
    let rows = outcomes.iter().map(|(name, _, outcome)| {
        vec![
            name.clone(),
            format!("{:.4}", outcome.quality()),
            format!("{:.0}", outcome.tokens_per_second()),
            format!("{:.2}", outcome.tokens_per_second() / parent_speed),
            format!("{:.2}", outcome.tokens_per_forward()),
            outcome.tokens.to_string(),
            outcome.denoise.to_string(),
            outcome.forwards.to_string(),
        ]
    });
    ui::line(ui::table(&header, &rows.collect::<Vec<_>>()).trim_end())
}

/// Sum and count of the causal NLL of `answer` after `prompt`.
fn continuation_nll(model: &Model, prompt: &[u32], answer: &[u32]) -> (f64, usize) {
    let ids = [prompt, answer].concat();
    let positions: Vec<u32> = (0..).take(ids.len()).collect();
    let ranges = llada_diffusion::causal_ranges(ids.len());
    let outputs = &positions[prompt.len() - 1..ids.len() - 1];
    let input = Input {
        ids: &ids,
        positions: &positions,
        ranges: &ranges,
        outputs,
        dropout: None,
    };
    let hidden = model.forward(&input);
    let rows = model.head_rows(&hidden, Some(answer), None);
    (
        rows.iter()
            .map(|row| f64::from(row.lse - row.target_logit))
            .sum(),
        answer.len(),
    )
}
