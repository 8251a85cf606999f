//! `llada eval run`: tasks, settings and models in turn, every finished item kept.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use indicatif::ProgressBar;
use llada_engine::Engine;
use llada_eval::report::{Comparison, Run};
use llada_eval::sandbox::Sandbox;
use llada_eval::{
    Cost, Error, Item, Judge, Record, Results, Scorer, Served, Summary, Task, add_shots,
    answer_in_order, read_items, report, score_so_far,
};
use serde_json::Value;

use super::asked::asked;
use super::contestant::Contestant;
use super::data;
use super::record::{Slot, answered, chosen, cost, perplexity, questions, slots};
use super::score::{programs_at_once, sandbox, usage};
use super::settings::{Setting, settings};
use crate::args::EvalRunArgs;
use crate::commands::asker::text_of;
use crate::commands::{models, quantised};
use crate::{failure, ui};

pub(super) fn run(args: &EvalRunArgs) -> anyhow::Result<()> {
    let subjects = subjects(args)?;
    let settings = settings(&args.sweep, &args.decoding)?;
    refuse_equal_samples(args, &settings)?;
    let sandbox = sandbox(
        subjects.iter().map(|subject| &subject.task),
        args.unsafe_exec,
    )?;
    let model = quantised::open(&args.model.dir, args.weights.quant)?;
    let baseline = args.baseline.as_deref().map(models::whole).transpose()?;
    let asked = asked(args, &model, baseline.as_deref(), &subjects)?;
    let results = Results::open(&args.out, &asked).map_err(usage)?;
    let mut session = Session {
        args,
        subjects: &subjects,
        sandbox: sandbox.as_ref(),
        results,
    };
    session.evaluate(&Contestant::new(args, &model, settings)?)?;
    if let Some(parent) = &baseline {
        session.evaluate(&Contestant::baseline(args, parent)?)?;
    }
    let title = args.model.dir.display().to_string();
    let run = Run::new(title.clone(), session.results.rows(), &asked)?;
    let path = args.out.join("report.html");
    report::write(&path, &title, std::slice::from_ref(&run))?;
    print(args, &run)?;
    ui::say(format!("report: {}", path.display()));
    Ok(())
}

/// A task and what is asked.
pub(super) struct Subject {
    pub(super) task: Task,
    /// Its data file, or the directory in which it lies.
    pub(super) data: PathBuf,
    items: Vec<Item>,
}

/// Reads the tasks and their items.
fn subjects(args: &EvalRunArgs) -> anyhow::Result<Vec<Subject>> {
    let read = |name: &String| {
        let mut task = Task::find(name).map_err(usage)?;
        if let (Some(count), Some(shots)) = (args.shots, &mut task.shots) {
            shots.count = count;
        }
        let data = data::locate(&mut task, args.data.as_deref())?;
        let mut items = read_items(&task, &data).map_err(usage)?;
        items.truncate(args.limit.map_or(usize::MAX, Into::into));
        Ok(Subject { task, data, items })
    };
    let subjects: Vec<Subject> = args.tasks.iter().map(read).collect::<anyhow::Result<_>>()?;
    for (index, Subject { task, .. }) in subjects.iter().enumerate() {
        let mut before = subjects[..index].iter();
        if before.any(|before| before.task.name == task.name) {
            return Err(failure::usage(format!(
                "--tasks: `{}` is asked for twice",
                task.name
            )));
        }
    }
    Ok(subjects)
}

/// Refuses several answers per item where all would be the same.
fn refuse_equal_samples(args: &EvalRunArgs, settings: &[Setting]) -> anyhow::Result<()> {
    let is_random = |setting: &Setting| setting.decoding.temperature.is_some_and(|t| t > 0.0);
    match settings.iter().find(|setting| !is_random(setting)) {
        Some(setting) if args.samples.get() > 1 => Err(failure::usage(format!(
            "--samples {}: all answers of `{}` would be the same; set --temperature above 0",
            args.samples, setting.name
        ))),
        _ => Ok(()),
    }
}

fn print(args: &EvalRunArgs, run: &Run) -> anyhow::Result<()> {
    if !args.json {
        return print_table(run);
    }
    for summary in &run.summaries {
        let mut row = serde_json::to_value(summary)?;
        let is_row =
            |other: &&Comparison| other.task == summary.task && other.setting == summary.setting;
        row["against_baseline"] = match run.comparisons.iter().find(is_row) {
            Some(comparison) => serde_json::to_value(comparison.paired)?,
            None => Value::Null,
        };
        ui::line(row)?;
    }
    Ok(())
}

/// Prints the table of a run.
pub(super) fn print_table(run: &Run) -> anyhow::Result<()> {
    let rows: Vec<_> = run.summaries.iter().map(Summary::cells).collect();
    ui::line(ui::table(&Summary::HEADER, &rows).trim_end())
}

