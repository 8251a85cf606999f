//! Feeds damaged files to the loaders; a panic is a failure.
//!
//! Works on stable Rust without instrumentation: seeds are real files, and each input is one of them
//! with a few mutations drawn from a counter, so that a failure is named by its number and the next
//! run finds it again. Loaders may refuse an input or accept it, but must return.

mod mutate;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use targets::Target;

const USAGE: &str =
    "usage: llada-fuzz [--seconds N] [TARGET]   (default: 10 seconds, every target)";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (seconds, only) = parse_args(std::env::args().skip(1))?;
    let mut targets = targets::all()?;
    if let Some(name) = only {
        targets.retain(|target| target.name == name);
        if targets.is_empty() {
            bail!("no target `{name}`");
        }
    }
    let share = Duration::from_secs(seconds) / u32::try_from(targets.len())?;
    targets.iter().try_for_each(|target| fuzz(target, share))
}

fn parse_args(mut args: impl Iterator<Item = String>) -> Result<(u64, Option<String>)> {
    let (mut seconds, mut only) = (10, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => {
                let value = args.next().context(USAGE)?;
                seconds = value
                    .parse()
                    .with_context(|| format!("--seconds {value}"))?;
            }
            _ if arg.starts_with('-') || only.is_some() => bail!(USAGE),
            _ => only = Some(arg),
        }
    }
    Ok((seconds, only))
}

/// Tries mutated inputs until the time is over.
fn fuzz(target: &Target, duration: Duration) -> Result<()> {
    // Written before each try: an input that aborts the process is found there.
    let input_path = std::env::temp_dir().join(format!("llada-fuzz-{}", target.name));
    let start = Instant::now();
    let (mut num_inputs, mut num_accepted) = (0, 0_u64);
    while start.elapsed() < duration {
        let input = mutate::input(&target.seeds, num_inputs);
        fs::write(&input_path, &input)?;
        match catch_unwind(AssertUnwindSafe(|| (target.accepts)(&input))) {
            Ok(false) if num_inputs < target.seeds.len() as u64 => {
                bail!("target `{}` refuses its own seed {num_inputs}", target.name)
            }
            Ok(accepted) => num_accepted += u64::from(accepted),
            Err(_) => bail!(
                "target `{}` panicked on input {num_inputs}, kept in `{}`",
                target.name,
                input_path.display(),
            ),
        }
        num_inputs += 1;
    }
    fs::remove_file(input_path)?;
    println!(
        "{:<18} {num_inputs:>8} inputs, {num_accepted:>8} accepted",
        target.name
    );
    Ok(())
}
