//! What Prometheus reads. Every server has a registry of its own.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use llada_engine::{Answer, Engine, Stats};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_time: Histogram,
    first_text_time: Family<ModelLabel, Histogram>,
    inter_text_time: Family<ModelLabel, Histogram>,
    tokens: Family<TokenLabels, Counter>,
    engine: EngineFamilies,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    path: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    model: String,
    kind: &'static str,
}

/// What the engines do, by model.
#[derive(Debug, Default)]
struct EngineFamilies {
    clients: Family<ModelLabel, Gauge>,
    free_pages: Family<ModelLabel, Gauge>,
    faults: Family<ModelLabel, Counter>,
    forwards: Family<ModelLabel, Counter>,
    rows: Family<ModelLabel, Counter>,
    accepted: Family<ModelLabel, Counter>,
    denoise: Family<ModelLabel, Counter>,
    fallbacks: Family<ModelLabel, Counter>,
    edits: Family<ModelLabel, Counter>,
    cached_rows: Family<ModelLabel, Counter>,
    preemptions: Family<ModelLabel, Counter>,
    busy_seconds: Family<ModelLabel, Counter<f64, AtomicU64>>,
}

/// A millisecond to about two minutes.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("llada"),
            requests: Family::default(),
            request_time: times(),
            first_text_time: Family::new_with_constructor(times),
            inter_text_time: Family::new_with_constructor(times),
            tokens: Family::default(),
            engine: EngineFamilies::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests by path and status",
            self.requests.clone(),
        );
        registry.register(
            "request_seconds",
            "From the head of a request to the head of its response",
            self.request_time.clone(),
        );
        registry.register(
            "first_text_seconds",
            "From the submission of a text to its first final token",
            self.first_text_time.clone(),
        );
        registry.register(
            "inter_text_seconds",
            "Between final tokens that came apart",
            self.inter_text_time.clone(),
        );
        registry.register(
            "tokens",
            "Tokens of prompts, of those found in the cache, and of answers",
            self.tokens.clone(),
        );
        self.engine.register(registry);
    }

    /// Returns the metrics in the text format of Prometheus.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn count_request(&self, path: &str, status: u16, elapsed: Duration) {
        let path = path.to_owned();
        self.requests
            .get_or_create(&RequestLabels { path, status })
            .inc();
        self.request_time.observe(elapsed.as_secs_f64());
    }

    /// Counts an answer that is finished.
    pub(crate) fn count_answer(&self, model: &str, prompt_tokens: usize, answer: &Answer) {
        let counts = [
            ("prompt", prompt_tokens),
            ("cached", answer.cached_tokens),
            ("completion", answer.output_ids.len()),
        ];
        for (kind, count) in counts {
            let model = model.to_owned();
            let tokens = self.tokens.get_or_create(&TokenLabels { model, kind });
            tokens.inc_by(count as u64);
        }
    }

    /// Counts final tokens that came `elapsed` after the submission, or after those before.
    pub(crate) fn count_text(&self, model: &str, is_first: bool, elapsed: Duration) {
        let times = match is_first {
            true => &self.first_text_time,
            false => &self.inter_text_time,
        };
        let model = model.to_owned();
        times
            .get_or_create(&ModelLabel { model })
            .observe(elapsed.as_secs_f64());
    }

    /// Returns the metrics of the engine of one model.
    pub(crate) fn engine(&self, model: &str) -> EngineMetrics {
        let label = &ModelLabel {
            model: model.to_owned(),
        };
        let families = &self.engine;
        let counter = |family: &Family<ModelLabel, Counter>| family.get_or_create(label).clone();
        let gauge = |family: &Family<ModelLabel, Gauge>| family.get_or_create(label).clone();
        EngineMetrics {
            clients: gauge(&families.clients),
            free_pages: gauge(&families.free_pages),
            faults: counter(&families.faults),
            forwards: counter(&families.forwards),
            rows: counter(&families.rows),
            accepted: counter(&families.accepted),
            denoise: counter(&families.denoise),
            fallbacks: counter(&families.fallbacks),
            edits: counter(&families.edits),
            cached_rows: counter(&families.cached_rows),
            preemptions: counter(&families.preemptions),
            busy_seconds: families.busy_seconds.get_or_create(label).clone(),
            seen: Mutex::default(),
        }
    }
}

impl EngineFamilies {
    fn register(&self, registry: &mut Registry) {
        let gauges = [
            (
                "clients",
                "Requests that wait or run in the engine",
                &self.clients,
            ),
            (
                "free_pages",
                "Pages of keys and values not in use",
                &self.free_pages,
            ),
        ];
        for (name, help, family) in gauges {
            registry.register(name, help, family.clone());
        }
        let counters = [
            ("engine_faults", "Panics of the engine", &self.faults),
            (
                "forwards",
                "Forwards of the model, each of many requests",
                &self.forwards,
            ),
            ("rows", "Rows of these forwards", &self.rows),
            (
                "accepted_tokens",
                "Tokens accepted at open positions",
                &self.accepted,
            ),
            (
                "denoise_steps",
                "Steps that decided tokens, summed over requests",
                &self.denoise,
            ),
            (
                "fallbacks",
                "Steps in which fewer proposals passed than the quota",
                &self.fallbacks,
            ),
            ("edits", "Placed tokens that were changed", &self.edits),
            (
                "cached_rows",
                "Rows of prompts found in the cache",
                &self.cached_rows,
            ),
            (
                "preemptions",
                "Requests that gave up their pages",
                &self.preemptions,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "engine_busy_seconds",
            "Time spent in steps of the engine",
            self.busy_seconds.clone(),
        );
    }
}

/// The metrics of one engine and of those that replace it after a fault.
#[derive(Debug)]
pub(crate) struct EngineMetrics {
    pub(crate) clients: Gauge,
    free_pages: Gauge,
    faults: Counter,
    forwards: Counter,
    rows: Counter,
    accepted: Counter,
    denoise: Counter,
    fallbacks: Counter,
    edits: Counter,
    cached_rows: Counter,
    preemptions: Counter,
    busy_seconds: Counter<f64, AtomicU64>,
    /// What was counted already.
    seen: Mutex<Stats>,
}

impl EngineMetrics {
    /// Takes over what the engine counted since the last time.
    pub(crate) fn observe(&self, engine: &Engine<'_>) {
        let now = engine.stats();
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let counters = [
            (&self.forwards, now.forwards, seen.forwards),
            (&self.rows, now.rows, seen.rows),
            (&self.accepted, now.accepted, seen.accepted),
            (&self.denoise, now.denoise, seen.denoise),
            (&self.fallbacks, now.fallbacks, seen.fallbacks),
            (&self.edits, now.edits, seen.edits),
            (&self.cached_rows, now.cached_rows, seen.cached_rows),
            (&self.preemptions, now.preemptions, seen.preemptions),
        ];
        for (counter, now, seen) in counters {
            counter.inc_by(now - seen);
        }
        self.busy_seconds.inc_by(busy(now) - busy(&seen));
        self.free_pages.set(engine.free_pages() as i64);
        *seen = now.clone();
    }

    /// Counts a panic; the next engine counts from zero.
    pub(crate) fn count_fault(&self) {
        self.faults.inc();
        self.clients.set(0);
        *self
            .seen
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Stats::default();
    }
}

fn busy(stats: &Stats) -> f64 {
    (stats.forward_time + stats.head_time + stats.other_time).as_secs_f64()
}
