//! Answers of a policy for recipes with `[ebpo]`: prompts of a task, the engine as it will serve, and the
//! task's verdict as reward.

use anyhow::Context;
use llada_diffusion::{Rng, Stream};
use llada_engine::{Engine, FinishReason};
use llada_eval::sandbox::Sandbox;
use llada_eval::{
    Item, Judge, Judgement, PromptSpec, Task, add_shots, answer_in_order, read_items,
};
use llada_model::Model;
use llada_request::Settings;
use llada_train::data::Drawn;
use llada_train::recipe::{Ebpo, Paths};
use llada_train::rollout::{Environment, Group, Rollout};
use llada_train::{Error, Recipe};

use crate::args::{IdArgs, PrecisionArgs};
use crate::commands::asker::{Asker, text_of};
use crate::commands::eval::{programs_at_once, sandbox, usage};
use crate::failure;

/// Requests that run together. Answers do not depend on it.
const SLOTS: usize = 64;

/// The prompts of a recipe, and how they are answered and judged.
pub(super) struct Practice<'a> {
    recipe: &'a Recipe,
    ebpo: &'a Ebpo,
    decoder: Settings,
    task: Task,
    prompt: PromptSpec,
    sandbox: Option<Sandbox>,
    asker: Asker,
    questions: Vec<Question>,
    /// How many of them are of each source, and its weight.
    sources: Vec<(usize, f64)>,
    held_out: Vec<Question>,
}

/// An item and what is asked about it.
struct Question {
    item: Item,
    text: String,
}

impl<'a> Practice<'a> {
    /// Reads the rows and checks that each can be asked.
    pub(super) fn open(recipe: &'a Recipe, ebpo: &'a Ebpo) -> anyhow::Result<Self> {
        let (task, prompt) = task(ebpo)?;
        let path = recipe.model.path.as_deref();
        let path = path.context("a recipe with `[ebpo]` names a checkpoint")?;
        let mut practice = Self {
            recipe,
            ebpo,
            decoder: decoder(recipe, ebpo)?,
            sandbox: sandbox([&task], false)?,
            asker: Asker::new(path, &IdArgs::default(), &PrecisionArgs::default(), false)?,
            task,
            prompt,
            questions: Vec::new(),
            sources: Vec::new(),
            held_out: Vec::new(),
        };
        for (paths, weight) in recipe.data.train.weighted().map_err(failure::usage)? {
            let questions = practice.read(&Paths(paths))?;
            practice.sources.push((questions.len(), weight));
            practice.questions.extend(questions);
        }
        practice.held_out = practice.read(&recipe.data.valid)?;
        if recipe.train.eval_documents > 0 {
            practice.held_out.truncate(recipe.train.eval_documents);
        }
        Ok(practice)
    }

    fn read(&self, paths: &Paths) -> anyhow::Result<Vec<Question>> {
        let judge = self.judge()?;
        let mut questions = Vec::new();
        for path in &paths.0 {
            let mut items = read_items(&self.task, path).map_err(usage)?;
            if self.task.uses_shots(self.asker.is_chat()) {
                add_shots(&self.task, path, &mut items).map_err(usage)?;
            }
            for item in items {
                let text = judge.prompt(&item, self.asker.is_chat()).map_err(usage)?;
                let place = format!("`{}`, item {}", path.display(), item.id);
                failure::at(Some(&place), self.check(&text))?;
                questions.push(Question { item, text });
            }
        }
        Ok(questions)
    }

    /// Checks that a question can be asked, and leaves room for its answer.
    fn check(&self, question: &str) -> anyhow::Result<()> {
        let (ask, _) = self.asker.ask(question, &self.prompt, &self.decoder)?;
        let (prompt, answer) = (ask.request.prompt.len(), ask.request.max_new_tokens);
        let max_len = self.recipe.data.max_len;
        if prompt + answer <= max_len {
            return Ok(());
        }
        Err(failure::usage(format!(
            "a prompt of {prompt} tokens and an answer of up to {answer} are longer than \
             `data.max_len` ({max_len}); raise it, or lower `ebpo.decoder.max_new_tokens`"
        )))
    }

