//! A task as its file says it.
//!
//! Strings in a task file are Jinja templates over the fields of a data row; a field that a row lacks
//! is an error, never an empty text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Includes the built-in task files.
macro_rules! built_in {
    ($($name:literal)+) => { &[$(($name, include_str!(concat!("../tasks/", $name, ".toml")))),+] };
}

/// Name and text of each built-in task.
const BUILT_IN: &[(&str, &str)] = built_in! {
    "humaneval" "humaneval_plus" "mbpp" "mbpp_sanitised" "cruxeval"
    "gsm8k" "math" "bbh" "ifeval" "lambada"
    "arc" "hellaswag" "piqa" "winogrande" "mmlu" "openbookqa" "story_cloze" "ppl"
    "worked_sums" "countdown" "plain_countdown" "sudoku"
};

/// A prompt, the data it is filled from, and how its answers are scored.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What the task is called.
    pub name: String,
    /// What it measures, in a line.
    pub about: String,
    /// Where its data is published, and under which licence.
    pub source: String,
    /// The data file.
    pub data: DataSpec,
    /// The same rows on the Hub, for whoever has no file.
    pub hub: Option<HubSpec>,
    /// Solved examples that stand before the question.
    pub shots: Option<ShotsSpec>,
    /// The question; `None` if the task only asks for likelihoods.
    pub prompt: Option<PromptSpec>,
    /// The score.
    pub score: Scorer,
}

/// Where the rows are and which of them count.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Paths under the data directory; the first that exists is read. JSON lines, a JSON list (both
    /// also as .gz), or plain text, which is one row with the field `text`.
    pub files: Vec<String>,
    /// Fields that every row must have.
    pub needs: Vec<String>,
    /// Field that names a row; rows are numbered from 0 without it.
    pub id: Option<String>,
    /// Field that holds the rows of a JSON file, if its root is an object.
    pub rows_in: Option<String>,
    /// Keeps the rows whose number in this field lies between `first` and `last`.
    pub only: Option<Only>,
    /// Makes a choice between the true continuation and those of the next three rows' texts.
    #[serde(default)]
    pub cloze: bool,
}

/// Where the Hub has the rows. A file is a path in the repository, with at most one `*`; several files
/// that fit are one, in the order of their names.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HubSpec {
    /// Id of the data set, `org/name`.
    pub id: String,
    /// The rows that are asked about.
    pub data: String,
    /// The rows of solved examples, if there are some.
    pub shots: Option<String>,
}

/// Solved examples before each question, for templates to put where they want as `shots`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShotsSpec {
    /// Rows that are taken, the first that fit; 0 for none.
    pub count: usize,
    /// Paths under the data directory, as in [`DataSpec`]; a split that is not asked about.
    pub files: Vec<String>,
    /// An example: a template over the fields of its row. Nothing is put in between.
    pub template: String,
    /// Takes only rows that have the item's value in this field.
    pub same: Option<String>,
}

/// A range of rows, as of a published split.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    /// Field with a number.
    pub field: String,
    /// Smallest number that counts.
    pub first: i64,
    /// Largest number that counts.
    pub last: i64,
}

/// How the question is put.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSpec {
    /// What a user says to a model with a chat template, and what others continue.
    pub template: String,
    /// What a model without a chat template continues, if that is something else.
    pub plain: Option<String>,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// Texts that end an answer of a model without a chat template.
    #[serde(default)]
    pub stop: Vec<String>,
}

/// The part of an answer that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extraction {
    /// All of it, without blanks around.
    Text,
    /// The first word, without punctuation around.
    Word,
    /// What follows "the answer is", or else the last line.
    Conclusion,
    /// The output in an assertion `f(...) == output`, or else the conclusion.
    Assertion,
}

/// How an extraction is judged.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum Scorer {
    /// Runs a program made of the answer's code; right if it ends with exit code 0.
    Program {
        /// The program; `code` is what was extracted from the answer.
        program: String,
        /// Function that the code must define.
        entry: Option<String>,
        /// Beginning of a program that the answer may continue.
        stem: Option<String>,
        /// What is extracted; code if it is not said.
        extract: Option<Extraction>,
    },
    /// Compares the final numbers.
    Number {
        /// The right answer, from which the number is extracted too.
        gold: String,
    },
    /// Compares formulas in a normal form.
    Math {
        /// The right answer, from which the last `\boxed{}` is extracted too.
        gold: String,
    },
    /// Compares texts.
    Exact {
        /// The right answer.
        gold: String,
        /// What is extracted.
        extract: Extraction,
        /// Whether upper and lower case are the same.
        #[serde(default)]
        ignore_case: bool,
    },
    /// Chooses the continuation with the highest likelihood.
    Choice {
        /// Expression: the list of choices.
        choices: String,
        /// Expression: names of the choices; their numbers from 0 if `None`.
        labels: Option<String>,
        /// Expression: the name of the right choice.
        gold: String,
        /// What precedes the text that is scored; knows `choice` and `index` (from 0).
        context: String,
        /// The text that is scored, likewise.
        continuation: String,
        /// What a log-likelihood is divided by.
        #[serde(default)]
        normalise: Normalisation,
    },
    /// Measures the likelihood of texts.
    Perplexity {
        /// The text.
        text: String,
    },
    /// Checks the instructions of IFEval, all of which must hold (prompt level, strict).
    Instructions,
    /// Checks an expression over given numbers.
    Countdown,
    /// Checks a filled grid.
    Sudoku,
}

