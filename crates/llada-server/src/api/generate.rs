//! `POST /generate`: the shape that users of SGLang know.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use llada_engine::Request;
use llada_request::Settings;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body::{Body, read, refuse_rest};
use super::completions::Prompt;
use super::cost;
use super::fields::{Delivery, check_top, settings};
use super::run::{Task, start};
use super::stream::{self, Tail, Wording};
use crate::answer::{End, Text, Token};
use crate::app::App;
use crate::ids;
use crate::refusal::Refusal;

/// A text to continue.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct GenerateRequest {
    /// Name of a model; may be left out where only one is served.
    model: Option<String>,
    /// A text; or `input_ids`.
    text: Option<String>,
    /// Ids of a text.
    input_ids: Option<Vec<u32>>,
    /// Settings.
    #[schemars(with = "Option<Settings>")]
    sampling_params: Option<Map<String, Value>>,
    /// Sends the text so far whenever it grows.
    stream: Option<bool>,
    /// With `stream`: sends the active blocks after every step, as events of type `draft`.
    stream_draft: Option<bool>,
    /// Adds the log-probability of every token, given the state of the step that placed it.
    return_logprob: Option<bool>,
    /// With `return_logprob`: also those of this many most probable tokens.
    #[schemars(range(max = Request::MAX_TOP_LOGPROBS))]
    top_logprobs_num: Option<usize>,
    #[serde(flatten)]
    #[schemars(skip)]
    rest: Map<String, Value>,
}

impl GenerateRequest {
    fn prompt(&mut self) -> Result<Prompt, Refusal> {
        match (self.text.take(), self.input_ids.take()) {
            (Some(text), None) => Ok(Prompt::Text(text)),
            (None, Some(ids)) => Ok(Prompt::Ids(ids)),
            _ => Err(Refusal::field(
                "text",
                "or `input_ids` is needed, and only one of them",
            )),
        }
    }

    /// Says with the settings' fields what SGLang says beside them.
    fn set_logprobs(&self, settings: &mut Settings) -> Result<(), Refusal> {
        if settings.logprobs.is_some() || settings.top_logprobs.is_some() {
            let problem = "are asked for with `return_logprob` and `top_logprobs_num` here";
            return Err(Refusal::field("sampling_params.logprobs", problem));
        }
        let (asked, top) = (self.return_logprob == Some(true), self.top_logprobs_num);
        check_top("top_logprobs_num", top)?;
        if !asked && top.is_some_and(|top| top > 0) {
            return Err(Refusal::field("top_logprobs_num", "needs `return_logprob`"));
        }
        settings.logprobs = Some(asked);
        settings.top_logprobs = top.filter(|_| asked);
        Ok(())
    }

    fn delivery(&self) -> Result<Delivery, Refusal> {
        let draft = self.stream_draft == Some(true);
        match self.stream == Some(true) {
            true => Ok(Delivery::Stream {
                draft,
                usage: false,
            }),
            false if draft => Err(Refusal::field("stream_draft", "needs `stream`")),
            false => Ok(Delivery::Whole),
        }
    }
}

pub(crate) async fn generate(State(app): State<App>, body: Body) -> Result<Response, Refusal> {
    let mut request: GenerateRequest = read(body.0, None)?;
    refuse_rest(&request.rest)?;
    let params = request.sampling_params.take().unwrap_or_default();
    let mut settings = settings(params, Some("sampling_params"))?;
    request.set_logprobs(&mut settings)?;
    let (prompt, delivery) = (request.prompt()?, request.delivery()?);
    let place = app.model(request.model.as_deref())?;
    let mut replies = start(&app, place, 1, move |ready| {
        Ok(Task {
            prompts: prompt.ids(ready)?,
            settings,
            choices: 1,
            delivery,
            joined: true,
        })
    })
    .await?;
    let (Some(reply), id) = (replies.pop(), ids::name("gen")) else {
        return Err(Refusal::fault());
    };
    let mut words = Words::new(id.clone());
    match delivery {
        Delivery::Whole => {
            let mut whole = reply.whole().await?;
            words.add(Text {
                text: whole.text,
                tokens: whole.tokens,
            });
            whole.end.rest = Text::default();
            let said = words.end(&mut whole.end).pop();
            Ok(Json(said.unwrap_or_default()).into_response())
        }
        Delivery::Stream { .. } => {
            let tail = Tail { id, usage: None };
            Ok(stream::response(vec![(reply, words)], tail))
        }
    }
}

/// The whole text so far, as SGLang sends it.
struct Words {
    id: String,
    text: String,
    tokens: Vec<Token>,
}

impl Words {
    fn new(id: String) -> Self {
        let (text, tokens) = (String::new(), Vec::new());
        Self { id, text, tokens }
    }

    fn add(&mut self, more: Text) {
        self.text.push_str(&more.text);
        self.tokens.extend(more.tokens);
    }
}

impl Wording for Words {
    fn begin(&mut self) -> Vec<Value> {
        Vec::new()
    }

    fn text(&mut self, text: Text) -> Vec<Value> {
        self.add(text);
        vec![json!({
            "text": self.text,
            "meta_info": { "id": self.id, "finish_reason": null },
        })]
    }

    fn end(&mut self, end: &mut End) -> Vec<Value> {
        self.add(std::mem::take(&mut end.rest));
        let answer = &end.answer;
        let mut meta = json!({
            "id": self.id,
            "finish_reason": { "type": answer.finish_reason.to_string() },
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": answer.output_ids.len(),
            "cached_tokens": answer.cached_tokens,
            "e2e_latency": end.elapsed.as_secs_f64(),
            "dllm": cost::dllm(end),
        });
        if end.asked.logprobs {
            meta["output_token_logprobs"] = self.tokens.iter().map(triple).collect();
            if self.tokens.iter().any(|token| !token.top.is_empty()) {
                let top = |token: &Token| token.top.iter().map(triple).collect::<Value>();
                meta["output_top_logprobs"] = self.tokens.iter().map(top).collect();
            }
        }
        vec![json!({
            "text": self.text,
            "output_ids": answer.output_ids,
            "meta_info": meta,
        })]
    }
}

/// Returns a token as SGLang writes it: log-probability, id, text.
fn triple(token: &Token) -> Value {
    json!([token.logprob, token.id, token.text])
}
