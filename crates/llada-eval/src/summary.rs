//! One row of a report: a task under a setting. Totals over totals, never a mean of ratios.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::results::{Cost, Record};
use crate::sandbox::pass_at_k;
use crate::stats;

/// What the score is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// The share of right answers.
    Accuracy,
    /// Nats per token: lower is better.
    NllPerToken,
}

/// The score of a task under a setting, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The task.
    pub task: String,
    /// How it was decoded.
    pub setting: String,
    /// Items.
    pub n: usize,
    /// Answers per item.
    pub samples: usize,
    /// What the score is.
    pub quality: Quality,
    /// The score.
    pub score: f64,
    /// Its 95 % interval over items: Wilson's for a share, a bootstrap for a likelihood.
    pub ci95: [f64; 2],
    /// With several answers per item, the unbiased pass@k for k = 1, 10, 100, ... and their number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pass_at: BTreeMap<usize, f64>,
    /// Right answers.
    pub correct: usize,
    /// Tokens written, or scored.
    pub tokens: usize,
    /// Forwards that decided tokens.
    pub denoise_forwards: usize,
    /// All forwards: also those of prompts and of finished blocks alone.
    pub forwards: usize,
    /// Tokens per denoising forward; `None` if nothing was written.
    pub tpf: Option<f64>,
    /// Tokens per forward of any kind.
    pub tpf_all: Option<f64>,
    /// Time in the engine, or for the likelihoods.
    pub seconds: f64,
    /// Tokens over that time.
    pub tokens_per_second: Option<f64>,
}

impl Summary {
    /// Sums up the finished items of one task under one setting.
    ///
    /// # Errors
    /// If there is none.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a (Record, Cost)>) -> Result<Self> {
        let rows: Vec<&(Record, Cost)> = rows.into_iter().collect();
        let (first, _) = rows.first().ok_or(Error::NoItems)?;
        let sum =
            |count: &dyn Fn(&(Record, Cost)) -> usize| rows.iter().map(|row| count(row)).sum();
        let tokens: usize = sum(&|(record, _)| record.tokens);
        let denoise: usize = sum(&|(record, _)| record.denoise_forwards);
        let other: usize = sum(&|(_, cost)| cost.prefill_forwards + cost.commit_forwards);
        let seconds: f64 = rows.iter().map(|(_, cost)| cost.seconds).sum();
        let ratio = |bottom: f64| (bottom > 0.0).then(|| tokens as f64 / bottom);
        let items = Tally::of_items(&rows);
        let samples = items.first().map_or(1, |item| item.samples);
        let (quality, score, ci95) = quality(&rows, &items);
        Ok(Self {
            task: first.task.clone(),
            setting: first.setting.clone(),
            n: items.len(),
            samples,
            quality,
            score,
            ci95,
            pass_at: pass_at(&items, samples),
            correct: sum(&|(record, _)| usize::from(record.correct == Some(true))),
            tokens,
            denoise_forwards: denoise,
            forwards: denoise + other,
            tpf: ratio(denoise as f64),
            tpf_all: ratio((denoise + other) as f64).filter(|_| denoise > 0),
            seconds,
            tokens_per_second: ratio(seconds),
        })
    }

    /// Names of the cells of [`Self::cells`].
    pub const HEADER: [&'static str; 9] = [
        "task",
        "setting",
        "score",
        "95 % interval",
        "n",
        "TPF",
        "TPF_all",
        "tokens/s",
        "forwards",
    ];

    /// Returns a row of a table.
    pub fn cells(&self) -> Vec<String> {
        let optional =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        vec![
            self.task.clone(),
            self.setting.clone(),
            self.shown_score(),
            format!(
                "{} to {}",
                self.shown(self.ci95[0]),
                self.shown(self.ci95[1])
            ),
            self.n.to_string(),
            optional(self.tpf),
            optional(self.tpf_all),
            self.tokens_per_second
                .map_or("-".to_owned(), |rate| format!("{rate:.0}")),
            self.forwards.to_string(),
        ]
    }

    /// The score, and the pass@k beyond it.
    fn shown_score(&self) -> String {
        let beyond = self.pass_at.iter().filter(|(k, _)| **k > 1);
        let beyond = beyond.map(|(k, share)| format!(", @{k} {}", self.shown(*share)));
        self.shown(self.score) + &beyond.collect::<String>()
    }

    fn shown(&self, score: f64) -> String {
        match self.quality {
            Quality::Accuracy => format!("{:.1} %", 100.0 * score),
            Quality::NllPerToken => format!("{score:.4}"),
        }
    }
}

/// Returns the score of finished items without its interval, which costs more than an item.
pub fn score_so_far<'a>(rows: impl IntoIterator<Item = &'a (Record, Cost)>) -> f64 {
    let pairs = rows.into_iter().map(|(record, _)| quality_pair(record));
    let (top, bottom) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    top / bottom
}

/// Returns what an item adds to both sides of the score's ratio.
fn quality_pair(record: &Record) -> (f64, f64) {
    match record.correct {
        Some(correct) => (f64::from(u8::from(correct)), 1.0),
        None => (record.nll.iter().sum(), record.tokens as f64),
    }
}

