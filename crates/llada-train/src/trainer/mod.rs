//! The loop: documents, step, metrics, validation, checkpoints.
//!
//! A run lives in a directory of its own:
//!
//! ```text
//! config.toml      the recipe with every default
//! metrics.jsonl    one object per step
//! report.html      its curves, as of the last validation or checkpoint
//! checkpoints/     to resume from
//! final/           the trained model, as the Hub lays out checkpoints; of an adapter the model with it
//!                  merged, and in `final/adapter/` itself
//! ```

pub(crate) mod log;
mod losses;
mod reference_bounds;
pub(crate) mod setup;
#[cfg(test)]
mod tests;
mod trained;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use llada_diffusion::{BlockSize, LearningRate, Objective};
use llada_model::{Model, PartialDir, SaveOptions, StorageDtype, write_adapter, write_model};
use llada_text::Tokenizer;
use serde::Serialize;

use self::log::Log;
use self::reference_bounds::ReferenceBounds;
use self::setup::Validation;
use crate::adapter_dropout::AdapterDropout;
use crate::balance::ExpertLoad;
use crate::batch::{Assembly, Batch};
use crate::checkpoint::{self, Checkpoints, Retention, State};
use crate::data::{Corpus, Drawn, Mix};
use crate::error::{Error, Result};
use crate::mask_noise::MaskNoise;
use crate::objective::{Loss, Measures, pair_bounds};
use crate::recipe::{Blocks, Recipe, Train};
use crate::replace::replace;
use crate::report;
use crate::rollout::{self, Environment, Lesson};
use crate::step::{Learner, StepReport, StepSettings};
use crate::validations;

/// Whether a run begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It begins: the run directory must be new or empty.
    No,
    /// It goes on from its newest checkpoint; a run that was killed before its first begins again.
    Yes,
}

/// What one step measured: a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// Step, from 1.
    pub step: u64,
    /// Tokens of all documents trained on so far.
    pub tokens: u64,
    /// The loss as the recipe normalises it, in nats.
    pub loss: f64,
    /// Mean negative log-likelihood of the scored tokens, in nats.
    pub nll: f64,
    /// `nll` of the tokens under mask ratios from 0 to 0.1, 0.1 to 0.2 and so on: ten numbers, `None`
    /// where nothing was scored. Empty for `ar`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nll_by_mask_ratio: Vec<Option<f64>>,
    /// Share of supervised tokens that was masked.
    pub mask_ratio: f64,
    /// Tokens per block; for whole documents, of the longest one.
    pub block_size: usize,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f32,
    /// Rows computed in this step.
    pub rows: usize,
    /// Tokens of documents per second, in this step.
    pub tokens_per_second: f64,
    /// Euclidean norm of the MASK row of the embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_row_norm: Option<f64>,
    /// Seconds since the run began, all its sessions together.
    pub elapsed_seconds: f64,
    /// Steps so far that had no scored token.
    pub skipped_steps: u64,
    /// How evenly experts were used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expert_load: Option<ExpertLoad>,
    /// What the loss measures besides, such as `cap_correct` or `dpo_margin`.
    #[serde(flatten)]
    pub measures: Measures,
    /// Validation: nats per token by mode, `ar` or `block_N`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub valid: BTreeMap<String, f64>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Before the first step, the frozen model of preference training has scored some of the pairs.
    Reference {
        /// Pairs that have their bounds.
        scored: usize,
        /// Pairs that need them.
        pairs: usize,
    },
    /// A step is taken.
    Step(&'a Metrics),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done; `final/` is written.
    Finished,
    /// The time limit of the recipe came first; `final/` is written.
    OutOfTime,
    /// It was told to stop; a checkpoint is written.
    Stopped,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why.
    pub ending: Ending,
    /// Steps taken, those of earlier sessions included.
    pub steps: u64,
    /// What the user should know although it is no error.
    pub warnings: Vec<String>,
}

