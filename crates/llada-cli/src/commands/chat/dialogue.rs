//! What was said so far, as the next prompt.

use anyhow::bail;
use llada_engine::{Answer, FinishReason};
use llada_text::{ChatTemplate, Conversation, Tokenizer, message};
use serde_json::Value;

use crate::failure;
use llada_request::Checkpoint;

/// A conversation, or a text that both sides write.
#[derive(Debug)]
pub(in crate::commands) enum Dialogue {
    /// Messages, rendered with the checkpoint's template.
    Messages {
        template: Box<ChatTemplate>,
        system: Option<String>,
        messages: Vec<Value>,
    },
    /// For a checkpoint that knows no roles.
    Text(Vec<u32>),
}

impl Dialogue {
    pub(in crate::commands) fn new(checkpoint: &Checkpoint) -> anyhow::Result<Self> {
        let tokenizer = checkpoint.tokenizer_for("a chat").map_err(failure::usage)?;
        let Some(template) = tokenizer.own_chat_template()? else {
            return Ok(Self::Text(Vec::new()));
        };
        Ok(Self::Messages {
            template: Box::new(template),
            system: None,
            messages: Vec::new(),
        })
    }

    pub(in crate::commands) fn is_plain_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Forgets what was said, but not the system message.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Messages { messages, .. } => messages.clear(),
            Self::Text(ids) => ids.clear(),
        }
    }

    pub(super) fn set_system(&mut self, text: &str) -> anyhow::Result<()> {
        match self {
            Self::Messages { system, .. } => {
                *system = Some(text.to_owned()).filter(|text| !text.is_empty());
                Ok(())
            }
            Self::Text(_) => bail!(failure::usage(
                "this checkpoint has no chat template, so there is no system message",
            )),
        }
    }

    /// Returns the prompt that asks for the answer to a line.
    pub(in crate::commands) fn prompt(
        &self,
        tokenizer: &Tokenizer,
        line: &str,
    ) -> anyhow::Result<Vec<u32>> {
        match self {
            Self::Messages {
                template,
                system,
                messages,
            } => {
                let system = system.iter().map(|text| message("system", text));
                let said = messages.iter().cloned();
                let all = system.chain(said).chain([message("user", line)]);
                let conversation = Conversation::new(all).with_generation_prompt();
                let ids = tokenizer.encode_chat(template, &conversation);
                ids.map_err(failure::usage)
            }
            Self::Text(ids) if ids.is_empty() => tokenizer.encode(line).map_err(failure::usage),
            Self::Text(ids) => {
                let more = tokenizer.encode_text(line).map_err(failure::usage)?;
                Ok([&ids[..], &more].concat())
            }
        }
    }

    /// Remembers a turn: the prompt that was answered, its last line, and the answer.
    pub(super) fn record(&mut self, prompt: Vec<u32>, line: &str, answer: &Answer, text: String) {
        match self {
            Self::Messages { messages, .. } => {
                messages.push(message("user", line));
                messages.push(message("assistant", &text));
            }
            Self::Text(ids) => {
                let written = &answer.output_ids;
                // The text goes on, so its end is not in it.
                let ended = usize::from(answer.finish_reason == FinishReason::Stop);
                *ids = prompt;
                ids.extend(&written[..written.len().saturating_sub(ended)]);
            }
        }
    }
}
