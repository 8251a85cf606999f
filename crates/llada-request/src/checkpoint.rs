//! What a checkpoint says about its tokens, and the requests that can be made of it.

use std::sync::OnceLock;

use llada_engine::{Capacity, Hooks, Method, Options, Request, Sampling};
use llada_text::{StopStrings, Tokenizer, Vocabulary};

use crate::error::{Error, Result};
use crate::policy::EditIds;
use crate::{AnswerText, Settings, hooks, policy};

/// What a checkpoint says about its tokens, without its weights.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its tokenizer, which may be lacking.
    pub tokenizer: Option<Tokenizer>,
    options: Options,
    method: Method,
    edit_ids: EditIds,
    vocab_size: usize,
    vocabulary: OnceLock<Vocabulary>,
}

/// A request, and what its text is made with.
#[derive(Debug)]
pub struct Job {
    /// What the engine is asked.
    pub request: Request,
    /// Rules of the request that know its text.
    pub hooks: Hooks,
    /// What the request was made from.
    pub settings: Settings,
}

impl Checkpoint {
    /// Puts together what is known of a checkpoint with `vocab_size` embedding rows, whose texts are
    /// written by `method`.
    pub fn new(
        tokenizer: Option<Tokenizer>,
        options: Options,
        method: Method,
        edit_ids: EditIds,
        vocab_size: usize,
    ) -> Self {
        Self {
            tokenizer,
            options,
            method,
            edit_ids,
            vocab_size,
            vocabulary: OnceLock::new(),
        }
    }

    /// Returns the engine's options for `slots` requests together in `pages` pages.
    pub fn options(&self, slots: usize, pages: Option<usize>) -> Options {
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

    /// Returns whether texts are written token by token.
    pub fn is_autoregressive(&self) -> bool {
        self.method == Method::Autoregression
    }

    /// Returns the block length of requests that name none, if there is one.
    pub fn block_length(&self) -> Option<usize> {
        self.options
            .block_size
            .filter(|_| !self.is_autoregressive())
    }

    /// Returns the tokenizer, which `what` needs.
    ///
    /// # Errors
    /// If there is none.
    pub fn tokenizer_for(&self, what: &'static str) -> Result<&Tokenizer> {
        let tokenizer = self.tokenizer.as_ref();
        tokenizer.ok_or(Error::NoTokenizer { what })
    }

    /// Returns the ids of a prompt, with what the tokenizer adds to a document.
    ///
    /// # Errors
    /// If there is no tokenizer, or it cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer_for("a prompt of text")?.encode(text)?)
    }

    /// Makes the request that the settings describe.
    ///
    /// # Errors
    /// If a setting has no effect, contradicts another one or cannot be used with this checkpoint.
    pub fn job(&self, prompt: Vec<u32>, settings: Settings) -> Result<Job> {
        if self.method == Method::Autoregression {
            policy::refuse_blocks(&settings)?;
        }
        Ok(Job {
            request: self.request(prompt, &settings)?,
            hooks: self.hooks(&settings)?,
            settings,
        })
    }

    fn request(&self, prompt: Vec<u32>, settings: &Settings) -> Result<Request> {
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
            top_logprobs: policy::top_logprobs(settings)?,
            trace: settings.trace == Some(true),
            ..Request::new(prompt, settings.max_new_tokens.unwrap_or(256))
        })
    }

    fn hooks(&self, settings: &Settings) -> Result<Hooks> {
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

    fn stop_strings(&self, what: &'static str, settings: &Settings) -> Result<StopStrings> {
        let tokenizer = self.tokenizer_for(what)?.clone();
        let stops = settings.stop.clone().unwrap_or_default();
        Ok(StopStrings::new(tokenizer, stops)?)
    }

    /// Returns the tokens as grammars see them, made when the first one is asked for.
    fn vocabulary(&self) -> Result<&Vocabulary> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let tokenizer = self.tokenizer_for("a grammar")?;
        let mut ends = self.options.eos_token_ids.clone();
        ends.extend(self.role_end());
        let made = Vocabulary::new(tokenizer, self.vocab_size, &ends)?;
        Ok(self.vocabulary.get_or_init(|| made))
    }

    fn role_end(&self) -> Option<u32> {
        self.tokenizer.as_ref()?.specials().role_end
    }

    /// Starts the text of an answer to a request that was made from `settings`.
    ///
    /// # Errors
    /// If there is no tokenizer.
    pub fn text(&self, request: &Request, settings: &Settings) -> Result<AnswerText> {
        let mut ends = request.stop_ids.clone();
        if !request.ignore_eos {
            ends.extend(&self.options.eos_token_ids);
        }
        Ok(AnswerText::new(self.stop_strings("text", settings)?, ends))
    }
}

fn sampling(settings: &Settings) -> Sampling {
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
