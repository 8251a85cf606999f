//! How a text is decoded: the same settings as flags, as fields of a request file, and as `/set` in
//! a chat. What is left out, the next of these sources says, and at last the defaults.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use llada_engine::{Preset, Request};
use schemars::JsonSchema as Described;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Settings of a request; `None` is not said.
#[derive(Clone, Debug, Default, Args, Deserialize, Described)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Decoding")]
pub struct Settings {
    /// Most tokens to generate [default: 256].
    #[arg(long)]
    #[serde(
        alias = "max_tokens",
        alias = "max_completion_tokens",
        alias = "gen_length"
    )]
    pub max_new_tokens: Option<usize>,
    /// Block length [default: the checkpoint's].
    #[arg(long)]
    #[serde(alias = "block_size")]
    pub block_length: Option<usize>,
    /// Published combination: quality2.0, q or s (the last two edit). Explicit settings override it.
    #[arg(long)]
    #[serde(deserialize_with = "parsed")]
    #[schemars(with = "Option<PresetName>")]
    pub mode: Option<Preset>,
    /// Confidence above which a token is accepted [default: 0.95].
    #[arg(long)]
    pub threshold: Option<f32>,
    /// Rule of acceptance [default: threshold].
    #[arg(long)]
    pub acceptance: Option<AcceptanceArg>,
    /// Hierarchy: what the best of a run must exceed [default: 0.4]. Bacd: lower bound [default: 0.6].
    #[arg(long)]
    pub low: Option<f32>,
    /// Bacd: upper bound of the threshold [default: 0.9].
    #[arg(long)]
    pub high: Option<f32>,
    /// Steps per block: accepts at least block/steps tokens in each.
    #[arg(long, conflicts_with = "min_transfer")]
    #[serde(alias = "num_inference_steps")]
    pub steps: Option<usize>,
    /// Fewest tokens accepted per step [default: 1].
    #[arg(long)]
    #[serde(alias = "num_to_transfer")]
    pub min_transfer: Option<usize>,
    /// Lets placed tokens change: `off`, a confidence to exceed, or `revise:CONFIDENCE`, which also
    /// inserts and deletes [default: off].
    #[arg(long)]
    pub edit: Option<EditArg>,
    /// Steps that editing may go on for in a block without open positions [default: 16].
    #[arg(long)]
    #[serde(alias = "max_post_steps")]
    pub max_post_edit_steps: Option<usize>,
    /// With editing: what the logit of a repeated token loses [default: 0].
    #[arg(long)]
    pub penalty_lambda: Option<f32>,
    /// Unpublished: once a block is done, edits this many blocks before it together with it; needs a
    /// confidence as --edit [default: none].
    #[arg(long)]
    pub reopen_blocks: Option<usize>,
    /// With --reopen-blocks: forwards that may edit these blocks [default: 1].
    #[arg(long)]
    pub reopen_rounds: Option<usize>,
    /// Approximate: denoises up to this many blocks at once, as --admit-threshold lets them in
    /// [default: 1].
    #[arg(long)]
    pub buffer_blocks: Option<usize>,
    /// With --buffer-blocks: share of a block that is filled before the next one starts; 1 is exact.
    #[arg(long)]
    pub admit_threshold: Option<f32>,
    /// With --buffer-blocks: share of a block that is filled before the next one falls back to its
    /// most confident token [default: 0.9].
    #[arg(long)]
    pub semi_complete: Option<f32>,
    /// 0 takes the most probable token [default: 0].
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Samples among the k most probable tokens; 0 is off [default: 0].
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Samples among the most probable tokens that sum to p [default: 1].
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Samples among tokens at least this many times as probable as the best [default: 0].
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that occur before [default: 1].
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that occur before [default: 0].
    #[arg(long, allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted as often as the token occurs before [default: 0].
    #[arg(long, allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Added to the logit of a token; may be repeated.
    #[arg(long, value_name = "ID=X")]
    #[serde(deserialize_with = "biases")]
    #[schemars(with = "Option<BTreeMap<String, f32>>")]
    pub logit_bias: Option<Vec<Bias>>,
    /// Seed of sampling [default: 0].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Ends the text before these characters; may be repeated.
    #[arg(long, value_name = "TEXT")]
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "Option<OneOrMany>")]
    pub stop: Option<Vec<String>>,
    /// Ends the text at these ids, besides the checkpoint's.
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Goes on after the checkpoint's end-of-text ids: for measurements.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ignore_eos: Option<bool>,
    /// Confines the text to a JSON schema.
    #[arg(long, value_name = "FILE", value_parser = JsonSchema::read, conflicts_with = "regex")]
    pub json_schema: Option<JsonSchema>,
    /// Confines the text to a regular expression, matched as a whole.
    #[arg(long)]
    pub regex: Option<String>,
    /// With --reference-schedule: stops inside a block as the reference's option does.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub eos_early_stop: Option<bool>,
    /// Steps and stops exactly as the public reference code.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub reference_schedule: Option<bool>,
    /// Includes the block's ids after every step (JSON).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub trace: Option<bool>,
    /// Includes each token's log-probability, given the state of the step that placed it (JSON).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub logprobs: Option<bool>,
    /// With --logprobs: also those of this many most probable tokens, at most 20 (JSON).
    #[arg(long, value_name = "N")]
    #[schemars(range(max = Request::MAX_TOP_LOGPROBS))]
    pub top_logprobs: Option<usize>,
    /// Includes the step of its block that placed each token (JSON).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub return_steps: Option<bool>,
}

