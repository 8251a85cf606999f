//! What the commands that decode share: requests from flags and rows, text and JSON from answers.

mod answer;
mod draft;
mod hooks;
mod policy;
mod rows;
mod text;

use std::cell::OnceCell;
use std::path::Path;

use llada_engine::{Capacity, Hooks, Method, Options, Request, Sampling};
use llada_model::Config;
use llada_text::{StopStrings, Tokenizer, Vocabulary};

pub(super) use self::answer::to_json;
pub(super) use self::draft::{Slots, Speller};
pub(super) use self::policy::EditIds;
pub(super) use self::rows::{Prompt, Row};
pub(super) use self::text::{AnswerText, joint};
use super::gguf::read_tokenizer;
use crate::args::{DecodingArgs, IdArgs};
use crate::failure;

/// What a checkpoint says about its tokens, without its weights.
pub(super) struct Checkpoint {
    pub(super) tokenizer: Option<Tokenizer>,
    options: Options,
    method: Method,
    edit_ids: EditIds,
    vocab_size: usize,
    vocabulary: OnceCell<Vocabulary>,
}

/// A request, and what its text is made with.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) hooks: Hooks,
    pub(super) settings: DecodingArgs,
    /// `file:line` of its row, for messages.
    pub(super) place: Option<String>,
}

impl Checkpoint {
    /// Reads the configuration and the tokenizer, which may be lacking.
    pub(super) fn open(dir: &Path, ids: &IdArgs, ar: bool) -> anyhow::Result<Self> {
        let config = Config::of_checkpoint(dir)?;
        let mut options = Options::new(&config);
        options.mask_token_id = ids.mask_id.or(options.mask_token_id);
        if let Some(id) = ids.eos_id {
            options.eos_token_ids = vec![id];
        }
        Ok(Self {
            tokenizer: tokenizer(dir)?,
            options,
            method: match ar {
                true => Method::Autoregression,
                false => Method::BlockDiffusion,
            },
            edit_ids: EditIds {
                delete: ids.delete_id.or(config.delete_token_id),
                split: ids.split_id.or(config.split_token_id),
            },
            vocab_size: config.vocab_size,
            vocabulary: OnceCell::new(),
        })
    }

    /// Returns the engine's options for `slots` requests together in `pages` pages.
    pub(super) fn options(&self, slots: usize, pages: Option<usize>) -> Options {
        let capacity = self.options.capacity;
        Options {
            capacity: Capacity {
                slots,
                pages: pages.unwrap_or(capacity.pages),
                ..capacity
            },
            ..self.options.clone()
        }
    }

    /// Returns the tokenizer, which `what` needs.
    pub(super) fn tokenizer_for(&self, what: &str) -> anyhow::Result<&Tokenizer> {
        let tokenizer = self.tokenizer.as_ref();
        tokenizer.ok_or_else(|| failure::usage(format!("{what} needs a tokenizer; none was found")))
    }

    /// Makes the request that a row asks for. What the row leaves out, `defaults` say.
    pub(super) fn job(&self, row: Row, defaults: &DecodingArgs) -> anyhow::Result<Job> {
        let place = row.place.clone();
        failure::at(place.as_deref(), self.placeless_job(row, defaults))
    }

    fn placeless_job(&self, row: Row, defaults: &DecodingArgs) -> anyhow::Result<Job> {
        let prompt = match row.prompt {
            Prompt::Ids(ids) => ids,
            Prompt::Text(text) => self
                .tokenizer_for("a prompt of text")?
                .encode(&text)
                .map_err(failure::usage)?,
        };
        let settings = row.settings.or(defaults);
        if self.method == Method::Autoregression {
            policy::refuse_blocks(&settings)?;
        }
        Ok(Job {
            request: self.request(prompt, &settings)?,
            hooks: self.hooks(&settings)?,
            settings,
            place: row.place,
        })
    }

