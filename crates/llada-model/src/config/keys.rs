//! Typed reading of JSON keys, with errors that name the key, what it must be and what it is.

use serde_json::{Map, Value};

use crate::Error;

/// Characters of a refused value that a message shows.
const SHOWN: usize = 60;

/// A JSON object being read. `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Path of the object, with a final dot, or empty.
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, prefix: "" }
    }

    /// The same reader on the object under a key.
    pub(super) fn nested(map: &'a Map<String, Value>, prefix: &'a str) -> Self {
        Self { map, prefix }
    }

    /// Returns the value, `None` when absent or null.
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The error that `key` must be `expected`, showing what it is.
    pub(super) fn refuse(self, key: &str, expected: impl Into<String>) -> Error {
        let found = match self.get(key) {
            None => "nothing".into(),
            Some(value) => abbreviated(&value.to_string()),
        };
        Error::Config {
            key: format!("{}{key}", self.prefix),
            expected: expected.into(),
            found,
        }
    }

    /// Fails unless `holds`.
    pub(super) fn require(
        self,
        holds: bool,
        key: &str,
        expected: impl Into<String>,
    ) -> Result<(), Error> {
        if holds {
            Ok(())
        } else {
            Err(self.refuse(key, expected))
        }
    }

    /// Reads a count in `0..=limit`.
    pub(super) fn count(self, key: &str, limit: usize) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        match count.filter(|count| *count <= limit) {
            Some(count) => Ok(Some(count)),
            None => Err(self.refuse(key, format!("an integer from 0 to {limit}"))),
        }
    }

    /// Reads a size in `1..=limit` that must be there.
    pub(super) fn size(self, key: &str, limit: usize) -> Result<usize, Error> {
        match self.count(key, limit) {
            Ok(Some(size)) if size > 0 => Ok(size),
            _ => Err(self.refuse(key, format!("an integer from 1 to {limit}"))),
        }
    }

    /// Reads a finite number.
    pub(super) fn number(self, key: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.refuse(key, "a finite number")),
        }
    }

    /// Reads a number above 0 that `f32` can hold.
    pub(super) fn positive(self, key: &str) -> Result<Option<f64>, Error> {
        let Some(number) = self.number(key)? else {
            return Ok(None);
        };
        let representable = number > 0.0 && (number as f32).is_normal();
        self.require(representable, key, "a number above 0 that fits 32 bits")?;
        Ok(Some(number))
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(self, key: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.refuse(key, "true or false"))
    }

    /// Reads a string.
    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.refuse(key, "a string"))
    }

    /// Reads a nested object.
    pub(super) fn object(self, key: &str) -> Result<Option<&'a Map<String, Value>>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_object()
            .map(Some)
            .ok_or_else(|| self.refuse(key, "an object or null"))
    }

    /// Reads token ids: a list, a single id, or -1, which older files write for "none".
    pub(super) fn token_ids(self, key: &str, vocab_size: usize) -> Result<Vec<u32>, Error> {
        let values = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(value) if value.as_i64() == Some(-1) => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let id = |value: &Value| {
            value
                .as_u64()
                .filter(|id| *id < vocab_size as u64)
                .and_then(|id| id.try_into().ok())
        };
        let ids = values.iter().map(id).collect::<Option<_>>();
        ids.ok_or_else(|| self.refuse(key, format!("below `vocab_size` ({vocab_size})")))
    }

    /// Reads at most one token id.
    pub(super) fn token_id(self, key: &str, vocab_size: usize) -> Result<Option<u32>, Error> {
        let ids = self.token_ids(key, vocab_size)?;
        self.require(ids.len() <= 1, key, "a single token id")?;
        Ok(ids.first().copied())
    }
}

fn abbreviated(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
