//! From the prompts of a request to its replies.

use std::sync::Arc;

use llada_request::{Job, Settings};

use super::fields::{self, Delivery};
use crate::answer::{Asked, Reply};
use crate::app::App;
use crate::model::{Place, Ready};
use crate::refusal::Refusal;

/// Tokens that are written where a request does not say, if the context has room.
const DEFAULT_TOKENS: usize = 256;

/// What is asked of a model.
pub(crate) struct Task {
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) settings: Settings,
    /// Answers to each prompt.
    pub(crate) choices: usize,
    pub(crate) delivery: Delivery,
    /// The text reads on from the prompt.
    pub(crate) joined: bool,
}

/// Makes the requests of a task, and sends them to the engine once they are all made. `make` may take
/// long: it runs beside the handlers, after places were taken for `count` answers.
pub(crate) async fn start(
    app: &App,
    place: &Arc<Place>,
    count: usize,
    make: impl FnOnce(&Ready) -> Result<Task, Refusal> + Send + 'static,
) -> Result<Vec<Reply>, Refusal> {
    let ready = place.ready()?;
    let permits = app.admit(place, count)?;
    let jobs = {
        let ready = ready.clone();
        beside(move || make(&ready).and_then(|task| jobs(&ready, &task))).await?
    };
    let mut replies = Vec::new();
    for ((job, asked), permit) in jobs.into_iter().zip(permits) {
        replies.push(Reply::submit(app, place, &ready, job, asked, permit)?);
    }
    for reply in &mut replies {
        reply.accepted().await?;
    }
    Ok(replies)
}

/// Runs work that takes longer than a handler may.
pub(crate) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refusal::fault()))
}

/// Makes what the engine is asked, all choices of a prompt together.
fn jobs(ready: &Ready, task: &Task) -> Result<Vec<(Job, Asked)>, Refusal> {
    let seed = fields::seed(&task.settings);
    let mut jobs = Vec::new();
    for prompt in &task.prompts {
        for index in 0..task.choices {
            let (mut settings, asked) = fields::choice(&task.settings, seed, index);
            let room = ready.context.saturating_sub(prompt.len()).max(1);
            let tokens = settings.max_new_tokens;
            settings.max_new_tokens = Some(tokens.unwrap_or(room.min(DEFAULT_TOKENS)));
            check_context(ready, prompt.len(), settings.max_new_tokens)?;
            let mut job = ready.checkpoint.job(prompt.clone(), settings)?;
            job.request.draft = task.delivery.wants_drafts();
            let joined = task.joined;
            jobs.push((job, Asked { joined, ..asked }));
        }
    }
    Ok(jobs)
}

/// Refuses a text that may become longer than the server allows.
fn check_context(ready: &Ready, prompt_len: usize, tokens: Option<usize>) -> Result<(), Refusal> {
    let (limit, max_new_tokens) = (ready.context, tokens.unwrap_or(0));
    match prompt_len.saturating_add(max_new_tokens) > limit {
        true => Err(Refusal::from(llada_engine::Error::Context {
            prompt_len,
            max_new_tokens,
            limit,
        })),
        false => Ok(()),
    }
}
