//! The loop: documents, step, metrics, validation, checkpoints.
//!
//! A run lives in a directory of its own:
//!
//! ```text
//! config.toml      the recipe with every default
//! metrics.jsonl    one object per step
//! checkpoints/     to resume from
//! final/           the trained model, as the Hub lays out checkpoints
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use llada_diffusion::{BlockSize, Elision, LearningRate, Objective};
use llada_model::{Config, KeepDtype, Model, PartialDir, SaveOptions, Weights, load, write_model};
use llada_text::Tokenizer;
use serde::Serialize;

use crate::batch::{Assembly, Batch, Diffusion, Reading, Task};
use crate::checkpoint::{self, Checkpoints, State};
use crate::data::{Corpus, Document, Overflow, Reader, Shuffle};
use crate::error::{Error, Result};
use crate::evaluate::{Mode, nll};
use crate::optimizer::{AdamWSettings, Optimizer};
use crate::recipe::{Blocks, Init, Recipe};
use crate::step::{Learner, StepReport, StepSettings};

/// Whether a run begins or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It begins: the run directory must be new or empty.
    No,
    /// It goes on from its newest checkpoint.
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
    /// Validation: nats per token by mode, `ar` or `block_N`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub valid: BTreeMap<String, f64>,
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
/// `progress` is called after every step. When `stop` becomes true, the step in progress is finished
/// and a checkpoint saved.
///
/// # Errors
/// If the run directory is in use (without [`Resume::Yes`]) or holds no checkpoint (with it), the
/// model, tokenizer or data cannot be used, a loss is not finite, or a file cannot be written.
pub fn train(
    recipe: &Recipe,
    run_dir: &Path,
    resume: Resume,
    progress: &mut dyn FnMut(&Metrics),
    stop: &AtomicBool,
) -> Result<Outcome> {
    let mut run = Run::open(recipe, run_dir, resume)?;
    let ending = loop {
        if run.state.step >= recipe.train.steps {
            break Ending::Finished;
        }
        if recipe
            .train
            .max_seconds
            .is_some_and(|limit| run.seconds() >= limit)
        {
            break Ending::OutOfTime;
        }
        if stop.load(Ordering::Relaxed) {
            break Ending::Stopped;
        }
        if let Some(metrics) = run.step()? {
            run.log.write(&metrics)?;
            progress(&metrics);
        }
        run.checkpoint_if_due()?;
    };
    run.save_checkpoint()?;
    if ending != Ending::Stopped {
        run.export()?;
    }
    Ok(Outcome {
        ending,
        steps: run.state.step,
        warnings: run.warnings,
    })
}

/// A run in progress.
struct Run<'a> {
    recipe: &'a Recipe,
    dir: &'a Path,
    learner: Learner,
    tokenizer: Option<Tokenizer>,
    corpus: Corpus,
    validation: Option<Validation>,
    assembly: Assembly,
    blocks: Blocks,
    learning_rate: LearningRate,
    shuffle: Shuffle,
    state: State,
    checkpoints: Checkpoints,
    log: Log,
    began: Instant,
    warnings: Vec<String>,
}

/// What is validated on, and how.
struct Validation {
    documents: Vec<Document>,
    modes: Vec<(String, Mode)>,
}

