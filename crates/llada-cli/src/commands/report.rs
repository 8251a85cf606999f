//! `llada report`: the curves of one or more runs.

use llada_train::report;

use crate::args::ReportArgs;
use crate::ui;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    report::write(&args.runs, &args.out)?;
    ui::say(format!("`{}`", args.out.display()));
    Ok(())
}
