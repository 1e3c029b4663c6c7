//! Workers that are gone, and workers that come back too late.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use avsweep_testing::postgres::Cluster;
use serde_json::Value;

use crate::network::Counters;
use crate::schedule::{Action, Victim};
use crate::site::{Setup, Site};
use crate::{alone, same_rows, small_export, small_sweep};

const BOUND: Duration = Duration::from_secs(60);
const FIRST: Victim = Victim::Worker(0);
const SECOND: Victim = Victim::Worker(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_report_of_a_worker_that_was_stopped_past_its_lease_changes_nothing() -> Result<()> {
    let _alone = alone().await;
    let wanted = small_export();
    let setup = Setup { coordinators: 1, workers: 2, lease: 2, seed: 1, supervised: false };
    let mut site = Site::start(Cluster::shared().await?, setup).await?;
    site.create(&small_sweep("late"))?;

    // The first worker is stopped with a finished job's report on its way.
    let late = site.network(FIRST).expect("a worker has a network");
    late.hold_reports(true);
    site.spawn(FIRST)?;
    let held_up = |site: &Site| {
        let network = site.network(FIRST).expect("a worker has a network");
        Ok(Counters::read(&network.counters().held_up) > 0)
    };
    site.until("a report is on its way", BOUND, held_up).await?;
    site.act(Action::Freeze(FIRST)).await?;

    // Its lease ends, the second does its work.
    site.spawn(SECOND)?;
    site.until_done("late", BOUND).await?;
    let before = site.ask(&["sweep", "show", "late"])?;
    same_rows(wanted, &site.export("late")?, "before the late report");

    let late = site.network(FIRST).expect("a worker has a network");
    late.hold_reports(false);
    site.act(Action::Thaw(FIRST)).await?;
    site.until("the late report is refused", BOUND, |site| {
        let network = site.network(FIRST).expect("a worker has a network");
        Ok(Counters::read(&network.counters().late) > 0)
    })
    .await?;
    let late = site.network(FIRST).expect("a worker has a network");
    ensure!(Counters::read(&late.counters().taken) == 0, "a report under a lost lease was taken");
    let refused = site.metric(0, "avsweep_reports_total", "status=\"lost\"")?;
    ensure!(refused >= 1.0, "the coordinator counts {refused} reports under lost leases");
    let after = site.ask(&["sweep", "show", "late"])?;
    for field in ["results", "duplicate_results", "jobs", "state"] {
        ensure!(before[field] == after[field], "{field} was {}, is {}", before[field], after[field]);
    }
    same_rows(wanted, &site.export("late")?, "after the late report");
    // Nor does it harm the worker.
    site.until("the late worker waits for jobs", BOUND, |site| Ok(state_of(site, "worker-0")? == "idle"))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_is_noticed_within_a_lease_and_its_jobs_are_done_by_others() -> Result<()> {
    let _alone = alone().await;
    let wanted = small_export();
    let lease = Duration::from_secs(3);
    let setup = Setup { coordinators: 2, workers: 2, lease: 3, seed: 2, supervised: false };
    let mut site = Site::start(Cluster::shared().await?, setup).await?;
    site.create(&small_sweep("loss"))?;
    site.network(FIRST).expect("a worker has a network").hold_reports(true);
    site.spawn(FIRST)?;
    site.until("the first worker holds jobs", BOUND, |site| Ok(leased(site)? > 0)).await?;

    site.act(Action::Kill(FIRST)).await?;
    let killed = Instant::now();
    site.until("its leases are taken back", BOUND, |site| Ok(leased(site)? == 0)).await?;
    site.until("it counts as gone", BOUND, |site| Ok(state_of(site, "worker-0")? == "gone")).await?;
    // A lease from its last word; then the reaper's second, and asking takes processes.
    let noticed = killed.elapsed();
    ensure!(noticed < lease + Duration::from_secs(3), "noticed after {noticed:?}");

    site.spawn(SECOND)?;
    site.until_done("loss", BOUND).await?;
    let shown = site.ask(&["sweep", "show", "loss"])?;
    ensure!(shown["failures"].as_u64() > Some(0), "the lost attempts are counted: {shown}");
    same_rows(wanted, &site.export("loss")?, "after the loss");
    Ok(())
}

fn leased(site: &Site) -> Result<usize> {
    let jobs = site.ask(&["jobs", "ls", "--state", "leased"])?;
    Ok(jobs.as_array().map_or(0, Vec::len))
}

fn state_of(site: &Site, worker: &str) -> Result<Value> {
    let workers = site.ask(&["workers", "ls", "--all"])?;
    let found = workers.as_array().and_then(|workers| workers.iter().find(|found| found["worker"] == worker));
    Ok(found.map_or(Value::Null, |found| found["state"].clone()))
}
