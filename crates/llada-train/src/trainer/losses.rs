//! What a recipe's `[cap]`, `[dpo]`, `[edit]`, `[levenshtein]`, `[oput]` and `[ebpo]` make of a run.

use std::path::Path;

use llada_diffusion::{
    LabelAlignment, LevenshteinNoise, NoiseSchedule, Operations, ReplaceNoise, Replacements,
};
use llada_model::{Config, Model};
use llada_text::Tokenizer;

use super::setup;
use crate::batch::{DraftNoise, EditWeights, Editing, Reading};
use crate::data::Unit;
use crate::error::{Error, Result};
use crate::objective::{Ebpo, Loss, OnPolicy, Preference, Reference, Turns};
use crate::recipe::{Dpo, Init, Recipe};

/// Returns what is drawn together.
pub(crate) fn unit(recipe: &Recipe) -> Unit {
    match recipe.dpo {
        Some(_) => Unit::Pair,
        None => Unit::Document,
    }
}

/// Returns what batches are scored by; for preference training with its frozen model: that which the
/// adapter is for, or one that is read anew.
pub(super) fn loss(recipe: &Recipe, model: &Model) -> Result<Loss> {
    if let Some(cap) = &recipe.cap {
        return Ok(Loss::Cap { lambda: cap.lambda });
    }
    if let Some(dpo) = &recipe.dpo {
        return preference(recipe, dpo, model);
    }
    if let Some(oput) = &recipe.oput {
        let (share, seed) = (oput.share, recipe.train.seed);
        return Ok(Loss::OnPolicy(OnPolicy { share, seed }));
    }
    if let Some(ebpo) = &recipe.ebpo {
        return Ok(Loss::Ebpo(Ebpo {
            clip: ebpo.clip(),
            level_weights: ebpo.weights(),
        }));
    }
    let Some(weights) = weights(recipe) else {
        return Ok(Loss::Likelihood);
    };
    let config = &model.config;
    let (num, threshold, operations) = match (&recipe.edit, &recipe.levenshtein) {
        (Some(edit), _) => (edit.turns, edit.threshold, None),
        (None, Some(of)) => (of.turns, of.threshold, Some(operations(config)?)),
        (None, None) => return Ok(Loss::Likelihood),
    };
    let is_shifted = Reading::of(config)?.alignment == LabelAlignment::Shifted;
    if operations.is_some() && num > 1 && is_shifted {
        return Err(Error::Setting {
            key: "levenshtein.turns",
            problem:
                "must be 1 for a model with shifted labels: later rounds are for labels at the \
                      same position"
                    .into(),
        });
    }
    Ok(Loss::Edit(Turns {
        num,
        threshold,
        weights,
        operations,
    }))
}

fn preference(recipe: &Recipe, dpo: &Dpo, model: &Model) -> Result<Loss> {
    if let Some(path) = &dpo.reference {
        require_alike(path, &model.config)?;
    }
    let reference = match dpo.cache_reference {
        true => Reference::Known,
        false => Reference::Model(reference(recipe, dpo, model)?.into()),
    };
    let beta = dpo.beta;
    Ok(Loss::Dpo(Preference { reference, beta }))
}

/// Returns the frozen model of preference training.
pub(super) fn reference(recipe: &Recipe, dpo: &Dpo, model: &Model) -> Result<Model> {
    Ok(match &dpo.reference {
        Some(path) => setup::model(recipe, Init::Checkpoint(path))?.0,
        None if recipe.lora.is_some() => model.base(),
        None => setup::model(recipe, recipe.model.init()?)?.0,
    })
}

/// Checks that a checkpoint reads the rows that the trained model reads.
fn require_alike(path: &Path, config: &Config) -> Result<()> {
    let reference = Config::from_dir(path)?;
    let is_alike = reference.vocab_size == config.vocab_size
        && Reading::of(&reference)? == Reading::of(config)?;
    if is_alike {
        return Ok(());
    }
    let problem = "differs from the trained model in vocabulary, MASK id or label alignment; \
                   name another `dpo.reference`";
    Err(Error::unsuitable(path, problem))
}

/// Returns how each mask of a document is drawn.
pub(super) fn noises(recipe: &Recipe) -> Result<Vec<NoiseSchedule>> {
    let noise = recipe.objective.noise()?;
    match &recipe.ebpo {
        Some(ebpo) => ebpo.noises(noise),
        None => Ok(vec![noise; recipe.dpo.as_ref().map_or(1, |dpo| dpo.draws)]),
    }
}

/// Returns how drafts are made, if the recipe wants any.
pub(super) fn editing(
    recipe: &Recipe,
    config: &Config,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<Editing>> {
    let Some(weights) = weights(recipe) else {
        return Ok(None);
    };
    let noise = match (&recipe.edit, &recipe.levenshtein) {
        (Some(edit), _) => DraftNoise::Replace(ReplaceNoise {
            rate: edit.rate,
            keep_rate: edit.keep_rate,
        }),
        (None, Some(levenshtein)) => {
            let noise = LevenshteinNoise {
                share: levenshtein.share,
                rate: levenshtein.rate,
            };
            DraftNoise::Levenshtein(noise, operations(config)?)
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Editing {
        noise,
        replacements: replacements(config, tokenizer)?,
        weights,
    }))
}

fn weights(recipe: &Recipe) -> Option<EditWeights> {
    let edit = recipe
        .edit
        .as_ref()
        .map(|edit| (edit.weight, edit.keep_weight));
    let levenshtein = recipe.levenshtein.as_ref();
    let levenshtein = levenshtein.map(|given| (given.weight, given.keep_weight));
    let (wrong, right) = edit.or(levenshtein)?;
    Some(EditWeights { wrong, right })
}

/// Returns the ids of the operations, if the checkpoint names them all.
pub(super) fn operations(config: &Config) -> Result<Operations> {
    let missing = |key| move || Error::NoEditToken(key);
    Ok(Operations {
        mask: Reading::of(config)?.mask_token_id,
        delete: config
            .delete_token_id
            .ok_or_else(missing("delete_token_id"))?,
        insert: config
            .split_token_id
            .ok_or_else(missing("split_token_id"))?,
    })
}

/// Returns the tokens that text consists of: none with a meaning of its own, none without a text.
fn replacements(config: &Config, tokenizer: Option<&Tokenizer>) -> Result<Replacements> {
    let special = [
        config.mask_token_id,
        config.delete_token_id,
        config.split_token_id,
        config.bos_token_id,
        config.pad_token_id,
    ];
    let is_text = |&id: &u32| {
        let is_special = special.contains(&Some(id)) || config.eos_token_ids.contains(&id);
        let is_known = |tokenizer: &Tokenizer| {
            id <= tokenizer.largest_id() && !tokenizer.specials().contains(id)
        };
        !is_special && tokenizer.is_none_or(is_known)
    };
    let vocab_size = u32::try_from(config.vocab_size).unwrap_or(u32::MAX);
    Ok(Replacements::new((0..vocab_size).filter(is_text))?)
}
