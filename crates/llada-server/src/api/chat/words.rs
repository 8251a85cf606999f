//! How answers of a chat are worded, whole and in pieces.

use serde_json::{Value, json};

use super::tool::Calling;
use crate::answer::{End, Text, Token, Whole};
use crate::api::completions::Head;
use crate::api::cost;
use crate::api::stream::Wording;
use crate::ids;
use crate::tools::{Delta, ToolCalls};

/// Returns a whole answer.
pub(super) fn choice(index: usize, whole: &Whole, calling: &Calling) -> Value {
    let mut message = json!({ "role": "assistant", "content": whole.text });
    let mut has_calls = false;
    if let Some(mut parser) = calling.parser() {
        let mut deltas = parser.push(&whole.text);
        deltas.extend(parser.finish());
        has_calls = parser.has_calls();
        let (content, calls) = gather(deltas);
        let is_silent = content.is_empty() && has_calls;
        message["content"] = if is_silent {
            Value::Null
        } else {
            content.into()
        };
        if has_calls {
            message["tool_calls"] = calls.into();
        }
    }
    let asked = whole.end.asked.logprobs;
    json!({
        "index": index,
        "message": message,
        "logprobs": if asked { logprobs(&whole.tokens) } else { Value::Null },
        "finish_reason": finish_reason(&whole.end, has_calls),
        "dllm": cost::dllm(&whole.end),
    })
}

/// Puts the pieces of an answer together.
fn gather(deltas: Vec<Delta>) -> (String, Vec<Value>) {
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for delta in deltas {
        match delta {
            Delta::Content(text) => content += &text,
            Delta::Call { name, .. } => calls.push((name, String::new())),
            Delta::Arguments { index, text } => calls[index].1 += &text,
        }
    }
    let calls = calls.into_iter().map(|(name, arguments)| {
        json!({
            "id": ids::name("call"),
            "type": "function",
            "function": { "name": name, "arguments": arguments },
        })
    });
    (content, calls.collect())
}

fn finish_reason(end: &End, has_calls: bool) -> String {
    let reason = end.answer.finish_reason.to_string();
    match has_calls && reason == "stop" {
        true => "tool_calls".to_owned(),
        false => reason,
    }
}

/// Returns OpenAI's form of log-probabilities.
fn logprobs(tokens: &[Token]) -> Value {
    let content = tokens.iter().map(|token| {
        let mut object = logprob(token);
        object["top_logprobs"] = token.top.iter().map(logprob).collect();
        object
    });
    json!({ "content": content.collect::<Vec<_>>() })
}

fn logprob(token: &Token) -> Value {
    json!({
        "token": token.text,
        "logprob": token.logprob,
        "bytes": token.text.as_bytes(),
    })
}

/// The words of a streamed answer.
pub(super) struct Words {
    head: Head,
    index: usize,
    parser: Option<ToolCalls>,
}

impl Words {
    pub(super) fn new(head: Head, index: usize, calling: &Calling) -> Self {
        let parser = calling.parser();
        Self {
            head,
            index,
            parser,
        }
    }

    fn chunk(&self, delta: Value) -> Value {
        self.head.with(json!([{
            "index": self.index,
            "delta": delta,
            "logprobs": null,
            "finish_reason": null,
        }]))
    }

    fn deltas(&mut self, text: String) -> Vec<Delta> {
        match &mut self.parser {
            Some(parser) => parser.push(&text),
            None if text.is_empty() => Vec::new(),
            None => vec![Delta::Content(text)],
        }
    }

    fn word(&self, delta: Delta) -> Value {
        let delta = match delta {
            Delta::Content(text) => json!({ "content": text }),
            Delta::Call { index, name } => json!({ "tool_calls": [{
                "index": index,
                "id": ids::name("call"),
                "type": "function",
                "function": { "name": name, "arguments": "" },
            }]}),
            Delta::Arguments { index, text } => json!({ "tool_calls": [{
                "index": index,
                "function": { "arguments": text },
            }]}),
        };
        self.chunk(delta)
    }

    /// Returns the chunks of a text, the log-probabilities with the first.
    fn say(&self, deltas: Vec<Delta>, tokens: &[Token]) -> Vec<Value> {
        let mut chunks: Vec<_> = deltas.into_iter().map(|delta| self.word(delta)).collect();
        if !tokens.is_empty() {
            if chunks.is_empty() {
                chunks.push(self.chunk(json!({})));
            }
            chunks[0]["choices"][0]["logprobs"] = logprobs(tokens);
        }
        chunks
    }
}

impl Wording for Words {
    fn begin(&mut self) -> Vec<Value> {
        vec![self.chunk(json!({ "role": "assistant", "content": "" }))]
    }

    fn text(&mut self, text: Text) -> Vec<Value> {
        let deltas = self.deltas(text.text);
        self.say(deltas, &text.tokens)
    }

    fn end(&mut self, end: &mut End) -> Vec<Value> {
        let rest = std::mem::take(&mut end.rest);
        let mut deltas = self.deltas(rest.text);
        deltas.extend(self.parser.iter_mut().flat_map(ToolCalls::finish));
        let has_calls = self.parser.as_ref().is_some_and(ToolCalls::has_calls);
        let mut chunks = self.say(deltas, &rest.tokens);
        let mut last = self.chunk(json!({}));
        last["choices"][0]["finish_reason"] = finish_reason(end, has_calls).into();
        last["choices"][0]["dllm"] = cost::dllm(end);
        chunks.push(last);
        chunks
    }
}
