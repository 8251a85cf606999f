//! `llada train`: one recipe, one run directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use indicatif::ProgressBar;
use llada_train::{Ending, Metrics, Recipe, Resume, train};

use crate::args::TrainArgs;
use crate::{failure, ui};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.recipe)
        .with_context(|| format!("cannot read `{}`", args.recipe.display()))?;
    let recipe = Recipe::parse(&text, &args.overrides)
        .map_err(|error| failure::usage(format!("{}: {error}", args.recipe.display())))?;
    let stop = stop_on_ctrl_c()?;
    let bar = ui::bar(recipe.train.steps, "steps");
    let resume = if args.resume { Resume::Yes } else { Resume::No };
    let outcome = train(
        &recipe,
        &args.run_dir,
        resume,
        &mut |metrics| show(&bar, metrics),
        &stop,
    )?;
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

/// Returns a flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::abort();
        }
        ui::say("stopping after this step; Ctrl-C again ends at once");
    };
    match ctrlc::set_handler(handler) {
        // The demo trains within a program that has a handler already.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(stop),
        Err(error) => Err(error).context("cannot watch for Ctrl-C"),
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
    if is_validated {
        line += "\n      validation, nats per token:";
        for (mode, nll) in &metrics.valid {
            line += &format!("  {mode} {nll:.3}");
        }
    }
    bar.suspend(|| ui::say(line));
}