/// The answers to one item.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    samples: usize,
    correct: usize,
}

impl Tally {
    /// Counts neighbours that answer the same item.
    fn of_items(rows: &[&(Record, Cost)]) -> Vec<Self> {
        let items = rows.chunk_by(|(a, _), (b, _)| a.id == b.id);
        let tally = |rows: &[&(Record, Cost)]| Self {
            samples: rows.len(),
            correct: rows
                .iter()
                .filter(|(row, _)| row.correct == Some(true))
                .count(),
        };
        items.map(tally).collect()
    }
}

/// Returns for each item the share of its answers that are right, in the order of the data.
pub fn shares_right<'a>(rows: impl IntoIterator<Item = &'a (Record, Cost)>) -> Vec<f64> {
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|(row, _)| row.correct.is_some())
        .collect();
    let items = Tally::of_items(&rows).into_iter();
    items
        .map(|item| item.correct as f64 / item.samples as f64)
        .collect()
}

/// Returns the mean over items of pass@k, for powers of ten and all samples.
fn pass_at(items: &[Tally], samples: usize) -> BTreeMap<usize, f64> {
    if samples < 2 {
        return BTreeMap::new();
    }
    let powers = std::iter::successors(Some(1_usize), |k| k.checked_mul(10));
    let ks = powers.take_while(|k| *k < samples).chain([samples]);
    let mean = |k| {
        let each = items
            .iter()
            .map(|item| pass_at_k(item.samples, item.correct, k));
        Some((k, each.sum::<Option<f64>>()? / items.len() as f64))
    };
    ks.filter_map(mean).collect()
}

fn quality(rows: &[&(Record, Cost)], items: &[Tally]) -> (Quality, f64, [f64; 2]) {
    let score = score_so_far(rows.iter().copied());
    let bootstrap = |pairs: &[(f64, f64)]| stats::bootstrap(pairs).unwrap_or([score; 2]);
    if rows.iter().any(|(record, _)| record.correct.is_none()) {
        let pairs: Vec<_> = rows
            .iter()
            .map(|(record, _)| quality_pair(record))
            .collect();
        return (Quality::NllPerToken, score, bootstrap(&pairs));
    }
    // Answers to one item are not independent: only items count.
    (
        Quality::Accuracy,
        score,
        stats::wilson_of_share(score, items.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: usize, denoise_forwards: usize, correct: Option<bool>) -> (Record, Cost) {
        of_item("0", tokens, denoise_forwards, correct)
    }

    fn of_item(
        id: &str,
        tokens: usize,
        denoise_forwards: usize,
        correct: Option<bool>,
    ) -> (Record, Cost) {
        let record = Record {
            task: "t".into(),
            setting: "s".into(),
            id: id.to_owned(),
            sample: 0,
            prompt: String::new(),
            answer: String::new(),
            extracted: String::new(),
            correct,
            verdict: String::new(),
            tokens,
            denoise_forwards,
            tpf: None,
            nll: vec![tokens as f64 * 0.5],
        };
        (
            record,
            Cost {
                seconds: 0.5,
                prefill_forwards: 1,
                commit_forwards: 0,
            },
        )
    }

    #[test]
    fn tokens_per_forward_is_a_ratio_of_totals() {
        let summary =
            Summary::of(&[row(30, 3, Some(true)), of_item("1", 2, 5, Some(false))]).unwrap();
        assert_eq!(summary.tpf, Some(4.0));
        assert_eq!(summary.tpf_all, Some(3.2));
        assert_eq!(summary.tokens_per_second, Some(32.0));
        assert_eq!((summary.score, summary.correct), (0.5, 1));
    }

    #[test]
    fn a_likelihood_is_per_token_and_has_no_forwards_of_an_answer() {
        let summary = Summary::of(&[row(30, 0, None), row(10, 0, None)]).unwrap();
        assert_eq!(summary.quality, Quality::NllPerToken);
        assert!((summary.score - 0.5).abs() < 1e-12);
        assert_eq!((summary.tpf, summary.tpf_all), (None, None));
    }

    #[test]
    fn several_answers_to_an_item_give_an_unbiased_pass_at_k() {
        let answers = |id: &'static str, right: usize| {
            (0..4).map(move |sample| of_item(id, 1, 1, Some(sample < right)))
        };
        let rows: Vec<_> = answers("a", 1).chain(answers("b", 0)).collect();
        let summary = Summary::of(&rows).unwrap();
        assert_eq!((summary.n, summary.samples, summary.score), (2, 4, 0.125));
        assert_eq!(summary.pass_at, BTreeMap::from([(1, 0.125), (4, 0.5)]));
        let of_items = stats::wilson_of_share(0.125, 2);
        assert_eq!(
            summary.ci95, of_items,
            "answers to one item are no evidence of others"
        );
        assert_eq!(shares_right(&rows), [0.25, 0.0]);
    }

    #[test]
    fn nothing_has_no_summary() {
        assert!(matches!(Summary::of([]), Err(Error::NoItems)));
    }
}
