//! `llada eval run`: tasks, settings and models in turn, every finished item kept.

use std::time::Instant;

use anyhow::ensure;
use indicatif::ProgressBar;
use llada_engine::Engine;
use llada_eval::report::{Comparison, Page};
use llada_eval::sandbox::Sandbox;
use llada_eval::{
    Ask, Cost, Error, Item, Judge, Judgement, MultipleChoice, Record, Results, Scorer, Served,
    Summary, Task, answer_in_order, read_items, report, score_so_far, stats,
};
use serde_json::{Value, json};

use super::contestant::{BASELINE, Contestant, text_of};
use super::score::{programs_at_once, sandbox, usage};
use super::settings::{Setting, settings};
use crate::args::EvalRunArgs;
use crate::{failure, ui};
use llada_request::AnswerText;

/// Flags that change neither answers nor what is asked.
const FREE_FLAGS: [&str; 3] = ["--concurrency", "--out", "--threads"];

pub(super) fn run(args: &EvalRunArgs) -> anyhow::Result<()> {
    let tasks = tasks(args)?;
    let settings = settings(&args.sweep, &args.decoding)?;
    let sandbox = sandbox(tasks.iter().map(|(task, _)| task), args.unsafe_exec)?;
    let run = json!({ "arguments": arguments(std::env::args().skip(1)) });
    let results = Results::open(&args.out, &run).map_err(usage)?;
    let mut session = Session {
        args,
        tasks: &tasks,
        sandbox: sandbox.as_ref(),
        results,
    };
    let mut summaries = session.evaluate(&Contestant::new(args, settings)?)?;
    if let Some(parent) = &args.baseline {
        summaries.extend(session.evaluate(&Contestant::baseline(args, parent)?)?);
    }
    // Settings of one task stand together, the baseline last.
    summaries.sort_by_key(|row| tasks.iter().position(|(task, _)| task.name == row.task));
    let comparisons = session.comparisons(&summaries);
    let path = args.out.join("report.html");
    let title = args.model.dir.display().to_string();
    let page = Page {
        title: &title,
        summaries: &summaries,
        comparisons: &comparisons,
        run: &format!("{run:#}"),
    };
    report::write(&path, &page)?;
    print(args, &summaries, &comparisons)?;
    ui::say(format!("report: {}", path.display()));
    Ok(())
}

/// Reads the tasks and their items.
fn tasks(args: &EvalRunArgs) -> anyhow::Result<Vec<(Task, Vec<Item>)>> {
    let read = |name: &String| {
        let task = Task::find(name).map_err(usage)?;
        let mut items = read_items(&task, &args.data).map_err(usage)?;
        items.truncate(args.limit.map_or(usize::MAX, Into::into));
        Ok((task, items))
    };
    let tasks: Vec<(Task, Vec<Item>)> =
        args.tasks.iter().map(read).collect::<anyhow::Result<_>>()?;
    for (index, (task, _)) in tasks.iter().enumerate() {
        if tasks[..index]
            .iter()
            .any(|(before, _)| before.name == task.name)
        {
            return Err(failure::usage(format!(
                "--tasks: `{}` is asked for twice",
                task.name
            )));
        }
    }
    Ok(tasks)
}

/// Returns the arguments that say what is run.
fn arguments(given: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut given = given.filter(|argument| argument != "--json");
    while let Some(argument) = given.next() {
        let is_free =
            |flag: &&&str| argument == ***flag || argument.starts_with(&format!("{flag}="));
        match FREE_FLAGS.iter().find(is_free) {
            Some(flag) if argument == **flag => drop(given.next()), // its value follows
            Some(_) => {}
            None => kept.push(argument),
        }
    }
    kept
}

