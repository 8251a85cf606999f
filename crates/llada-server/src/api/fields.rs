//! Fields that several endpoints share.

use llada_engine::Request;
use llada_request::Settings;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::body::read;
use crate::answer::Asked;
use crate::app::App;
use crate::ids;
use crate::refusal::Refusal;

/// Most stop strings of a request.
const MAX_STOPS: usize = 64;

/// Fields of both OpenAI endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Common {
    /// Name of a model; may be left out where only one is served.
    pub(crate) model: Option<String>,
    /// Answers to each prompt [default: 1].
    #[schemars(range(min = 1))]
    pub(crate) n: Option<usize>,
    /// Sends text as it becomes final.
    pub(crate) stream: Option<bool>,
    /// What else a stream holds.
    pub(crate) stream_options: Option<StreamOptions>,
    /// With `stream`: sends the active blocks after every step, as events of type `draft`.
    pub(crate) stream_draft: Option<bool>,
    /// Has no effect.
    user: Option<String>,
    /// Has no effect.
    metadata: Option<Map<String, Value>>,
    /// Has no effect.
    store: Option<bool>,
    /// Has no effect.
    service_tier: Option<String>,
    #[serde(flatten)]
    #[schemars(with = "Settings")]
    rest: Map<String, Value>,
}

/// What else a stream holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Adds a last chunk with `usage`.
    include_usage: Option<bool>,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Whole,
    Stream { draft: bool, usage: bool },
}

impl Delivery {
    pub(crate) fn wants_drafts(self) -> bool {
        matches!(self, Self::Stream { draft: true, .. })
    }
}

impl Common {
    /// Reads the fields, the settings among them.
    pub(crate) fn read(object: Map<String, Value>) -> Result<(Self, Settings), Refusal> {
        let mut common: Self = read(object, None)?;
        let settings = settings(std::mem::take(&mut common.rest), None)?;
        Ok((common, settings))
    }

    /// Returns how often each of `prompts` is answered.
    pub(crate) fn choices(&self, app: &App, prompts: usize) -> Result<usize, Refusal> {
        let (n, most) = (self.n.unwrap_or(1), app.config().choices);
        match n >= 1 && n.saturating_mul(prompts) <= most {
            true => Ok(n),
            false => Err(Refusal::field(
                "n",
                format!("is {n}; expected at least 1, and at most {most} answers in all"),
            )),
        }
    }

    pub(crate) fn delivery(&self) -> Result<Delivery, Refusal> {
        let usage = self.stream_options.map(|options| options.include_usage);
        let draft = self.stream_draft == Some(true);
        match (self.stream == Some(true), usage, draft) {
            (true, usage, draft) => Ok(Delivery::Stream {
                draft,
                usage: usage.flatten() == Some(true),
            }),
            (false, Some(_), _) => Err(Refusal::field("stream_options", "needs `stream`")),
            (false, None, true) => Err(Refusal::field("stream_draft", "needs `stream`")),
            (false, None, false) => Ok(Delivery::Whole),
        }
    }
}

/// Reads the settings of a request. `place` is where they stand in the body.
pub(crate) fn settings(
    mut object: Map<String, Value>,
    place: Option<&str>,
) -> Result<Settings, Refusal> {
    for name in ["editing_threshold", "edit_threshold"] {
        if object.contains_key(name) {
            let problem = "means opposite things elsewhere at 0; use `edit`, which is `off` or the \
                           confidence to exceed";
            return Err(Refusal::field(name, problem));
        }
    }
    // Leaving a block early changes no text, and we always do; only the reference's way of stepping
    // has it as a choice.
    if object.get("reference_schedule") != Some(&Value::Bool(true))
        && object.get("eos_early_stop").is_some_and(Value::is_boolean)
    {
        object.remove("eos_early_stop");
    }
    let settings: Settings = read(object, place)?;
    if settings.trace == Some(true) {
        let problem = "is for files; use `stream` with `stream_draft`";
        return Err(Refusal::field("trace", problem));
    }
    let stops = settings.stop.as_ref().map_or(0, Vec::len);
    if stops > MAX_STOPS {
        let problem = format!("has {stops} texts; expected at most {MAX_STOPS}");
        return Err(Refusal::field("stop", problem));
    }
    Ok(settings)
}

/// Refuses more of the most probable tokens than there are to be had, under the name that `field` has.
pub(crate) fn check_top(field: &str, top: Option<usize>) -> Result<(), Refusal> {
    let most = Request::MAX_TOP_LOGPROBS;
    match top {
        Some(top) if top > most => {
            let problem = format!("is {top}; expected at most {most}");
            Err(Refusal::field(field, problem))
        }
        _ => Ok(()),
    }
}

/// Returns the settings of choice number `index` and what its client wants to know. A seed that
/// nobody chose is drawn.
pub(crate) fn choice(settings: &Settings, seed: u64, index: usize) -> (Settings, Asked) {
    let seed = seed.wrapping_add(index as u64);
    let settings = Settings {
        seed: Some(seed),
        ..settings.clone()
    };
    let asked = Asked {
        logprobs: settings.logprobs == Some(true),
        steps: settings.return_steps == Some(true),
        joined: false,
        seed,
    };
    (settings, asked)
}

/// Returns the seed of the first choice.
pub(crate) fn seed(settings: &Settings) -> u64 {
    let is_greedy = settings.temperature.unwrap_or(0.0) == 0.0;
    let drawn = || match is_greedy {
        true => 0,
        false => ids::random() >> 12, // a number that JavaScript can hold
    };
    settings.seed.unwrap_or_else(drawn)
}
