//! One run: all requests at once, a bounded number of them served together, every event timed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use llada_engine::{Answer, Engine, Event, Options, Request, RequestId, Stats};
use llada_model::Model;

use crate::commands::decoding::Job;
use crate::failure;

/// What a run took and gave.
#[derive(Debug)]
pub(super) struct Run {
    /// From the submission of all requests to the end of the last.
    pub elapsed: Duration,
    /// The requests with their answers, as submitted.
    pub served: Vec<(Request, Answer)>,
    /// Time from the submission to the first final token of each request that has one.
    pub first_tokens: Vec<Duration>,
    /// Time per later token: those that became final together share the time since those before.
    pub later_tokens: Vec<Duration>,
    /// Forwards after which some request decided tokens.
    pub head_passes: u64,
    /// The engine's counts and times.
    pub stats: Stats,
}

/// Whoever waits for an answer.
struct Client {
    request: Request,
    /// When ids last became final.
    heard: Option<Duration>,
    answer: Option<Answer>,
}

/// Serves the requests on a new engine.
///
/// # Errors
/// If a request is refused or fails.
pub(super) fn serve(model: &Model, options: Options, jobs: Vec<Job>) -> anyhow::Result<Run> {
    let mut engine = Engine::new(model, options).map_err(failure::usage)?;
    let mut clients = BTreeMap::new();
    let start = Instant::now();
    for job in jobs {
        let id = engine.submit_with(&job.request, job.hooks);
        let id = failure::at(job.place.as_deref(), id.map_err(failure::usage))?;
        let client = Client {
            request: job.request,
            heard: None,
            answer: None,
        };
        clients.insert(id, client);
    }
    let mut run = Run {
        elapsed: Duration::ZERO,
        served: Vec::new(),
        first_tokens: Vec::new(),
        later_tokens: Vec::new(),
        head_passes: 0,
        stats: Stats::default(),
    };
    while !engine.is_idle() {
        let head_rows = engine.stats().head_rows;
        let events = engine.step();
        run.elapsed = start.elapsed();
        run.head_passes += u64::from(engine.stats().head_rows > head_rows);
        for event in events {
            run.take(event, &mut clients)?;
        }
    }
    run.stats = engine.stats().clone();
    let served = clients.into_values().map(|client| {
        let answer = client.answer.context("a request ended without an answer")?;
        Ok((client.request, answer))
    });
    run.served = served.collect::<anyhow::Result<_>>()?;
    Ok(run)
}

impl Run {
    fn take(
        &mut self,
        event: Event,
        clients: &mut BTreeMap<RequestId, Client>,
    ) -> anyhow::Result<()> {
        match event {
            Event::Committed { request, ids, .. } => {
                let client = clients.get_mut(&request).context("an unknown request")?;
                match client.heard.replace(self.elapsed) {
                    None => self.first_tokens.push(self.elapsed),
                    Some(heard) => {
                        let each = (self.elapsed - heard) / ids.len() as u32;
                        self.later_tokens.extend(ids.iter().map(|_| each));
                    }
                }
            }
            Event::Draft { .. } => {}
            Event::Finished { request, answer } => {
                let client = clients.get_mut(&request).context("an unknown request")?;
                client.answer = Some(answer);
            }
            Event::Failed { request, error } => {
                return Err(error).context(format!("request {} failed", request.0));
            }
        }
        Ok(())
    }

    /// Returns the tokens of all answers, end-of-text tokens included.
    pub(super) fn tokens(&self) -> usize {
        let answers = self.served.iter().map(|(_, answer)| answer);
        answers.map(|answer| answer.output_ids.len()).sum()
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens() as f64 / self.elapsed.as_secs_f64()
    }
}
