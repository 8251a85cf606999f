//! Conversations: rendered with the chat template, with a span per assistant message to learn.

use llada_text::{ChatTemplate, Conversation, Tokenizer};
use serde_json::{Map, Value};

use super::document::{Document, Span};

/// Renders conversations for training.
#[derive(Clone, Copy, Debug)]
pub(super) struct Renderer<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) template: &'a ChatTemplate,
    pub(super) eos_token_id: Option<u32>,
}

impl Renderer<'_> {
    /// Returns the conversation of a row, up to its last assistant message to learn.
    ///
    /// A span is what the template adds to the prompt that it renders for generation: training and
    /// generation see the same ids. It ends with its first EOS, where generation would.
    pub(super) fn document(&self, row: &Map<String, Value>) -> Result<Document, String> {
        let mut messages = messages(row)?;
        let trained = trained_messages(&mut messages)?;
        let Some(last) = trained.last() else {
            return Ok(Document::default());
        };
        let tools = tools(row)?;
        let render = |len: usize, prompt: bool| {
            let conversation = Conversation {
                messages: messages[..len].to_vec(),
                tools: tools.clone(),
                add_generation_prompt: prompt,
                ..Conversation::default()
            };
            let ids = self.tokenizer.encode_chat(self.template, &conversation);
            ids.map_err(|e| format!("the chat template cannot render `messages`: {e}"))
        };
        let ids = render(last + 1, false)?;
        let mut spans = Vec::with_capacity(trained.len());
        for &message in &trained {
            let (prompt, whole) = (render(message, true)?, render(message + 1, false)?);
            if !(whole.starts_with(&prompt) && ids.starts_with(&whole)) {
                return Err(changes_its_past(message));
            }
            let answer = &whole[prompt.len()..];
            let is_end = |id: &u32| Some(*id) == self.eos_token_id;
            let len = answer
                .iter()
                .position(is_end)
                .map_or(answer.len(), |i| i + 1);
            spans.push(Span {
                range: prompt.len()..prompt.len() + len,
                ends_turn: true,
            });
        }
        Ok(Document::new(ids, spans))
    }
}

fn changes_its_past(message: usize) -> String {
    format!(
        "the chat template renders message {} otherwise as a prompt or when more messages follow; \
         give every answer a row of its own, or say `\"train\": false` there",
        message + 1
    )
}

fn messages(row: &Map<String, Value>) -> Result<Vec<Value>, String> {
    match row.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => Ok(messages.clone()),
        _ => Err("`messages` must be a list of at least one message".into()),
    }
}

fn tools(row: &Map<String, Value>) -> Result<Option<Vec<Value>>, String> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(tools)) => Ok(Some(tools.clone())),
        Some(other) => Err(format!("`tools` must be a list, found {other}")),
    }
}

/// Takes the `train` flags out of the messages; returns the numbers of those to learn.
fn trained_messages(messages: &mut [Value]) -> Result<Vec<usize>, String> {
    let mut trained = Vec::new();
    for (number, message) in messages.iter_mut().enumerate() {
        if is_trained(message).map_err(|problem| format!("message {}: {problem}", number + 1))? {
            trained.push(number);
        }
    }
    Ok(trained)
}

fn is_trained(message: &mut Value) -> Result<bool, String> {
    let message = message.as_object_mut().ok_or("expected an object")?;
    let train = message.shift_remove("train");
    let role = message.get("role").and_then(Value::as_str);
    let is_assistant = role.ok_or("`role` must be a text")? == "assistant";
    let content = message.get("content");
    if !content.is_some_and(Value::is_string) && !message.contains_key("tool_calls") {
        return Err("`content` must be a text".into());
    }
    match train {
        None => Ok(is_assistant),
        Some(Value::Bool(true)) if !is_assistant => {
            Err("`train` can be true for assistant messages only".into())
        }
        Some(Value::Bool(train)) => Ok(train),
        Some(other) => Err(format!("`train` must be true or false, found {other}")),
    }
}
