//! The items of a task put to a checkpoint: asked together, answered by the engine, judged.

use std::path::Path;

use llada_engine::{Answer, Engine};
use llada_eval::sandbox::Sandbox;
use llada_eval::{Ask, Item, Judge, PromptSpec, Task, add_shots, answer_in_order, read_items};
use llada_model::{Config, Model};
use llada_request::{AnswerText, Settings};

use super::asker::{Asker, text_of};
use super::eval::{programs_at_once, sandbox, usage};
use crate::args::{IdArgs, PrecisionArgs};
use crate::failure;

/// A task, and how a checkpoint is asked.
pub(super) struct Examiner {
    task: Task,
    prompt: PromptSpec,
    sandbox: Option<Sandbox>,
    asker: Asker,
    config: Config,
}

/// An item and what is asked about it.
pub(super) struct Question {
    item: Item,
    text: String,
}

/// What was asked, what the model said, and whether it is right.
pub(super) struct Answered {
    pub(super) prompt: Vec<u32>,
    pub(super) answer: Answer,
    pub(super) is_right: bool,
}

impl Examiner {
    /// Opens the checkpoint that is asked.
    pub(super) fn new(task: Task, prompt: PromptSpec, checkpoint: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            sandbox: sandbox([&task], false)?,
            asker: Asker::new(
                checkpoint,
                &IdArgs::default(),
                &PrecisionArgs::default(),
                false,
            )?,
            config: Config::of_checkpoint(checkpoint)?,
            task,
            prompt,
        })
    }

    /// Reads the items of a file, and checks that each can be asked under `settings`.
    pub(super) fn questions(
        &self,
        path: &Path,
        settings: &Settings,
    ) -> anyhow::Result<Vec<Question>> {
        let judge = self.judge()?;
        let mut items = read_items(&self.task, path).map_err(usage)?;
        if self.task.uses_shots(self.asker.is_chat()) {
            add_shots(&self.task, path, &mut items).map_err(usage)?;
        }
        let question = |item: Item| {
            let text = judge.prompt(&item, self.asker.is_chat()).map_err(usage)?;
            let place = format!("`{}`, item {}", path.display(), item.id);
            let question = Question { item, text };
            failure::at(Some(&place), self.check(&question, settings))?;
            Ok(question)
        };
        items.into_iter().map(question).collect()
    }

    fn check(&self, question: &Question, settings: &Settings) -> anyhow::Result<()> {
        let (ask, _) = self.ask(question, settings)?;
        let checked = ask.request.check(&self.asker.options(1), &self.config);
        checked.map_err(failure::usage)
    }

    /// Makes the request for a question, and what reads its answer.
    pub(super) fn ask(
        &self,
        question: &Question,
        settings: &Settings,
    ) -> anyhow::Result<(Ask, AnswerText)> {
        self.asker.ask(&question.text, &self.prompt, settings)
    }

    /// Returns the block length under which answers are written, if the settings or the checkpoint say one.
    pub(super) fn block_length(&self, settings: &Settings) -> Option<usize> {
        settings.block_length.or(self.asker.block_length())
    }

    /// Has questions answered together, `slots` at a time, and judges the answers.
    pub(super) fn answers(
        &self,
        model: &Model,
        slots: usize,
        asked: &[(&Question, Settings)],
    ) -> anyhow::Result<Vec<Answered>> {
        let asks = asked
            .iter()
            .map(|(question, settings)| self.ask(question, settings));
        let asks = asks.collect::<anyhow::Result<Vec<_>>>()?;
        let (asks, texts): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
        let prompts: Vec<_> = asks.iter().map(|ask| ask.request.prompt.clone()).collect();
        let mut engine = Engine::new(model, self.asker.options(slots)).map_err(failure::usage)?;
        let mut answers = Vec::new();
        answer_in_order(&mut engine, asks, |wave| {
            answers.extend(wave.into_iter().map(|served| served.answer));
            Ok::<_, llada_eval::Error>(())
        })?;
        let texts = texts.into_iter().zip(&answers);
        let texts = texts.map(|(text, answer)| text_of(text, answer));
        let texts = texts.collect::<anyhow::Result<Vec<_>>>()?;
        let pairs = asked.iter().zip(&texts);
        let pairs: Vec<_> = pairs
            .map(|((question, _), text)| (&question.item, text.as_str()))
            .collect();
        let judged = self.judge()?.judge(&pairs)?;
        let answered = prompts.into_iter().zip(answers).zip(judged);
        let answered = answered.map(|((prompt, answer), judgement)| Answered {
            prompt,
            answer,
            is_right: judgement.correct,
        });
        Ok(answered.collect())
    }

    fn judge(&self) -> anyhow::Result<Judge<'_>> {
        Judge::new(&self.task, self.sandbox.as_ref(), programs_at_once()).map_err(usage)
    }
}
