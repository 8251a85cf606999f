//! The recipe: everything that decides a training run, in one strict TOML file.
//!
//! Unknown keys are errors with line and column. [`Recipe::parse`] applies overrides to the text
//! before it is read, so an override is checked like the file. A parsed recipe has every default
//! filled in; [`Recipe::to_toml`] writes it, and reading that gives the same recipe.
//!
//! Paths are relative to the working directory.

mod by_name;
mod data;
mod dfactory;
mod ebpo;
mod lora;
mod loss;
mod model;
mod objective;
mod optimizer;
#[cfg(test)]
mod tests;
mod train;
mod trajectory;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use self::data::{Data, Paths, Source, Sources, Weighted};
pub use self::ebpo::Ebpo;
pub use self::lora::{Lora, Target};
pub use self::loss::{Cap, Dpo, Edit, Levenshtein, Oput};
pub use self::model::{Compute, Init, Model};
pub use self::objective::{Blocks, Objective, Stage};
pub use self::optimizer::Optimizer;
pub use self::train::{ExportDtype, KeepActivations, Train};
pub use self::trajectory::Trajectory;
use crate::error::{Error, Result};

/// A validated recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Which weights the run starts from.
    pub model: Model,
    /// An adapter that is trained in place of the weights. Default: none.
    pub lora: Option<Lora>,
    /// What it is trained and validated on.
    pub data: Data,
    /// What it is trained to do.
    pub objective: Objective,
    /// Confidence-aware training. Default: none.
    pub cap: Option<Cap>,
    /// Preference training. Default: none.
    pub dpo: Option<Dpo>,
    /// Wrong tokens beside masks. Default: none.
    pub edit: Option<Edit>,
    /// Insertions and deletions. Default: none.
    pub levenshtein: Option<Levenshtein>,
    /// Masks filled with the model's guesses. Default: none.
    pub oput: Option<Oput>,
    /// Policy optimisation. Default: none.
    pub ebpo: Option<Ebpo>,
    /// States of recorded decodings in place of random masks. Default: none.
    pub trajectory: Option<Trajectory>,
    /// How weights are updated.
    pub optimizer: Optimizer,
    /// How long, in which batches, and what is written when.
    pub train: Train,
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// If the text is not TOML, has an unknown or missing key, or a value is out of range.
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::parse(text, &[])
    }

    /// Reads a recipe with overrides of the form `section.key=value`, applied before anything is
    /// checked. A value that is not TOML is taken as a string, so paths need no quotes.
    ///
    /// # Errors
    /// As [`Recipe::from_toml`], and if an override is malformed.
    pub fn parse(text: &str, overrides: &[String]) -> Result<Self> {
        let recipe: Self = if overrides.is_empty() {
            toml::from_str(text)? // errors point into the text as the user wrote it
        } else {
            toml::from_str(&with_overrides(text, overrides)?)?
        };
        recipe.validate()?;
        Ok(recipe)
    }

    /// Writes the recipe with every default filled in.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe has only tables, numbers, texts and lists of them")
    }

    fn validate(&self) -> Result<()> {
        self.model.init()?;
        self.data.validate()?;
        self.objective.validate()?;
        lora::validate(self)?;
        loss::validate(self)?;
        ebpo::validate(self)?;
        trajectory::validate(self)?;
        self.optimizer.schedule(self.train.steps)?;
        self.optimizer.validate()?;
        self.train.validate()
    }
}

fn with_overrides(text: &str, overrides: &[String]) -> Result<String> {
    let mut table: Table = toml::from_str(text)?;
    overrides
        .iter()
        .try_for_each(|given| apply(&mut table, given))?;
    Ok(toml::to_string(&table).expect("a table that was read can be written"))
}

fn apply(table: &mut Table, given: &str) -> Result<()> {
    let refuse = |problem: &str| Error::Override {
        given: given.into(),
        problem: problem.into(),
    };
    let (path, value) = given
        .split_once('=')
        .ok_or_else(|| refuse("there is no `=`"))?;
    let (sections, key) = path
        .trim()
        .rsplit_once('.')
        .ok_or_else(|| refuse("no section is named"))?;
    let mut section = table;
    for name in sections.split('.') {
        let entry = section.entry(name);
        let entry = entry.or_insert_with(|| Value::Table(Table::new()));
        section = entry
            .as_table_mut()
            .ok_or_else(|| refuse("this is not a section"))?;
    }
    section.insert(key.to_owned(), override_value(value.trim()));
    Ok(())
}

fn override_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn check(holds: bool, key: &'static str, problem: &str) -> Result<()> {
    if holds { Ok(()) } else { refuse(key, problem) }
}

fn refuse<T>(key: &'static str, problem: &str) -> Result<T> {
    Err(Error::Setting {
        key,
        problem: problem.into(),
    })
}

/// The default of what is on unless it is turned off.
fn yes() -> bool {
    true
}
