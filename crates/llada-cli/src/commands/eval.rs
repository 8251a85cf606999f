//! `llada eval`: likelihood, tasks with scores and speed, and a parent against its child.

mod asked;
mod compare;
mod contestant;
mod data;
mod nll;
mod pages;
mod record;
mod run;
mod score;
mod settings;

pub(super) use self::nll::documents;
pub(super) use self::score::{programs_at_once, sandbox, usage};
use crate::args::{EvalArgs, EvalCommand};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.what {
        EvalCommand::Nll(args) => nll::run(args),
        EvalCommand::Sums(args) => compare::sums(args),
        EvalCommand::Text(args) => compare::text(args),
        EvalCommand::Run(args) => run::run(args),
        EvalCommand::Report(args) => pages::run(args),
        EvalCommand::Score(args) => score::run(args),
        EvalCommand::Tasks(args) => score::list(args),
    }
}
