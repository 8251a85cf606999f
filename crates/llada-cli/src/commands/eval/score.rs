//! `llada eval score` and `llada eval tasks`: what needs no model.

use std::num::NonZeroUsize;

use anyhow::Context;
use llada_eval::sandbox::{Enforcement, Launcher, Sandbox};
use llada_eval::{
    Cost, Error, Item, Judge, Record, Summary, Task, read_answers, read_items, replace,
    write_records,
};
use serde_json::json;

use super::data;
use crate::args::{EvalScoreArgs, EvalTasksArgs};
use crate::commands::sandbox_exec;
use crate::{failure, ui};

/// Answers that are judged between two steps of the progress bar.
const WAVE: usize = 16;

pub(super) fn run(args: &EvalScoreArgs) -> anyhow::Result<()> {
    let mut task = Task::find(&args.task).map_err(usage)?;
    task.shots = None; // answers are there already
    let data = data::locate(&mut task, args.data.as_deref())?;
    let items = read_items(&task, &data).map_err(usage)?;
    let answers = read_answers(&args.answers, &items).map_err(usage)?;
    let sandbox = sandbox([&task], args.unsafe_exec)?;
    let judge = Judge::new(&task, sandbox.as_ref(), programs_at_once()).map_err(usage)?;
    let bar = ui::bar(answers.len() as u64, "answers");
    let mut records = Vec::new();
    for wave in answers.chunks(WAVE) {
        let pairs: Vec<(&Item, &str)> = wave
            .iter()
            .map(|(item, text)| (*item, text.as_str()))
            .collect();
        for (judgement, (item, answer)) in
            judge.judge(&pairs).map_err(usage)?.into_iter().zip(pairs)
        {
            records.push(Record {
                task: task.name.clone(),
                setting: "given".to_owned(),
                id: item.id.clone(),
                sample: 0,
                prompt: String::new(),
                answer: answer.to_owned(),
                extracted: judgement.extracted,
                correct: Some(judgement.correct),
                verdict: judgement.verdict,
                tokens: 0,
                denoise_forwards: 0,
                tpf: None,
                nll: Vec::new(),
            });
        }
        bar.set_position(records.len() as u64);
    }
    bar.finish_and_clear();
    write_records(&args.out, &records)?;
    report(args, &task, items.len(), records)
}

fn report(
    args: &EvalScoreArgs,
    task: &Task,
    items: usize,
    records: Vec<Record>,
) -> anyhow::Result<()> {
    let rows: Vec<_> = records
        .into_iter()
        .map(|record| (record, Cost::default()))
        .collect();
    let summary = Summary::of(&rows)?;
    let score = json!({
        "task": task.name,
        "n": summary.n,
        "score": summary.score,
        "ci95": summary.ci95,
        "correct": summary.correct,
        "without_answer": items - summary.n,
    });
    let path = args.out.join("score.json");
    replace(&path, &format!("{score:#}\n"))?;
    if args.json {
        return ui::line(score);
    }
    let [low, high] = summary.ci95.map(|end| 100.0 * end);
    ui::line(format!(
        "{}: {:.1} % of {} answers are right (95 %: {low:.1} to {high:.1}); {} items have no answer",
        task.name,
        100.0 * summary.score,
        summary.n,
        items - summary.n
    ))
}

pub(super) fn list(args: &EvalTasksArgs) -> anyhow::Result<()> {
    let tasks = Task::built_in();
    if args.json {
        let tasks = tasks.iter().map(|task| {
            json!({
                "name": task.name,
                "about": task.about,
                "source": task.source,
                "files": task.data.files,
                "hub": task.hub,
                "fields": task.data.needs,
                "id": task.data.id,
                "by_likelihood": task.needs_likelihood(),
                "runs_programs": task.needs_sandbox(),
                "max_new_tokens": task.prompt.as_ref().map(|prompt| prompt.max_new_tokens),
            })
        });
        return ui::line(tasks.collect::<serde_json::Value>());
    }
    for task in tasks {
        ui::line(format!("{}: {}", task.name, task.about))?;
        ui::line(format!("    data: {}", task.data.files.join(" or ")))?;
        if let Some(hub) = &task.hub {
            ui::line(format!("    hub:  {}, {}", hub.id, hub.data))?;
        }
        ui::line(format!("    from: {}", task.source))?;
    }
    Ok(())
}

/// Probes the sandbox if one of the tasks runs programs.
pub(in crate::commands) fn sandbox<'a>(
    tasks: impl IntoIterator<Item = &'a Task>,
    unsafe_exec: bool,
) -> anyhow::Result<Option<Sandbox>> {
    if !tasks.into_iter().any(Task::needs_sandbox) {
        return Ok(None);
    }
    let enforcement = if unsafe_exec {
        Enforcement::Off
    } else {
        Enforcement::Required
    };
    let launcher = Launcher {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        args: vec![sandbox_exec::NAME.to_owned()],
    };
    let sandbox = Sandbox::probe(launcher, enforcement)?;
    if let Some(failure) = sandbox.bubblewrap_failure() {
        ui::say(format!(
            "programs run without bubblewrap ({}), which does not work here: {failure}",
            sandbox.layers()
        ));
    }
    Ok(Some(sandbox))
}

/// Returns as many programs as there are processors.
pub(in crate::commands) fn programs_at_once() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Marks what the user gave wrongly as such.
pub(in crate::commands) fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::Write { .. } | Error::Sandbox(_) | Error::Report(_) => error.into(),
        Error::Read { path, source } => {
            failure::usage(format!("cannot read `{}`: {source}", path.display()))
        }
        Error::Template { ref source, .. } => failure::usage(format!("{error}: {source}")),
        error => failure::usage(error),
    }
}