fn print(
    args: &EvalRunArgs,
    summaries: &[Summary],
    comparisons: &[Comparison],
) -> anyhow::Result<()> {
    if !args.json {
        let rows: Vec<_> = summaries.iter().map(Summary::cells).collect();
        return ui::line(ui::table(&Summary::HEADER, &rows).trim_end());
    }
    for summary in summaries {
        let mut row = serde_json::to_value(summary)?;
        let is_row =
            |other: &&Comparison| other.task == summary.task && other.setting == summary.setting;
        row["against_baseline"] = match comparisons.iter().find(is_row) {
            Some(comparison) => serde_json::to_value(comparison.paired)?,
            None => Value::Null,
        };
        ui::line(row)?;
    }
    Ok(())
}

/// All that stays the same from model to model.
struct Session<'a> {
    args: &'a EvalRunArgs,
    tasks: &'a [(Task, Vec<Item>)],
    sandbox: Option<&'a Sandbox>,
    results: Results,
}

impl Session<'_> {
    /// Finishes every task under every setting of a model.
    fn evaluate(&mut self, contestant: &Contestant) -> anyhow::Result<Vec<Summary>> {
        let mut summaries = Vec::new();
        for (task, items) in self.tasks {
            if task.needs_likelihood() {
                let name = contestant.likelihood.as_str();
                let (rest, bar) = self.rest(task, name, items)?;
                self.measure(contestant, task, rest, &bar)?;
                summaries.push(Summary::of(self.results.of(&task.name, name))?);
                continue;
            }
            for setting in &contestant.settings {
                let (rest, bar) = self.rest(task, &setting.name, items)?;
                self.generate(contestant, task, setting, rest, &bar)?;
                summaries.push(Summary::of(self.results.of(&task.name, &setting.name))?);
            }
        }
        Ok(summaries)
    }

    /// Returns the items that are not finished, and a bar that shows those that are.
    fn rest<'i>(
        &self,
        task: &Task,
        setting: &str,
        items: &'i [Item],
    ) -> anyhow::Result<(&'i [Item], ProgressBar)> {
        let done = self.results.of(&task.name, setting);
        let ids: Vec<&str> = done.map(|(record, _)| record.id.as_str()).collect();
        let is_same =
            ids.len() <= items.len() && ids.iter().zip(items).all(|(id, item)| *id == item.id);
        ensure!(
            is_same,
            failure::usage(format!(
                "task `{}`: the finished items are not the first of the data; use another --out",
                task.name
            ))
        );
        let bar = ui::bar(items.len() as u64, &format!("{} ({setting})", task.name));
        bar.set_position(ids.len() as u64);
        bar.reset_eta();
        Ok((&items[ids.len()..], bar))
    }

    /// Answers and judges items.
    fn generate(
        &mut self,
        contestant: &Contestant,
        task: &Task,
        setting: &Setting,
        items: &[Item],
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let judge = Judge::new(task, self.sandbox, programs_at_once()).map_err(usage)?;
        let (asks, open) = questions(contestant, task, setting, &judge, items)?;
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
                .map(|(served, text)| (open[served.index].item, text.as_str()));
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
        items: &[Item],
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        for item in items {
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

    /// Compares every setting with the baseline, on the items of both.
    fn comparisons(&self, summaries: &[Summary]) -> Vec<Comparison> {
        let of = |task: &str, setting: &str| -> Vec<bool> {
            let rows = self.results.of(task, setting);
            rows.filter_map(|(record, _)| record.correct).collect()
        };
        let compare = |row: &Summary| {
            let (own, baseline) = (of(&row.task, &row.setting), of(&row.task, BASELINE));
            let pairs: Vec<(bool, bool)> = own.into_iter().zip(baseline).collect();
            let (task, setting) = (row.task.clone(), row.setting.clone());
            Some(Comparison {
                task,
                setting,
                paired: stats::paired(&pairs)?,
            })
        };
        summaries
            .iter()
            .filter(|row| row.setting != BASELINE)
            .filter_map(compare)
            .collect()
    }
}

/// A question that waits for its answer.
struct Question<'a> {
    item: &'a Item,
    prompt: String,
    text: AnswerText,
}

