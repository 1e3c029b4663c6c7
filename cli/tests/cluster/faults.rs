//! Whatever is killed, stopped, cut off or sent twice: the results are those of a run that nothing disturbs.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use avsweep_testing::postgres::{Cluster, Settings};
use tokio::time::{Instant, sleep_until};

use crate::network::{Counters, Mischief};
use crate::schedule::{Shape, schedule};
use crate::site::{Setup, Site};
use crate::support::SweepText;
use crate::{alone, same_rows, undisturbed};

const SWEEP: &str = "faults";
/// Cases of the short form.
const CASES: u64 = 2;
const FIRST_SEED: u64 = 20_261_123;
const LEASE_SECONDS: u32 = 2;
const SHAPE: Shape = Shape {
    coordinators: 2,
    workers: 3,
    lease: Duration::from_secs(LEASE_SECONDS as u64),
    length: Duration::from_secs(10),
    further: 5,
};
/// All the time, beside what the schedule does.
const MISCHIEF: Mischief = Mischief { delay: Duration::from_millis(10), duplicated: 10, unanswered: 2 };
/// From the end of the troubles to the end of the sweep.
const BOUND: Duration = Duration::from_secs(180);

/// 9 × 5 × 5 points, finalists generated and judged.
fn sweep() -> SweepText {
    SweepText::new(SWEEP, "0.5").with(
        "{vector: medical, min: -1, max: 1, step: 0.5}",
        "{vector: medical, min: -1, max: 1, step: 0.25}",
    )
}

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map(Some).with_context(|| format!("{variable}={text}: a number is wanted")),
        Err(_) => Ok(None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_under_faults_ends_with_the_results_of_an_undisturbed_run() -> Result<()> {
    let _alone = alone().await;
    let seeds = match number("AVSWEEP_FAULT_SEED")? {
        Some(seed) => seed..seed + 1,
        None => FIRST_SEED..FIRST_SEED + number("AVSWEEP_FAULT_CASES")?.unwrap_or(CASES),
    };
    let wanted = undisturbed(&sweep(), SWEEP);
    ensure!(wanted.lines().count() > 225 * 36, "the undisturbed run has its results");
    // As durable as in earnest: what was acknowledged outlives the postmaster.
    let postgres = Cluster::start(Settings::durable()).await?;
    for seed in seeds {
        let started = Instant::now();
        case(&postgres, seed, &wanted)
            .await
            .with_context(|| format!("repeat it with AVSWEEP_FAULT_SEED={seed}"))?;
        println!("seed {seed}: the same {} rows after {:.1?}", wanted.lines().count() - 1, started.elapsed());
    }
    Ok(())
}

async fn case(postgres: &Cluster, seed: u64, wanted: &str) -> Result<()> {
    let events = schedule(seed, SHAPE);
    println!("seed {seed}:");
    for event in &events {
        println!("{event}");
    }
    let setup = Setup {
        coordinators: SHAPE.coordinators,
        workers: SHAPE.workers,
        lease: LEASE_SECONDS,
        seed,
        supervised: true,
    };
    let mut site = Site::start(postgres, setup).await?;
    site.create(&sweep())?;
    for network in site.networks() {
        network.set_mischief(MISCHIEF);
    }
    site.spawn_clients()?;

    let started = Instant::now();
    for event in events {
        sleep_until(started + event.at).await;
        site.act(event.action).await.with_context(|| format!("at {event}"))?;
        site.look_after()?;
    }
    for network in site.networks() {
        network.set_mischief(MISCHIEF);
    }
    println!("seed {seed}: the troubles are over after {:.1?}", started.elapsed());
    site.until_done(SWEEP, BOUND).await?;

    let shown = site.ask(&["sweep", "show", SWEEP])?;
    println!(
        "seed {seed}: done after {:.1?}; {} attempts lost, {} results evaluated twice",
        started.elapsed(),
        shown["failures"],
        shown["duplicate_results"]
    );
    let sum = |counter: fn(&Counters) -> &AtomicU64| -> u64 {
        site.networks().iter().map(|network| Counters::read(counter(network.counters()))).sum()
    };
    println!(
        "seed {seed}: {} requests, {} sent twice, {} answers lost, {} cuts; {} reports taken, {} refused as late",
        sum(|counters| &counters.requests),
        sum(|counters| &counters.duplicated),
        sum(|counters| &counters.unanswered),
        sum(|counters| &counters.cut),
        sum(|counters| &counters.taken),
        sum(|counters| &counters.late),
    );
    let failed = site.ask(&["jobs", "ls", SWEEP, "--failed"])?;
    ensure!(failed.as_array().is_some_and(Vec::is_empty), "jobs are parked: {failed}\n{}", site.last_words());
    same_rows(wanted, &site.export(SWEEP)?, &format!("seed {seed}"));
    ensure!(sum(|counters| &counters.duplicated) > 0, "seed {seed}: no request was sent twice");
    Ok(())
}
