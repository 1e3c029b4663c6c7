//! What a coordinator counts, for Prometheus.
//!
//! Counters count what happened in this coordinator since its start; gauges tell of the whole store and are the same
//! at every coordinator on it.

mod gauges;
mod measured_store;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use avsweep_domain::Rung;
use avsweep_proto::ErrorCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub(crate) use gauges::{GaugeCache, is_gone};
pub(crate) use measured_store::MeasuredStore;

use gauges::Gauges;

/// Names and values from closed sets: what a peer sends is never a label.
type Labels<const N: usize> = [(&'static str, &'static str); N];
/// The method under which connections are counted that never made a request.
const CONNECT: &str = "connect";

type Seconds = Counter<f64, AtomicU64>;

/// The metrics of one coordinator.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    gauges: Gauges,
    leased: Family<Labels<1>, Counter>,
    reports: Family<Labels<2>, Counter>,
    results: Family<Labels<1>, Counter>,
    load: Seconds,
    merge: Seconds,
    evaluate: Family<Labels<1>, Seconds>,
    tokens: Family<Labels<1>, Counter>,
    out_of_memory: Counter,
    judge_calls: Counter,
    judge_errors: Counter,
    judge_tokens: Family<Labels<1>, Counter>,
    judge_spend: Seconds,
    failures: Family<Labels<1>, Counter>,
    store: Family<Labels<1>, Histogram, fn() -> Histogram>,
    requests: Family<Labels<2>, Counter>,
    refused: Family<Labels<2>, Counter>,
    handshakes: Counter,
    /// Ports' counts of failed handshakes, with how many of each are in `handshakes`.
    ports: Mutex<Vec<(avsweep_transport::Counter, u64)>>,
}

/// What a report's results took, as its worker says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) tokens: u64,
    pub(crate) out_of_memory: u32,
    pub(crate) judge_calls: u32,
    pub(crate) judge_errors: u32,
    pub(crate) judge_input_tokens: u64,
    pub(crate) judge_output_tokens: u64,
    pub(crate) judge_spend_microdollars: u64,
}

/// Why an attempt at a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Its lease ended: the worker is gone or too slow.
    Lost,
    /// Its worker said so.
    Error,
}

pub(crate) const fn rung_name(rung: Rung) -> &'static str {
    match rung {
        Rung::Likelihood => "likelihood",
        Rung::Generation => "generation",
        Rung::Judgement => "judgement",
    }
}