impl<'a> Run<'a> {
    fn open(recipe: &'a Recipe, dir: &'a Path, resume: Resume) -> Result<Self> {
        let began = Instant::now();
        if resume == Resume::No {
            require_unused(dir)?;
        }
        let (learner, state, mut warnings) = match resume {
            Resume::No => begin(recipe)?,
            Resume::Yes => go_on(recipe, dir)?,
        };
        let config = &learner.model.config;
        let tokenizer = tokenizer(recipe, config)?;
        let corpus = reader(recipe, config, tokenizer.as_ref()).read(&recipe.data.train.0)?;
        if corpus.num_cut > 0 {
            warnings.push(format!(
                "{} texts are longer than data.max_len ({} tokens); text is cut into several \
                 documents, answers lose their end",
                corpus.num_cut, recipe.data.max_len
            ));
        }
        if corpus.num_dropped > 0 {
            warnings.push(format!(
                "{} documents have nothing to learn",
                corpus.num_dropped
            ));
        }
        let validation = validation(recipe, config, tokenizer.as_ref())?;
        let assembly = assembly(recipe, config, tokenizer.as_ref())?;
        // Everything has been checked: only now does the run leave traces.
        let checkpoints = Checkpoints::open(dir.join("checkpoints"))?;
        let config_path = dir.join("config.toml");
        std::fs::write(&config_path, recipe.to_toml()).map_err(Error::io("write", &config_path))?;
        Ok(Self {
            recipe,
            dir,
            assembly,
            blocks: recipe.objective.blocks()?,
            learning_rate: recipe.optimizer.schedule(recipe.train.steps)?,
            shuffle: Shuffle::new(corpus.documents.len(), recipe.train.seed, state.cursor),
            learner,
            tokenizer,
            corpus,
            validation,
            state,
            checkpoints,
            log: Log::open(dir.join("metrics.jsonl"), state.step)?,
            began,
            warnings,
        })
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
        let batch = self
            .assembly
            .batch(&self.corpus.documents, drawn, block_size);
        let settings = StepSettings {
            learning_rate: self.learning_rate.at(self.state.step),
            clip: self.recipe.optimizer.clip,
            activations: self.recipe.train.activations.into(),
        };
        let report = self.learner.train_step(&batch, &settings)?;
        self.state.step += 1;
        self.state.tokens += batch.num_tokens;
        self.state.skipped_steps += u64::from(report.is_none());
        let seconds = began.elapsed().as_secs_f64();
        let valid = self.validate_if_due()?;
        let metrics = report.map(|report| Metrics {
            lr: settings.learning_rate,
            tokens_per_second: batch.num_tokens as f64 / seconds,
            valid,
            ..self.metrics(&report, &batch, block_size)
        });
        Ok(metrics)
    }

    /// Takes the documents of one step from the shuffled corpus.
    fn draw(&mut self) -> Vec<crate::data::Drawn> {
        let train = &self.recipe.train;
        let max_documents = train.batch_documents.unwrap_or(usize::MAX);
        let max_tokens = train.batch_tokens.unwrap_or(usize::MAX);
        let (mut drawn, mut tokens) = (Vec::new(), 0);
        while drawn.len() < max_documents && tokens < max_tokens {
            let Some(next) = self.shuffle.next() else {
                break;
            };
            tokens += self.corpus.documents[next.document].ids.len();
            drawn.push(next);
        }
        self.state.cursor = self.shuffle.cursor();
        drawn
    }

    fn metrics(&self, report: &StepReport, batch: &Batch, scheduled: BlockSize) -> Metrics {
        let lengths = batch
            .drawn
            .iter()
            .map(|d| self.corpus.documents[d.document].ids.len());
        let objective = self.recipe.objective.kind;
        Metrics {
            step: self.state.step,
            tokens: self.state.tokens,
            loss: report.loss,
            nll: report.nll,
            mask_ratio: batch.mask_ratio(),
            block_size: objective
                .block_size(scheduled, lengths.max().unwrap_or(0))
                .get(),
            grad_norm: report.grad_norm,
            lr: 0.0,
            rows: batch.num_rows(),
            tokens_per_second: 0.0,
            mask_row_norm: mask_row_norm(&self.learner.model),
            elapsed_seconds: self.seconds(),
            skipped_steps: self.state.skipped_steps,
            valid: BTreeMap::new(),
        }
    }

