//! Gauges of the whole store, looked up when the page is read.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use avsweep_domain::Rung;
use avsweep_store::{Overview, RungCounts, Timestamp, WorkerKind, WorkerRecord, WorkerState};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::{Labels, rung_name};
use crate::{Coordinator, error_text};

/// However many read the page, the store is asked no more often than this.
const CACHED_FOR: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Gauges {
    jobs: Family<Labels<2>, Gauge>,
    running: Gauge,
    /// Absent while nothing is leased.
    next_expiry: Family<Labels<0>, Gauge<f64, AtomicU64>>,
    expired: Gauge,
    workers: Family<Labels<2>, Gauge>,
    reachable: Gauge,
}

/// When the gauges were last set; at most one request sets them at a time.
#[derive(Debug, Default)]
pub(crate) struct GaugeCache(Mutex<Option<(Instant, bool)>>);

/// What is known of a worker from outside.
pub(crate) fn is_gone(worker: &WorkerRecord, lease: Duration, now: Timestamp) -> bool {
    worker.status.state != WorkerState::Stopped && worker.last_seen.plus(lease) < now
}

fn level(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Gauges {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let gauges = Self {
            jobs: Family::default(),
            running: Gauge::default(),
            next_expiry: Family::default(),
            expired: Gauge::default(),
            workers: Family::default(),
            reachable: Gauge::default(),
        };
        registry.register("jobs", "Jobs by rung and state", gauges.jobs.clone());
        registry.register("sweeps_running", "Running sweeps", gauges.running.clone());
        let next = "Seconds until the next lease ends, if it is not renewed";
        registry.register("lease_next_expiry_seconds", next, gauges.next_expiry.clone());
        registry.register(
            "leases_expired",
            "Leases that have ended and are not taken back yet",
            gauges.expired.clone(),
        );
        registry.register("workers", "Workers and judges by state", gauges.workers.clone());
        registry.register(
            "store_reachable",
            "1 while the store answers; the gauges are old when it is 0",
            gauges.reachable.clone(),
        );
        gauges
    }

    fn set(&self, overview: &Overview, workers: &[WorkerRecord], lease: Duration, now: Timestamp) {
        let rungs = [
            (Rung::Likelihood, overview.likelihood),
            (Rung::Generation, overview.generation),
            (Rung::Judgement, overview.judgement),
        ];
        for (rung, RungCounts { ready, leased, done, parked, raced }) in rungs {
            let states =
                [("ready", ready), ("leased", leased), ("done", done), ("parked", parked), ("raced", raced)];
            for (state, count) in states {
                let labels = [("rung", rung_name(rung)), ("state", state)];
                self.jobs.get_or_create(&labels).set(level(count));
            }
        }
        self.running.set(level(overview.running));
        self.expired.set(level(overview.expired));
        match overview.next_expiry {
            Some(next) => {
                let seconds = next.0.saturating_sub(now.0) as f64 / 1000.0;
                self.next_expiry.get_or_create(&[]).set(seconds);
            }
            None => self.next_expiry.clear(),
        }
        for kind in [WorkerKind::Worker, WorkerKind::Judge] {
            for state in ["idle", "busy", "draining", "stopped", "gone"] {
                let is = |worker: &&WorkerRecord| {
                    worker.status.kind == kind && state_name(worker, lease, now) == state
                };
                let count = workers.iter().filter(is).count();
                let kind = match kind {
                    WorkerKind::Worker => "worker",
                    WorkerKind::Judge => "judge",
                };
                self.workers.get_or_create(&[("kind", kind), ("state", state)]).set(level(count as u64));
            }
        }
    }
}

fn state_name(worker: &WorkerRecord, lease: Duration, now: Timestamp) -> &'static str {
    match worker.status.state {
        _ if is_gone(worker, lease, now) => "gone",
        WorkerState::Idle => "idle",
        WorkerState::Busy => "busy",
        WorkerState::Draining => "draining",
        WorkerState::Stopped => "stopped",
    }
}

impl Coordinator {
    /// Looks at the store, at most once a second. Returns whether it answers.
    pub(crate) async fn look_at_store(&self) -> bool {
        let mut last = self.gauge_cache.0.lock().await;
        if let Some((at, reachable)) = *last
            && at.elapsed() < CACHED_FOR
        {
            return reachable;
        }
        let now = self.clock.now();
        let reachable = match tokio::try_join!(self.store.overview(now), self.store.workers()) {
            Ok((overview, workers)) => {
                self.metrics.gauges.set(&overview, &workers, self.settings.lease_duration, now);
                true
            }
            Err(error) => {
                warn!(error = error_text(&error), "the store cannot be looked at");
                false
            }
        };
        self.metrics.gauges.reachable.set(reachable.into());
        *last = Some((Instant::now(), reachable));
        reachable
    }

    /// The page for Prometheus, in the OpenMetrics text format. While the store is away it tells what was last known,
    /// and that (`avsweep_store_reachable 0`).
    pub async fn metrics_text(self: &Arc<Self>) -> String {
        self.look_at_store().await;
        self.metrics.text()
    }
}
