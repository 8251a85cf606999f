//! `POST /v1/chat/completions`: a conversation that goes on.

mod message;
mod tool;
mod words;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use llada_request::{JsonSchema as Schema, Settings};
use llada_text::Conversation;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(crate) use self::message::Message;
use self::tool::{Calling, Tool, ToolChoice};
use self::words::Words;
use super::body::{Body, read};
use super::completions::Head;
use super::cost;
use super::fields::{Common, Delivery};
use super::run::{Task, start};
use super::stream;
use crate::answer::Reply;
use crate::app::App;
use crate::model::Ready;
use crate::refusal::Refusal;

/// A conversation to continue.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct ChatRequest {
    /// What was said so far.
    #[schemars(length(min = 1))]
    messages: Vec<Message>,
    /// Tools that the model may call, in the form of the checkpoint's template.
    #[serde(default)]
    tools: Option<Vec<Tool>>,
    /// Whether it may, must not or must call one. A call that it must make follows the schema of the
    /// tool's parameters.
    #[serde(default)]
    tool_choice: Option<ToolChoice>,
    /// Only `true`.
    #[serde(default)]
    #[schemars(extend("const" = true))]
    parallel_tool_calls: Option<bool>,
    /// Confines the answer to JSON.
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    /// Variables of the chat template, such as `enable_thinking`.
    #[serde(default)]
    chat_template_kwargs: Option<Map<String, Value>>,
    #[serde(flatten)]
    #[schemars(with = "Common")]
    rest: Map<String, Value>,
}

/// What the answer is written in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ResponseFormat {
    /// Anything.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A schema with a name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NamedSchema {
    /// Has no effect.
    #[serde(rename = "name")]
    _name: String,
    /// Has no effect.
    #[serde(default, rename = "description")]
    _description: Option<String>,
    /// The schema.
    schema: Map<String, Value>,
    /// Has no effect: the schema is followed in any case.
    #[serde(default, rename = "strict")]
    _strict: Option<bool>,
}

pub(crate) async fn complete(State(app): State<App>, body: Body) -> Result<Response, Refusal> {
    let mut request: ChatRequest = read(body.0, None)?;
    let (common, settings) = Common::read(std::mem::take(&mut request.rest))?;
    let delivery = common.delivery()?;
    request.check()?;
    let settings = request.confined(settings)?;
    let calling = Calling::new(request.tools.take(), request.tool_choice.take(), &settings)?;
    let place = app.model(common.model.as_deref())?;
    let choices = common.choices(&app, 1)?;
    let asked = calling.clone();
    let replies = start(&app, place, choices, move |ready| {
        Ok(Task {
            prompts: vec![request.prompt(ready, &asked)?],
            settings: asked.confine(settings),
            choices,
            delivery,
            joined: false,
        })
    })
    .await?;
    let head = |object| Head::new("chatcmpl", object, &place.name);
    match delivery {
        Delivery::Whole => whole(replies, &head("chat.completion"), &calling).await,
        Delivery::Stream { usage, .. } => {
            let head = head("chat.completion.chunk");
            let tail = head.tail(usage, choices);
            let worded = replies.into_iter().enumerate().map(|(index, reply)| {
                let words = Words::new(head.clone(), index, &calling);
                (reply, words)
            });
            Ok(stream::response(worded.collect(), tail))
        }
    }
}

async fn whole(replies: Vec<Reply>, head: &Head, calling: &Calling) -> Result<Response, Refusal> {
    let (mut choices, mut ends) = (Vec::new(), Vec::new());
    let num_choices = replies.len();
    for (index, reply) in replies.into_iter().enumerate() {
        let whole = reply.whole().await?;
        choices.push(words::choice(index, &whole, calling));
        ends.push(*whole.end);
    }
    let mut object = head.with(choices.into());
    object["usage"] = cost::usage(&ends, num_choices);
    Ok(Json(object).into_response())
}

impl ChatRequest {
    fn check(&self) -> Result<(), Refusal> {
        if self.messages.is_empty() {
            return Err(Refusal::field(
                "messages",
                "is empty; expected at least one",
            ));
        }
        if self.parallel_tool_calls == Some(false) {
            let problem =
                "is false; how many tools a model calls cannot be bounded, so leave it out";
            return Err(Refusal::field("parallel_tool_calls", problem));
        }
        Ok(())
    }

    /// Adds the format of the response to the settings.
    fn confined(&mut self, settings: Settings) -> Result<Settings, Refusal> {
        let schema = match self.response_format.take() {
            None | Some(ResponseFormat::Text) => return Ok(settings),
            Some(ResponseFormat::JsonObject) => json!({ "type": "object" }),
            Some(ResponseFormat::JsonSchema { json_schema }) => json_schema.schema.into(),
        };
        if settings.json_schema.is_some() || settings.regex.is_some() {
            let problem = "and `json_schema` or `regex` exclude each other; give one";
            return Err(Refusal::field("response_format", problem));
        }
        Ok(Settings {
            json_schema: Some(Schema(schema.to_string())),
            ..settings
        })
    }

    fn prompt(self, ready: &Ready, calling: &Calling) -> Result<Vec<u32>, Refusal> {
        let tools = calling.shown();
        let variables = self.chat_template_kwargs;
        let mut ids = conversation_ids(ready, &self.messages, tools, variables)?;
        if let Some(text) = calling.opening() {
            let tokenizer = ready.checkpoint.tokenizer_for("a text")?;
            ids.extend(tokenizer.encode_text(text)?);
        }
        Ok(ids)
    }
}

/// Returns the ids of a conversation, up to where the answer begins. A model that knows no turns gets
/// the contents one after the other, as a text to continue. Contents never become special tokens.
pub(crate) fn conversation_ids(
    ready: &Ready,
    messages: &[Message],
    tools: Option<Vec<Value>>,
    variables: Option<Map<String, Value>>,
) -> Result<Vec<u32>, Refusal> {
    let Some(template) = &ready.template else {
        let unusable = [
            ("tools", tools.is_some()),
            ("chat_template_kwargs", variables.is_some()),
        ];
        if let Some((field, _)) = unusable.iter().find(|(_, given)| *given) {
            let problem = "needs a chat template, which this model does not have";
            return Err(Refusal::field(*field, problem));
        }
        let texts: Result<String, _> = messages.iter().map(Message::plain_text).collect();
        return Ok(ready.checkpoint.encode(&texts?)?);
    };
    let conversation = Conversation {
        messages: messages.iter().map(Message::for_template).collect(),
        tools,
        add_generation_prompt: true,
        variables: variables.unwrap_or_default(),
    };
    let tokenizer = ready.checkpoint.tokenizer_for("a chat")?;
    let ids = tokenizer.encode_chat(template, &conversation);
    ids.map_err(|error| Refusal::from(error).about("messages"))
}