    fn validate_if_due(&self) -> Result<BTreeMap<String, f64>> {
        let train = &self.recipe.train;
        let is_last = self.state.step == train.steps;
        let is_due = is_last || is_multiple(self.state.step, train.eval_every);
        let Some(validation) = self.validation.as_ref().filter(|_| is_due) else {
            return Ok(BTreeMap::new());
        };
        let measure = |(name, mode): &(String, Mode)| {
            let result = nll(
                &self.learner.model,
                &validation.documents,
                *mode,
                train.eval_draws,
            )?;
            Ok((name.clone(), result.nll_per_token))
        };
        validation.modes.iter().map(measure).collect()
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
            ..self.state
        };
        let keep_last = self.recipe.train.keep_last;
        self.checkpoints
            .save(&self.learner, self.tokenizer.as_ref(), &state, keep_last)
    }

    /// Writes `final/`, in place of an earlier one.
    fn export(&self) -> Result<()> {
        let target = self.dir.join("final");
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        }
        let dtype = Some(self.recipe.train.export_dtype.into());
        let options = SaveOptions {
            dtype,
            ..SaveOptions::default()
        };
        let Model {
            config, weights, ..
        } = &self.learner.model;
        let partial = PartialDir::create(&target)?;
        write_model(partial.path(), config, weights, &options)?;
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.save(partial.path())?;
        }
        Ok(partial.commit()?)
    }
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

fn begin(recipe: &Recipe) -> Result<(Learner, State, Vec<String>)> {
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

fn go_on(recipe: &Recipe, dir: &Path) -> Result<(Learner, State, Vec<String>)> {
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

fn tokenizer(recipe: &Recipe, config: &Config) -> Result<Option<Tokenizer>> {
    let Some(dir) = recipe.model.tokenizer_dir() else {
        return Ok(None);
    };
    let tokenizer = Tokenizer::load(dir)?;
    tokenizer.check_vocab_size(config.vocab_size)?;
    Ok(Some(tokenizer))
}

fn reader<'t>(recipe: &Recipe, config: &Config, tokenizer: Option<&'t Tokenizer>) -> Reader<'t> {
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

/// Returns the id that ends a text, from the config or else the tokenizer.
pub(crate) fn eos_token_id(config: &Config, tokenizer: Option<&Tokenizer>) -> Option<u32> {
    let from_tokenizer = || tokenizer.and_then(|tokenizer| tokenizer.specials().eos);
    config
        .eos_token_ids
        .first()
        .copied()
        .or_else(from_tokenizer)
}

fn validation(
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

fn assembly(recipe: &Recipe, config: &Config, tokenizer: Option<&Tokenizer>) -> Result<Assembly> {
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

fn mask_row_norm(model: &Model) -> Option<f64> {
    let row = model
        .weights
        .embedding
        .values()
        .row(model.config.mask_token_id? as usize);
    Some(
        row.iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt(),
    )
}

/// `metrics.jsonl`.
struct Log {
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Log {
    /// Opens the file and drops what an earlier session wrote after step `step`.
    fn open(path: PathBuf, step: u64) -> Result<Self> {
        let earlier = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let is_kept = |line: &&str| step_of(line).is_some_and(|logged| logged <= step);
        let kept: String = earlier
            .lines()
            .filter(is_kept)
            .map(|line| line.to_owned() + "\n")
            .collect();
        let file = File::create(&path).map_err(Error::io("write", &path))?;
        let mut writer = BufWriter::new(file);
        writer
            .write_all(kept.as_bytes())
            .map_err(Error::io("write", &path))?;
        Ok(Self { path, writer })
    }

    fn write(&mut self, metrics: &Metrics) -> Result<()> {
        let line = serde_json::to_string(metrics).expect("numbers and texts can be written");
        writeln!(self.writer, "{line}").map_err(Error::io("write", &self.path))?;
        self.flush() // another program may be watching
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(Error::io("write", &self.path))
    }
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line)
        .ok()?
        .get("step")?
        .as_u64()
}

#[cfg(test)]
mod tests;
