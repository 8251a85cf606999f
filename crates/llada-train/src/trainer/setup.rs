//! What a run needs before its first step: model, tokenizer, documents, settings.

use std::collections::BTreeMap;
use std::path::Path;

use llada_diffusion::{BlockSize, Elision, Objective};
use llada_model::{Adapter, Config, KeepDtype, Model, Weights, load};
use llada_text::Tokenizer;

pub(crate) use super::losses::unit;
use super::losses::{editing, noises, operations};
use super::reference_bounds::{self, ReferenceBounds};
pub(crate) use super::trained::Trained;
use super::trained::{adapter_config, resume_adapter};
use crate::batch::{Assembly, Batch, Diffusion, Reading, Task};
use crate::checkpoint::{self, Checkpoints, State};
use crate::data::{Corpus, Document, Drawn, Overflow, Reader, Unit};
use crate::error::{Error, Result};
use crate::evaluate::{Mode, nll};
use crate::objective::{DpoSums, Loss};
use crate::optimizer::AdamWSettings;
use crate::recipe::{Init, Recipe, Trajectory};
use crate::rollout::measures;
use crate::step::Learner;
use crate::validations::Better;

/// What is validated on, and how.
pub(super) struct Validation {
    pub(super) documents: Vec<Document>,
    pub(super) modes: Vec<(String, Mode)>,
    /// Held-out pairs, under noise that is always the same.
    pub(super) pairs: Option<Batch>,
}

impl Validation {
    /// Lists what is measured.
    fn names(&self) -> Vec<&str> {
        let modes = self.modes.iter().map(|(name, _)| name.as_str());
        let of_pairs = DpoSums::default().means().map(|(name, _)| name);
        let pairs = self.pairs.iter().flat_map(|_| of_pairs);
        modes.chain(pairs).collect()
    }

    /// Returns nats per token by mode, and how pairs are judged.
    pub(super) fn measure(
        &self,
        model: &Model,
        loss: &Loss,
        draws: usize,
    ) -> Result<BTreeMap<String, f64>> {
        let measure = |(name, mode): &(String, Mode)| {
            let result = nll(model, &self.documents, *mode, draws)?;
            Ok((name.clone(), result.nll_per_token))
        };
        let modes = self.modes.iter().map(measure);
        let mut measured = modes.collect::<Result<BTreeMap<_, _>>>()?;
        if let (Loss::Dpo(preference), Some(pairs)) = (loss, &self.pairs) {
            let mut sums = DpoSums::default();
            for micro_batch in &pairs.micro_batches {
                sums += preference.measure(model, micro_batch, &pairs.reference);
            }
            measured.extend(sums.means().map(|(name, mean)| (name.to_owned(), mean)));
        }
        Ok(measured)
    }
}

pub(super) fn begin(recipe: &Recipe) -> Result<(Learner, State, Vec<String>)> {
    let (mut model, warnings) = model(recipe, recipe.model.init()?)?;
    let trained = Trained::of(recipe, &model.config)?;
    if let Trained::Adapter(plan) = &trained {
        let parts = plan.draw(&model.config, recipe.model.seed);
        model = model.with_adapter(parts);
    }
    Ok((learner(recipe, model, &trained), State::default(), warnings))
}

fn learner(recipe: &Recipe, model: Model, trained: &Trained) -> Learner {
    let gradients = trained.zero_gradients(&model);
    let mut learner = Learner::new(model, gradients, adamw_settings(recipe));
    learner.adapter = adapter_config(recipe);
    learner
}

/// Returns a model and what the user should know about its files.
pub(super) fn model(recipe: &Recipe, init: Init<'_>) -> Result<(Model, Vec<String>)> {
    let precision = recipe.model.precision.into();
    match init {
        Init::Checkpoint(path) => {
            let keep = match recipe.lora {
                Some(_) => KeepDtype::Numbers,
                None => KeepDtype::F32,
            };
            let loaded = load(path, precision, keep)?;
            Ok((Model::new(loaded.config, loaded.weights), loaded.warnings))
        }
        Init::Random(path) => {
            let config = read_config(path)?;
            let weights = Weights::random(&config, recipe.model.seed, precision);
            Ok((Model::new(config, weights), Vec::new()))
        }
    }
}

pub(super) fn go_on(recipe: &Recipe, dir: &Path) -> Result<(Learner, State, Vec<String>)> {
    let checkpoints = dir.join("checkpoints");
    if !checkpoints.is_dir() {
        let problem = "has no checkpoint to resume from; start the run without resuming";
        return Err(Error::unsuitable(dir, problem));
    }
    let Some(latest) = Checkpoints::open(checkpoints)?.latest()? else {
        return begin(recipe); // it was killed before its first checkpoint
    };
    let start = match recipe.lora {
        Some(_) => recipe.model.init()?,
        None => Init::Checkpoint(&latest),
    };
    let (mut model, _) = model(recipe, start)?;
    let trained = Trained::of(recipe, &model.config)?;
    if let Trained::Adapter(plan) = &trained {
        model = resume_adapter(model, &Adapter::open(&latest)?, plan)?;
    }
    let mut learner = learner(recipe, model, &trained);
    let state = checkpoint::restore(&latest, &mut learner.optimizer)?;
    Ok((learner, state, Vec::new()))
}

