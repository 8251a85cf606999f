//! `llada eval report`: finished runs in one page.

use std::path::Path;

use anyhow::Context;
use llada_eval::read_run;
use llada_eval::report::{self, Run};

use super::run::print_table;
use super::score::usage;
use crate::args::EvalReportArgs;
use crate::ui;

pub(super) fn run(args: &EvalReportArgs) -> anyhow::Result<()> {
    let runs = args.dirs.iter().map(|dir| read(dir));
    let runs = runs.collect::<anyhow::Result<Vec<Run>>>()?;
    let title = match &runs[..] {
        [run] => run.title.clone(),
        runs => format!("{} runs", runs.len()),
    };
    report::write(&args.out, &title, &runs).map_err(usage)?;
    for run in &runs {
        ui::line(format!("{}:", run.title))?;
        print_table(run)?;
    }
    ui::say(format!("report: {}", args.out.display()));
    Ok(())
}

fn read(dir: &Path) -> anyhow::Result<Run> {
    let (asked, rows) = read_run(dir).map_err(usage)?;
    let name = dir.display();
    let title = match asked["model"].as_str() {
        Some(model) => format!("{model} ({name})"),
        None => name.to_string(),
    };
    Run::new(title, &rows, &asked).with_context(|| format!("cannot sum up `{name}`"))
}
