//! `llada data record`: answers of a model to a task, as recipes with `[trajectory]` learn them.

use std::fmt::Write;

use anyhow::Context;
use llada_eval::{Task, replace};
use serde_json::{Value, json};

use crate::args::DataRecordArgs;
use crate::commands::eval::usage;
use crate::commands::examiner::{Answered, Examiner};
use crate::commands::{load_model, models};
use crate::{failure, ui};

/// Answers between two steps of the progress bar.
const WAVE: usize = 256;

pub(super) fn run(args: &DataRecordArgs) -> anyhow::Result<()> {
    if let Some(name) = args.decoding.records() {
        return Err(failure::usage(format!(
            "`{name}` adds to the JSON of an answer, of which nothing else is written here"
        )));
    }
    let dir = models::whole(&args.model)?;
    let task = Task::find(&args.task).map_err(usage)?;
    let prompt = task.prompt.clone().with_context(|| {
        format!(
            "task `{}` measures likelihoods; name one that judges answers",
            task.name
        )
    });
    let examiner = Examiner::new(task, prompt.map_err(failure::usage)?, &dir)?;
    let questions = examiner.questions(&args.data, &args.decoding)?;
    let block_size = examiner.block_length(&args.decoding);
    let block_size = block_size.context("questions without a block length are refused")?;
    let model = load_model(&dir, args.precision.into())?;
    let bar = ui::bar(questions.len() as u64, "answers");
    let (mut lines, mut num_written) = (String::new(), 0);
    for wave in questions.chunks(WAVE) {
        let asked: Vec<_> = wave
            .iter()
            .map(|question| (question, args.decoding.clone()))
            .collect();
        let answers = examiner.answers(&model, args.concurrency.get(), &asked)?;
        for answered in answers.iter().filter(|answered| is_told_by_steps(answered)) {
            writeln!(lines, "{}", row(answered, block_size))?;
            num_written += 1;
        }
        bar.inc(wave.len() as u64);
    }
    bar.finish_and_clear();
    replace(&args.out, &lines)?;
    ui::say(format!(
        "{num_written} of {} answers are right and written to `{}`",
        questions.len(),
        args.out.display()
    ));
    Ok(())
}

/// Returns whether an answer is right, and its states are those that the steps of its tokens say.
fn is_told_by_steps(answered: &Answered) -> bool {
    let answer = &answered.answer;
    answered.is_right && answer.edits == 0 && !answer.approximate
}

fn row(answered: &Answered, block_size: usize) -> Value {
    let Answered { prompt, answer, .. } = answered;
    let ids = [&prompt[..], &answer.output_ids].concat();
    let steps: Vec<usize> = answer.placed.iter().map(|placed| placed.step).collect();
    json!({
        "input_ids": ids,
        "prompt_lengths": prompt.len(),
        "steps": steps,
        "block_size": block_size,
    })
}