/// All that stays the same from model to model.
struct Session<'a> {
    args: &'a EvalRunArgs,
    subjects: &'a [Subject],
    sandbox: Option<&'a Sandbox>,
    results: Results,
}

impl Session<'_> {
    /// Finishes every task under every setting of a model.
    fn evaluate(&mut self, contestant: &Contestant) -> anyhow::Result<()> {
        for subject in self.subjects {
            let task = &subject.task;
            let items = with_shots(subject, contestant.is_chat())?;
            if task.needs_likelihood() {
                let name = contestant.likelihood.as_str();
                let (rest, bar) = self.rest(task, name, slots(&items, 1))?;
                self.measure(contestant, task, &rest, &bar)?;
                continue;
            }
            for setting in &contestant.settings {
                let all = slots(&items, self.args.samples.get());
                let (rest, bar) = self.rest(task, &setting.name, all)?;
                self.generate(contestant, task, setting, &rest, &bar)?;
            }
        }
        Ok(())
    }

    /// Returns the answers that are missing, and a bar that shows those that are there.
    fn rest<'i>(
        &self,
        task: &Task,
        setting: &str,
        mut slots: Vec<Slot<'i>>,
    ) -> anyhow::Result<(Vec<Slot<'i>>, ProgressBar)> {
        let done = self.results.of(&task.name, setting);
        let done: Vec<(&str, usize)> = done
            .map(|(record, _)| (record.id.as_str(), record.sample))
            .collect();
        let first = slots
            .iter()
            .map(|slot| (slot.item.id.as_str(), slot.sample));
        let is_same =
            done.len() <= slots.len() && first.zip(&done).all(|(slot, done)| slot == *done);
        ensure!(
            is_same,
            failure::usage(format!(
                "task `{}`: the finished items are not the first of the data; use another --out",
                task.name
            ))
        );
        let bar = ui::bar(slots.len() as u64, &format!("{} ({setting})", task.name));
        bar.set_position(done.len() as u64);
        bar.reset_eta();
        let rest = slots.split_off(done.len());
        Ok((rest, bar))
    }

    /// Answers and judges items.
    fn generate(
        &mut self,
        contestant: &Contestant,
        task: &Task,
        setting: &Setting,
        slots: &[Slot<'_>],
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let judge = Judge::new(task, self.sandbox, programs_at_once()).map_err(usage)?;
        let (asks, open) = questions(contestant, task, setting, &judge, slots)?;
        let options = contestant.options(self.args.concurrency.get());
        let mut engine = Engine::new(contestant.model(), options).map_err(failure::usage)?;
        let result = answer_in_order(&mut engine, asks, |wave: Vec<Served>| {
            let texts = wave
                .iter()
                .map(|served| text_of(open[served.index].text.clone(), &served.answer));
            let texts = texts
                .collect::<anyhow::Result<Vec<String>>>()
                .map_err(Stop::Other)?;
            let pairs = wave
                .iter()
                .zip(&texts)
                .map(|(served, text)| (open[served.index].slot.item, text.as_str()));
            let judged = judge.judge(&pairs.collect::<Vec<_>>())?;
            for ((served, text), judgement) in wave.iter().zip(texts).zip(judged) {
                let question = &open[served.index];
                let record = answered(task, setting, question, served, text, judgement);
                self.finish(record, cost(served), bar)?;
            }
            Ok(())
        });
        bar.finish_and_clear();
        result.map_err(Stop::into_error)
    }

    /// Measures the likelihoods of items.
    fn measure(
        &mut self,
        contestant: &Contestant,
        task: &Task,
        slots: &[Slot<'_>],
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        for Slot { item, .. } in slots {
            let start = Instant::now();
            let record = match &task.score {
                Scorer::Choice { .. } => chosen(contestant, task, item)?,
                _ => perplexity(contestant, task, item)?,
            };
            let cost = Cost {
                seconds: start.elapsed().as_secs_f64(),
                ..Cost::default()
            };
            self.finish(record, cost, bar)?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Keeps a finished item and shows the score so far.
    fn finish(&mut self, record: Record, cost: Cost, bar: &ProgressBar) -> Result<(), Error> {
        let (task, setting) = (record.task.clone(), record.setting.clone());
        self.results.push(record, cost)?;
        bar.inc(1);
        let so_far = score_so_far(self.results.of(&task, &setting));
        bar.set_message(format!("  score {:.3}", so_far));
        Ok(())
    }
}

/// Returns the items with the examples that the task puts before them.
fn with_shots(subject: &Subject, is_chat: bool) -> anyhow::Result<Vec<Item>> {
    let mut items = subject.items.clone();
    if subject.task.uses_shots(is_chat) {
        add_shots(&subject.task, &subject.data, &mut items).map_err(usage)?;
    }
    Ok(items)
}

/// Why a run stops: through the library, or while an answer is read.
enum Stop {
    Eval(Error),
    Other(anyhow::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Eval(error)
    }
}

impl Stop {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Eval(error) => usage(error),
            Self::Other(error) => error,
        }
    }
}
