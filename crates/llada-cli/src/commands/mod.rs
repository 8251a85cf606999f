//! One file per command.

mod asker;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod convert;
pub(crate) mod data;
mod decoding;
pub(crate) mod demo;
pub(crate) mod eval;
mod examiner;
pub(crate) mod generate;
mod gguf;
pub(crate) mod inspect;
pub(crate) mod merge;
mod models;
mod quantised;
pub(crate) mod quantize;
pub(crate) mod report;
pub(crate) mod sandbox_exec;
pub(crate) mod serve;
mod states;
pub(crate) mod sums;
pub(crate) mod trace;
pub(crate) mod train;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::HumanBytes;
use llada_model::{KeepDtype, Model};
use llada_tensor::Precision;
use llada_train::Recipe;

use crate::{failure, ui};

/// Reads a recipe file with overrides.
fn recipe(path: &Path, overrides: &[String]) -> anyhow::Result<Recipe> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    Recipe::parse(&text, overrides)
        .map_err(|error| failure::usage(format!("{}: {error}", path.display())))
}

/// Replaces the Hub ids of a recipe by the directories in which the models lie.
fn with_models(
    mut recipe: Recipe,
    of: fn(&Path) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<Recipe> {
    let reference = recipe.dpo.as_mut().and_then(|dpo| dpo.reference.as_mut());
    let named = [recipe.model.path.as_mut(), reference];
    for path in named.into_iter().flatten() {
        *path = of(path)?;
    }
    if let Some(path) = &mut recipe.model.tokenizer {
        *path = models::texts(path)?;
    }
    Ok(recipe)
}

/// Time that a model may take to load without a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// Loads a checkpoint for decoding or evaluation and prints its warnings; a large one shows how far it is.
fn load_model(dir: &Path, precision: Precision) -> anyhow::Result<Model> {
    let (start, bar) = (Instant::now(), ui::byte_bar());
    let mut show = |done, total| {
        if start.elapsed() > PATIENCE {
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    let model = load_model_watched(dir, precision, &mut show);
    bar.finish_and_clear();
    model
}

/// The same; `watch` is told how many bytes have been read, and of how many.
fn load_model_watched(
    dir: &Path,
    precision: Precision,
    watch: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Model> {
    let mut is_first = true;
    let mut watch = |done, total| {
        if std::mem::take(&mut is_first)
            && let Some(warning) = ui::free_bytes().and_then(|free| shortage(total - done, free))
        {
            ui::say(warning);
        }
        watch(done, total);
    };
    let loaded = llada_model::load_watched(dir, precision, KeepDtype::AsStored, &mut watch)?;
    for warning in &loaded.warnings {
        ui::say(format!("warning: {warning}"));
    }
    let mut model = Model::new(loaded.config, loaded.weights);
    model.pack();
    Ok(model)
}

/// Returns a warning if so many bytes of weights do not fit in the memory that is free.
fn shortage(needed: u64, free: u64) -> Option<String> {
    (needed > free).then(|| {
        format!(
            "warning: the weights take at least {}, and {} of memory are free: the system will move memory to disk, \
             which is slow, or end the program; `--quant q4_0` takes the least",
            HumanBytes(needed),
            HumanBytes(free)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_fit_are_no_reason_for_a_warning() {
        assert_eq!(shortage(5, 5), None);
        let warning = shortage(10 << 30, 6 << 30).unwrap();
        assert!(
            warning.contains("10.00 GiB") && warning.contains("6.00 GiB"),
            "{warning}"
        );
        assert_eq!(ui::free_bytes().is_some(), cfg!(target_os = "linux"));
    }
}
