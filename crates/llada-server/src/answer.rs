//! From what the engine says to what a client reads: text, tokens, drafts, and the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llada_engine::{Alternative, Answer, Event, Placed};
use llada_request::{AnswerText, Job, joint, spell};
use llada_text::Tokenizer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, channel};

use crate::app::App;
use crate::model::{Heard, Place, Ready, Ticket, room};
use crate::refusal::Refusal;

/// A text that is being written. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct Reply {
    heard: Receiver<Result<Heard, Refusal>>,
    app: App,
    place: Arc<Place>,
    ready: Arc<Ready>,
    text: AnswerText,
    prompt: Vec<u32>,
    asked: Asked,
    start: Instant,
    /// When final tokens came last.
    last_text: Option<Instant>,
}

/// What a client wants to know besides the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The tokens of the text, each with its log-probability.
    pub(crate) logprobs: bool,
    /// How each token came to its place.
    pub(crate) steps: bool,
    /// The text reads on from the prompt.
    pub(crate) joined: bool,
    /// Seed of the draws.
    pub(crate) seed: u64,
}

/// A part of a reply.
#[derive(Debug)]
pub(crate) enum Piece {
    Text(Text),
    Draft(Draft),
    End(Box<End>),
}

/// Text that is final.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub(crate) text: String,
    /// The tokens that became final, if they were asked for; their text may come later.
    pub(crate) tokens: Vec<Token>,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// Given the state of the step that placed it.
    pub(crate) logprob: f32,
    /// The most probable tokens of its place, if they were asked for; they have none themselves.
    pub(crate) top: Vec<Token>,
}

impl Token {
    fn new(tokenizer: &Tokenizer, id: u32, logprob: f32, top: &[Alternative]) -> Self {
        let top = top.iter();
        Self {
            id,
            text: spell(tokenizer, id),
            logprob,
            top: top
                .map(|other| Self::new(tokenizer, other.token, other.logprob, &[]))
                .collect(),
        }
    }
}

/// An active block after a step.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) block: usize,
    pub(crate) step: usize,
    /// Place in the answer of the first of `tokens`.
    pub(crate) start: usize,
    /// Text and placement, `None` where a mask is.
    pub(crate) tokens: Vec<Option<(String, Placed)>>,
    pub(crate) num_open: usize,
}

/// How a reply ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Text that was held back until now.
    pub(crate) rest: Text,
    pub(crate) answer: Answer,
    pub(crate) prompt_tokens: usize,
    pub(crate) asked: Asked,
    pub(crate) elapsed: Duration,
}

/// A reply that has come to its end.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) end: Box<End>,
}

impl Reply {
    /// Sends a request to the engine.
    pub(crate) fn submit(
        app: &App,
        place: &Arc<Place>,
        ready: &Arc<Ready>,
        job: Job,
        asked: Asked,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Refusal> {
        let text = ready.checkpoint.text(&job.request, &job.settings)?;
        let (voice, heard) = channel(room(job.request.max_new_tokens.min(ready.context)));
        let (prompt, start) = (job.request.prompt.clone(), Instant::now());
        place.submit(Ticket {
            request: job.request,
            hooks: job.hooks,
            deadline: start + app.config().request_timeout,
            voice,
            permit,
        })?;
        Ok(Self {
            heard,
            app: app.clone(),
            place: place.clone(),
            ready: ready.clone(),
            text,
            prompt,
            asked,
            start,
            last_text: None,
        })
    }

    /// Waits until the engine has taken the request.
    pub(crate) async fn accepted(&mut self) -> Result<(), Refusal> {
        match self.hear().await? {
            Heard::Accepted => Ok(()),
            Heard::Event(_) => Err(Refusal::fault()),
        }
    }

    async fn hear(&mut self) -> Result<Heard, Refusal> {
        self.heard.recv().await.unwrap_or(Err(Refusal::fault()))
    }

    /// Waits for the next part.
    pub(crate) async fn next(&mut self) -> Result<Piece, Refusal> {
        loop {
            let Heard::Event(event) = self.hear().await? else {
                continue;
            };
            match event {
                Event::Committed {
                    ids,
                    placed,
                    alternatives,
                    ..
                } => {
                    let text = self.commit(&ids, &placed, &alternatives)?;
                    return Ok(Piece::Text(text));
                }
                Event::Draft { .. } => return Ok(Piece::Draft(self.draft(event))),
                Event::Finished { answer, .. } => return self.end(answer).map(Piece::End),
                Event::Failed { error, .. } => return Err(error.into()),
            }
        }
    }

    /// Waits for the end.
    pub(crate) async fn whole(mut self) -> Result<Whole, Refusal> {
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let mut add = |more: &mut Text| {
            text.push_str(&more.text);
            tokens.append(&mut more.tokens);
        };
        loop {
            match self.next().await? {
                Piece::Text(mut more) => add(&mut more),
                Piece::Draft(_) => {}
                Piece::End(mut end) => {
                    add(&mut end.rest);
                    return Ok(Whole { text, tokens, end });
                }
            }
        }
    }

    fn commit(
        &mut self,
        ids: &[u32],
        placed: &[Placed],
        alternatives: &[Vec<Alternative>],
    ) -> Result<Text, Refusal> {
        let now = Instant::now();
        let last = self.last_text.replace(now);
        let elapsed = now - last.unwrap_or(self.start);
        let metrics = self.app.metrics();
        metrics.count_text(&self.place.name, last.is_none(), elapsed);
        let mut text = self.text.extend(ids)?;
        let tokenizer = self.ready.checkpoint.tokenizer_for("text")?;
        if let (true, None, Some(&first)) = (self.asked.joined, last, ids.first()) {
            text.insert_str(0, &joint(tokenizer, &self.prompt, first)?);
        }
        let token = |(index, &id): (usize, &u32)| {
            let top = alternatives.get(index).map_or(&[][..], Vec::as_slice);
            Token::new(tokenizer, id, placed[index].logprob(), top)
        };
        let shown = ids.iter().enumerate();
        let shown = shown.filter(|(_, id)| !self.text.is_end(**id));
        let tokens = match self.asked.logprobs {
            true => shown.map(token).collect(),
            false => Vec::new(),
        };
        Ok(Text { text, tokens })
    }

    fn draft(&self, event: Event) -> Draft {
        let Event::Draft {
            block,
            step,
            start,
            ids,
            open,
            placed,
            ..
        } = event
        else {
            unreachable!("the caller matched a draft");
        };
        let tokenizer = self.ready.checkpoint.tokenizer.as_ref();
        let spell = |id| tokenizer.map(|tokenizer| spell(tokenizer, id));
        // A block that begins in the prompt is shown from the answer on.
        let in_prompt = self.prompt.len().saturating_sub(start);
        let tokens = ids.into_iter().zip(placed).skip(in_prompt);
        Draft {
            block,
            step,
            start: (start + in_prompt) - self.prompt.len(),
            tokens: tokens
                .map(|(id, placed)| Some((spell(id)?, placed?)))
                .collect(),
            num_open: open.len(),
        }
    }

    fn end(&mut self, answer: Answer) -> Result<Box<End>, Refusal> {
        let metrics = self.app.metrics();
        metrics.count_answer(&self.place.name, self.prompt.len(), &answer);
        let text = self.text.clone().finish()?;
        let tokens = Vec::new();
        Ok(Box::new(End {
            rest: Text { text, tokens },
            answer,
            prompt_tokens: self.prompt.len(),
            asked: self.asked,
            elapsed: self.start.elapsed(),
        }))
    }
}
