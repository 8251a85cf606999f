//! Files of requests: one JSON object per line.

use std::path::Path;

use anyhow::Context;
use llada_request::Settings;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::failure;

/// What a request continues.
#[derive(Clone, Debug)]
pub(in crate::commands) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// A request as it was written.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Row {
    pub(in crate::commands) prompt: Prompt,
    pub(super) settings: Settings,
    /// `file:line`, for messages.
    pub(super) place: Option<String>,
}

impl Row {
    /// A request that says nothing but its prompt.
    pub(in crate::commands) fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            settings: Settings::default(),
            place: None,
        }
    }

    /// Reads a file of requests.
    pub(in crate::commands) fn read_all(path: &Path) -> anyhow::Result<Vec<Self>> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        let lines = (1..).zip(text.lines());
        let rows = lines.filter(|(_, line)| !line.trim().is_empty());
        let read = |(number, line): (usize, &str)| {
            let place = format!("{}:{number}", path.display());
            let row =
                Self::parse(line).map_err(|error| failure::usage(format!("{place}: {error}")));
            row.map(|row| Self {
                place: Some(place),
                ..row
            })
        };
        rows.map(read).collect()
    }

    fn parse(line: &str) -> Result<Self, String> {
        let readable = |error: serde_json::Error| error.to_string();
        let mut fields: Map<String, Value> = serde_json::from_str(line).map_err(readable)?;
        let mut take = |name: &str| fields.remove(name).unwrap_or_default();
        let text: Option<String> = read_as("prompt", take("prompt"))?;
        let ids: Option<Vec<u32>> = read_as("ids", take("ids"))?;
        let prompt = match (text, ids) {
            (Some(text), None) => Prompt::Text(text),
            (None, Some(ids)) => Prompt::Ids(ids),
            _ => return Err("a request needs either `prompt` or `ids`".to_owned()),
        };
        let settings = Settings::deserialize(Value::Object(fields)).map_err(readable)?;
        Ok(Self {
            settings,
            ..Self::new(prompt)
        })
    }
}

fn read_as<'de, T: Deserialize<'de>>(name: &str, value: Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("`{name}`: {error}"))
}
