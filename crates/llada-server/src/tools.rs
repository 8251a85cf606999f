//! Tool calls in the text of an answer.
//!
//! Templates of this family have a model write
//! `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>`, and so does Qwen's. The parser turns
//! such text into calls while it comes in: the name as soon as it is whole, the arguments piece by
//! piece. What only looks like a call stays text.

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delta {
    /// Text beside the calls.
    Content(String),
    /// A call begins; calls are counted from 0.
    Call { index: usize, name: String },
    /// More of the arguments of a call, which are JSON.
    Arguments { index: usize, text: String },
}

/// Finds the calls in a text that comes piece by piece.
#[derive(Clone, Debug)]
pub(crate) struct ToolCalls {
    place: Place,
    /// Text that is not out yet; inside a call, the whole call.
    held: String,
    /// White space before the call, which is text again if it turns out to be none.
    gap: String,
    num_calls: usize,
}

/// Where in the text the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Content,
    /// Inside a call, of whose arguments so many bytes are out; `None` before its name is.
    Call {
        sent: Option<usize>,
    },
    /// After the object of a call.
    Tail,
}

impl ToolCalls {
    /// Starts a text in which the model may call.
    pub(crate) fn free() -> Self {
        Self::at(Place::Content)
    }

    /// Starts a text that is the object of a call and nothing else.
    pub(crate) fn forced() -> Self {
        Self::at(Place::Call { sent: None })
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            held: String::new(),
            gap: String::new(),
            num_calls: 0,
        }
    }

    /// Returns whether the text called a tool so far.
    pub(crate) fn has_calls(&self) -> bool {
        self.num_calls > 0
    }

    /// Takes more text.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        let mut deltas = Vec::new();
        while self.advance(&mut deltas) {}
        deltas
    }

    /// Ends the text.
    pub(crate) fn finish(&mut self) -> Vec<Delta> {
        let held = std::mem::take(&mut self.held);
        let text = match self.place {
            Place::Content => held,
            Place::Call { sent: None } => format!("{}{OPEN}{held}", self.gap),
            Place::Call { sent: Some(_) } | Place::Tail => String::new(),
        };
        content(text).into_iter().collect()
    }

    /// Takes one step through the held text; returns whether another one may follow.
    fn advance(&mut self, deltas: &mut Vec<Delta>) -> bool {
        match self.place {
            Place::Content => self.advance_content(deltas),
            Place::Call { sent } => self.advance_call(sent, deltas),
            Place::Tail => self.advance_tail(),
        }
    }

    fn advance_content(&mut self, deltas: &mut Vec<Delta>) -> bool {
        if let Some((before, after)) = self.held.split_once(OPEN) {
            let (text, gap) = before.split_at(before.trim_end().len());
            deltas.extend(content(text.to_owned()));
            self.gap = gap.to_owned();
            self.held = after.to_owned();
            self.place = Place::Call { sent: None };
            return true;
        }
        let rest = self.held.split_off(certain_len(&self.held));
        let text = std::mem::replace(&mut self.held, rest);
        deltas.extend(content(text));
        false
    }

    fn advance_call(&mut self, sent: Option<usize>, deltas: &mut Vec<Delta>) -> bool {
        let Some(call) = Call::read(&self.held) else {
            deltas.extend(content(format!("{}{OPEN}", self.gap)));
            self.place = Place::Content;
            return true;
        };
        let index = match (sent, &call.name) {
            (Some(_), _) => self.num_calls - 1,
            (None, Some(name)) => {
                let (index, name) = (self.num_calls, name.clone());
                deltas.push(Delta::Call { index, name });
                self.num_calls += 1;
                index
            }
            (None, None) => return false,
        };
        let arguments = match (call.arguments, call.end) {
            ("", Some(_)) => "{}",
            (arguments, _) => arguments,
        };
        let text = arguments[sent.unwrap_or(0)..].to_owned();
        self.place = Place::Call {
            sent: Some(arguments.len()),
        };
        if !text.is_empty() {
            deltas.push(Delta::Arguments { index, text });
        }
        let Some(end) = call.end else { return false };
        self.held.drain(..end);
        self.place = Place::Tail;
        true
    }

    fn advance_tail(&mut self) -> bool {
        let rest = self.held.trim_start();
        if let Some(after) = rest.strip_prefix(CLOSE) {
            self.held = after.to_owned();
        } else if CLOSE.starts_with(rest) {
            return false; // it may yet become the end of the call
        }
        self.place = Place::Content;
        true
    }
}

