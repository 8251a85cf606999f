//! `llada train`: one recipe, one run directory.

mod practice;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use indicatif::{HumanDuration, ProgressBar};
use llada_train::plan::{Plan, plan};
use llada_train::{Ending, Error, Metrics, Outcome, Progress, Recipe, Resume, train, train_policy};

use self::practice::Practice;
use super::models;
use crate::args::TrainArgs;
use crate::{failure, ui};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    if let Some(path) = &args.import_dfactory {
        return ui::write(&imported(path)?.to_toml());
    }
    let path = args.recipe.as_deref().context("no recipe is given")?;
    let recipe = super::recipe(path, &args.overrides)?;
    if let Some(ebpo) = &recipe.ebpo {
        practice::check(&recipe, ebpo)?;
    }
    if args.plan {
        let recipe = super::with_models(recipe, models::texts)?;
        return show_plan(&plan(&recipe).map_err(refused)?, args.json);
    }
    let recipe = super::with_models(recipe, models::whole)?;
    let stop = StopOnCtrlC::new()?;
    let bar = ui::bar(recipe.train.steps, "steps");
    let outcome = outcome(&recipe, args, &mut |progress| show(&bar, progress), &stop.0)?;
    bar.finish_and_clear();
    for warning in &outcome.warnings {
        ui::say(format!("warning: {warning}"));
    }
    let dir = args.run_dir.display();
    match outcome.ending {
        Ending::Stopped => ui::say(format!(
            "stopped after step {}; a checkpoint is saved\n\nhint: go on with --run-dir {dir} --resume",
            outcome.steps
        )),
        Ending::Finished | Ending::OutOfTime => {
            ui::say(format!(
                "{} steps; the model is in `{dir}/final`",
                outcome.steps
            ));
        }
    }
    Ok(())
}

/// Trains on what the recipe's files hold, or on the model's answers to it.
fn outcome(
    recipe: &Recipe,
    args: &TrainArgs,
    progress: &mut dyn FnMut(Progress<'_>),
    stop: &AtomicBool,
) -> anyhow::Result<Outcome> {
    let resume = if args.resume { Resume::Yes } else { Resume::No };
    let dir = &args.run_dir;
    let outcome = match &recipe.ebpo {
        Some(ebpo) => {
            let mut practice = Practice::open(recipe, ebpo)?;
            train_policy(recipe, &mut practice, dir, resume, progress, stop)
        }
        None => train(recipe, dir, resume, progress, stop),
    };
    outcome.map_err(refused)
}

fn imported(path: &Path) -> anyhow::Result<Recipe> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    Recipe::from_dfactory(&text)
        .map_err(|error| failure::usage(format!("{}: {error}", path.display())))
}

/// A recipe that does not fit its model is bad input, as one that is malformed.
fn refused(error: Error) -> anyhow::Error {
    match error {
        Error::Setting { .. } => failure::usage(error),
        other => other.into(),
    }
}

fn show_plan(plan: &Plan, json: bool) -> anyhow::Result<()> {
    if json {
        return ui::line(serde_json::to_string(plan)?);
    }
    let bytes =
        |name: &str, bytes: u64| vec![name.to_owned(), indicatif::BinaryBytes(bytes).to_string()];
    let count =
        |name: &str, count: u64| vec![name.to_owned(), indicatif::HumanCount(count).to_string()];
    let rows = [
        count("parameters", plan.parameters),
        count("trained", plan.trained),
        count("steps", plan.steps),
        count("tokens per step", plan.tokens_per_step),
        count("rows per forward", plan.rows_per_forward),
        bytes("weights", plan.bytes.weights),
        bytes("gradients", plan.bytes.gradients),
        bytes("optimizer", plan.bytes.optimizer),
        bytes("activations", plan.bytes.activations),
        bytes("total", plan.bytes.total),
    ];
    ui::write(&ui::table(&["plan", ""], &rows))
}

/// The flag of the training that runs, if one does.
static RUNNING: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Exit code of a program ended by Ctrl-C, as shells count.
const INTERRUPTED: i32 = 130;

/// A training that Ctrl-C stops after its step; a second Ctrl-C, or one outside a training, ends the
/// program at once.
struct StopOnCtrlC(Arc<AtomicBool>);

impl StopOnCtrlC {
    fn new() -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        *running() = Some(Arc::clone(&stop));
        match ctrlc::set_handler(on_ctrl_c) {
            // The demo's earlier training has set it already.
            Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(Self(stop)),
            Err(error) => Err(error).context("cannot watch for Ctrl-C"),
        }
    }
}

impl Drop for StopOnCtrlC {
    fn drop(&mut self) {
        *running() = None;
    }
}

fn running() -> MutexGuard<'static, Option<Arc<AtomicBool>>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::exit, reason = "what Ctrl-C does without a handler")]
fn on_ctrl_c() {
    match running().as_ref() {
        Some(stop) if !stop.swap(true, Ordering::Relaxed) => {
            ui::say("stopping after this step; Ctrl-C again ends at once");
        }
        _ => std::process::exit(INTERRUPTED),
    }
}

/// Returns how long the steps to come take if they are like those before.
fn time_left(metrics: &Metrics, steps: u64) -> Duration {
    let steps_left = steps.saturating_sub(metrics.step);
    let seconds = metrics.elapsed_seconds / metrics.step as f64 * steps_left as f64;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Shows how far a run is.
fn show(bar: &ProgressBar, progress: Progress<'_>) {
    match progress {
        Progress::Step(metrics) => show_step(bar, metrics),
        Progress::Reference { scored, pairs } => {
            if scored == 0 {
                bar.suspend(|| ui::say(format!("the reference scores {pairs} pairs first")));
            }
            bar.set_message(format!("  ({scored} of {pairs} pairs scored)"));
        }
    }
}

/// Updates the bar, and prints a line when there is something new to read.
fn show_step(bar: &ProgressBar, metrics: &Metrics) {
    bar.set_message("");
    bar.set_position(metrics.step);
    let is_validated = !metrics.valid.is_empty();
    if metrics.step != 1 && !metrics.step.is_multiple_of(50) && !is_validated {
        return;
    }
    let mut line = format!(
        "step {:>5}  loss {:.4}  mask {:.2}  block {}  grad {:.2}  lr {:.1e}  {:.0} tok/s  {} left",
        metrics.step,
        metrics.loss,
        metrics.mask_ratio,
        metrics.block_size,
        metrics.grad_norm,
        metrics.lr,
        metrics.tokens_per_second,
        HumanDuration(time_left(metrics, bar.length().unwrap_or(metrics.step))),
    );
    for (name, value) in &metrics.measures {
        line += &format!("  {name} {value:.3}");
    }
    if is_validated {
        line += "\n      validation, nats per token or as named:";
        for (name, value) in &metrics.valid {
            line += &format!("  {name} {value:.3}");
        }
    }
    bar.suspend(|| ui::say(line));
}
