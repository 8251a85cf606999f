//! The text files of a checkpoint directory.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::special::Role;

/// Reads a UTF-8 file; `None` if there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Read {
                path: path.into(),
                source,
            });
        }
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| Error::NotUtf8 {
            path: path.into(),
            offset: error.utf8_error().valid_up_to(),
        })
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = read_text(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|source| Error::Json {
            path: path.into(),
            source,
        })
}

/// Writes a file.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|source| Error::Write {
        path: path.into(),
        source,
    })
}

/// `tokenizer_config.json` as it was read: keys that this crate does not know are kept for saving.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenizerConfig(pub(crate) Map<String, Value>);

impl TokenizerConfig {
    /// Reads `tokenizer_config.json` and, where that is silent, `special_tokens_map.json`.
    ///
    /// `chat_template.jinja` replaces the `chat_template` key, as newer checkpoints intend.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let mut config: Map<String, Value> =
            read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        let map: Map<String, Value> =
            read_json(&dir.join("special_tokens_map.json"))?.unwrap_or_default();
        for key in Role::ALL.map(Role::key) {
            if let (None | Some(Value::Null), Some(token)) = (config.get(&key), map.get(&key)) {
                config.insert(key, token.clone());
            }
        }
        if let Some(template) = read_text(&dir.join("chat_template.jinja"))? {
            config.insert("chat_template".into(), template.into());
        }
        Ok(Self(config))
    }

    /// Returns the text of a named special token: a string, or an object with `content`.
    pub(crate) fn token(&self, role: Role) -> Option<&str> {
        let value = self.0.get(&role.key())?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    pub(crate) fn set_token(&mut self, role: Role, text: &str) {
        self.0.insert(role.key(), text.into());
    }

    /// Returns whether a flag such as `add_bos_token` is on.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Lists a special token in `added_tokens_decoder`, if the checkpoint has that list.
    ///
    /// Other tools read it beside `tokenizer.json`, so the two must agree.
    pub(crate) fn declare_special(&mut self, text: &str, id: u32) {
        if let Some(Value::Object(decoder)) = self.0.get_mut("added_tokens_decoder") {
            let token = json!({
                "content": text,
                "lstrip": false,
                "normalized": false,
                "rstrip": false,
                "single_word": false,
                "special": true,
            });
            decoder.insert(id.to_string(), token);
        }
    }
}
