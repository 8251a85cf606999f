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
use llada_model::{KeepDtype, Model, Room};
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
    let room = room();
    let keep = KeepDtype::AsStored;
    let loaded = llada_model::load_watched(dir, precision, keep, room.as_ref(), watch)?;
    for warning in &loaded.warnings {
        ui::say(format!("warning: {warning}"));
    }
    if let (Some(room), 1..) = (room, loaded.paged_bytes) {
        ui::say(shortage(loaded.paged_bytes, &room, dir.is_dir()));
    }
    let mut model = Model::new(loaded.config, loaded.weights);
    model.pack();
    Ok(model)
}

/// Share of the free memory that is left to other things than weights, and what is left at least: a gibibyte for keys and
/// values, and activations.
const LEFT: (u64, u64) = (8, 1536 << 20);

/// Returns the memory that weights may take, where the system says how much there is and there is a place for
/// the rest.
fn room() -> Option<Room> {
    let (free, dir) = (ui::free_bytes()?, ui::cache_dir().ok()?);
    let (share, least) = LEFT;
    let bytes = free.saturating_sub((free / share).max(least));
    Some(Room { bytes, dir })
}

/// Returns what a user should know of weights that lie in a file.
fn shortage(paged: u64, room: &Room, can_be_smaller: bool) -> String {
    let advice = match can_be_smaller {
        true => "; `--quant q4_0` takes the least",
        false => "",
    };
    format!(
        "warning: {} of the weights do not fit the {} that memory has for them: they lie in a file in `{}` as long as \
         the program runs, from which the system reads what it needs; that is slow{advice}",
        HumanBytes(paged),
        HumanBytes(room.bytes),
        room.dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_with_both_sizes_and_what_helps() {
        let room = Room {
            bytes: 6 << 30,
            dir: "cache".into(),
        };
        for can_be_smaller in [true, false] {
            let warning = shortage(10 << 30, &room, can_be_smaller);
            for said in ["10.00 GiB", "6.00 GiB", "`cache`"] {
                assert!(warning.contains(said), "{warning}");
            }
            assert_eq!(warning.contains("--quant q4_0"), can_be_smaller);
        }
    }

    #[test]
    fn a_machine_says_how_much_memory_it_has() {
        let (free, own) = (ui::free_bytes().unwrap(), ui::resident_bytes());
        assert!(0 < own && own < free, "{own} of {free}");
    }
}