/// Trains as `recipe` says, in `run_dir`.
///
/// `progress` is called after every step, and between the batches that are scored before the first. When `stop` becomes true, the step in progress is finished
/// and a checkpoint saved.
///
/// # Errors
/// If the run directory is in use (without [`Resume::Yes`]) or holds no run (with it), the
/// model, tokenizer or data cannot be used, a loss is not finite, or a file cannot be written.
pub fn train(
    recipe: &Recipe,
    run_dir: &Path,
    resume: Resume,
    progress: &mut dyn FnMut(Progress<'_>),
    stop: &AtomicBool,
) -> Result<Outcome> {
    Run::open(recipe, run_dir, resume, None)?.go(progress, stop)
}

/// As [`train`], of a recipe with `[ebpo]`, on answers that `environment` rewards.
///
/// # Errors
/// As [`train`], and if the environment fails.
pub fn train_policy(
    recipe: &Recipe,
    environment: &mut dyn Environment,
    run_dir: &Path,
    resume: Resume,
    progress: &mut dyn FnMut(Progress<'_>),
    stop: &AtomicBool,
) -> Result<Outcome> {
    Run::open(recipe, run_dir, resume, Some(environment))?.go(progress, stop)
}

/// A run in progress.
struct Run<'a> {
    recipe: &'a Recipe,
    dir: &'a Path,
    /// Where the answers come from, if a policy is trained.
    environment: Option<&'a mut dyn Environment>,
    learner: Learner,
    tokenizer: Option<Tokenizer>,
    /// What is trained on, if it is no answers.
    corpus: Corpus,
    validation: Option<Validation>,
    assembly: Assembly,
    loss: Loss,
    /// What the reference said or will say before the first step, if it is asked then.
    reference: Option<ReferenceBounds>,
    blocks: Blocks,
    learning_rate: LearningRate,
    mix: Mix,
    state: State,
    checkpoints: Checkpoints,
    log: Log,
    began: Instant,
    warnings: Vec<String>,
}

impl<'a> Run<'a> {
    fn open(
        recipe: &'a Recipe,
        dir: &'a Path,
        resume: Resume,
        environment: Option<&'a mut dyn Environment>,
    ) -> Result<Self> {
        let began = Instant::now();
        setup::require_environment(recipe, environment.is_some())?;
        if resume == Resume::No {
            require_unused(dir)?;
        }
        let (learner, state, mut warnings) = match resume {
            Resume::No => setup::begin(recipe)?,
            Resume::Yes => setup::go_on(recipe, dir)?,
        };
        let config = &learner.model.config;
        setup::require_experts(recipe, config)?;
        let tokenizer = setup::tokenizer(recipe, config)?;
        let (corpus, sources) = match &environment {
            Some(environment) => (Corpus::default(), environment.sources()),
            None => setup::corpus(recipe, &setup::reader(recipe, config, tokenizer.as_ref()))?,
        };
        setup::require_cursors(dir, &state, &sources)?;
        warnings.extend(setup::warnings(&corpus, recipe.data.max_len));
        let validation = setup::validation(recipe, config, tokenizer.as_ref())?;
        setup::require_metric(recipe, validation.as_ref())?;
        let assembly = setup::assembly(recipe, config, tokenizer.as_ref())?;
        let loss = losses::loss(recipe, &learner.model)?;
        let reference = setup::reference_bounds(recipe, dir, &corpus, validation.as_ref())?;
        // Everything has been checked: only now does the run leave traces.
        let checkpoints = Checkpoints::open(dir.join("checkpoints"))?;
        remove_interrupted_export(dir)?;
        replace(&dir.join("config.toml"), &recipe.to_toml())?;
        Ok(Self {
            recipe,
            dir,
            environment,
            assembly,
            loss,
            reference,
            blocks: recipe.objective.blocks()?,
            learning_rate: recipe.optimizer.schedule(recipe.train.steps)?,
            mix: Mix::new(&sources, recipe.train.seed, &state.cursors),
            learner,
            tokenizer,
            corpus,
            validation,
            checkpoints,
            log: Log::open(dir.join("metrics.jsonl"), state.step)?,
            state,
            began,
            warnings,
        })
    }

    /// Takes the steps that are left.
    fn go(mut self, progress: &mut dyn FnMut(Progress<'_>), stop: &AtomicBool) -> Result<Outcome> {
        self.ask_reference(progress, stop)?;
        let ending = loop {
            if self.state.step >= self.recipe.train.steps {
                break Ending::Finished;
            }
            if self
                .recipe
                .train
                .max_seconds
                .is_some_and(|limit| self.seconds() >= limit)
            {
                break Ending::OutOfTime;
            }
            if stop.load(Ordering::Relaxed) {
                break Ending::Stopped;
            }
            if let Some(metrics) = self.step()? {
                self.log.write(&metrics)?;
                if !metrics.valid.is_empty() {
                    self.report()?;
                }
                progress(Progress::Step(&metrics));
            }
            self.checkpoint_if_due()?;
        };
        self.save_checkpoint()?;
        if ending != Ending::Stopped {
            self.export()?;
        }
        Ok(Outcome {
            ending,
            steps: self.state.step,
            warnings: self.warnings,
        })
    }

    /// Has the reference score all pairs of the steps to come, unless it has done so or does it step by step.
    fn ask_reference(
        &mut self,
        progress: &mut dyn FnMut(Progress<'_>),
        stop: &AtomicBool,
    ) -> Result<()> {
        let (Some(mut known), Some(dpo)) = (self.reference.take(), &self.recipe.dpo) else {
            return Ok(());
        };
        let asked = self.questions(&known);
        let held_out = self
            .validation
            .as_mut()
            .and_then(|validation| validation.pairs.as_mut());
        let is_measured = held_out
            .as_ref()
            .is_none_or(|pairs| pairs.drawn.len() == known.held_out.len());
        if !(asked.is_empty() && is_measured) {
            let reference = losses::reference(self.recipe, dpo, &self.learner.model)?;
            let (mut scored, pairs) = (0, asked.iter().map(|(drawn, _)| drawn.len()).sum());
            for (drawn, block_size) in asked {
                progress(Progress::Reference { scored, pairs });
                scored += drawn.len();
                if stop.load(Ordering::Relaxed) {
                    break; // the first step will not be taken
                }
                let batch = self
                    .assembly
                    .batch(&self.corpus.documents, drawn, block_size);
                known.add(&batch.drawn, pair_bounds(&reference, &batch));
            }
            if let Some(pairs) = &held_out {
                known.held_out = pair_bounds(&reference, pairs);
            }
            known.save()?;
        }
        if let Some(pairs) = held_out {
            pairs.reference.clone_from(&known.held_out);
        }
        self.reference = Some(known);
        Ok(())
    }

    /// Returns the pairs whose bounds are not known, and in which blocks, for every step to come.
    fn questions(&self, known: &ReferenceBounds) -> Vec<(Vec<Drawn>, BlockSize)> {
        let (mut mix, mut tokens) = (self.mix.clone(), self.state.tokens);
        let size = |drawn| self.assembly.num_tokens(&self.corpus.documents, drawn);
        let mut asked = Vec::new();
        for step in self.state.step..self.recipe.train.steps {
            let block_size = self.blocks.at(step, tokens);
            let drawn = draw(&mut mix, &self.recipe.train, size);
            tokens += drawn.iter().map(|&drawn| size(drawn) as u64).sum::<u64>();
            asked.push((known.missing(&drawn), block_size));
        }
        asked.retain(|(drawn, _)| !drawn.is_empty());
        asked
    }

    /// Returns the seconds that all sessions of the run have taken.
    fn seconds(&self) -> f64 {
        self.state.seconds + self.began.elapsed().as_secs_f64()
    }

    /// Takes one step; `None` if its batch had no scored token.
    fn step(&mut self) -> Result<Option<Metrics>> {
        let began = Instant::now();
        let block_size = self.blocks.at(self.state.step, self.state.tokens);
        let drawn = self.draw();
        let lesson = self.practise(&drawn)?;
        let mut batch = match &lesson {
            Some(lesson) => lesson.batch(&self.assembly, block_size),
            None => self
                .assembly
                .batch(&self.corpus.documents, drawn, block_size),
        };
        if let Some(reference) = &self.reference {
            batch.reference = reference.of(&batch.drawn);
        }
        batch.set_mask_noise(self.mask_noise(&batch.drawn).as_ref());
        batch.set_router_z_loss(self.recipe.optimizer.router_z_loss);
        batch.set_dropout(self.adapter_dropout(&batch.drawn).as_ref());
        let settings = StepSettings {
            learning_rate: self.learning_rate.at(self.state.step),
            clip: self.recipe.optimizer.clip,
            activations: self.recipe.train.activations.into(),
            expert_bias_rate: self.recipe.optimizer.expert_bias_rate,
        };
        let report = self.update(&mut batch, &settings)?;
        self.state.step += 1;
        self.state.tokens += batch.num_tokens;
        self.state.skipped_steps += u64::from(report.is_none());
        let seconds = began.elapsed().as_secs_f64();
        let valid = self.validate_if_due()?;
        let report = match lesson {
            Some(lesson) => Some(lesson.report(report)),
            None => report,
        };
        let metrics = report.map(|report| Metrics {
            lr: settings.learning_rate,
            tokens_per_second: batch.num_tokens as f64 / seconds,
            valid,
            ..self.metrics(&report, &batch, block_size)
        });
        Ok(metrics)
    }

    /// Answers the prompts that are drawn, if a policy is trained.
    fn practise(&mut self, drawn: &[Drawn]) -> Result<Option<Lesson>> {
        let Some(environment) = &mut self.environment else {
            return Ok(None);
        };
        let groups = environment.answer(&self.learner.model, drawn)?;
        Ok(Some(Lesson::of(&groups, drawn)))
    }

    /// Updates the model on a batch: once, or as often as the recipe says on answers of a policy, which are
    /// those of an older one from the second time on.
    fn update(&mut self, batch: &mut Batch, settings: &StepSettings) -> Result<Option<StepReport>> {
        let num_updates = self.recipe.ebpo.as_ref().map_or(1, |ebpo| ebpo.updates);
        if let (Loss::Ebpo(ebpo), true) = (&self.loss, num_updates > 1) {
            batch.answers.old_bounds = Some(ebpo.bounds(&self.learner.model, batch));
        }
        let mut report = None;
        for _ in 0..num_updates {
            report = self.learner.train_step(batch, &self.loss, settings)?;
        }
        Ok(report)
    }

    /// Takes the documents of the next step.
    fn draw(&mut self) -> Vec<Drawn> {
        let (assembly, documents) = (&self.assembly, &self.corpus.documents);
        let size = |drawn| assembly.num_tokens(documents, drawn);
        let drawn = draw(&mut self.mix, &self.recipe.train, size);
        self.state.cursors = self.mix.cursors();
        drawn
    }

    fn mask_noise(&self, drawn: &[Drawn]) -> Option<MaskNoise> {
        let num_steps = self.recipe.objective.mask_noise_steps;
        let (step, seed) = (self.state.step, self.recipe.train.seed);
        MaskNoise::at(&self.learner.model, step, num_steps, seed, drawn)
    }

    fn adapter_dropout(&self, drawn: &[Drawn]) -> Option<AdapterDropout> {
        let rate = self.recipe.lora.as_ref()?.dropout;
        (rate > 0.0).then(|| AdapterDropout {
            rate,
            seed: self.recipe.train.seed,
            unit: self.assembly.unit,
            drawn: drawn.to_vec(),
        })
    }

    fn metrics(&self, report: &StepReport, batch: &Batch, scheduled: BlockSize) -> Metrics {
        let objective = self.recipe.objective.kind;
        Metrics {
            step: self.state.step,
            tokens: self.state.tokens,
            loss: report.loss,
            nll: report.nll,
            nll_by_mask_ratio: match objective {
                Objective::Ar => Vec::new(),
                _ => report.nll_by_mask_ratio.to_vec(),
            },
            mask_ratio: batch.mask_ratio(),
            block_size: objective.block_size(scheduled, batch.longest).get(),
            grad_norm: report.grad_norm,
            lr: 0.0,
            rows: batch.num_rows(),
            tokens_per_second: 0.0,
            mask_row_norm: mask_row_norm(&self.learner.model),
            elapsed_seconds: self.seconds(),
            skipped_steps: self.state.skipped_steps,
            expert_load: report.routers.metrics(),
            measures: report.measures.clone(),
            valid: BTreeMap::new(),
        }
    }

    fn validate_if_due(&mut self) -> Result<BTreeMap<String, f64>> {
        let (train, model) = (&self.recipe.train, &self.learner.model);
        let is_last = self.state.step == train.steps;
        let mut valid = BTreeMap::new();
        if !is_last && !is_multiple(self.state.step, train.eval_every) {
            return Ok(valid);
        }
        if let Some(validation) = &self.validation {
            valid = validation.measure(model, &self.loss, train.eval_draws)?;
        }
        if let Some(environment) = &mut self.environment {
            let groups = environment.answer_held_out(model)?;
            let measured = rollout::measures(&groups).map(|(name, value)| (name.to_owned(), value));
            valid.extend(measured.into_iter().filter(|_| !groups.is_empty()));
        }
        Ok(valid)
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        if is_multiple(self.state.step, self.recipe.train.checkpoint_every) {
            self.save_checkpoint()?;
        }
        Ok(())
    }

    fn save_checkpoint(&mut self) -> Result<()> {
        self.log.flush()?; // metrics must not fall behind the checkpoint they belong to
        let state = State {
            seconds: self.seconds(),
            ..self.state.clone()
        };
        let retention = self.retention()?;
        self.checkpoints
            .save(&self.learner, self.tokenizer.as_ref(), &state, &retention)?;
        self.report()
    }

    fn report(&self) -> Result<()> {
        report::write(&[self.dir.to_path_buf()], &self.dir.join("report.html"))
    }

    fn retention(&self) -> Result<Retention> {
        let train = &self.recipe.train;
        let best = match &train.keep_best_metric {
            Some(metric) => {
                let scores = validations::read(&self.dir.join("metrics.jsonl"))?;
                let kept = checkpoint::list_complete(&self.dir.join("checkpoints"))?;
                let kept = kept.into_iter().map(|(step, _)| step);
                scores.best(metric, kept.chain([self.state.step]), train.keep_best)?
            }
            None => Vec::new(),
        };
        Ok(Retention {
            last: train.keep_last,
            best,
        })
    }

    /// Writes `final/`, in place of an earlier one.
    fn export(&self) -> Result<()> {
        let target = self.dir.join("final");
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        }
        let Model {
            config, weights, ..
        } = &self.learner.model;
        let partial = PartialDir::create(&target)?;
        let mut dtype = StorageDtype::F32;
        if let Some(adapter) = &self.learner.adapter {
            dtype = config.storage;
            let dir = partial.path().join("adapter");
            std::fs::create_dir(&dir).map_err(Error::io("create", &dir))?;
            write_adapter(&dir, config, weights, adapter)?;
        }
        let options = SaveOptions {
            dtype: Some(self.recipe.train.export_dtype.map_or(dtype, Into::into)),
            ..SaveOptions::default()
        };
        write_model(partial.path(), config, weights, &options)?;
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.save(partial.path())?;
        }
        Ok(partial.commit()?)
    }
}

/// Takes the documents of one step from the shuffled corpus; `size` is that of a draw in tokens.
fn draw(mix: &mut Mix, train: &Train, size: impl Fn(Drawn) -> usize) -> Vec<Drawn> {
    let max_documents = train.batch_documents.unwrap_or(usize::MAX);
    let (mut drawn, mut tokens) = (Vec::new(), 0);
    while drawn.len() < max_documents && train.batch_tokens.is_none_or(|most| tokens < most) {
        let Some(next) = mix.next() else {
            break;
        };
        if train.batch_tokens.is_some() {
            tokens += size(next);
        }
        drawn.push(next);
    }
    drawn
}

fn is_multiple(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn require_unused(dir: &Path) -> Result<()> {
    let is_unused = !dir.exists() || dir.read_dir().is_ok_and(|mut all| all.next().is_none());
    if is_unused {
        return Ok(());
    }
    let problem = "is in use; resume the run there, or choose another directory";
    Err(Error::unsuitable(dir, problem))
}

/// Removes what a run that was killed while it wrote `final/` left behind.
fn remove_interrupted_export(dir: &Path) -> Result<()> {
    let partial = dir.join("final.partial");
    match std::fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", &partial)(error))
        }
        _ => Ok(()),
    }
}

fn mask_row_norm(model: &Model) -> Option<f64> {
    let mut row = vec![0.0; model.config.hidden_size];
    let embedding = model.weights.embedding.values();
    embedding.read_row(model.config.mask_token_id? as usize, &mut row);
    Some(
        row.iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt(),
    )
}
