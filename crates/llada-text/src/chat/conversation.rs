//! What a chat template is applied to.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A conversation in the JSON form that chat templates read.
///
/// Messages and tools are kept as JSON, because templates define which keys they look at:
/// `content`, `reasoning_content`, `tool_calls` and so on.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Conversation {
    /// The messages, each an object with at least `role` and `content`.
    pub messages: Vec<Value>,
    /// JSON schemas of the tools that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Whether the text ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Further variables of a template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// Returns a message with plain text content.
pub fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

impl Conversation {
    /// Makes a conversation of messages alone.
    pub fn new(messages: impl IntoIterator<Item = Value>) -> Self {
        Self {
            messages: messages.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Ends the text where the assistant's answer begins.
    #[must_use]
    pub fn with_generation_prompt(mut self) -> Self {
        self.add_generation_prompt = true;
        self
    }

    /// Returns the variables that a template sees.
    pub(super) fn context(&self) -> Map<String, Value> {
        let mut context = self.variables.clone();
        context.insert("messages".into(), self.messages.clone().into());
        context.insert("tools".into(), self.tools.clone().into());
        context.insert(
            "add_generation_prompt".into(),
            self.add_generation_prompt.into(),
        );
        context
    }

    /// Returns a copy with `f` applied to every string, object keys of tool schemas included.
    pub(crate) fn map_strings(&self, f: &impl Fn(&str) -> String) -> Self {
        let map_list = |list: &Vec<Value>| list.iter().map(|value| map_value(value, f)).collect();
        let variables = self
            .variables
            .iter()
            .map(|(key, value)| (key.clone(), map_value(value, f)));
        Self {
            messages: map_list(&self.messages),
            tools: self.tools.as_ref().map(map_list),
            add_generation_prompt: self.add_generation_prompt,
            variables: variables.collect(),
        }
    }

    /// Returns a character that is in none of the strings and never in text: a noncharacter.
    pub(crate) fn unused_sentinel(&self) -> Option<char> {
        let text = Value::Object(self.context()).to_string();
        ('\u{FDD0}'..='\u{FDEF}').find(|&sentinel| !text.contains(sentinel))
    }
}

fn map_value(value: &Value, f: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => f(text).into(),
        Value::Array(list) => list.iter().map(|item| map_value(item, f)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, item)| (f(key), map_value(item, f)))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}
