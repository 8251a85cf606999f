//! `llada data`: what the data of a recipe are, before a run; and data that a model writes.

mod record;

use anyhow::bail;
use llada_train::{Lengths, SetReport, check_data};

use super::models;
use crate::args::{DataArgs, DataCheckArgs, DataCommand};
use crate::{failure, ui};

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    match &args.what {
        DataCommand::Check(args) => check(args),
        DataCommand::Record(args) => record::run(args),
    }
}

fn check(args: &DataCheckArgs) -> anyhow::Result<()> {
    let recipe = super::recipe(&args.recipe, &args.overrides)?;
    if recipe.ebpo.is_some() {
        return Err(failure::usage(
            "recipe: the data of `ebpo` are rows of a task, which `llada train` checks before its first step",
        ));
    }
    let report = check_data(&super::with_models(recipe, models::texts)?)?;
    if args.json {
        ui::line(serde_json::to_string(&report)?)?;
    } else {
        ui::write(&table(&report.train, report.valid.as_ref()))?;
        let sets = std::iter::once(&report.train).chain(&report.valid);
        for problem in sets.flat_map(|set| &set.problems) {
            ui::line(problem)?;
        }
    }
    match report.malformed_rows() {
        0 => Ok(()),
        rows => bail!("{rows} rows would end a run; correct or remove them"),
    }
}

fn table(train: &SetReport, valid: Option<&SetReport>) -> String {
    let sets: Vec<&SetReport> = std::iter::once(train).chain(valid).collect();
    let header: Vec<&str> = ["", "train", "valid"]
        .into_iter()
        .take(sets.len() + 1)
        .collect();
    let rows = figures(train)
        .into_iter()
        .enumerate()
        .map(|(row, (name, _))| {
            let values = sets.iter().map(|set| figures(set).swap_remove(row).1);
            std::iter::once(name.to_owned()).chain(values).collect()
        });
    ui::table(&header, &rows.collect::<Vec<_>>())
}

/// Returns the lines of the table for one set, with their names.
fn figures(set: &SetReport) -> Vec<(&'static str, String)> {
    let share = format!("{:.1} %", 100.0 * set.supervised_share);
    let lengths = set.lengths.map_or_else(|| "-".into(), quantiles);
    vec![
        ("rows", set.rows.to_string()),
        ("documents", set.documents.to_string()),
        ("tokens", set.tokens.to_string()),
        ("learned", share),
        ("tokens per document: min, 50, 90, 99 %, max", lengths),
        ("rows cut at data.max_len", set.cut_rows.to_string()),
        (
            "without a token to learn",
            set.dropped_documents.to_string(),
        ),
        ("rows with the MASK id", set.mask_id_rows.to_string()),
        ("malformed rows", set.malformed_rows.to_string()),
    ]
}

fn quantiles(lengths: Lengths) -> String {
    let Lengths {
        min,
        p50,
        p90,
        p99,
        max,
        ..
    } = lengths;
    format!("{min}, {p50}, {p90}, {p99}, {max}")
}
