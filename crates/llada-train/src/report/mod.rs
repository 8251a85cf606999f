//! `report.html`: the curves of one or more runs, in one page that loads nothing.
//!
//! Whatever number `metrics.jsonl` holds is drawn: `CHARTS` gives the known keys a title and an
//! order, other keys follow under their own names. With one run, the parts of a nested key (block
//! sizes, mask ratios, experts) share a chart; with several, each part has a chart that compares them.

mod chart;
mod series;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::chart::{Chart, Line, Scale, number};
use self::series::Run;
use crate::error::Result;
use crate::replace::replace;

/// Known keys in reading order: key, title, unit, scale.
const CHARTS: [(&str, &str, &str, Scale); 20] = [
    (
        "loss",
        "Loss",
        "nats, as the recipe normalises it",
        Scale::Linear,
    ),
    ("valid", "Validation bound", "nats per token", Scale::Linear),
    (
        "nll",
        "NLL of the scored tokens",
        "nats per token",
        Scale::Linear,
    ),
    (
        "nll_by_mask_ratio",
        "NLL by mask ratio",
        "nats per token",
        Scale::Linear,
    ),
    ("dpo_margin", "DPO margin", "nats", Scale::Linear),
    (
        "dpo_accuracy",
        "DPO accuracy",
        "share of pairs",
        Scale::Linear,
    ),
    (
        "cap_correct",
        "CAP: correct guesses",
        "share of masked tokens",
        Scale::Linear,
    ),
    ("cap_entropy", "CAP: their entropy", "nats", Scale::Linear),
    ("ebpo_reward", "Reward", "mean over answers", Scale::Linear),
    (
        "ebpo_compared",
        "Answers with an advantage",
        "share of answers",
        Scale::Linear,
    ),
    (
        "ebpo_ratio",
        "Ratio to the old policy",
        "mean before the last update of a batch",
        Scale::Linear,
    ),
    (
        "ebpo_tpf",
        "Tokens per forward",
        "of answers",
        Scale::Linear,
    ),
    ("grad_norm", "Gradient norm", "before clipping", Scale::Log),
    (
        "mask_row_norm",
        "Norm of the MASK row",
        "of the embedding",
        Scale::Linear,
    ),
    (
        "expert_load.max_over_mean",
        "Expert load",
        "largest over mean",
        Scale::Linear,
    ),
    ("lr", "Learning rate", "", Scale::Linear),
    ("block_size", "Block size", "tokens", Scale::Linear),
    (
        "mask_ratio",
        "Mask ratio",
        "share of supervised tokens",
        Scale::Linear,
    ),
    ("rows", "Rows computed", "per step", Scale::Linear),
    (
        "tokens_per_second",
        "Speed",
        "tokens of documents per second",
        Scale::Linear,
    ),
];

/// Keys that say where a row is rather than what it measured.
const NOT_DRAWN: [&str; 4] = ["step", "tokens", "elapsed_seconds", "skipped_steps"];

/// Writes the page about some run directories, beside its name first.
///
/// # Errors
/// If a run has no readable `metrics.jsonl`, or the page cannot be written.
pub fn write(runs: &[PathBuf], out: &Path) -> Result<()> {
    let runs = runs
        .iter()
        .map(|dir| Run::read(dir))
        .collect::<Result<Vec<_>>>()?;
    replace(out, &page(&runs))
}

fn page(runs: &[Run]) -> String {
    let mut html = String::from(include_str!("head.html"));
    html += &summary(runs);
    html += "<main>\n";
    for chart in charts(runs) {
        html += &chart.to_html();
    }
    html + "</main>\n"
}

/// One row per run: how far it is.
fn summary(runs: &[Run]) -> String {
    let mut html =
        String::from("<table><tr><th>run<th>steps<th>tokens<th>loss<th>tokens/s<th>hours</tr>\n");
    for (index, run) in runs.iter().enumerate() {
        let last = |key: &str| run.last(key).map_or("–".into(), number);
        let hours = run.last("elapsed_seconds").map(|seconds| seconds / 3600.0);
        let _ = writeln!(
            html, // writing to a text cannot fail
            "<tr><td><i class=\"c{}\"></i>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            index % chart::COLOURS,
            chart::escape(&run.name),
            last("step"),
            last("tokens"),
            last("loss"),
            last("tokens_per_second"),
            hours.map_or("–".into(), number),
        );
    }
    html + "</table>\n"
}

