//! The `llada` program: arguments, progress and tables over the library crates.
//!
//! stdout is data, stderr is progress and messages. Exit codes: 0 ok, 1 failed, 2 bad usage or input.

mod args;
mod commands;
mod countdown;
mod failure;
mod live;
mod ui;
mod worked_sums;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any thread starts: a process confines itself, not its threads.
    if let Command::SandboxExec { spec } = &cli.command {
        return commands::sandbox_exec::run(spec);
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    llada_tensor::Isa::from_env().map_err(failure::usage)?;
    if let Command::Serve(args) = &cli.command {
        // Every model has a pool of its own, whose thread runs nothing but the engine.
        return commands::serve::run(args, cli.threads);
    }
    let pool = ui::thread_pool(cli.threads)?;
    // Kernels run inside the pool from here on; entering it for every small product costs more than the product.
    pool.install(|| dispatch(cli.command))
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => commands::demo::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Train(args) => commands::train::run(&args),
        Command::Merge(args) => commands::merge::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Chat(args) => commands::chat::run(&args),
        Command::Serve(args) => commands::serve::run(&args, None),
        Command::Trace(args) => commands::trace::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Inspect(args) => commands::inspect::run(&args),
        Command::Quantize(args) => commands::quantize::run(&args),
        Command::Sums(args) => commands::sums::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::SandboxExec { .. } => unreachable!("answered before threads start"),
    }
}
