//! From answers to verdicts.

mod countdown;
mod instructions;
mod sudoku;

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::data::Item;
use crate::error::{Error, Result};
use crate::extract::{self, Code};
use crate::sandbox::{Program, Sandbox, Verdict};
use crate::task::{Extraction, Scorer, Task};
use crate::template::Templates;

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The part of the answer that counted.
    pub extracted: String,
    /// Whether it is right.
    pub correct: bool,
    /// `correct`, `wrong`, or how a program failed.
    pub verdict: String,
}

/// Judges the answers to one task's items.
#[derive(Debug)]
pub struct Judge<'a> {
    task: &'a Task,
    templates: Templates,
    sandbox: Option<&'a Sandbox>,
    at_once: NonZeroUsize,
}

impl<'a> Judge<'a> {
    /// Returns a judge that runs programs, if the task has any, `at_once` at a time.
    ///
    /// # Errors
    /// If the task's score is none of answers, or it needs the sandbox and there is none.
    pub fn new(
        task: &'a Task,
        sandbox: Option<&'a Sandbox>,
        at_once: NonZeroUsize,
    ) -> Result<Self> {
        let name = || task.name.clone();
        if task.needs_likelihood() && !matches!(task.score, Scorer::Choice { .. }) {
            return Err(Error::NeedsLikelihood { task: name() });
        }
        if task.needs_sandbox() && sandbox.is_none() {
            return Err(Error::NeedsSandbox { task: name() });
        }
        Ok(Self {
            task,
            templates: Templates::new(&task.name),
            sandbox,
            at_once,
        })
    }

    /// Returns the question as a user puts it, or as a text to continue.
    ///
    /// # Errors
    /// If the item lacks what the template needs, or the task has no prompt.
    pub fn prompt(&self, item: &Item, is_chat: bool) -> Result<String> {
        let spec = self.task.prompt.as_ref();
        let spec = spec.ok_or_else(|| Error::NeedsLikelihood {
            task: self.task.name.clone(),
        })?;
        match &spec.plain {
            Some(plain) if !is_chat => self.templates.text(item, "prompt.plain", plain, &[]),
            _ => self
                .templates
                .text(item, "prompt.template", &spec.template, &[]),
        }
    }

    /// Judges answers, in their order.
    ///
    /// # Errors
    /// If an item lacks what the score needs, or the sandbox fails. A bad answer is no error.
    pub fn judge(&self, answers: &[(&Item, &str)]) -> Result<Vec<Judgement>> {
        if self.task.needs_sandbox() {
            return self.run(answers);
        }
        answers
            .iter()
            .map(|(item, answer)| self.compare(item, answer))
            .collect()
    }

    fn compare(&self, item: &Item, answer: &str) -> Result<Judgement> {
        let gold = |template: &str| self.templates.text(item, "score.gold", template, &[]);
        Ok(match &self.task.score {
            Scorer::Number { gold: template } => {
                let (found, gold) = (extract::number(answer), extract::number(&gold(template)?));
                let gold =
                    gold.ok_or_else(|| self.wrong_item(item, "the right answer has no number"))?;
                let correct = found.as_ref().is_some_and(|found| found.same(&gold));
                plain(found.map_or_else(String::new, |found| found.text), correct)
            }
            Scorer::Math { gold: template } => {
                let (found, gold) = (extract::formula(answer), extract::formula(&gold(template)?));
                let correct = extract::same_formula(&found, &gold);
                plain(found, correct)
            }
            Scorer::Exact {
                gold: template,
                extract,
                ignore_case,
            } => {
                let (found, gold) = (extract.of(answer), extract.of(&gold(template)?));
                let fold = |text: &str| {
                    if *ignore_case {
                        text.to_lowercase()
                    } else {
                        text.to_owned()
                    }
                };
                let correct = fold(bare(&found)) == fold(bare(&gold));
                plain(found, correct)
            }
            Scorer::Choice { .. } => self.chosen(item, answer)?,
            Scorer::Instructions => {
                let failed = instructions::failed(item, answer);
                let failed = failed.map_err(|message| self.wrong_item(item, &message))?;
                plain(failed.join(", "), failed.is_empty())
            }
            Scorer::Countdown => {
                let found = countdown::expression(answer);
                let solved = countdown::solves(item, &found);
                let correct = solved.map_err(|message| self.wrong_item(item, &message))?;
                plain(found, correct)
            }
            Scorer::Sudoku => {
                let puzzle = sudoku::Puzzle::of(item);
                let puzzle = puzzle.map_err(|message| self.wrong_item(item, &message))?;
                let found = puzzle.grid(answer);
                let correct = puzzle.is_solved_by(&found);
                plain(found, correct)
            }
            Scorer::Program { .. } | Scorer::Perplexity { .. } => {
                return Err(Error::NeedsLikelihood {
                    task: self.task.name.clone(),
                });
            }
        })
    }

