//! Searched sweeps, and results that are smooth in the knobs.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use avsweep_coordinator::{ManualClock, Settings};
use avsweep_domain::{
    FinishReason, Point, QueryScore, Range, ReferenceScore, Response, Space, Strategy, SweepDefinition,
    SweepId, Ticks,
};
use avsweep_proto::v1;
use avsweep_store::{SqliteStore, SqliteStoreOptions, Store};

use crate::support::{Cluster, Shape, definition, evaluate, settings};

/// Two knobs from −1 to 1 by 0.1: 441 points.
pub(crate) fn searched(strategy: Strategy) -> SweepDefinition {
    let mut definition = definition(Shape { search: 6, ..Shape::default() });
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(1000)).expect("divides");
    let mut coefficients = definition.space.coefficients().to_vec();
    coefficients.iter_mut().for_each(|coefficient| coefficient.range = range);
    definition.space = Space::new(coefficients).expect("names differ");
    definition.strategy = strategy;
    definition.check().expect("a valid definition");
    definition
}

/// One job a point.
pub(crate) fn one_job_a_point() -> Settings {
    Settings { max_queries_per_job: 256, ..settings() }
}

/// Results that are smooth in the knobs: a domain's level follows its own knob and, a little, the other's.
pub(crate) fn smooth(definition: &SweepDefinition, job: &v1::LeasedJob) -> anyhow::Result<v1::ReportRequest> {
    use v1::report_request::Results;
    let mut report = evaluate(definition, job)?;
    if let Some(Results::Scores(scores)) = &mut report.results {
        let point = Point::try_from(job.point.clone().context("a point")?)?;
        let knobs: Vec<f64> = point.values().iter().map(|ticks| ticks.to_f64()).collect();
        for result in &mut scores.results {
            let entry =
                definition.queries().nth(result.ordinal as usize).context("an ordinal of the sweep")?;
            let own = knobs[entry.domain] + 0.3 * knobs[1 - entry.domain] * knobs[entry.domain];
            let at = 1.0 + own + 0.2 * (f64::from(result.ordinal % 5) - 2.0);
            let score = |reference: u8| ReferenceScore {
                log_prob_sum: -2.0 - 3.0 * (f64::from(reference) - at).powi(2),
                tokens: 2,
                bytes: 7,
            };
            *result = v1::ScoreResult::from(&(result.ordinal, QueryScore((0..3).map(score).collect())));
        }
    }
    Ok(report)
}

/// The level that the judge finds: a domain's own knob moves it less than the likelihoods, from another start.
pub(crate) fn judged_level(point: &Point, domain: usize, ordinal: u32) -> u8 {
    let knobs: Vec<f64> = point.values().iter().map(|ticks| ticks.to_f64()).collect();
    let at = 1.25 + 1.4 * knobs[domain] - 0.2 * knobs[1 - domain] + 0.15 * (f64::from(ordinal % 5) - 2.0);
    at.round().clamp(0.0, 2.0) as u8
}

/// [`smooth`] results, and texts at the levels that the judge finds.
pub(crate) fn judged_otherwise(
    definition: &SweepDefinition,
    job: &v1::LeasedJob,
) -> anyhow::Result<v1::ReportRequest> {
    let mut report = smooth(definition, job)?;
    if job.rung() == v1::Rung::Generation {
        let point = Point::try_from(job.point.clone().context("a point")?)?;
        let results = job.ordinals.iter().map(|ordinal| {
            let entry = definition.queries().nth(*ordinal as usize).context("an ordinal of the sweep")?;
            let level = judged_level(&point, entry.domain, *ordinal);
            let text = format!("{point} {ordinal}: level {level}");
            let response = Response { text, tokens: 5, finish: FinishReason::Stop };
            Ok(v1::ResponseResult::from(&(*ordinal, response)))
        });
        let results = results.collect::<anyhow::Result<_>>()?;
        report.results = Some(v1::report_request::Results::Responses(v1::ResponseResults { results }));
    }
    Ok(report)
}

/// One sweep in a store, and a coordinator over it.
pub(crate) struct Search {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) cluster: Cluster,
    pub(crate) definition: SweepDefinition,
    pub(crate) sweep: SweepId,
}

impl Search {
    pub(crate) async fn in_memory(definition: &SweepDefinition) -> anyhow::Result<Self> {
        let store = SqliteStore::open(&SqliteStoreOptions::memory()).await?;
        Self::over(store, definition, one_job_a_point()).await
    }

    /// Over a file that may be there already.
    pub(crate) async fn open(file: &Path, definition: &SweepDefinition) -> anyhow::Result<Self> {
        let store = SqliteStore::open(&SqliteStoreOptions::file(file)).await?;
        Self::over(store, definition, one_job_a_point()).await
    }

    pub(crate) async fn over(
        store: SqliteStore,
        definition: &SweepDefinition,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let store = Arc::new(store);
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let cluster = Cluster::over(shared, ManualClock::default(), settings).await;
        // Who held a lease is gone.
        cluster.coordinator.reap_all().await?;
        let sweep = SweepId(cluster.create(definition).await?);
        Ok(Self { store, cluster, definition: definition.clone(), sweep })
    }

    pub(crate) async fn progress(&self) -> anyhow::Result<v1::SweepProgress> {
        self.cluster.progress(&self.definition.name).await
    }

    pub(crate) async fn is_done(&self) -> anyhow::Result<bool> {
        Ok(self.progress().await?.state() == v1::SweepState::Done)
    }
}