/// Checks that what the recipe says of experts can be done to the model.
pub(crate) fn require_experts(recipe: &Recipe, config: &Config) -> Result<()> {
    require_block(recipe, config)?;
    let has_bias = config.moe.as_ref().is_some_and(|moe| moe.expert_bias);
    let keys = [
        (
            "optimizer.router_z_loss",
            recipe.optimizer.router_z_loss,
            config.moe.is_some(),
        ),
        (
            "optimizer.expert_bias_rate",
            recipe.optimizer.expert_bias_rate,
            has_bias,
        ),
    ];
    match keys
        .into_iter()
        .find(|&(_, value, can)| value > 0.0 && !can)
    {
        None => Ok(()),
        Some((key, ..)) => Err(Error::Setting {
            key,
            problem: "must be 0 for this model, which has no experts with a bias".into(),
        }),
    }
}

/// Checks that blocks are those whose rows choose their experts together, if the model has such.
fn require_block(recipe: &Recipe, config: &Config) -> Result<()> {
    let Some(routing) = config.block_routing() else {
        return Ok(());
    };
    let size = routing.block_size;
    let refuse = |key| {
        Err(Error::Setting {
            key,
            problem: format!(
                "must be {size} for this model, in which {size} rows choose their experts together"
            ),
        })
    };
    let objective = &recipe.objective;
    if objective.kind != Objective::Bdlm || objective.block_size != Some(size) {
        return refuse("objective.block_size");
    }
    match recipe
        .train
        .eval_block_sizes
        .iter()
        .any(|&other| other != size)
    {
        true => refuse("train.eval_block_sizes"),
        false => Ok(()),
    }
}

/// Checks that answers are there if and only if the recipe trains on them.
pub(super) fn require_environment(recipe: &Recipe, has_environment: bool) -> Result<()> {
    let problem = match (recipe.ebpo.is_some(), has_environment) {
        (true, false) => "needs answers of the model, for which there is no decoder here",
        (false, true) => "must be given to train on answers of the model",
        _ => return Ok(()),
    };
    Err(Error::Setting {
        key: "ebpo",
        problem: problem.into(),
    })
}

fn adamw_settings(recipe: &Recipe) -> AdamWSettings {
    let optimizer = &recipe.optimizer;
    AdamWSettings {
        betas: optimizer.betas,
        eps: optimizer.eps,
        weight_decay: optimizer.weight_decay,
    }
}

/// Returns the configuration of the model that the recipe starts from, without its weights.
pub(crate) fn config(recipe: &Recipe) -> Result<Config> {
    match recipe.model.init()? {
        Init::Checkpoint(path) => Ok(Config::from_dir(path)?),
        Init::Random(path) => read_config(path),
    }
}

fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(Config::from_json(&text)?)
}

pub(crate) fn tokenizer(recipe: &Recipe, config: &Config) -> Result<Option<Tokenizer>> {
    let Some(dir) = recipe.model.tokenizer_dir() else {
        return Ok(None);
    };
    let tokenizer = Tokenizer::load(dir)?;
    tokenizer.check_vocab_size(config.vocab_size)?;
    Ok(Some(tokenizer))
}

pub(crate) fn reader<'t>(
    recipe: &Recipe,
    config: &Config,
    tokenizer: Option<&'t Tokenizer>,
) -> Reader<'t> {
    Reader {
        unit: unit(recipe),
        tokenizer,
        vocab_size: config.vocab_size,
        mask_token_id: config.mask_token_id,
        operations: recipe
            .levenshtein
            .as_ref()
            .and_then(|_| operations(config).ok()),
        eos_token_id: eos_token_id(config, tokenizer),
        append_eos: recipe.data.append_eos,
        max_len: recipe.data.max_len,
        overflow: Overflow::Cut,
        recorded: recipe.trajectory.as_ref().and(recipe.objective.block_size),
    }
}

