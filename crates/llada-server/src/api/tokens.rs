//! `POST /tokenize` and `POST /detokenize`: text to ids and back.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, read};
use super::chat::{Message, conversation_ids};
use super::run::beside;
use crate::app::App;
use crate::refusal::Refusal;

/// A text, or a conversation, to take apart.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// Name of a model; may be left out where only one is served.
    model: Option<String>,
    /// A text; or `messages`.
    prompt: Option<String>,
    /// A conversation, up to where the answer begins.
    messages: Option<Vec<Message>>,
    /// Whether a text gets what the tokenizer adds to a document [default: true].
    add_special_tokens: Option<bool>,
}

/// Ids to put together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// Name of a model; may be left out where only one is served.
    #[serde(default)]
    model: Option<String>,
    /// The ids.
    tokens: Vec<u32>,
}

pub(crate) async fn tokenize(State(app): State<App>, body: Body) -> Result<Json<Value>, Refusal> {
    let request: TokenizeRequest = read(body.0, None)?;
    let ready = app.model(request.model.as_deref())?.ready()?;
    let context = ready.context;
    let ids = beside(move || {
        let tokenizer = ready.checkpoint.tokenizer_for("a text")?;
        match (request.prompt, request.messages) {
            (Some(text), None) => Ok(match request.add_special_tokens {
                Some(false) => tokenizer.encode_text(&text)?,
                _ => tokenizer.encode(&text)?,
            }),
            (None, Some(messages)) if request.add_special_tokens.is_none() => {
                conversation_ids(&ready, &messages, None, None)
            }
            (None, Some(_)) => Err(Refusal::field("add_special_tokens", "needs `prompt`")),
            _ => Err(Refusal::field(
                "prompt",
                "or `messages` is needed, and only one of them",
            )),
        }
    })
    .await?;
    Ok(Json(
        json!({ "count": ids.len(), "max_model_len": context, "tokens": ids }),
    ))
}

pub(crate) async fn detokenize(State(app): State<App>, body: Body) -> Result<Json<Value>, Refusal> {
    let request: DetokenizeRequest = read(body.0, None)?;
    let ready = app.model(request.model.as_deref())?.ready()?;
    let text = beside(move || {
        let tokenizer = ready.checkpoint.tokenizer_for("text")?;
        Ok(tokenizer.decode_all(&request.tokens)?)
    })
    .await?;
    Ok(Json(json!({ "prompt": text })))
}
