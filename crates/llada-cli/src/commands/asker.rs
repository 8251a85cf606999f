//! Questions of tasks as requests, in a checkpoint's own words.

use std::path::Path;

use anyhow::Context;
use llada_engine::{Answer, Options};
use llada_eval::{Ask, PromptSpec};
use llada_request::{AnswerText, Checkpoint, Settings};
use llada_text::Tokenizer;

use super::chat::Dialogue;
use super::decoding;
use crate::args::{IdArgs, PrecisionArgs};
use crate::failure;

/// How a checkpoint is asked.
#[derive(Debug)]
pub(super) struct Asker {
    checkpoint: Checkpoint,
    dialogue: Dialogue,
}

impl Asker {
    /// Opens a checkpoint that answers as its chat template has it, if there is one.
    pub(super) fn new(
        dir: &Path,
        ids: &IdArgs,
        precision: &PrecisionArgs,
        ar: bool,
    ) -> anyhow::Result<Self> {
        let checkpoint = decoding::open(dir, ids, precision, ar)?;
        let dialogue = Dialogue::new(&checkpoint)?;
        Ok(Self {
            checkpoint,
            dialogue,
        })
    }

    /// Opens a checkpoint that continues plain prompts.
    pub(super) fn plain(
        dir: &Path,
        ids: &IdArgs,
        precision: &PrecisionArgs,
        ar: bool,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            checkpoint: decoding::open(dir, ids, precision, ar)?,
            dialogue: Dialogue::Text(Vec::new()),
        })
    }

    /// Whether questions are put as a user's message.
    pub(super) fn is_chat(&self) -> bool {
        !self.dialogue.is_plain_text()
    }

    /// Returns the tokenizer.
    pub(super) fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        let tokenizer = self.checkpoint.tokenizer_for("a task");
        tokenizer.map_err(failure::usage)
    }

    /// Returns the engine's options for `slots` requests together.
    pub(super) fn options(&self, slots: usize) -> Options {
        self.checkpoint.options(slots, None)
    }

    /// Returns the block length of questions whose settings name none, if there is one.
    pub(super) fn block_length(&self) -> Option<usize> {
        self.checkpoint.block_length()
    }

    /// Makes the request for a question, and what reads its answer.
    pub(super) fn ask(
        &self,
        question: &str,
        spec: &PromptSpec,
        decoding: &Settings,
    ) -> anyhow::Result<(Ask, AnswerText)> {
        let ids = self.dialogue.prompt(self.tokenizer()?, question)?;
        let stop = (!self.is_chat() && !spec.stop.is_empty()).then(|| spec.stop.clone());
        let of_task = Settings {
            max_new_tokens: Some(spec.max_new_tokens),
            stop,
            ..Settings::default()
        };
        let settings = decoding.clone().or(&of_task);
        let job = self.checkpoint.job(ids, settings).map_err(failure::usage)?;
        let text = self.checkpoint.text(&job.request, &job.settings);
        let ask = Ask {
            request: job.request,
            hooks: job.hooks,
        };
        Ok((ask, text.map_err(failure::usage)?))
    }
}

/// Returns the text of a whole answer.
pub(super) fn text_of(text: AnswerText, answer: &Answer) -> anyhow::Result<String> {
    text.of(&answer.output_ids)
        .context("cannot decode an answer")
}
