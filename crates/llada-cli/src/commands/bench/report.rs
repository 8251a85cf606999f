//! What `llada bench` says of a run: the JSON object, and the row of the table.
//!
//! Shares and rates are totals over totals, never means of per-request ratios.

use std::time::Duration;

use llada_engine::Stats;
use serde::Serialize;

use super::limit::Limit;
use super::serve::Run;

/// A model at one concurrency. Field names are the JSON keys.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub concurrency: usize,
    pub requests: usize,
    /// Of all answers, up to and including the first end-of-text token of each.
    pub tokens: usize,
    pub seconds: f64,
    /// Of each repetition; the other fields describe the median one.
    pub seconds_per_run: Vec<f64>,
    pub tokens_per_second: f64,
    /// Of each of the requests that run together.
    pub tokens_per_second_per_user: f64,
    /// Tokens per forward that decided tokens.
    pub tpf: f64,
    /// Tokens per forward of any purpose.
    pub tpf_all: f64,
    /// Of requests, by purpose.
    pub forwards: ForwardCounts,
    /// Of the engine, each of many requests.
    pub batched_forwards: u64,
    pub rows_per_forward: f64,
    /// From the submission of all requests to the first final token of each.
    pub ttft_ms: Percentiles,
    /// Per later token: those that become final together share the time since those before.
    pub token_latency_ms: Percentiles,
    /// Number of blocks by the steps they took, from 0.
    pub steps_per_block: Vec<u64>,
    pub accepted_per_step: f64,
    /// Share of steps in which fewer proposals passed than the quota.
    pub fallback_rate: f64,
    pub edits: u64,
    /// Rows of prompts that were found in the cache.
    pub cached_rows: u64,
    pub preemptions: u64,
    /// Distinct experts per forward, of each layer that has experts.
    pub experts_per_layer: Vec<f64>,
    pub time_share: TimeShares,
    /// Scheduling, acceptance and events relative to the forwards of the model.
    pub overhead_share: f64,
    pub limit: Limit,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Box<Report>>,
    /// Tokens per second relative to the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speedup: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ForwardCounts {
    pub prefill: u64,
    pub denoise: u64,
    pub commit: u64,
}

/// Nearest-rank percentiles in milliseconds; NaN, which JSON writes as null, of nothing.
#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// Shares of the engine's time.
#[derive(Debug, Serialize)]
pub(super) struct TimeShares {
    pub forward: f64,
    pub head: f64,
    pub other: f64,
}

impl Report {
    pub(super) fn new(
        concurrency: usize,
        seconds_per_run: Vec<f64>,
        run: &Run,
        limit: Limit,
    ) -> Self {
        let stats = &run.stats;
        let tokens = run.tokens();
        let forwards = stats.forwards as f64;
        let all = stats.prefill + stats.denoise + stats.commit;
        let together = concurrency.min(run.served.len());
        Self {
            concurrency,
            requests: run.served.len(),
            tokens,
            seconds: run.elapsed.as_secs_f64(),
            seconds_per_run,
            tokens_per_second: run.tokens_per_second(),
            tokens_per_second_per_user: run.tokens_per_second() / together as f64,
            tpf: tokens as f64 / stats.denoise as f64,
            tpf_all: tokens as f64 / all as f64,
            forwards: ForwardCounts {
                prefill: stats.prefill,
                denoise: stats.denoise,
                commit: stats.commit,
            },
            batched_forwards: stats.forwards,
            rows_per_forward: stats.rows as f64 / forwards,
            ttft_ms: Percentiles::of(&run.first_tokens),
            token_latency_ms: Percentiles::of(&run.later_tokens),
            steps_per_block: stats.steps_per_block.clone(),
            accepted_per_step: stats.accepted as f64 / stats.denoise as f64,
            fallback_rate: stats.fallbacks as f64 / stats.denoise as f64,
            edits: stats.edits,
            cached_rows: stats.cached_rows,
            preemptions: stats.preemptions,
            experts_per_layer: per_forward(&stats.experts_per_layer, forwards),
            time_share: TimeShares::of(stats),
            overhead_share: stats.other_time.as_secs_f64() / stats.forward_time.as_secs_f64(),
            limit,
            baseline: None,
            speedup: None,
        }
    }

    /// Adds what the baseline took for the same prompts.
    pub(super) fn against(self, baseline: Self) -> Self {
        Self {
            speedup: Some(self.tokens_per_second / baseline.tokens_per_second),
            baseline: Some(Box::new(baseline)),
            ..self
        }
    }

    pub(super) const HEADER: [&'static str; 14] = [
        "",
        "tokens",
        "tokens/s",
        "per user",
        "x parent",
        "TPF",
        "TPF all",
        "rows/fwd",
        "TTFT p50 ms",
        "p99",
        "token p50 ms",
        "p99",
        "overhead",
        "of the limit",
    ];

    /// Returns the cells under [`Report::HEADER`].
    pub(super) fn cells(&self, name: &str) -> Vec<String> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        vec![
            format!("{name} x{}", self.concurrency),
            self.tokens.to_string(),
            format!("{:.0}", self.tokens_per_second),
            format!("{:.0}", self.tokens_per_second_per_user),
            self.speedup.map_or(String::new(), |x| format!("{x:.2}")),
            format!("{:.2}", self.tpf),
            format!("{:.2}", self.tpf_all),
            format!("{:.1}", self.rows_per_forward),
            format!("{:.1}", self.ttft_ms.p50),
            format!("{:.1}", self.ttft_ms.p99),
            format!("{:.2}", self.token_latency_ms.p50),
            format!("{:.2}", self.token_latency_ms.p99),
            percent(self.overhead_share),
            format!("{} {}", percent(self.limit.share), self.limit.bound.name()),
        ]
    }
}

fn per_forward(sums: &[u64], forwards: f64) -> Vec<f64> {
    sums.iter().map(|&sum| sum as f64 / forwards).collect()
}

impl Percentiles {
    fn of(times: &[Duration]) -> Self {
        let mut times = times.to_vec();
        times.sort();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            let time = times.get(rank - 1);
            time.map_or(f64::NAN, |time| 1e3 * time.as_secs_f64())
        };
        Self {
            p50: at(50),
            p95: at(95),
            p99: at(99),
        }
    }
}

impl TimeShares {
    fn of(stats: &Stats) -> Self {
        let all = stats.forward_time + stats.head_time + stats.other_time;
        let share = |time: Duration| time.as_secs_f64() / all.as_secs_f64();
        Self {
            forward: share(stats.forward_time),
            head: share(stats.head_time),
            other: share(stats.other_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let percentiles = Percentiles::of(&times);
        let found = [percentiles.p50, percentiles.p95, percentiles.p99];
        for (found, expected) in found.into_iter().zip([100.0, 190.0, 198.0]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }

    #[test]
    fn percentiles_of_one_time_are_that_time() {
        let percentiles = Percentiles::of(&[Duration::from_millis(7)]);
        assert_eq!((percentiles.p50, percentiles.p99), (7.0, 7.0));
    }

    #[test]
    fn percentiles_of_nothing_are_not_numbers() {
        assert!(Percentiles::of(&[]).p50.is_nan());
    }
}
