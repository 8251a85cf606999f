//! What is asked about items, and the records that come of it.

use llada_eval::{Ask, Cost, Item, Judge, Judgement, MultipleChoice, Record, Served, Task};
use llada_request::AnswerText;

use super::contestant::Contestant;
use super::score::usage;
use super::settings::Setting;
use crate::failure;

/// A place for an answer: an item, and which of several answers to it.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    pub item: &'a Item,
    pub sample: usize,
}

/// Returns the places of a run, those of an item together.
pub(super) fn slots(items: &[Item], samples: usize) -> Vec<Slot<'_>> {
    let of_item = |item| (0..samples).map(move |sample| Slot { item, sample });
    items.iter().flat_map(of_item).collect()
}

/// A question that waits for its answer.
pub(super) struct Question<'a> {
    pub slot: &'a Slot<'a>,
    prompt: String,
    pub text: AnswerText,
}

pub(super) fn questions<'a>(
    contestant: &Contestant,
    task: &Task,
    setting: &Setting,
    judge: &Judge<'_>,
    slots: &'a [Slot<'a>],
) -> anyhow::Result<(Vec<Ask>, Vec<Question<'a>>)> {
    let question = |slot: &'a Slot<'a>| {
        let prompt = judge
            .prompt(slot.item, contestant.is_chat())
            .map_err(usage)?;
        let spec = task.prompt.as_ref();
        let spec =
            spec.ok_or_else(|| failure::usage(format!("task `{}` has no prompt", task.name)))?;
        let (ask, text) = contestant.ask(&prompt, spec, setting, slot.sample)?;
        Ok((ask, Question { slot, prompt, text }))
    };
    let made = slots
        .iter()
        .map(question)
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(made.into_iter().unzip())
}

pub(super) fn answered(
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
        id: question.slot.item.id.clone(),
        sample: question.slot.sample,
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

pub(super) fn cost(served: &Served) -> Cost {
    Cost {
        seconds: served.elapsed.as_secs_f64(),
        prefill_forwards: served.answer.forwards.prefill,
        commit_forwards: served.answer.forwards.commit,
    }
}

/// Takes the likeliest choice.
pub(super) fn chosen(contestant: &Contestant, task: &Task, item: &Item) -> anyhow::Result<Record> {
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
        sample: 0,
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

pub(super) fn perplexity(
    contestant: &Contestant,
    task: &Task,
    item: &Item,
) -> anyhow::Result<Record> {
    let text = llada_eval::scored_text(task, item).map_err(usage)?;
    let total = contestant.text_likelihood(&text)?;
    Ok(Record {
        task: task.name.clone(),
        setting: contestant.likelihood.clone(),
        id: item.id.clone(),
        sample: 0,
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
