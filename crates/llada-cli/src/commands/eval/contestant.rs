//! A model that is evaluated: prompts and requests in its own words, likelihoods in its own mode.

use std::path::Path;

use llada_engine::{Options, Savings};
use llada_eval::report::BASELINE;
use llada_eval::{Ask, PromptSpec};
use llada_model::Model;
use llada_request::AnswerText;
use llada_train::data::{Document, Span};
use llada_train::{Mode, Total, nll_of_each};

use super::settings::Setting;
use crate::args::EvalRunArgs;
use crate::commands::asker::Asker;
use crate::commands::load_model;
use crate::failure;

/// A model and how it is asked.
pub(super) struct Contestant {
    pub settings: Vec<Setting>,
    /// What likelihoods are called in the results.
    pub likelihood: String,
    asker: Asker,
    model: Model,
    mode: Mode,
    draws: usize,
}

impl Contestant {
    pub(super) fn new(
        args: &EvalRunArgs,
        dir: &Path,
        settings: Vec<Setting>,
    ) -> anyhow::Result<Self> {
        let default = if args.model.ar { "ar" } else { "block:1" };
        let likelihood = args.likelihood.as_deref().unwrap_or(default);
        Self::open(args, dir, args.model.ar, settings, likelihood)
    }

    /// Opens a parent, which writes token by token.
    pub(super) fn baseline(args: &EvalRunArgs, dir: &Path) -> anyhow::Result<Self> {
        let decoding = args.decoding.without_blocks();
        let setting = Setting {
            name: BASELINE.to_owned(),
            decoding,
        };
        let contestant = Self::open(args, dir, true, vec![setting], "ar")?;
        Ok(Self {
            likelihood: BASELINE.to_owned(),
            ..contestant
        })
    }

    fn open(
        args: &EvalRunArgs,
        dir: &Path,
        ar: bool,
        settings: Vec<Setting>,
        likelihood: &str,
    ) -> anyhow::Result<Self> {
        let mode = super::nll::mode("--likelihood", likelihood)?;
        let (ids, precision) = (&args.model.ids, &args.model.precision);
        let asker = match args.plain {
            true => Asker::plain(dir, ids, precision, ar)?,
            false => Asker::new(dir, ids, precision, ar)?,
        };
        Ok(Self {
            settings,
            likelihood: likelihood.to_owned(),
            asker,
            model: load_model(dir, precision.products.into())?,
            mode,
            draws: args.draws.get(),
        })
    }

    /// Whether questions are put as a user's message.
    pub(super) fn is_chat(&self) -> bool {
        self.asker.is_chat()
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Returns options under which no request profits from an earlier one, so that costs compare.
    pub(super) fn options(&self, slots: usize) -> Options {
        let options = self.asker.options(slots);
        let savings = Savings {
            prefix_cache: false,
            ..options.savings
        };
        Options { savings, ..options }
    }

    /// Makes the request for a question, and what reads its answer.
    pub(super) fn ask(
        &self,
        question: &str,
        spec: &PromptSpec,
        setting: &Setting,
        sample: usize,
    ) -> anyhow::Result<(Ask, AnswerText)> {
        let (mut ask, text) = self.asker.ask(question, spec, &setting.decoding)?;
        // The first answer is that of a run with one.
        let seed = &mut ask.request.sampling.seed;
        *seed = seed.wrapping_add(sample as u64);
        Ok((ask, text))
    }

    /// Returns the likelihood of each continuation after its context.
    ///
    /// A tokenizer may join the end of a context with what follows. So scoring begins at the first
    /// token that any continuation of the same context changes: all of them are scored on the same text.
    pub(super) fn likelihoods(&self, texts: &[(&str, &str)]) -> anyhow::Result<Vec<Total>> {
        let joined = texts
            .iter()
            .map(|(context, continuation)| self.joined(context, continuation));
        let joined = joined.collect::<anyhow::Result<Vec<_>>>()?;
        let first = |context: &str| {
            let same = texts.iter().zip(&joined);
            let same = same.filter(|((other, _), _)| *other == context);
            same.map(|(_, joined)| joined.context_len)
                .min()
                .unwrap_or(0)
        };
        let documents: Vec<Document> = texts
            .iter()
            .zip(&joined)
            .map(|((context, _), joined)| {
                let span = Span {
                    range: first(context)..joined.ids.len(),
                    ends_turn: false,
                };
                Document::new(joined.ids.clone(), vec![span])
            })
            .collect();
        Ok(nll_of_each(&self.model, &documents, self.mode, self.draws)?)
    }

    /// Returns the likelihood of a text, in pieces as long as the model's context. The first token of
    /// each is given.
    pub(super) fn text_likelihood(&self, text: &str) -> anyhow::Result<Total> {
        let tokenizer = self.asker.tokenizer()?;
        let ids = tokenizer.encode(text).map_err(failure::usage)?;
        let pieces = ids.chunks(self.model.config.max_position_embeddings);
        let documents: Vec<Document> = pieces.map(|ids| Document::text(ids.to_vec())).collect();
        let totals = nll_of_each(&self.model, &documents, self.mode, self.draws)?;
        let sum = |sum: Total, total: &Total| Total {
            nll: sum.nll + total.nll,
            tokens: sum.tokens + total.tokens,
        };
        Ok(totals.iter().fold(
            Total {
                nll: 0.0,
                tokens: 0,
            },
            sum,
        ))
    }

    /// Encodes both together, as they would stand in a text; the prompt ends where this differs from
    /// the context alone.
    fn joined(&self, context: &str, continuation: &str) -> anyhow::Result<Joined> {
        let tokenizer = self.asker.tokenizer()?;
        let alone = tokenizer.encode(context).map_err(failure::usage)?;
        let ids = tokenizer
            .encode(&format!("{context}{continuation}"))
            .map_err(failure::usage)?;
        let most = self.model.config.max_position_embeddings;
        if ids.len() > most {
            let message = format!("a choice has {} tokens, the model reads {most}", ids.len());
            return Err(failure::usage(message));
        }
        let context_len = alone.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        Ok(Joined { ids, context_len })
    }
}

/// A context and its continuation as one text.
struct Joined {
    ids: Vec<u32>,
    /// Tokens that are those of the context alone.
    context_len: usize,
}
