//! Multiple choice by likelihood: what is scored, and which choice wins.

use serde_json::Value;

use crate::data::{Item, plain};
use crate::error::{Error, Result};
use crate::task::{Normalisation, Scorer, Task};
use crate::template::Templates;

/// One choice of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The choice itself.
    pub text: String,
    /// Its name in the data.
    pub label: String,
    /// What precedes the scored text.
    pub context: String,
    /// The scored text.
    pub continuation: String,
    /// Whether it is the right one.
    pub is_gold: bool,
}

/// Makes the choices of a task's items.
#[derive(Debug)]
pub struct MultipleChoice<'a> {
    task: &'a Task,
    templates: Templates,
}

impl<'a> MultipleChoice<'a> {
    /// # Errors
    /// If the task has no choices.
    pub fn new(task: &'a Task) -> Result<Self> {
        match task.score {
            Scorer::Choice { .. } => Ok(Self {
                task,
                templates: Templates::new(&task.name),
            }),
            _ => Err(Error::Task {
                task: task.name.clone(),
                message: "it has no choices".to_owned(),
            }),
        }
    }

    /// Returns the choices of an item, of which exactly one is right.
    ///
    /// # Errors
    /// If the item lacks what the task needs, or names no choice as the right one.
    pub fn choices(&self, item: &Item) -> Result<Vec<Choice>> {
        let Scorer::Choice {
            choices,
            labels,
            gold,
            context,
            continuation,
            ..
        } = &self.task.score
        else {
            unreachable!("the constructor has looked");
        };
        let wrong = |message: &str| Error::Task {
            task: self.task.name.clone(),
            message: format!("item `{}`: {message}", item.id),
        };
        let texts = texts(self.templates.value(item, "score.choices", choices)?);
        let texts = texts.ok_or_else(|| wrong("`score.choices` must be a list of texts"))?;
        let labels = match labels {
            None => (0..texts.len()).map(|index| index.to_string()).collect(),
            Some(labels) => texts_of(&self.templates, item, labels)?
                .filter(|labels| labels.len() == texts.len())
                .ok_or_else(|| wrong("`score.labels` must be as many texts as choices"))?,
        };
        let gold = plain(Some(&self.templates.value(item, "score.gold", gold)?));
        let gold = gold.filter(|gold| labels.iter().filter(|label| *label == gold).count() == 1);
        let gold = gold.ok_or_else(|| wrong("`score.gold` must be one of the labels"))?;
        let choice = |(index, (text, label)): (usize, (String, String))| {
            let index = index.to_string();
            let more = [("choice", text.as_str()), ("index", &index)];
            Ok(Choice {
                context: self.templates.text(item, "score.context", context, &more)?,
                continuation: self.templates.text(
                    item,
                    "score.continuation",
                    continuation,
                    &more,
                )?,
                is_gold: label == gold,
                text: text.clone(),
                label,
            })
        };
        texts
            .into_iter()
            .zip(labels)
            .enumerate()
            .map(choice)
            .collect()
    }

    /// Returns the index of the likeliest choice, the first of equals, from each choice's negative
    /// log-likelihood.
    ///
    /// # Panics
    /// If there is no choice.
    pub fn best(&self, choices: &[Choice], nlls: &[f64]) -> usize {
        let Scorer::Choice { normalise, .. } = &self.task.score else {
            unreachable!("the constructor has looked");
        };
        let cost = |(choice, nll): (&Choice, &f64)| match normalise {
            Normalisation::None => *nll,
            Normalisation::Bytes => nll / choice.continuation.trim().len().max(1) as f64,
        };
        let costs: Vec<f64> = choices.iter().zip(nlls).map(cost).collect();
        (0..costs.len())
            .min_by(|&a, &b| costs[a].total_cmp(&costs[b]))
            .expect("there is a choice")
    }
}

/// Returns the text of an item whose likelihood a task measures.
///
/// # Errors
/// If the task measures none, or the item lacks what it needs.
pub fn scored_text(task: &Task, item: &Item) -> Result<String> {
    match &task.score {
        Scorer::Perplexity { text } => {
            Templates::new(&task.name).text(item, "score.text", text, &[])
        }
        _ => Err(Error::Task {
            task: task.name.clone(),
            message: "it scores no texts".to_owned(),
        }),
    }
}

fn texts_of(templates: &Templates, item: &Item, expression: &str) -> Result<Option<Vec<String>>> {
    Ok(texts(templates.value(item, "score.labels", expression)?))
}

fn texts(value: Value) -> Option<Vec<String>> {
    let list = value.as_array()?.iter().map(|value| plain(Some(value)));
    list.collect::<Option<Vec<_>>>()
        .filter(|list| !list.is_empty())
}