    /// Judges a choice that was said: by its letter, or in full.
    fn chosen(&self, item: &Item, answer: &str) -> Result<Judgement> {
        let choices = crate::MultipleChoice::new(self.task)?.choices(item)?;
        let letter = extract::choice_letter(answer).map(|letter| letter as usize - 'A' as usize);
        let said = || {
            choices
                .iter()
                .position(|choice| choice.text.trim() == answer.trim())
        };
        let chosen = said().or(letter).and_then(|index| choices.get(index));
        let label = chosen.map_or_else(String::new, |choice| choice.label.clone());
        Ok(plain(label, chosen.is_some_and(|choice| choice.is_gold)))
    }

    fn run(&self, answers: &[(&Item, &str)]) -> Result<Vec<Judgement>> {
        let sandbox = self.sandbox.ok_or_else(|| Error::NeedsSandbox {
            task: self.task.name.clone(),
        })?;
        let made = answers
            .iter()
            .map(|(item, answer)| self.program(item, answer));
        let (codes, programs): (Vec<_>, Vec<_>) =
            made.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let outcomes = sandbox.run_all(&programs, self.at_once, |_, _| {})?;
        let judged = codes
            .into_iter()
            .zip(outcomes)
            .map(|(extracted, outcome)| Judgement {
                extracted,
                correct: outcome.verdict == Verdict::Passed,
                verdict: match outcome.verdict {
                    Verdict::Passed => "correct".to_owned(),
                    Verdict::Failed => format!("failed: {}", last_line(&outcome.stderr.text)),
                    Verdict::TimedOut => "timed out".to_owned(),
                    Verdict::MemoryExceeded => "memory exceeded".to_owned(),
                },
            });
        Ok(judged.collect())
    }

    /// Returns the code in an answer and the program that tests it.
    fn program(&self, item: &Item, answer: &str) -> Result<(String, Program)> {
        let Scorer::Program {
            program,
            entry,
            stem,
            extract,
        } = &self.task.score
        else {
            return Err(Error::NeedsLikelihood {
                task: self.task.name.clone(),
            });
        };
        let render = |place, template: &Option<String>| {
            let template = template.as_deref();
            template
                .map(|template| self.templates.text(item, place, template, &[]))
                .transpose()
        };
        let (entry, stem) = (render("score.entry", entry)?, render("score.stem", stem)?);
        let code = match extract {
            Some(extract) => extract.of(answer),
            None => {
                let known = Code {
                    entry: entry.as_deref(),
                    stem: stem.as_deref(),
                };
                extract::program(answer, known)
            }
        };
        let text = self
            .templates
            .text(item, "score.program", program, &[("code", &code)])?;
        Ok((code, Program::new(text)))
    }

    fn wrong_item(&self, item: &Item, message: &str) -> Error {
        Error::Task {
            task: self.task.name.clone(),
            message: format!("item `{}`: {message}", item.id),
        }
    }
}

impl Extraction {
    fn of(self, answer: &str) -> String {
        match self {
            Self::Text => answer.trim().to_owned(),
            Self::Word => extract::first_word(answer),
            Self::Conclusion => extract::conclusion(answer),
            Self::Assertion => extract::assertion(answer),
        }
    }
}

fn plain(extracted: String, correct: bool) -> Judgement {
    let verdict = if correct { "correct" } else { "wrong" };
    Judgement {
        extracted,
        correct,
        verdict: verdict.to_owned(),
    }
}

/// Takes away the parentheses around a choice such as `(B)`.
fn bare(text: &str) -> &str {
    let inner = text
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'));
    inner
        .filter(|inner| inner.chars().count() == 1)
        .unwrap_or(text)
}

fn last_line(stderr: &str) -> &str {
    stderr
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no message")
        .trim()
}

#[cfg(test)]
mod tests;