    fn request(&self, prompt: Vec<u32>, settings: &DecodingArgs) -> anyhow::Result<Request> {
        let ignore_eos = settings.ignore_eos == Some(true);
        let mut stop_ids = settings.stop_token_ids.clone().unwrap_or_default();
        if !ignore_eos {
            stop_ids.extend(self.role_end());
        }
        Ok(Request {
            method: self.method,
            block_length: settings.block_length,
            policy: policy::policy(settings, self.edit_ids)?,
            schedule: policy::schedule(settings)?,
            sampling: sampling(settings),
            stop_ids,
            ignore_eos,
            trace: settings.trace == Some(true),
            ..Request::new(prompt, settings.max_new_tokens.unwrap_or(256))
        })
    }

    fn hooks(&self, settings: &DecodingArgs) -> anyhow::Result<Hooks> {
        let stop = match settings.stop.as_deref().unwrap_or_default() {
            [] => None,
            _ => Some(hooks::stop_rule(self.stop_strings("`stop`", settings)?)),
        };
        let constraint = match hooks::Language::of(settings)? {
            Some(language) => Some(language.constraint(self.vocabulary()?)?),
            None => None,
        };
        Ok(Hooks { constraint, stop })
    }

    fn stop_strings(&self, what: &str, settings: &DecodingArgs) -> anyhow::Result<StopStrings> {
        let tokenizer = self.tokenizer_for(what)?.clone();
        let stops = settings.stop.clone().unwrap_or_default();
        StopStrings::new(tokenizer, stops).map_err(failure::usage)
    }

    /// Returns the tokens as grammars see them, made when the first one is asked for.
    fn vocabulary(&self) -> anyhow::Result<&Vocabulary> {
        if self.vocabulary.get().is_none() {
            let tokenizer = self.tokenizer_for("a grammar")?;
            let mut ends = self.options.eos_token_ids.clone();
            ends.extend(self.role_end());
            let made =
                Vocabulary::new(tokenizer, self.vocab_size, &ends).map_err(failure::usage)?;
            return Ok(self.vocabulary.get_or_init(|| made));
        }
        Ok(self.vocabulary.get().expect("just looked"))
    }

    fn role_end(&self) -> Option<u32> {
        self.tokenizer.as_ref()?.specials().role_end
    }

    /// Starts the text of a job's answer.
    pub(super) fn text(&self, job: &Job) -> anyhow::Result<AnswerText> {
        let mut ends = job.request.stop_ids.clone();
        if !job.request.ignore_eos {
            ends.extend(&self.options.eos_token_ids);
        }
        Ok(AnswerText::new(
            self.stop_strings("text", &job.settings)?,
            ends,
        ))
    }
}

/// Loads the tokenizer of a checkpoint that has one.
pub(super) fn tokenizer(dir: &Path) -> anyhow::Result<Option<Tokenizer>> {
    if dir.is_file() {
        return read_tokenizer(dir);
    }
    match Tokenizer::load(dir) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(_) if !has_tokenizer(dir) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn has_tokenizer(dir: &Path) -> bool {
    ["tokenizer.json", "vocab.json", "encoder.json"]
        .iter()
        .any(|name| dir.join(name).exists())
}

fn sampling(settings: &DecodingArgs) -> Sampling {
    let default = Sampling::default();
    let biases = settings.logit_bias.iter().flatten();
    Sampling {
        temperature: settings.temperature.unwrap_or(default.temperature),
        top_k: settings.top_k.unwrap_or(default.top_k),
        top_p: settings.top_p.unwrap_or(default.top_p),
        min_p: settings.min_p.unwrap_or(default.min_p),
        repetition_penalty: settings
            .repetition_penalty
            .unwrap_or(default.repetition_penalty),
        presence_penalty: settings
            .presence_penalty
            .unwrap_or(default.presence_penalty),
        frequency_penalty: settings
            .frequency_penalty
            .unwrap_or(default.frequency_penalty),
        logit_bias: biases.map(|bias| (bias.id, bias.bias)).collect(),
        seed: settings.seed.unwrap_or(default.seed),
    }
}
