//! `llada train`: one recipe, one run directory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use indicatif::ProgressBar;
use llada_train::{Ending, Error, Metrics, Resume, train};

use crate::args::TrainArgs;
use crate::{failure, ui};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let recipe = super::recipe(&args.recipe, &args.overrides)?;
    let stop = StopOnCtrlC::new()?;
    let bar = ui::bar(recipe.train.steps, "steps");
    let resume = if args.resume { Resume::Yes } else { Resume::No };
    let outcome = train(
        &recipe,
        &args.run_dir,
        resume,
        &mut |metrics| show(&bar, metrics),
        &stop.0,
    )
    .map_err(refused)?;
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

/// A recipe that does not fit its model is bad input, as one that is malformed.
fn refused(error: Error) -> anyhow::Error {
    match error {
        Error::Setting { .. } => failure::usage(error),
        other => other.into(),
    }
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

/// Updates the bar, and prints a line when there is something new to read.
fn show(bar: &ProgressBar, metrics: &Metrics) {
    bar.set_position(metrics.step);
    let is_validated = !metrics.valid.is_empty();
    if metrics.step != 1 && !metrics.step.is_multiple_of(50) && !is_validated {
        return;
    }
    let mut line = format!(
        "step {:>5}  loss {:.4}  mask {:.2}  block {}  grad {:.2}  lr {:.1e}  {:.0} tok/s",
        metrics.step,
        metrics.loss,
        metrics.mask_ratio,
        metrics.block_size,
        metrics.grad_norm,
        metrics.lr,
        metrics.tokens_per_second,
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