fn charts(runs: &[Run]) -> Vec<Chart<'_>> {
    let keys: BTreeSet<&str> = runs.iter().flat_map(Run::keys).collect();
    let known = CHARTS.iter().filter(|(key, ..)| keys.contains(key));
    let is_known = |key: &str| CHARTS.iter().any(|(known, ..)| *known == key);
    let others = keys
        .iter()
        .filter(|key| !is_known(key) && !NOT_DRAWN.contains(key))
        .map(|&key| (key, key, "", Scale::Linear));
    known
        .copied()
        .chain(others)
        .flat_map(|(key, title, unit, scale)| of_key(runs, key, title, unit, scale))
        .collect()
}

/// Returns the charts of one key: one for a single run or a plain number, else one per part.
fn of_key<'a>(
    runs: &'a [Run],
    key: &str,
    title: &str,
    unit: &'a str,
    scale: Scale,
) -> Vec<Chart<'a>> {
    let chart = |title: String, lines| Chart {
        title,
        unit,
        scale,
        lines,
    };
    if let [run] = runs {
        let lines = run
            .parts(key)
            .map(|(part, points)| Line { name: part, points });
        return vec![chart(title.to_owned(), lines.collect())];
    }
    let parts: BTreeSet<&str> = runs
        .iter()
        .flat_map(|run| run.parts(key).map(|(part, _)| part))
        .collect();
    let compare = |&part: &&str| {
        let points = |run: &'a Run| run.parts(key).find(|(name, _)| *name == part);
        let lines = runs.iter().map(|run| Line {
            name: &run.name,
            points: points(run).map_or(&[][..], |(_, points)| points),
        });
        chart(format!("{title} {part}"), lines.collect())
    };
    parts.iter().map(compare).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(dir: &Path, name: &str, rows: &str) -> PathBuf {
        let run = dir.join(name);
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("metrics.jsonl"), rows).unwrap();
        run
    }

    fn report(runs: &[(&str, &str)]) -> Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let runs: Vec<_> = runs
            .iter()
            .map(|(name, rows)| run_with(dir.path(), name, rows))
            .collect();
        let out = dir.path().join("out.html");
        write(&runs, &out)?;
        Ok(std::fs::read_to_string(out).unwrap())
    }

    const ROWS: &str = "{\"step\":1,\"loss\":3.0,\"nll_by_mask_ratio\":[null,2.5]}\n\
        {\"step\":2,\"loss\":2.0,\"valid\":{\"block_4\":2.25},\"new_key\":7}\n";

    #[test]
    fn every_number_of_the_metrics_has_a_curve_and_nothing_else_has() {
        let html = report(&[("a", ROWS)]).unwrap();
        let titles = ["Loss", "Validation bound", "NLL by mask ratio", "new_key"];
        for title in titles {
            assert!(html.contains(&format!("<h2>{title}")), "{title}");
        }
        assert_eq!(html.matches("<svg").count(), titles.len());
    }

    #[test]
    fn a_list_within_a_key_has_a_chart_of_its_own() {
        let rows =
            "{\"step\":1,\"expert_load\":{\"max_over_mean\":[1.5,2.0],\"squared_lse\":3.0}}\n";
        let html = report(&[("a", rows)]).unwrap();
        for title in ["Expert load", "expert_load"] {
            assert!(html.contains(&format!("<h2>{title}")), "{title}");
        }
        assert_eq!(html.matches("<svg").count(), 2);
    }

    #[test]
    fn the_page_loads_nothing() {
        let html = report(&[("a", ROWS)]).unwrap();
        for word in ["http", "src=", "@import", "url("] {
            assert!(!html.contains(word), "{word}");
        }
    }

    #[test]
    fn runs_are_compared_part_by_part() {
        let html = report(&[("a", ROWS), ("b", ROWS)]).unwrap();
        assert!(html.contains("<h2>Validation bound block_4"));
        let loss = html.split("<h2>Loss").nth(1).unwrap();
        let loss = loss.split("</figure>").next().unwrap();
        assert_eq!(loss.matches("<polyline").count(), 2);
    }

    #[test]
    fn names_cannot_break_the_page() {
        let html = report(&[("<b>&", ROWS)]).unwrap();
        assert!(html.contains("&lt;b&gt;&amp;") && !html.contains("<b>"));
    }

    #[test]
    fn a_half_written_last_line_is_left_out_and_any_other_is_an_error() {
        assert!(report(&[("a", "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"lo")]).is_ok());
        let error = report(&[("a", "{\"st\n{\"step\":2}\n")]).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