    fn judge(&self) -> anyhow::Result<Judge<'_>> {
        Judge::new(&self.task, self.sandbox.as_ref(), programs_at_once()).map_err(usage)
    }

    /// Returns the settings of an answer to a prompt that is drawn.
    fn settings(&self, drawn: Drawn, sample: usize) -> Settings {
        let rng = Rng::new(self.recipe.train.seed, Stream::Sample);
        let [low, high, ..] = rng.at(drawn.epoch, drawn.document as u64, sample as u32);
        Settings {
            temperature: Some(self.ebpo.temperature),
            seed: Some(u64::from(high) << 32 | u64::from(low)),
            ..self.decoder.clone()
        }
    }

    /// Answers questions together, and judges the answers.
    fn rollouts(
        &self,
        policy: &Model,
        asked: &[(&Question, Settings)],
    ) -> anyhow::Result<Vec<(Vec<u32>, Rollout)>> {
        let ask = |(question, settings): &(&Question, Settings)| {
            self.asker.ask(&question.text, &self.prompt, settings)
        };
        let asks = asked.iter().map(ask).collect::<anyhow::Result<Vec<_>>>()?;
        let (asks, texts): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
        let prompts: Vec<_> = asks.iter().map(|ask| ask.request.prompt.clone()).collect();
        let mut packed = policy.clone(); // shares the values
        packed.pack();
        let mut engine = Engine::new(&packed, self.asker.options(SLOTS))?;
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
        let rollouts = answers.into_iter().zip(judged).map(rollout);
        Ok(prompts.into_iter().zip(rollouts).collect())
    }
}

fn rollout((answer, judgement): (llada_engine::Answer, Judgement)) -> Rollout {
    Rollout {
        ids: answer.output_ids,
        is_complete: answer.finish_reason == FinishReason::Stop,
        reward: f64::from(u8::from(judgement.correct)),
        forwards: answer.forwards.denoise,
    }
}

impl Environment for Practice<'_> {
    fn sources(&self) -> Vec<(usize, f64)> {
        self.sources.clone()
    }

    fn answer(&mut self, policy: &Model, drawn: &[Drawn]) -> llada_train::Result<Vec<Group>> {
        let size = self.ebpo.group_size;
        let practice = &*self;
        let of_prompt = |&drawn: &Drawn| {
            let question = &practice.questions[drawn.document];
            (0..size).map(move |sample| (question, practice.settings(drawn, sample)))
        };
        let asked: Vec<_> = drawn.iter().flat_map(of_prompt).collect();
        groups(self.rollouts(policy, &asked), size)
    }

    fn answer_held_out(&mut self, policy: &Model) -> llada_train::Result<Vec<Group>> {
        let asked = self.held_out.iter();
        let asked: Vec<_> = asked
            .map(|question| (question, self.decoder.clone()))
            .collect();
        groups(self.rollouts(policy, &asked), 1)
    }
}

/// Returns the answers by prompt, `size` of them to each.
fn groups(
    rollouts: anyhow::Result<Vec<(Vec<u32>, Rollout)>>,
    size: usize,
) -> llada_train::Result<Vec<Group>> {
    let rollouts = rollouts.map_err(|error| Error::Environment(error.into()))?;
    let group = |rollouts: &[(Vec<u32>, Rollout)]| Group {
        prompt: rollouts[0].0.clone(),
        rollouts: rollouts
            .iter()
            .map(|(_, rollout)| rollout.clone())
            .collect(),
    };
    Ok(rollouts.chunks(size).map(group).collect())
}

/// Checks what `[ebpo]` says of a task and of a decoder, for whoever only plans.
pub(super) fn check(recipe: &Recipe, ebpo: &Ebpo) -> anyhow::Result<()> {
    decoder(recipe, ebpo)?;
    task(ebpo).map(drop)
}

/// Returns the task and what it asks.
fn task(ebpo: &Ebpo) -> anyhow::Result<(Task, PromptSpec)> {
    let task = Task::find(&ebpo.task);
    let task = task.map_err(|error| failure::usage(format!("recipe: `ebpo.task`: {error}")))?;
    match task.prompt.clone() {
        Some(prompt) => Ok((task, prompt)),
        None => Err(failure::usage(format!(
            "recipe: `ebpo.task` is `{}`, which measures likelihoods; name a task that judges answers",
            task.name
        ))),
    }
}

/// Returns the settings with which the model is served.
fn decoder(recipe: &Recipe, ebpo: &Ebpo) -> anyhow::Result<Settings> {
    let refuse = |problem: String| failure::usage(format!("recipe: `ebpo.decoder`: {problem}"));
    let settings: Settings = ebpo
        .decoder
        .clone()
        .try_into()
        .map_err(|error| refuse(error.to_string()))?;
    if let Some(name) = settings.records() {
        return Err(refuse(format!(
            "`{name}` adds to the JSON of an answer, which nobody reads here"
        )));
    }
    Ok(Settings {
        block_length: recipe.objective.block_size,
        ..settings
    })
}
