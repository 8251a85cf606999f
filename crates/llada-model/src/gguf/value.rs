//! Keys and values of a file.

/// A value. Integers and floats of any width are read into the widest.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer; written as `u32` where it fits, else as `i64`.
    Int(i64),
    /// A number; written as `f32`.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of integers; written as `i32` where all fit, else as `i64`.
    Ints(Vec<i64>),
    /// A list of numbers; written as `f32`.
    Floats(Vec<f64>),
    /// A list of strings.
    Texts(Vec<String>),
}

/// Keys and values in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, Value)>);

impl Metadata {
    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let entry = self.0.iter().find(|(found, _)| found == key);
        entry.map(|(_, value)| value)
    }

    /// Sets a key; a new one goes to the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.0.iter_mut().find(|(found, _)| *found == key) {
            Some((_, found)) => *found = value,
            None => self.0.push((key, value)),
        }
    }

    /// Adds a key that is known to be new.
    pub(super) fn push(&mut self, key: String, value: Value) {
        self.0.push((key, value));
    }

    /// Puts the keys of the tokenizer last, by name: their order then does not tell whether an id came
    /// from the configuration or with the text, and a file written again has the same bytes.
    pub(super) fn order(&mut self) {
        let of_text = |key: &str| key.starts_with("tokenizer.").then(|| key.to_owned());
        self.0.sort_by_cached_key(|(key, _)| of_text(key));
    }

    /// Iterates in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns the string under a key, `None` if there is none or it is no string.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Returns the integer under a key, `None` if there is none or it is no integer.
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.get(key) {
            Some(Value::Int(int)) => Some(*int),
            _ => None,
        }
    }
}
