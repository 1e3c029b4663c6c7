//! How far answers can be trusted.

use anyhow::ensure;
use avsweep_coordinator::Settings;
use avsweep_domain::Strategy;
use avsweep_proto::v1;
use avsweep_store::{PointFilter, SqliteStore, SqliteStoreOptions, Store as _};

use crate::searched::{Search, one_job_a_point, searched, smooth};

impl Search {
    /// Scores so many points.
    async fn score(&self, points: usize) -> anyhow::Result<()> {
        for _ in 0..points {
            for job in self.cluster.lease(&[v1::Rung::Likelihood], 1).await? {
                self.cluster.jobs().report(smooth(&self.definition, &job)?).await?;
            }
        }
        Ok(())
    }

    /// The answers by the default reading, with what is known of the points that are not measured.
    async fn assured(&self) -> anyhow::Result<v1::BestPointsResponse> {
        let request = v1::BestPointsRequest {
            sweep: self.definition.name.clone(),
            targets: vec![],
            aggregate: v1::Aggregate::Min.into(),
            reading: v1::Reading::Unspecified.into(),
            assured: true,
        };
        Ok(self.cluster.sweeps().best_points(request).await?.into_inner())
    }

    async fn convergence(&self) -> anyhow::Result<Vec<v1::ConvergenceStep>> {
        let request = v1::ConvergenceRequest { sweep: self.definition.name.clone(), steps: 3 };
        Ok(self.cluster.sweeps().convergence(request).await?.into_inner().steps)
    }
}

#[tokio::test]
async fn points_that_are_only_planned_are_not_taken_for_measured() -> anyhow::Result<()> {
    let definition = searched(Strategy::Grid);
    let settings = Settings { low_water: 1000, max_jobs_per_plan: 1000, ..one_job_a_point() };
    let store = SqliteStore::open(&SqliteStoreOptions::memory()).await?;
    let search = Search::over(store, &definition, settings).await?;
    search.cluster.coordinator.plan_once().await?;
    assert_eq!(search.store.tallies(search.sweep, PointFilter::All).await?.len(), 441, "all are planned");
    search.score(40).await?;
    let best = search.assured().await?;
    assert_eq!((best.points_measured, best.answers.len()), (40, 9));
    ensure!(best.answers.iter().all(|answer| answer.assurance.is_some()), "{best:?}");
    let steps: Vec<u64> = search.convergence().await?.iter().map(|step| step.evaluations).collect();
    assert_eq!(steps, [14, 27, 40]);

    search.score(401).await?;
    let best = search.assured().await?;
    assert_eq!(best.points_measured, 441);
    ensure!(best.answers.iter().all(|answer| answer.assurance.is_none()), "nothing is left to be found");
    ensure!(search.convergence().await?.is_empty());
    Ok(())
}