fn content(text: String) -> Option<Delta> {
    (!text.is_empty()).then_some(Delta::Content(text))
}

/// Returns how much of a text can be neither white space before a call nor the beginning of one.
fn certain_len(text: &str) -> usize {
    let begins = |len: &usize| text.ends_with(&OPEN[..*len]);
    let begun = (1..OPEN.len()).rev().find(begins).unwrap_or(0);
    text[..text.len() - begun].trim_end().len()
}

/// What is known of an object `{"name": …, "arguments": …}` from its beginning.
#[derive(Debug, PartialEq, Eq)]
struct Call<'a> {
    name: Option<String>,
    /// The arguments as far as they go.
    arguments: &'a str,
    /// Where the object ends, if it does.
    end: Option<usize>,
}

impl<'a> Call<'a> {
    /// Reads an object; `None` if it cannot become a call. One that goes wrong after its name ends
    /// where it does.
    fn read(text: &'a str) -> Option<Self> {
        let mut call = Self {
            name: None,
            arguments: "",
            end: None,
        };
        let mut place = skip_space(text, 0);
        match text[place..].chars().next() {
            Some('{') => place += 1,
            None => return Some(call),
            Some(_) => return None,
        }
        loop {
            place = skip_space(text, place);
            let field = match text[place..].chars().next() {
                None => return Some(call),
                Some('}') => {
                    call.end = Some(place + 1);
                    return call.name.is_some().then_some(call);
                }
                Some(',') => Some(Some(place + 1)),
                Some('"') => call.read_field(text, place),
                Some(_) => None,
            };
            match field {
                Some(Some(end)) => place = end,
                Some(None) => return Some(call),
                None => {
                    call.end = Some(place);
                    return call.name.is_some().then_some(call);
                }
            }
        }
    }

    /// Reads a field that begins at `place`. Returns where it ends, `Some(None)` if it does not yet.
    #[expect(clippy::option_option, reason = "refused, unfinished, finished")]
    fn read_field(&mut self, text: &'a str, place: usize) -> Option<Option<usize>> {
        let Some(key_end) = value_end(text, place) else {
            return Some(None);
        };
        let key = &text[place..key_end];
        let colon = skip_space(text, key_end);
        match text[colon..].chars().next() {
            Some(':') => {}
            None => return Some(None),
            Some(_) => return None,
        }
        let start = skip_space(text, colon + 1);
        let end = value_end(text, start);
        match key {
            "\"name\"" if end.is_some() => {
                self.name = Some(serde_json::from_str(&text[start..end?]).ok()?);
            }
            "\"arguments\"" if self.arguments.is_empty() => {
                self.arguments = &text[start..end.unwrap_or(text.len())];
            }
            _ => {}
        }
        Some(end)
    }
}

fn skip_space(text: &str, place: usize) -> usize {
    text.len() - text[place..].trim_start().len()
}

/// Returns where the JSON value ends that begins at `start`, if the text goes so far.
fn value_end(text: &str, start: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for (place, character) in text[start..].char_indices() {
        let end = start + place + character.len_utf8();
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if in_string => is_escaped = true,
            '"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return Some(end);
                }
            }
            _ if in_string => {}
            '{' | '[' => depth += 1,
            '}' | ']' if depth == 1 => return Some(end),
            '}' | ']' if depth > 1 => depth -= 1,
            ',' | '}' | ']' if depth == 0 => return Some(start + place),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests;
