//! One row of a report: a task under a setting. Totals over totals, never a mean of ratios.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::results::{Cost, Record};
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
    /// What the score is.
    pub quality: Quality,
    /// The score.
    pub score: f64,
    /// Its 95 % interval: Wilson's for a share, a bootstrap over items for a likelihood.
    pub ci95: [f64; 2],
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
        let (quality, score, ci95) = quality(&rows);
        Ok(Self {
            task: first.task.clone(),
            setting: first.setting.clone(),
            n: rows.len(),
            quality,
            score,
            ci95,
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
            self.shown(self.score),
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

fn quality(rows: &[&(Record, Cost)]) -> (Quality, f64, [f64; 2]) {
    let score = score_so_far(rows.iter().copied());
    if rows.iter().any(|(record, _)| record.correct.is_none()) {
        let pairs: Vec<(f64, f64)> = rows
            .iter()
            .map(|(record, _)| quality_pair(record))
            .collect();
        let ci95 = stats::bootstrap(&pairs).unwrap_or([score; 2]);
        return (Quality::NllPerToken, score, ci95);
    }
    let correct = rows
        .iter()
        .filter(|(record, _)| record.correct == Some(true))
        .count();
    (Quality::Accuracy, score, stats::wilson(correct, rows.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: usize, denoise_forwards: usize, correct: Option<bool>) -> (Record, Cost) {
        let record = Record {
            task: "t".into(),
            setting: "s".into(),
            id: String::new(),
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
        let summary = Summary::of(&[row(30, 3, Some(true)), row(2, 5, Some(false))]).unwrap();
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
    fn nothing_has_no_summary() {
        assert!(matches!(Summary::of([]), Err(Error::NoItems)));
    }
}
