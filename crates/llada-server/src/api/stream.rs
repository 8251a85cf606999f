//! Server-sent events, the same way for all endpoints.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};

use super::cost;
use crate::answer::{Draft, End, Piece, Reply, Text};
use crate::refusal::Refusal;

/// Silence after which a comment is sent: proxies keep the connection, and a client that is gone is
/// noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How an endpoint words the stream of one choice.
pub(crate) trait Wording: Send + 'static {
    /// What is said before any text.
    fn begin(&mut self) -> Vec<Value>;
    /// What is said of more text.
    fn text(&mut self, text: Text) -> Vec<Value>;
    /// What is said at the end.
    fn end(&mut self, end: &mut End) -> Vec<Value>;
}

/// What comes after all choices.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Name of the answer, for drafts.
    pub(crate) id: String,
    /// A last chunk to which the usage is added, and the choices of each prompt.
    pub(crate) usage: Option<(Value, usize)>,
}

/// The ends of the choices, or that one failed.
type Ends = Arc<Mutex<Result<Vec<Option<End>>, Failed>>>;

#[derive(Debug)]
struct Failed;

/// Answers with the events of all choices as they come, then `[DONE]`.
pub(crate) fn response<W: Wording>(choices: Vec<(Reply, W)>, tail: Tail) -> Response {
    let ends: Ends = Arc::new(Mutex::new(Ok(choices.iter().map(|_| None).collect())));
    let id: Arc<str> = tail.id.into();
    let choices = choices.into_iter().enumerate();
    let choices = choices.map(|(index, (reply, wording))| {
        Choice {
            index,
            id: id.clone(),
            reply,
            wording,
            ends: ends.clone(),
        }
        .events()
        .boxed()
    });
    let choices: Vec<_> = choices.collect();
    let last = stream::once(async move { last_events(tail.usage, &ends) }).flat_map(stream::iter);
    let events = stream::select_all(choices).chain(last);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let events = events.map(Ok::<_, std::convert::Infallible>);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // A proxy that collects a response before it passes it on would undo the stream.
    let value = axum::http::HeaderValue::from_static("no");
    response.headers_mut().insert("x-accel-buffering", value);
    response
}

struct Choice<W> {
    index: usize,
    id: Arc<str>,
    reply: Reply,
    wording: W,
    ends: Ends,
}

impl<W: Wording> Choice<W> {
    fn events(mut self) -> impl Stream<Item = Event> + Send {
        let begin = stream::iter(chunks(self.wording.begin()));
        let rest = stream::unfold(Some(self), async |choice| {
            let mut choice = choice?;
            let piece = choice.reply.next().await;
            let is_last = matches!(piece, Ok(Piece::End(_)) | Err(_));
            let events = choice.say(piece);
            Some((stream::iter(events), (!is_last).then_some(choice)))
        });
        begin.chain(rest.flatten())
    }

    fn say(&mut self, piece: Result<Piece, Refusal>) -> Vec<Event> {
        match piece {
            Ok(Piece::Text(text)) => chunks(self.wording.text(text)),
            Ok(Piece::Draft(draft)) => vec![self.draft(&draft)],
            Ok(Piece::End(mut end)) => {
                let said = chunks(self.wording.end(&mut end));
                let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
                if let Ok(ends) = &mut *ends {
                    ends[self.index] = Some(*end);
                }
                said
            }
            Err(refusal) => {
                *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Err(Failed);
                chunks(vec![refusal.body()])
            }
        }
    }

    fn draft(&self, draft: &Draft) -> Event {
        let tokens = draft.tokens.iter().map(|token| match token {
            None => Value::Null,
            Some((text, placed)) => {
                json!({ "text": text, "confidence": placed.confidence, "step": placed.step })
            }
        });
        let object = json!({
            "id": *self.id,
            "index": self.index,
            "block": draft.block,
            "step": draft.step,
            "start": draft.start,
            "tokens": tokens.collect::<Vec<_>>(),
            "open": draft.num_open,
        });
        Event::default().event("draft").data(object.to_string())
    }
}

fn chunks(values: Vec<Value>) -> Vec<Event> {
    let event = |value: Value| Event::default().data(value.to_string());
    values.into_iter().map(event).collect()
}

/// Returns the last chunk and `[DONE]`; nothing after a failure.
fn last_events(usage: Option<(Value, usize)>, ends: &Ends) -> Vec<Event> {
    let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(ends) = std::mem::replace(&mut *ends, Err(Failed)) else {
        return Vec::new();
    };
    let usage = usage.map(|(mut chunk, choices)| {
        chunk["usage"] = cost::usage(ends.iter().flatten(), choices);
        chunk
    });
    let mut events = chunks(usage.into_iter().collect());
    events.push(Event::default().data("[DONE]"));
    events
}
