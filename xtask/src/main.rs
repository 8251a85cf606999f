//! Project automation: `cargo xtask test`, `ci`, `fuzz` and `bench`.
//!
//! Each command is a list of steps that a person could type; every step is printed before it runs,
//! and the first that fails ends the command. Only cargo is required: `cargo-nextest`, `cargo-deny`
//! and `typos` are used where they are installed.

mod bench;
mod checks;
mod step;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test     every test of the workspace, then the examples in its documentation
  ci       what continuous integration runs, cheapest first; includes `test`
  fuzz [SECONDS]
           feeds damaged files to the loaders, for 10 seconds unless told otherwise
  bench    how fast kernels, training and decoding are, beside PyTorch where it is installed";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["test"] => checks::test(),
        ["ci"] => checks::ci(),
        ["bench"] => bench::bench(),
        ["fuzz"] => checks::fuzz(checks::FUZZ_SECONDS),
        ["fuzz", seconds] => checks::fuzz(seconds),
        [] => bail!("no command given\n\n{USAGE}"),
        _ => bail!("cannot do `{}`\n\n{USAGE}", args.join(" ")),
    }
}