fn questions<'a>(
    contestant: &Contestant,
    task: &Task,
    setting: &Setting,
    judge: &Judge<'_>,
    items: &'a [Item],
) -> anyhow::Result<(Vec<Ask>, Vec<Question<'a>>)> {
    let question = |item: &'a Item| {
        let prompt = judge.prompt(item, contestant.is_chat()).map_err(usage)?;
        let spec = task.prompt.as_ref();
        let spec =
            spec.ok_or_else(|| failure::usage(format!("task `{}` has no prompt", task.name)))?;
        let (ask, text) = contestant.ask(&prompt, spec, setting)?;
        Ok((ask, Question { item, prompt, text }))
    };
    let made = items
        .iter()
        .map(question)
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(made.into_iter().unzip())
}

fn answered(
    task: &Task,
    setting: &Setting,
    question: &Question<'_>,
    served: &Served,
    text: String,
    judgement: Judgement,
) -> Record {
    let (tokens, denoise) = (
        served.answer.output_ids.len(),
        served.answer.forwards.denoise,
    );
    Record {
        task: task.name.clone(),
        setting: setting.name.clone(),
        id: question.item.id.clone(),
        prompt: question.prompt.clone(),
        answer: text,
        extracted: judgement.extracted,
        correct: Some(judgement.correct),
        verdict: judgement.verdict,
        tokens,
        denoise_forwards: denoise,
        tpf: (denoise > 0).then(|| tokens as f64 / denoise as f64),
        nll: Vec::new(),
    }
}

fn cost(served: &Served) -> Cost {
    Cost {
        seconds: served.elapsed.as_secs_f64(),
        prefill_forwards: served.answer.forwards.prefill,
        commit_forwards: served.answer.forwards.commit,
    }
}

/// Takes the likeliest choice.
fn chosen(contestant: &Contestant, task: &Task, item: &Item) -> anyhow::Result<Record> {
    let multiple = MultipleChoice::new(task).map_err(usage)?;
    let choices = multiple.choices(item).map_err(usage)?;
    let texts: Vec<(&str, &str)> = choices
        .iter()
        .map(|choice| (choice.context.as_str(), choice.continuation.as_str()))
        .collect();
    let totals = failure::at(
        Some(&format!("item `{}`", item.id)),
        contestant.likelihoods(&texts),
    )?;
    let nll: Vec<f64> = totals.iter().map(|total| total.nll).collect();
    let best = &choices[multiple.best(&choices, &nll)];
    Ok(Record {
        task: task.name.clone(),
        setting: contestant.likelihood.clone(),
        id: item.id.clone(),
        prompt: choices[0].context.clone(),
        answer: best.text.clone(),
        extracted: best.label.clone(),
        correct: Some(best.is_gold),
        verdict: if best.is_gold { "correct" } else { "wrong" }.to_owned(),
        tokens: totals.iter().map(|total| total.tokens as usize).sum(),
        denoise_forwards: 0,
        tpf: None,
        nll,
    })
}

fn perplexity(contestant: &Contestant, task: &Task, item: &Item) -> anyhow::Result<Record> {
    let text = llada_eval::scored_text(task, item).map_err(usage)?;
    let total = contestant.text_likelihood(&text)?;
    Ok(Record {
        task: task.name.clone(),
        setting: contestant.likelihood.clone(),
        id: item.id.clone(),
        prompt: text,
        answer: String::new(),
        extracted: String::new(),
        correct: None,
        verdict: "measured".to_owned(),
        tokens: total.tokens as usize,
        denoise_forwards: 0,
        tpf: None,
        nll: vec![total.nll],
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_change_no_answer_are_not_part_of_a_run() {
        let given = [
            "eval",
            "run",
            "m",
            "--concurrency",
            "4",
            "--out=x",
            "--json",
            "--limit",
            "5",
        ];
        let kept = arguments(given.map(str::to_owned).into_iter());
        assert_eq!(kept, ["eval", "run", "m", "--limit", "5"]);
    }
}