impl Settings {
    /// Fills what this leaves out from `defaults`.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        /// Names every field, so that none can be forgotten.
        macro_rules! fill {
            ($($field:ident)+) => {
                Self { $($field: self.$field.or_else(|| defaults.$field.clone())),+ }
            };
        }
        // A choice between two ways of saying the same replaces both.
        let (steps, min_transfer) = match (self.steps, self.min_transfer) {
            (None, None) => (defaults.steps, defaults.min_transfer),
            own => own,
        };
        let (json_schema, regex) = match (&self.json_schema, &self.regex) {
            (None, None) => (defaults.json_schema.clone(), defaults.regex.clone()),
            (schema, regex) => (schema.clone(), regex.clone()),
        };
        let filled = fill! {
            max_new_tokens block_length mode threshold acceptance low high steps min_transfer edit
            max_post_edit_steps penalty_lambda reopen_blocks reopen_rounds buffer_blocks
            admit_threshold semi_complete temperature top_k top_p min_p repetition_penalty
            presence_penalty frequency_penalty logit_bias seed stop stop_token_ids ignore_eos
            json_schema regex eos_early_stop reference_schedule trace logprobs
            top_logprobs return_steps
        };
        Self {
            steps,
            min_transfer,
            json_schema,
            regex,
            ..filled
        }
    }

    /// Returns these settings without those of blocks, for a model that writes token by token.
    pub fn without_blocks(&self) -> Self {
        Self {
            block_length: None,
            mode: None,
            threshold: None,
            acceptance: None,
            low: None,
            high: None,
            steps: None,
            min_transfer: None,
            edit: None,
            max_post_edit_steps: None,
            penalty_lambda: None,
            reopen_blocks: None,
            reopen_rounds: None,
            buffer_blocks: None,
            admit_threshold: None,
            semi_complete: None,
            eos_early_stop: None,
            reference_schedule: None,
            ..self.clone()
        }
    }

    /// Returns the name of a setting that only adds to the JSON of an answer.
    pub fn records(&self) -> Option<&'static str> {
        let settings = [
            ("trace", self.trace),
            ("logprobs", self.logprobs),
            ("return_steps", self.return_steps),
        ];
        let given = settings.into_iter().find(|(_, on)| *on == Some(true));
        given.map(|(name, _)| name)
    }
}

/// Name of a rule of acceptance; its numbers are settings of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Described)]
#[serde(rename_all = "lowercase")]
pub enum AcceptanceArg {
    /// Confidence above a threshold.
    #[default]
    Threshold,
    /// Also the best of each run of open positions.
    Hierarchy,
    /// A threshold, with credit for tokens proposed again and again.
    Credit,
    /// A threshold that follows the block.
    Bacd,
}

/// Whether placed tokens may change.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Described)]
#[serde(try_from = "Value")]
#[schemars(with = "EditForm")]
pub enum EditArg {
    /// They may not.
    Off,
    /// To a token proposed with more than this confidence.
    Above(f32),
    /// The same, and positions may be inserted and deleted.
    Revise(f32),
}

impl FromStr for EditArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "unknown edit `{text}`; expected `off`, a confidence such as 0.5, or `revise:0.5`"
            )
        };
        let confidence = |text: &str| text.parse().map_err(|_| expected());
        match text.strip_prefix("revise:") {
            _ if text == "off" => Ok(Self::Off),
            Some(above) => confidence(above).map(Self::Revise),
            None => confidence(text).map(Self::Above),
        }
    }
}

