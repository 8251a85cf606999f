//! `POST /v1/completions`: text that goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use llada_engine::Request;
use llada_request::Settings;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body::{Body, read};
use super::cost;
use super::fields::{Common, Delivery, check_top};
use super::run::{Task, start};
use super::stream::{self, Tail, Wording};
use crate::answer::{End, Reply, Text, Token};
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
    /// Adds the tokens with their log-probabilities, each given the state of the step that placed
    /// it, and those of this many most probable tokens.
    #[serde(default)]
    logprobs: Option<usize>,
    #[serde(flatten)]
    #[schemars(with = "Common")]
    rest: Map<String, Value>,
}

/// Describes `logprobs` as it is here. In the settings, which are in the schema of the other fields,
/// it is a flag and `top_logprobs` the number.
fn own_logprobs(schema: &mut schemars::Schema) {
    let properties = schema.get_mut("properties");
    if let Some(properties) = properties.and_then(Value::as_object_mut) {
        properties.remove("top_logprobs");
        let own = json!({
            "type": ["integer", "null"],
            "minimum": 0,
            "maximum": Request::MAX_TOP_LOGPROBS,
            "description": "Adds the tokens with their log-probabilities, and those of this many \
                            most probable tokens.",
        });
        properties.insert("logprobs".to_owned(), own);
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
    set_logprobs(&mut settings, request.logprobs)?;
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
        Delivery::Whole => whole(replies, &head, choices).await,
        Delivery::Stream { usage, .. } => {
            let tail = head.tail(usage, choices);
            let replies = replies.into_iter().enumerate();
            let worded = replies.map(|(index, reply)| (reply, Words::new(head.clone(), index)));
            Ok(stream::response(worded.collect(), tail))
        }
    }
}

/// Says with the settings' two fields what OpenAI says here with one.
fn set_logprobs(settings: &mut Settings, logprobs: Option<usize>) -> Result<(), Refusal> {
    if settings.top_logprobs.is_some() {
        let problem = "is of chats; here `logprobs` is that number";
        return Err(Refusal::field("top_logprobs", problem));
    }
    check_top("logprobs", logprobs)?;
    settings.logprobs = Some(logprobs.is_some());
    settings.top_logprobs = logprobs;
    Ok(())
}

async fn whole(replies: Vec<Reply>, head: &Head, choices: usize) -> Result<Response, Refusal> {
    let (mut said, mut ends) = (Vec::new(), Vec::new());
    for (index, reply) in replies.into_iter().enumerate() {
        let whole = reply.whole().await?;
        let text = Text {
            text: whole.text,
            tokens: whole.tokens,
        };
        let mut words = Words::new(head.clone(), index);
        said.push(words.choice(&text, Some(&whole.end)));
        ends.push(*whole.end);
    }
    let mut object = head.with(said.into());
    object["usage"] = cost::usage(&ends, choices);
    Ok(Json(object).into_response())
}

/// The words of a streamed completion.
struct Words {
    head: Head,
    index: usize,
    /// Characters of the tokens so far.
    offset: usize,
}

impl Words {
    fn new(head: Head, index: usize) -> Self {
        Self {
            head,
            index,
            offset: 0,
        }
    }

    fn choice(&mut self, text: &Text, end: Option<&End>) -> Value {
        let mut choice = json!({
            "index": self.index,
            "text": text.text,
            "logprobs": logprobs(&text.tokens, &mut self.offset),
            "finish_reason": end.map(|end| end.answer.finish_reason.to_string()),
        });
        if let Some(end) = end {
            choice["dllm"] = cost::dllm(end);
        }
        choice
    }

    fn chunk(&mut self, text: &Text, end: Option<&End>) -> Value {
        let choice = self.choice(text, end);
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
            false => vec![self.chunk(&text, None)],
        }
    }

    fn end(&mut self, end: &mut End) -> Vec<Value> {
        let rest = std::mem::take(&mut end.rest);
        vec![self.chunk(&rest, Some(end))]
    }
}

/// Returns OpenAI's older form of log-probabilities; nothing if no tokens were asked for.
fn logprobs(tokens: &[Token], offset: &mut usize) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let offsets = tokens.iter().map(|token| {
        let start = *offset;
        *offset += token.text.chars().count();
        start
    });
    let offsets: Vec<_> = offsets.collect();
    let has_top = tokens.iter().any(|token| !token.top.is_empty());
    json!({
        "tokens": tokens.iter().map(|token| &token.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": has_top.then(|| tokens.iter().map(top_logprobs).collect::<Vec<_>>()),
        "text_offset": offsets,
    })
}

/// Returns the most probable tokens of a place by their text. Of those that read the same, such as
/// parts of a character, the most probable one stays.
fn top_logprobs(token: &Token) -> Value {
    let top = token.top.iter().rev();
    top.map(|other| (other.text.clone(), other.logprob.into()))
        .collect::<Map<_, _>>()
        .into()
}
