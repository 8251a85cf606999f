//! What was said.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::refusal::Refusal;

/// A message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    /// Who said it.
    role: Role,
    /// What was said.
    #[serde(default)]
    content: Option<Content>,
    /// Name of whoever said it.
    #[serde(default)]
    name: Option<String>,
    /// What the assistant thought.
    #[serde(default)]
    reasoning_content: Option<String>,
    /// Tools that the assistant called.
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool answers.
    #[serde(default)]
    tool_call_id: Option<String>,
}

/// Who said something. `developer` is the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

/// Text, in one piece or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a text, or a list of parts `{\"type\": \"text\", \"text\": …}`"
)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A piece of text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Part {
    Text { text: String },
}

/// A call that was made.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: FunctionKind,
    function: Called,
    /// Its place among the calls, in streams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
}

/// The only kind of tool.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum FunctionKind {
    Function,
}

/// What was called.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Called {
    name: String,
    /// JSON as text.
    arguments: String,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts
                .iter()
                .map(|Part::Text { text }| text.as_str())
                .collect(),
        }
    }

    /// Returns the message as chat templates read it.
    pub(super) fn for_template(&self) -> Value {
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let mut message = json!({ "role": role, "content": self.text() });
        let texts = [
            ("name", &self.name),
            ("reasoning_content", &self.reasoning_content),
            ("tool_call_id", &self.tool_call_id),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                message[key] = text.as_str().into();
            }
        }
        if let Some(calls) = &self.tool_calls {
            message["tool_calls"] = json!(calls);
        }
        message
    }

    /// Returns the text for a model that knows no turns.
    pub(super) fn plain_text(&self) -> Result<String, Refusal> {
        match self.role == Role::Tool || self.tool_calls.is_some() {
            true => Err(Refusal::field(
                "messages",
                "hold tool calls, which need a chat template; this model does not have one",
            )),
            false => Ok(self.text()),
        }
    }
}
