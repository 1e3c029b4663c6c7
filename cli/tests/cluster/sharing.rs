//! What one sweep has measured, another over the same inputs does not measure again.

use std::time::Duration;

use anyhow::{Result, ensure};
use avsweep_testing::postgres::Cluster;

use crate::schedule::Victim;
use crate::site::{Setup, Site};
use crate::{alone, same_rows, small_export, small_sweep};

const BOUND: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sweep_over_the_same_inputs_evaluates_nothing_that_the_first_has() -> Result<()> {
    let _alone = alone().await;
    let setup = Setup { coordinators: 2, workers: 1, lease: 10, seed: 3, supervised: false };
    let mut site = Site::start(Cluster::shared().await?, setup).await?;
    site.spawn(Victim::Worker(0))?;
    site.create(&small_sweep("first"))?;
    site.until_done("first", BOUND).await?;
    let first = site.ask(&["sweep", "show", "first"])?;
    ensure!(first["evaluate_seconds"].as_f64() > Some(0.0), "the first sweep was evaluated: {first}");

    site.create(&small_sweep("second"))?;
    site.until_done("second", BOUND).await?;
    let second = site.ask(&["sweep", "show", "second"])?;
    for time in ["load_seconds", "merge_seconds", "evaluate_seconds"] {
        ensure!(second[time].as_f64() == Some(0.0), "the second sweep took {time} {}", second[time]);
    }
    ensure!(second["points_done"] == first["points_done"], "the second sweep has every point: {second}");
    ensure!(second["duplicate_results"] == 0, "the second sweep evaluated something again: {second}");
    let export = site.export("second")?;
    same_rows(&site.export("first")?, &export, "the two sweeps");
    same_rows(small_export(), &export, "the second sweep");
    Ok(())
}
