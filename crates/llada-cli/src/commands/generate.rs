//! `llada generate`: one prompt, or a file of requests in order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use llada_engine::{Answer, Engine, Event, RequestId};
use llada_text::Tokenizer;
use serde_json::json;

use super::decoding::{self, Job, Prompt, Row, to_json};
use super::{load_model, quantised};
use crate::args::GenerateArgs;
use crate::failure::{self, at};
use crate::ui;
use llada_request::{AnswerText, Checkpoint, joint};

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let rows = rows(args)?;
    let dir = quantised::open(&args.model.dir, args.weights.quant)?;
    let checkpoint = decoding::open(&dir, &args.model.ids, &args.model.precision, args.model.ar)?;
    let jobs = rows.into_iter().map(|row| {
        let job = decoding::job(&checkpoint, row, &args.decoding)?;
        let place = job.place.clone();
        at(place.as_deref(), check_shown(args, job))
    });
    let jobs = jobs.collect::<anyhow::Result<Vec<_>>>()?;
    let model = load_model(&dir, args.model.precision.products.into())?;
    let pages = args.page_budget.map(Into::into);
    let options = checkpoint.options(args.concurrency.get(), pages);
    let mut engine = Engine::new(&model, options).map_err(failure::usage)?;
    if args.json {
        return answer_all(&checkpoint, &mut engine, jobs);
    }
    for job in jobs {
        let place = job.place.clone();
        at(place.as_deref(), show(&checkpoint, &mut engine, job))?;
    }
    Ok(())
}

/// Returns the requests that the arguments name.
fn rows(args: &GenerateArgs) -> anyhow::Result<Vec<Row>> {
    let source = &args.source;
    match (&source.prompt, &source.ids) {
        (Some(text), _) => Ok(vec![Row::new(Prompt::Text(text.clone()))]),
        (_, Some(ids)) => Ok(vec![Row::new(Prompt::Ids(ids.clone()))]),
        (None, None) => Row::read_all(source.requests.as_deref().context("no prompt given")?),
    }
}

/// Refuses a job whose answer would tell more than is printed.
fn check_shown(args: &GenerateArgs, job: Job) -> anyhow::Result<Job> {
    match job.settings.records() {
        Some(name) if !args.json => Err(failure::usage(format!("`{name}` needs --json"))),
        _ => Ok(job),
    }
}

/// Answers all requests together and prints the answers in their order, each as soon as it can be.
/// A request that fails leaves the others alone.
fn answer_all(
    checkpoint: &Checkpoint,
    engine: &mut Engine<'_>,
    jobs: Vec<Job>,
) -> anyhow::Result<()> {
    let mut waiting = VecDeque::new();
    for mut job in jobs {
        let hooks = std::mem::take(&mut job.hooks);
        let submitted = engine.submit_with(&job.request, hooks);
        let id = at(job.place.as_deref(), submitted.map_err(failure::usage))?;
        waiting.push_back((id, job));
    }
    let (num_jobs, mut num_failed) = (waiting.len(), 0);
    let mut ended = BTreeMap::new();
    while let Some((next, job)) = waiting.front() {
        match ended.remove(next) {
            Some(Ok(answer)) => ui::line(to_json(checkpoint, job, &answer)?)?,
            Some(Err(error)) => {
                num_failed += 1;
                ui::line(failed_json(job, error))?;
            }
            None => {
                ended.extend(engine.step().into_iter().filter_map(end));
                continue;
            }
        }
        waiting.pop_front();
    }
    ensure!(
        num_failed == 0,
        "{num_failed} of {num_jobs} requests failed"
    );
    Ok(())
}

/// Returns the end of a request, if the event is one.
fn end(event: Event) -> Option<(RequestId, Result<Answer, llada_engine::Error>)> {
    match event {
        Event::Committed { .. } | Event::Draft { .. } => None,
        Event::Finished { request, answer } => Some((request, Ok(answer))),
        Event::Failed { request, error } => Some((request, Err(error))),
    }
}

/// Returns what stands in the place of an answer: why there is none.
fn failed_json(job: &Job, error: llada_engine::Error) -> serde_json::Value {
    let error = at::<()>(job.place.as_deref(), Err(error.into()));
    let error = error.err().map(|error| format!("{error:#}"));
    json!({ "prompt_ids": job.request.prompt, "error": error })
}

/// Answers one request, its text on stdout as it becomes final.
fn show(checkpoint: &Checkpoint, engine: &mut Engine<'_>, mut job: Job) -> anyhow::Result<()> {
    let start = Instant::now();
    let hooks = std::mem::take(&mut job.hooks);
    engine
        .submit_with(&job.request, hooks)
        .map_err(failure::usage)?;
    let mut stream = match &checkpoint.tokenizer {
        Some(tokenizer) => Some(Stream::new(
            tokenizer,
            &job,
            checkpoint.text(&job.request, &job.settings)?,
        )?),
        None => None,
    };
    loop {
        for event in engine.step() {
            match (event, &mut stream) {
                (Event::Committed { ids, .. }, Some(stream)) => stream.push(&ids)?,
                (Event::Committed { .. } | Event::Draft { .. }, _) => {}
                (Event::Finished { answer, .. }, _) => {
                    match stream {
                        Some(stream) => stream.finish()?,
                        None => ui::line(format!("{:?}", answer.output_ids))?,
                    }
                    ui::say(speed(&answer, start));
                    return Ok(());
                }
                (Event::Failed { error, .. }, _) => bail!(error),
            }
        }
    }
}

fn speed(answer: &Answer, start: Instant) -> String {
    let (tokens, denoise) = (answer.output_ids.len(), answer.forwards.denoise);
    format!(
        "{tokens} tokens in {denoise} forwards ({:.2} tokens per forward), {:.0} tokens/s",
        tokens as f64 / denoise as f64,
        tokens as f64 / start.elapsed().as_secs_f64(),
    )
}

/// Text on stdout that reads on from the prompt.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    is_empty: bool,
    text: AnswerText,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: &'a Tokenizer, job: &'a Job, text: AnswerText) -> anyhow::Result<Self> {
        ui::write(&tokenizer.decode(&job.request.prompt)?)?;
        Ok(Self {
            tokenizer,
            prompt: &job.request.prompt,
            is_empty: true,
            text,
        })
    }

    fn push(&mut self, ids: &[u32]) -> anyhow::Result<()> {
        let mut text = self.text.extend(ids)?;
        if let (true, Some(&first)) = (self.is_empty, ids.first()) {
            self.is_empty = false;
            text.insert_str(0, &joint(self.tokenizer, self.prompt, first)?);
        }
        ui::write(&text)
    }

    fn finish(self) -> anyhow::Result<()> {
        ui::write(&(self.text.finish()? + "\n"))
    }
}