impl TryFrom<Value> for EditArg {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => text.parse(),
            other => other.to_string().parse(),
        }
    }
}

/// What is added to the logit of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bias {
    /// The token.
    pub id: u32,
    /// What is added.
    pub bias: f32,
}

impl FromStr for Bias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = text.split_once('=');
        let pair = pair.and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
        let (id, bias) = pair.ok_or_else(|| {
            format!("`{text}` is no bias; expected an id and a number, such as 13=-2.5")
        })?;
        Ok(Self { id, bias })
    }
}

/// The text of a JSON schema: in a request file an object, or a string that holds one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Described)]
#[serde(from = "Value")]
#[schemars(with = "SchemaForm")]
pub struct JsonSchema(pub String);

impl JsonSchema {
    fn read(path: &str) -> Result<Self, String> {
        let text = std::fs::read_to_string(path);
        text.map(Self)
            .map_err(|error| format!("cannot read `{path}`: {error}"))
    }
}

impl From<Value> for JsonSchema {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Self(text),
            other => Self(other.to_string()),
        }
    }
}

/// A text or several.
#[derive(Deserialize, Described)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The names of [`Preset`], for the description alone.
#[derive(Described)]
#[expect(dead_code, reason = "only its schema is used")]
enum PresetName {
    #[schemars(rename = "quality2.0")]
    Quality2,
    #[schemars(rename = "q")]
    Quality,
    #[schemars(rename = "s")]
    Speed,
}

/// What an [`EditArg`] is written as, for the description alone.
#[derive(Described)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum EditForm {
    Above(f32),
    Named(#[schemars(regex(pattern = r"^(off|revise:[0-9.]+|[0-9.]+)$"))] String),
}

/// What a [`JsonSchema`] is written as, for the description alone.
#[derive(Described)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum SchemaForm {
    Object(serde_json::Map<String, Value>),
    Text(String),
}

/// Reads a value that is written as a string.
fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom))
        .transpose()
}

/// Reads a string or a list of strings.
fn one_or_many<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    let texts = Option::<OneOrMany>::deserialize(deserializer)?;
    Ok(texts.map(|texts| match texts {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    }))
}

/// Reads an object from ids to numbers.
fn biases<'de, D>(deserializer: D) -> Result<Option<Vec<Bias>>, D::Error>
where
    D: Deserializer<'de>,
{
    let biases = Option::<BTreeMap<u32, f32>>::deserialize(deserializer)?;
    let bias = |(id, bias)| Bias { id, bias };
    Ok(biases.map(|biases| biases.into_iter().map(bias).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Settings, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn fields_of_a_request_have_the_forms_of_the_flags_and_of_json() {
        let args = read(json!({
            "mode": "q", "edit": 0.25, "stop": "a", "logit_bias": { "7": -1.5 },
            "json_schema": { "type": "null" }, "acceptance": "bacd",
        }))
        .unwrap();
        assert_eq!(args.mode, Some(Preset::Quality));
        assert_eq!(args.edit, Some(EditArg::Above(0.25)));
        assert_eq!(args.stop, Some(vec!["a".to_owned()]));
        assert_eq!(args.logit_bias, Some(vec!["7=-1.5".parse().unwrap()]));
        assert_eq!(args.json_schema.unwrap().0, r#"{"type":"null"}"#);
        assert_eq!(args.acceptance, Some(AcceptanceArg::Bacd));
        let args = read(json!({ "edit": "revise:0.5", "stop": ["a", "b"], "mode": null })).unwrap();
        assert_eq!(args.edit, Some(EditArg::Revise(0.5)));
        assert_eq!(args.stop.unwrap().len(), 2);
        assert_eq!(args.mode, None);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cases = [
            (json!({ "warp": 9 }), "warp"),
            (json!({ "mode": "fast" }), "quality2.0"),
            (json!({ "edit": "on" }), "revise:0.5"),
            (json!({ "stop": 3 }), "list of strings"),
        ];
        for (value, word) in cases {
            let message = read(value).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
        assert!("7".parse::<Bias>().is_err());
    }

    #[test]
    fn a_request_replaces_both_ways_of_saying_the_quota() {
        let defaults = read(json!({ "steps": 4, "seed": 5, "regex": "a" })).unwrap();
        let own = read(json!({ "min_transfer": 2, "json_schema": {} })).unwrap();
        let merged = own.or(&defaults);
        assert_eq!((merged.steps, merged.min_transfer), (None, Some(2)));
        assert_eq!((merged.regex, merged.seed), (None, Some(5)));
    }
}
