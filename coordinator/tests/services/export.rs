//! Everything that a store tells, to see whether anything has changed.

use avsweep_store::{JobFilter, PointFilter, Store, Timestamp};

/// Every sweep, job, tally, result and worker, as text.
pub(crate) async fn export(store: &dyn Store) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for sweep in store.sweeps().await? {
        lines.push(format!("{:?} {:?} {} {}", sweep.id, sweep.state, sweep.priority, sweep.definition.name));
        lines.push(format!("{:?}", store.totals(sweep.id).await?));
        lines.push(format!("{:?}", store.tallies(sweep.id, PointFilter::All).await?));
        lines.push(format!("{:?}", store.results(sweep.id, None, 10_000).await?));
    }
    let all = JobFilter { limit: 10_000, ..JobFilter::default() };
    for job in store.jobs(&all).await? {
        lines.push(format!("{job:?}"));
    }
    lines.push(format!("{:?}", store.workers().await?));
    lines.push(format!("{:?}", store.overview(Timestamp::default()).await?));
    Ok(lines.join("\n"))
}
