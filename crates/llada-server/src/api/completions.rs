//! `POST /v1/completions`: text that goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body::{Body, read};
use super::cost;
use super::fields::{Common, Delivery};
use super::run::{Task, start};
use super::stream::{self, Tail, Wording};
use crate::answer::{End, Text, Token};
use crate::app::App;
use crate::ids;
use crate::model::Ready;
use crate::refusal::Refusal;

/// A text to continue.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(transform = own_logprobs)]
pub(crate) struct CompletionRequest {
    /// A text, the ids of one, or several texts.
    prompt: Prompt,
    /// 0 adds the tokens with their log-probabilities, each given the state of the step that placed
    /// it. Others than the chosen token are not offered.
    #[serde(default)]
    logprobs: Option<usize>,
    #[serde(flatten)]
    #[schemars(with = "Common")]
    rest: Map<String, Value>,
}

/// Describes `logprobs` as it is here: the setting of that name, which is in the schema of the other
/// fields, is a flag.
fn own_logprobs(schema: &mut schemars::Schema) {
    if let Some(properties) = schema.get_mut("properties") {
        properties["logprobs"] = json!({
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": 0,
            "description": "0 adds the tokens with their log-probabilities.",
        });
    }
}

/// What is continued.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a text, a list of texts, or a list of token ids"
)]
pub(crate) enum Prompt {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
}

impl Prompt {
    /// Returns how many prompts there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Text(_) | Self::Ids(_) => 1,
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Returns the ids of each. Texts never become special tokens.
    pub(crate) fn ids(self, ready: &Ready) -> Result<Vec<Vec<u32>>, Refusal> {
        let encode = |text: String| Ok(ready.checkpoint.encode(&text)?);
        match self {
            Self::Text(text) => Ok(vec![encode(text)?]),
            Self::Ids(ids) => Ok(vec![ids]),
            Self::Texts(texts) => texts.into_iter().map(encode).collect(),
        }
    }
}

/// What all parts of an answer begin with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    object: &'static str,
    created: u64,
    model: String,
}

impl Head {
    pub(super) fn new(prefix: &str, object: &'static str, model: &str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: ids::name(prefix),
            object,
            created: since.map_or(0, |since| since.as_secs()),
            model: model.to_owned(),
        }
    }

    pub(super) fn with(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// Returns what ends a stream: a chunk with the usage, if asked for.
    pub(super) fn tail(&self, with_usage: bool, choices: usize) -> Tail {
        Tail {
            id: self.id.clone(),
            usage: with_usage.then(|| (self.with(json!([])), choices)),
        }
    }
}

pub(crate) async fn complete(State(app): State<App>, body: Body) -> Result<Response, Refusal> {
    let request: CompletionRequest = read(body.0, None)?;
    let (common, mut settings) = Common::read(request.rest)?;
    let delivery = common.delivery()?;
    if let Some(others @ 1..) = request.logprobs {
        let problem = format!("is {others}; expected 0: only the chosen tokens are offered");
        return Err(Refusal::field("logprobs", problem));
    }
    settings.logprobs = Some(request.logprobs.is_some());
    let place = app.model(common.model.as_deref())?;
    let prompt = request.prompt;
    if prompt.count() == 0 {
        return Err(Refusal::field(
            "prompt",
            "is empty; expected at least one text",
        ));
    }
    let choices = common.choices(&app, prompt.count())?;
    let count = choices * prompt.count();
    let replies = start(&app, place, count, move |ready| {
        Ok(Task {
            prompts: prompt.ids(ready)?,
            settings,
            choices,
            delivery,
            joined: true,
        })
    })
    .await?;
    let head = Head::new("cmpl", "text_completion", &place.name);
    match delivery {
        Delivery::Whole => {
            let (mut said, mut ends) = (Vec::new(), Vec::new());
            for (index, reply) in replies.into_iter().enumerate() {
                let mut whole = reply.whole().await?;
                let mut offset = 0;
                let logprobs = logprobs(&whole.tokens, whole.end.asked.logprobs, &mut offset);
                whole.end.rest = Text::default();
                said.push(json!({
                    "index": index,
                    "text": whole.text,
                    "logprobs": logprobs,
                    "finish_reason": whole.end.answer.finish_reason.to_string(),
                    "dllm": cost::dllm(&whole.end),
                }));
                ends.push(*whole.end);
            }
            let mut object = head.with(said.into());
            object["usage"] = cost::usage(&ends, choices);
            Ok(Json(object).into_response())
        }
        Delivery::Stream { usage, .. } => {
            let tail = head.tail(usage, choices);
            let replies = replies.into_iter().enumerate();
            let worded = replies.map(|(index, reply)| {
                let wording = Words {
                    head: head.clone(),
                    index,
                    offset: 0,
                };
                (reply, wording)
            });
            Ok(stream::response(worded.collect(), tail))
        }
    }
}

/// The words of a streamed completion.
struct Words {
    head: Head,
    index: usize,
    /// Characters of the tokens so far.
    offset: usize,
}

impl Words {
    fn chunk(&mut self, text: Text, end: Option<&End>) -> Value {
        let with_logprobs = !text.tokens.is_empty();
        let logprobs = logprobs(&text.tokens, with_logprobs, &mut self.offset);
        let mut choice = json!({
            "index": self.index,
            "text": text.text,
            "logprobs": logprobs,
            "finish_reason": end.map(|end| end.answer.finish_reason.to_string()),
        });
        if let Some(end) = end {
            choice["dllm"] = cost::dllm(end);
        }
        self.head.with(json!([choice]))
    }
}

impl Wording for Words {
    fn begin(&mut self) -> Vec<Value> {
        Vec::new()
    }

    fn text(&mut self, text: Text) -> Vec<Value> {
        match text.text.is_empty() && text.tokens.is_empty() {
            true => Vec::new(),
            false => vec![self.chunk(text, None)],
        }
    }

    fn end(&mut self, end: &mut End) -> Vec<Value> {
        let rest = std::mem::take(&mut end.rest);
        vec![self.chunk(rest, Some(end))]
    }
}

/// Returns OpenAI's older form of log-probabilities.
fn logprobs(tokens: &[Token], asked: bool, offset: &mut usize) -> Value {
    if !asked {
        return Value::Null;
    }
    let offsets = tokens.iter().map(|token| {
        let start = *offset;
        *offset += token.text.chars().count();
        start
    });
    let offsets: Vec<_> = offsets.collect();
    json!({
        "tokens": tokens.iter().map(|token| &token.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": null,
        "text_offset": offsets,
    })
}