/// From a tenth of a millisecond to some seconds.
fn store_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.5, 12))
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("avsweep");
        let gauges = Gauges::register(&mut registry);
        let mut metrics = Self {
            registry: Registry::default(),
            gauges,
            leased: Family::default(),
            reports: Family::default(),
            results: Family::default(),
            load: Seconds::default(),
            merge: Seconds::default(),
            evaluate: Family::default(),
            tokens: Family::default(),
            out_of_memory: Counter::default(),
            judge_calls: Counter::default(),
            judge_errors: Counter::default(),
            judge_tokens: Family::default(),
            judge_spend: Seconds::default(),
            failures: Family::default(),
            store: Family::new_with_constructor(store_buckets),
            requests: Family::default(),
            refused: Family::default(),
            handshakes: Counter::default(),
            ports: Mutex::default(),
        };
        registry.register("jobs_leased", "Jobs handed out", metrics.leased.clone());
        registry.register("reports", "Reports of results, by what became of them", metrics.reports.clone());
        registry.register("results", "Query results taken", metrics.results.clone());
        registry.register("load_seconds", "Time that workers spent on loading models", metrics.load.clone());
        registry.register("merge_seconds", "Time that workers spent on merging", metrics.merge.clone());
        let evaluate = "Time that workers spent on scoring, generating, judging";
        registry.register("evaluate_seconds", evaluate, metrics.evaluate.clone());
        registry.register("tokens", "Tokens that went through models", metrics.tokens.clone());
        let memory = "Times that a worker ran out of memory and halved its batch";
        registry.register("out_of_memory", memory, metrics.out_of_memory.clone());
        registry.register("judge_calls", "Questions to judges", metrics.judge_calls.clone());
        registry.register("judge_errors", "Questions that failed", metrics.judge_errors.clone());
        registry.register("judge_tokens", "Tokens of questions and answers", metrics.judge_tokens.clone());
        registry.register(
            "judge_spend_dollars",
            "What judging cost, by the judges' price settings",
            metrics.judge_spend.clone(),
        );
        registry.register("failures", "Attempts lost and evaluations failed", metrics.failures.clone());
        registry.register("store_seconds", "Time of the store's operations", metrics.store.clone());
        registry.register("requests", "Requests answered, by gRPC code", metrics.requests.clone());
        registry.register("refused_requests", "Requests refused, by reason", metrics.refused.clone());
        let handshakes = "Connections that ended before their first request";
        registry.register("tls_handshakes_failed", handshakes, metrics.handshakes.clone());
        metrics.registry = registry;
        Arc::new(metrics)
    }

    pub(crate) fn jobs_leased(&self, rung: Rung, jobs: usize) {
        self.leased.get_or_create(&[("rung", rung_name(rung))]).inc_by(jobs as u64);
    }

    pub(crate) fn report_lost(&self, rung: Rung) {
        self.reports.get_or_create(&[("rung", rung_name(rung)), ("status", "lost")]).inc();
    }

    pub(crate) fn report_taken(
        &self,
        rung: Rung,
        results: usize,
        timings: &avsweep_store::Timings,
        usage: &Usage,
    ) {
        let by_rung = [("rung", rung_name(rung))];
        self.reports.get_or_create(&[by_rung[0], ("status", "held")]).inc();
        self.results.get_or_create(&by_rung).inc_by(results as u64);
        self.load.inc_by(timings.load.as_secs_f64());
        self.merge.inc_by(timings.merge.as_secs_f64());
        self.evaluate.get_or_create(&by_rung).inc_by(timings.evaluate.as_secs_f64());
        self.tokens.get_or_create(&by_rung).inc_by(usage.tokens);
        self.out_of_memory.inc_by(usage.out_of_memory.into());
        self.judge_usage(usage);
    }

    /// What judging took, in vain or not.
    pub(crate) fn judge_usage(&self, usage: &Usage) {
        self.judge_calls.inc_by(usage.judge_calls.into());
        self.judge_errors.inc_by(usage.judge_errors.into());
        self.judge_tokens.get_or_create(&[("direction", "input")]).inc_by(usage.judge_input_tokens);
        self.judge_tokens.get_or_create(&[("direction", "output")]).inc_by(usage.judge_output_tokens);
        self.judge_spend.inc_by(usage.judge_spend_microdollars as f64 / 1e6);
    }

    pub(crate) fn failures(&self, kind: FailureKind, count: u64) {
        let kind = match kind {
            FailureKind::Lost => "lost",
            FailureKind::Error => "error",
        };
        self.failures.get_or_create(&[("kind", kind)]).inc_by(count);
    }

    pub(crate) fn store_took(&self, operation: &'static str, time: Duration) {
        self.store.get_or_create(&[("operation", operation)]).observe(time.as_secs_f64());
    }

    /// A request was answered with this gRPC code.
    pub(crate) fn answered(&self, method: &'static str, code: &'static str) {
        self.requests.get_or_create(&[("method", method), ("code", code)]).inc();
    }

    /// A request, or a part of one, was refused.
    pub(crate) fn refused(&self, method: &'static str, code: ErrorCode) {
        self.refused.get_or_create(&[("method", method), ("code", code.as_str())]).inc();
    }

    /// How often a method refused with this code.
    #[cfg(test)]
    pub(crate) fn refusals(&self, method: &'static str, code: ErrorCode) -> u64 {
        self.refused.get_or_create(&[("method", method), ("code", code.as_str())]).get()
    }

    /// Takes a port's count of connections that failed before their first request into the page.
    pub(crate) fn count_handshakes(&self, failed: avsweep_transport::Counter) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).push((failed, 0));
    }

    fn gather_handshakes(&self) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for (failed, told) in ports.iter_mut() {
            let new = failed.get().saturating_sub(*told);
            if new > 0 {
                *told += new;
                self.handshakes.inc_by(new);
                let labels = [("method", CONNECT), ("code", ErrorCode::TlsHandshake.as_str())];
                self.refused.get_or_create(&labels).inc_by(new);
            }
        }
    }

    /// The page that Prometheus reads, in the OpenMetrics text format.
    fn text(&self) -> String {
        self.gather_handshakes();
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