/// Validation takes texts as they are: nothing appended, long ones truncated, whoever wrote them.
pub(crate) fn validation_reader(reader: Reader<'_>) -> Reader<'_> {
    Reader {
        append_eos: false,
        overflow: Overflow::Truncate,
        recorded: None,
        ..reader
    }
}

/// Returns the documents to train on, and how much can be drawn from each source and its weight.
pub(crate) fn corpus(recipe: &Recipe, reader: &Reader<'_>) -> Result<(Corpus, Vec<(usize, f64)>)> {
    let mut corpus = Corpus::default();
    let mut sources = Vec::new();
    for (paths, weight) in recipe.data.train.weighted()? {
        let source = reader.read(&paths)?;
        sources.push((source.documents.len() / reader.unit.size(), weight));
        corpus.append(source);
    }
    Ok((corpus, sources))
}

/// Checks that the places of an earlier session are in the sources of this one.
pub(super) fn require_cursors(dir: &Path, state: &State, sources: &[(usize, f64)]) -> Result<()> {
    let before: Vec<usize> = state.cursors.iter().map(|cursor| cursor.of).collect();
    let now: Vec<usize> = sources.iter().map(|&(documents, _)| documents).collect();
    if before.is_empty() || before == now {
        return Ok(());
    }
    let problem = format!(
        "was trained on sources of {before:?} documents, those of the recipe have {now:?}; resume with \
         the data that it began with, or start a run from its checkpoint"
    );
    Err(Error::unsuitable(dir, problem))
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
    if corpus.num_with_mask > 0 {
        warnings.push(format!(
            "{} rows hold the MASK id and are left out",
            corpus.num_with_mask
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
    let paths = &recipe.data.valid;
    let block_mode = |&size: &usize| {
        let mode = Mode::Block(BlockSize::new(size)?);
        Ok((format!("block_{size}"), mode))
    };
    let blocks = recipe.train.eval_block_sizes.iter().map(block_mode);
    let mut modes = blocks.collect::<Result<Vec<_>>>()?;
    if recipe.objective.kind == Objective::Ar {
        modes.push(("ar".into(), Mode::Ar));
    }
    if paths.0.is_empty() || (modes.is_empty() && recipe.dpo.is_none()) {
        return Ok(None);
    }
    let reader = validation_reader(reader(recipe, config, tokenizer));
    let mut documents = reader.read(&paths.0)?.documents;
    let unit = reader.unit;
    if recipe.train.eval_documents > 0 {
        documents.truncate(recipe.train.eval_documents.saturating_mul(unit.size()));
    }
    let pairs = match unit {
        Unit::Pair => Some(fixed_batch(recipe, config, tokenizer, &documents)?),
        Unit::Document => None,
    };
    Ok(Some(Validation {
        documents: documents.into_iter().step_by(unit.size()).collect(), // of pairs, what is chosen
        modes,
        pairs,
    }))
}

/// Returns what is known of the reference's bounds, if the recipe wants all of them before the first step.
pub(super) fn reference_bounds(
    recipe: &Recipe,
    run_dir: &Path,
    corpus: &Corpus,
    validation: Option<&Validation>,
) -> Result<Option<ReferenceBounds>> {
    if !recipe.dpo.as_ref().is_some_and(|dpo| dpo.cache_reference) {
        return Ok(None);
    }
    let held_out = validation.and_then(|validation| validation.pairs.as_ref());
    let origin = reference_bounds::origin(recipe, &corpus.documents, held_out)?;
    ReferenceBounds::open(run_dir, origin).map(Some)
}

/// Returns the pairs of some documents in the last block size of the schedule, under the noise of
/// seed and epoch 0.
fn fixed_batch(
    recipe: &Recipe,
    config: &Config,
    tokenizer: Option<&Tokenizer>,
    documents: &[Document],
) -> Result<Batch> {
    let assembly = Assembly {
        seed: 0,
        ..assembly(recipe, config, tokenizer)?
    };
    let pair = |document| Drawn { epoch: 0, document };
    let drawn = (0..documents.len() / assembly.unit.size())
        .map(pair)
        .collect();
    let block_size = recipe.objective.blocks()?.at(u64::MAX, u64::MAX);
    Ok(assembly.batch(documents, drawn, block_size))
}

/// Checks that validation measures what checkpoints are compared by.
pub(super) fn require_metric(recipe: &Recipe, validation: Option<&Validation>) -> Result<()> {
    let Some(metric) = &recipe.train.keep_best_metric else {
        return Ok(());
    };
    Better::of(metric)?;
    let mut names = validation.map_or_else(Vec::new, Validation::names);
    if recipe.ebpo.is_some() && !recipe.data.valid.0.is_empty() {
        names.extend(measures(&[]).map(|(name, _)| name));
    }
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
            noises: noises(recipe)?,
            group_blocks: objective.group_blocks,
            complementary: objective.complementary,
            fill: eos_token_id(config, tokenizer).filter(|_| objective.eos_fill),
            editing: editing(recipe, config, tokenizer)?,
            trajectory: recipe.trajectory.as_ref().map(Trajectory::noise),
            reading: Reading::of(config)?,
        }),
    };
    Ok(Assembly {
        task,
        unit: unit(recipe),
        normalisation: objective.normalisation,
        seed: recipe.train.seed,
        micro_batch_rows: recipe.train.micro_batch_rows,
        elision: Elision::On,
    })
}
