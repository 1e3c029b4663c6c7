//! The figures, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{Load, Outcome, quantile};
use crate::peer::PeerWindow;

/// What was measured with one number of results stored.
#[derive(Debug)]
pub(crate) struct Size {
    /// The database that holds them.
    pub(crate) template: String,
    /// Query results.
    pub(crate) stored: u64,
    /// Each window.
    pub(crate) windows: Vec<Outcome>,
}

impl Size {
    fn rates(&self) -> Vec<f64> {
        self.windows.iter().map(Outcome::rate).collect()
    }

    /// A quantile over all windows' calls.
    fn took(&self, share: f64, calls: impl Fn(&Outcome) -> &Vec<Duration>) -> Duration {
        let mut all: Vec<_> = self.windows.iter().flat_map(calls).copied().collect();
        all.sort_unstable();
        quantile(&all, share)
    }
}

/// Many workers that evaluate for a while, as real ones do.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// How they work.
    pub(crate) load: Load,
    /// Query results stored beforehand.
    pub(crate) stored: u64,
    /// What came out.
    pub(crate) outcome: Outcome,
}

/// Everything measured in one run.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Workers of the windows.
    pub(crate) workers: usize,
    /// Coordinators on the one database.
    pub(crate) coordinators: usize,
    /// Each number of stored results.
    pub(crate) sizes: Vec<Size>,
    /// Optuna's windows.
    pub(crate) optuna: Vec<PeerWindow>,
    /// Many workers at once: from the moment when all of them ask, and later.
    pub(crate) crowds: Vec<Crowd>,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}

impl Figures {
    fn optuna_rate(&self) -> Option<f64> {
        median(self.optuna.iter().map(|window| window.trials_per_second).collect())
    }

    /// The rate with the most results stored, over that with the fewest.
    fn flatness(&self) -> Option<f64> {
        let fewest = self.sizes.iter().min_by_key(|size| size.stored)?;
        let most = self.sizes.iter().max_by_key(|size| size.stored)?;
        Some(median(most.rates())? / median(fewest.rates())?)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let optuna = self.optuna_rate();
        let sizes = self.sizes.iter().map(|size| {
            let rate = median(size.rates());
            json!({
                "stored_results": size.stored,
                "jobs_per_second": rate,
                "windows": size.rates(),
                "lease_millis": {"p50": millis(size.took(0.5, |window| &window.leases)), "p99": millis(size.took(0.99, |window| &window.leases))},
                "report_millis": {"p50": millis(size.took(0.5, |window| &window.reports)), "p99": millis(size.took(0.99, |window| &window.reports))},
                "times_optuna": rate.zip(optuna).map(|(rate, optuna)| rate / optuna),
            })
        });
        json!({
            "workers": self.workers,
            "coordinators": self.coordinators,
            "sizes": sizes.collect::<Vec<_>>(),
            "rate_at_most_over_rate_at_fewest": self.flatness(),
            "optuna": self.optuna.first().map(|first| json!({
                "version": first.version,
                "processes": first.processes,
                "trials_per_second": optuna,
                "windows": self.optuna.iter().map(|window| window.trials_per_second).collect::<Vec<_>>(),
            })),
            "crowds": self.crowds.iter().map(|crowd| json!({
                "counted_after_millis": crowd.load.warm_up.as_millis(),
                "workers": crowd.load.workers,
                "evaluation_millis": crowd.load.evaluation.as_millis(),
                "stored_results": crowd.stored,
                "jobs_per_second": crowd.outcome.rate(),
                "lease_calls": crowd.outcome.leases.len(),
                "lease_millis": {
                    "p50": millis(quantile(&crowd.outcome.leases, 0.5)),
                    "p99": millis(quantile(&crowd.outcome.leases, 0.99)),
                    "longest": millis(quantile(&crowd.outcome.leases, 1.0)),
                },
                "report_millis": {"p50": millis(quantile(&crowd.outcome.reports, 0.5)), "p99": millis(quantile(&crowd.outcome.reports, 0.99))},
            })).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optuna = self.optuna_rate();
        writeln!(
            f,
            "{} workers, {} coordinator(s); a job's report carries {} query results; medians of {} windows",
            self.workers,
            self.coordinators,
            crate::definition::RESULTS_PER_JOB,
            self.sizes.first().map_or(0, |size| size.windows.len()),
        )?;
        writeln!(
            f,
            "{:>14} {:>8} {:>17} {:>18} {:>18} {:>13}",
            "stored results",
            "jobs/s",
            "slowest, fastest",
            "lease p50, p99 ms",
            "report p50, p99 ms",
            "times Optuna"
        )?;
        for size in &self.sizes {
            let rates = size.rates();
            let rate = median(rates.clone()).unwrap_or_default();
            let range = format!(
                "{:.0}, {:.0}",
                rates.iter().copied().fold(f64::INFINITY, f64::min),
                rates.iter().copied().fold(0.0, f64::max)
            );
            let pair = |calls: fn(&Outcome) -> &Vec<Duration>| {
                format!("{:.1}, {:.1}", millis(size.took(0.5, calls)), millis(size.took(0.99, calls)))
            };
            let times = optuna.map_or_else(|| "–".to_owned(), |optuna| format!("{:.0}", rate / optuna));
            writeln!(
                f,
                "{:>14} {rate:>8.0} {range:>17} {:>18} {:>18} {times:>13}",
                size.stored,
                pair(|window| &window.leases),
                pair(|window| &window.reports),
            )?;
        }
        if let (Some(flatness), 2..) = (self.flatness(), self.sizes.len()) {
            writeln!(f, "the rate with the most results over that with the fewest: {flatness:.2}")?;
        }
        if let (Some(rate), Some(first)) = (optuna, self.optuna.first()) {
            let windows: Vec<_> =
                self.optuna.iter().map(|window| format!("{:.1}", window.trials_per_second)).collect();
            writeln!(
                f,
                "Optuna {}, {} processes, the same server: {rate:.1} trials/s ({})",
                first.version,
                first.processes,
                windows.join(", ")
            )?;
        }
        for Crowd { load, stored, outcome } in &self.crowds {
            writeln!(
                f,
                "{} workers at once, {} ms an evaluation, {stored} results stored, from second {} on: {:.0} jobs/s, \
                 no error; lease p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms of {} calls",
                load.workers,
                load.evaluation.as_millis(),
                load.warm_up.as_secs(),
                outcome.rate(),
                millis(quantile(&outcome.leases, 0.5)),
                millis(quantile(&outcome.leases, 0.99)),
                millis(quantile(&outcome.leases, 1.0)),
                outcome.leases.len(),
            )?;
        }
        Ok(())
    }
}