/// What the log-likelihood of a choice is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Nothing: the likelihood of the whole continuation.
    #[default]
    None,
    /// Its length in bytes.
    Bytes,
}

impl Task {
    /// Returns the built-in tasks.
    pub fn built_in() -> Vec<Self> {
        let parse = |(name, text)| Self::parse(name, text);
        let tasks = BUILT_IN.iter().copied().map(parse);
        tasks
            .collect::<Result<_>>()
            .expect("the built-in task files are valid, which a test shows")
    }

    /// Finds a built-in task by name, or reads a file ending in `.toml`.
    ///
    /// # Errors
    /// If there is no such task or its file is not valid.
    pub fn find(name: &str) -> Result<Self> {
        if name.ends_with(".toml") {
            let path = Path::new(name);
            let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
            return Self::parse(name, &text);
        }
        match BUILT_IN.iter().find(|(known, _)| *known == name) {
            Some((name, text)) => Self::parse(name, text),
            None => {
                let known: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                Err(Error::UnknownTask {
                    name: name.to_owned(),
                    known: known.join(", "),
                })
            }
        }
    }

    /// Reads a task file.
    ///
    /// # Errors
    /// If it is not valid; the message names the field.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let wrong = |message: String| Error::Task {
            task: name.to_owned(),
            message,
        };
        let task: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if let Some(hub) = &task.hub
            && hub.shots.is_some() != task.shots.is_some()
        {
            return Err(wrong(
                "`hub.shots` and `[shots]` belong together; give both or none".to_owned(),
            ));
        }
        match (&task.prompt, task.needs_likelihood()) {
            (None, false) => Err(wrong("`prompt` is missing".to_owned())),
            (Some(_), true) => Err(wrong(
                "`prompt` is not used by a score by likelihood; remove it".to_owned(),
            )),
            _ => Ok(task),
        }
    }

    /// Returns whether the score comes from likelihoods and not from answers.
    pub fn needs_likelihood(&self) -> bool {
        matches!(
            self.score,
            Scorer::Choice { .. } | Scorer::Perplexity { .. }
        )
    }

    /// Returns whether solved examples stand before the questions as they are put to a model.
    pub fn uses_shots(&self, is_chat: bool) -> bool {
        let template = match (&self.score, &self.prompt) {
            (Scorer::Choice { context, .. }, _) => Some(context),
            (_, Some(prompt)) => match &prompt.plain {
                Some(plain) if !is_chat => Some(plain),
                _ => Some(&prompt.template),
            },
            (_, None) => None,
        };
        let shots = self.shots.as_ref().is_some_and(|shots| shots.count > 0);
        shots && template.is_some_and(|template| template.contains("shots"))
    }

    /// Returns whether scoring runs programs.
    pub fn needs_sandbox(&self) -> bool {
        matches!(self.score, Scorer::Program { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_task_is_valid_and_has_its_files_name() {
        for (name, text) in BUILT_IN {
            assert_eq!(Task::parse(name, text).unwrap().name, *name);
        }
    }

    #[test]
    fn an_unknown_field_of_a_task_file_is_refused_by_name() {
        let text = BUILT_IN[5].1.replace("[prompt]", "[prompt]\nwarmth = 1");
        let error = Task::parse("x", &text).unwrap_err().to_string();
        assert!(error.contains("warmth"), "{error}");
    }

    #[test]
    fn examples_on_the_hub_and_in_the_task_belong_together() {
        let text = BUILT_IN[5].1;
        let without = text.replace("shots = \"main/train-*.parquet\"\n", "");
        assert_ne!(without, text);
        let error = Task::parse("x", &without).unwrap_err().to_string();
        assert!(error.contains("hub.shots"), "{error}");
    }

    #[test]
    fn an_unknown_task_is_refused_with_the_known_names() {
        let error = Task::find("gsm9k").unwrap_err().to_string();
        assert!(error.contains("gsm8k"), "{error}");
    }
}
