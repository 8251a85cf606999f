//! What a run needs before its first step: model, tokenizer, documents, settings.

use std::collections::BTreeMap;
use std::path::Path;

use llada_diffusion::{BlockSize, Elision, Objective};
use llada_model::{Config, KeepDtype, Model, Weights, load};
use llada_text::Tokenizer;

use crate::batch::{Assembly, Diffusion, Reading, Task};
use crate::checkpoint::{self, Checkpoints, State};
use crate::data::{Corpus, Document, Overflow, Reader};
use crate::error::{Error, Result};
use crate::evaluate::{Mode, nll};
use crate::optimizer::{AdamWSettings, Optimizer};
use crate::recipe::{Init, Recipe};
use crate::step::Learner;

/// What is validated on, and how.
pub(super) struct Validation {
    pub(super) documents: Vec<Document>,
    pub(super) modes: Vec<(String, Mode)>,
}

impl Validation {
    /// Returns nats per token by mode.
    pub(super) fn measure(&self, model: &Model, draws: usize) -> Result<BTreeMap<String, f64>> {
        let measure = |(name, mode): &(String, Mode)| {
            let result = nll(model, &self.documents, *mode, draws)?;
            Ok((name.clone(), result.nll_per_token))
        };
        self.modes.iter().map(measure).collect()
    }
}

pub(super) fn begin(recipe: &Recipe) -> Result<(Learner, State, Vec<String>)> {
    let precision = recipe.model.precision.into();
    let (config, weights, warnings) = match recipe.model.init()? {
        Init::Checkpoint(path) => {
            let loaded = load(path, precision, KeepDtype::F32)?;
            (loaded.config, loaded.weights, loaded.warnings)
        }
        Init::Random(path) => {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            let config = Config::from_json(&text)?;
            let weights = Weights::random(&config, recipe.model.seed, precision);
            (config, weights, Vec::new())
        }
    };
    let optimizer = Optimizer::new(&config, adamw_settings(recipe));
    let learner = Learner::new(Model::new(config, weights), optimizer);
    Ok((learner, State::default(), warnings))
}

pub(super) fn go_on(recipe: &Recipe, dir: &Path) -> Result<(Learner, State, Vec<String>)> {
    let latest = match dir.join("checkpoints") {
        checkpoints if checkpoints.is_dir() => Checkpoints::open(checkpoints)?.latest()?,
        _ => None,
    };
    let problem = "has no checkpoint to resume from; start the run without resuming";
    let latest = latest.ok_or_else(|| Error::unsuitable(dir, problem))?;
    let precision = recipe.model.precision.into();
    let (learner, state) = checkpoint::load(&latest, precision, adamw_settings(recipe))?;
    Ok((learner, state, Vec::new()))
}

fn adamw_settings(recipe: &Recipe) -> AdamWSettings {
    let optimizer = &recipe.optimizer;
    AdamWSettings {
        betas: optimizer.betas,
        eps: optimizer.eps,
        weight_decay: optimizer.weight_decay,
    }
}

pub(super) fn tokenizer(recipe: &Recipe, config: &Config) -> Result<Option<Tokenizer>> {
    let Some(dir) = recipe.model.tokenizer_dir() else {
        return Ok(None);
    };
    let tokenizer = Tokenizer::load(dir)?;
    tokenizer.check_vocab_size(config.vocab_size)?;
    Ok(Some(tokenizer))
}

pub(super) fn reader<'t>(
    recipe: &Recipe,
    config: &Config,
    tokenizer: Option<&'t Tokenizer>,
) -> Reader<'t> {
    Reader {
        tokenizer,
        vocab_size: config.vocab_size,
        mask_token_id: config.mask_token_id,
        eos_token_id: eos_token_id(config, tokenizer),
        append_eos: recipe.data.append_eos,
        max_len: recipe.data.max_len,
        overflow: Overflow::Cut,
    }
}

/// Says what of the data is not trained on as it stands in the files.
pub(super) fn warnings(corpus: &Corpus, max_len: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    if corpus.num_cut > 0 {
        warnings.push(format!(
            "{} rows are longer than data.max_len ({max_len} tokens): text is cut into several \
             documents, answers lose their end",
            corpus.num_cut
        ));
    }
    if corpus.num_dropped > 0 {
        warnings.push(format!(
            "{} documents have no token to learn",
            corpus.num_dropped
        ));
    }
    warnings
}

/// Returns the id that ends a text, from the config or else the tokenizer.
fn eos_token_id(config: &Config, tokenizer: Option<&Tokenizer>) -> Option<u32> {
    let from_tokenizer = || tokenizer.and_then(|tokenizer| tokenizer.specials().eos);
    config
        .eos_token_ids
        .first()
        .copied()
        .or_else(from_tokenizer)
}

pub(super) fn validation(
    recipe: &Recipe,
    config: &Config,
    tokenizer: Option<&Tokenizer>,
) -> Result<Option<Validation>> {
    let paths = &recipe.data.valid.0;
    let block_mode = |&size: &usize| {
        let mode = Mode::Block(BlockSize::new(size)?);
        Ok((format!("block_{size}"), mode))
    };
    let blocks = recipe.train.eval_block_sizes.iter().map(block_mode);
    let mut modes = blocks.collect::<Result<Vec<_>>>()?;
    if recipe.objective.kind == Objective::Ar {
        modes.push(("ar".into(), Mode::Ar));
    }
    if paths.is_empty() || modes.is_empty() {
        return Ok(None);
    }
    let reader = Reader {
        append_eos: false,
        overflow: Overflow::Truncate,
        ..reader(recipe, config, tokenizer)
    };
    let mut documents = reader.read(paths)?.documents;
    if recipe.train.eval_documents > 0 {
        documents.truncate(recipe.train.eval_documents);
    }
    Ok(Some(Validation { documents, modes }))
}

/// Checks that validation measures what checkpoints are compared by.
pub(super) fn require_metric(recipe: &Recipe, validation: Option<&Validation>) -> Result<()> {
    let Some(metric) = &recipe.train.keep_best_metric else {
        return Ok(());
    };
    let modes = validation.map_or(&[][..], |validation| &validation.modes);
    let names: Vec<&str> = modes.iter().map(|(name, _)| name.as_str()).collect();
    if names.contains(&metric.as_str()) {
        return Ok(());
    }
    Err(Error::Setting {
        key: "train.keep_best_metric",
        problem: format!("must be what the run validates ({names:?}), found `{metric}`"),
    })
}

pub(super) fn assembly(
    recipe: &Recipe,
    config: &Config,
    tokenizer: Option<&Tokenizer>,
) -> Result<Assembly> {
    let objective = &recipe.objective;
    let task = match objective.kind {
        Objective::Ar => Task::Causal {
            loss_on_prompt: objective.loss_on_prompt,
        },
        kind => Task::Diffusion(Diffusion {
            objective: kind,
            noise: objective.noise()?,
            complementary: objective.complementary,
            fill: eos_token_id(config, tokenizer).filter(|_| objective.eos_fill),
            reading: Reading::of(config)?,
        }),
    };
    Ok(Assembly {
        task,
        normalisation: objective.normalisation,
        seed: recipe.train.seed,
        micro_batch_rows: recipe.train.micro_batch_rows,
        elision: Elision::On,
    })
}
