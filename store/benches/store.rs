//! What each operation of the SQLite store costs, on an empty store and on one that holds a full 21³ grid of 120
//! queries (1.1 million scores): `cargo bench -p avsweep-store`.
//!
//! Prints, per operation, the median of the wall-clock time and the mean of the processor time over all threads (the
//! difference is waiting: every acknowledged write is flushed to the disk).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, JudgeProvider,
    JudgeSettings, LeaseToken, Levels, Message, ModelSource, Point, Query, QueryScore, QuerySet, Range,
    ReferenceScore, Role, Rung, Space, Strategy, SweepDefinition, SweepId, Ticks, VectorSource, WorkerId,
};
use avsweep_store::{
    JobResults, LeaseClaim, LeaseStatus, LeasedJob, NewJob, Plan, PointFilter, Report, SqliteStore,
    SqliteStoreOptions, Store, Timestamp, Timings,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const DOMAINS: [&str; 3] = ["medical", "legal", "financial"];
const QUERIES_PER_DOMAIN: usize = 40;
const CONFIRM_PER_DOMAIN: usize = 20;
/// Points of the measured operations on the emptier store.
const FEW: usize = 400;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = SqliteStoreOptions::file(folder.path().join("store.db"));
    let mut table = Table::default();

    let store = table.once("open (new store)", async || open(&options).await).await?;
    let full = definition("full", 1000);
    let sweep = table.once("create_sweep", async || create(&store, &full).await).await?;
    let grid = plan(&full, full.space.grid());
    table
        .once("plan (9261 points and jobs)", async || Ok(store.plan(sweep, &grid, None, NOW).await?))
        .await?;

    println!("# at 0 stored scores");
    measure(&store, sweep, &full, FEW, &mut table).await?;
    table.print();

    let rest = grid.jobs.len() - FEW;
    println!("# {rest} further jobs");
    measure(&store, sweep, &full, rest, &mut table).await?;
    table.print();
    let scores = grid.jobs.len() * DOMAINS.len() * QUERIES_PER_DOMAIN;
    ensure!(store.totals(sweep).await?.results as usize == scores, "all scores are stored");

    println!("# at {scores} stored scores");
    let finer = definition("finer", 500);
    let finer_sweep = create(&store, &finer).await?;
    let between = finer.space.grid().filter(|point| !full.space.on_grid(point)).step_by(7).take(FEW);
    let between = plan(&finer, between);
    table
        .once("plan (400 points of a finer grid)", async || {
            Ok(store.plan(finer_sweep, &between, None, NOW).await?)
        })
        .await?;
    measure(&store, finer_sweep, &finer, FEW, &mut table).await?;
    table
        .times("tallies of 9261 points", 20, async |_| {
            drop(store.tallies(sweep, PointFilter::All).await?);
            Ok(())
        })
        .await?;
    table
        .times("results (a page of 100 points)", 20, async |_| {
            drop(store.results(sweep, None, 100).await?);
            Ok(())
        })
        .await?;
    let second = create(&store, &definition("second", 1000)).await?;
    let planned = table
        .once("plan (9261 points, results stored)", async || Ok(store.plan(second, &grid, None, NOW).await?))
        .await?;
    ensure!(planned.reused_jobs as usize == grid.jobs.len(), "everything is reused");
    store.close().await?;
    table
        .times("open (full store)", 20, async |_| {
            drop(open(&options).await?);
            Ok(())
        })
        .await?;
    table
        .times("open, find, tallies of 9261 points", 20, async |_| {
            let store = open(&options).await?;
            let sweep = store.find_sweep("full").await?;
            drop(store.tallies(sweep.id, PointFilter::All).await?);
            Ok(())
        })
        .await?;
    table.print();
    println!("# the file has {} MB", std::fs::metadata(folder.path().join("store.db"))?.len() / 1_000_000);
    Ok(())
}

async fn open(options: &SqliteStoreOptions) -> Result<SqliteStore> {
    Ok(SqliteStore::open(options).await?)
}

fn plan(definition: &SweepDefinition, points: impl Iterator<Item = Point>) -> Plan {
    let slice = definition.slice(QuerySet::Search);
    let jobs = points.map(|point| NewJob { point, rung: Rung::Likelihood, slice, priority: 0 }).collect();
    Plan { jobs, ..Plan::default() }
}

async fn create(store: &SqliteStore, definition: &SweepDefinition) -> Result<SweepId> {
    Ok(store.create_sweep(definition, 0, NOW).await?.id)
}

/// Leases jobs one by one, renews the leases one by one, reports each job's scores as a whole.
async fn measure(
    store: &SqliteStore,
    sweep: SweepId,
    definition: &SweepDefinition,
    jobs: usize,
    table: &mut Table,
) -> Result<()> {
    let mut leased = Vec::with_capacity(jobs);
    let claim = LeaseClaim {
        worker: WorkerId("worker".to_owned()),
        rungs: vec![Rung::Likelihood, Rung::Generation],
        max_jobs: 1,
        duration: Duration::from_secs(60),
        token: LeaseToken::from_bytes([7; 16]),
        except: Vec::new(),
        prefers: None,
    };
    table
        .times("lease", jobs, async |_| {
            leased.extend(store.lease(&claim, NOW).await?);
            Ok(())
        })
        .await?;
    let reports: Vec<Report> = leased.iter().map(|job| report(job, definition.levels.len())).collect();
    table
        .times("renew", jobs, async |index| {
            store.renew(&[reports[index].lease], claim.duration, NOW).await?;
            Ok(())
        })
        .await?;
    table
        .times("report (120 scores, last)", jobs, async |index| {
            ensure!(store.report(&reports[index], NOW).await? == LeaseStatus::Held, "the lease is held");
            Ok(())
        })
        .await?;
    table
        .times("sweep", jobs, async |_| {
            drop(store.sweep(sweep).await?);
            Ok(())
        })
        .await?;
    table
        .times("totals", jobs, async |_| {
            store.totals(sweep).await?;
            Ok(())
        })
        .await
}

fn report(job: &LeasedJob, levels: usize) -> Report {
    let seed: i32 = job.point.values().iter().map(|ticks| ticks.get() / 500 + 20).sum();
    let scores = job.ordinals.iter().map(|ordinal| (*ordinal, score(seed, *ordinal, levels)));
    Report {
        lease: job.lease.reference,
        results: JobResults::Scores(scores.collect()),
        finished: true,
        timings: Timings::default(),
    }
}

fn score(seed: i32, ordinal: u32, levels: usize) -> QueryScore {
    let references = (0..levels).map(|level| {
        let wave = (f64::from(seed) * 0.7 + f64::from(ordinal) * 1.3 + level as f64 * 2.1).sin();
        ReferenceScore {
            log_prob_sum: -40.0 - 30.0 * wave,
            tokens: 20 + ordinal % 30,
            bytes: 90 + ordinal % 60,
        }
    });
    QueryScore(references.collect())
}

/// Three coefficients from −1 to 1 by `step` ticks, three domains, three levels.
fn definition(name: &str, step: i32) -> SweepDefinition {
    let coefficients = (0..3).map(|index| Coefficient {
        name: format!("c{index}"),
        vector: index,
        tensors: None,
        range: Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(step)).expect("divides"),
    });
    let query = |domain: &str, index: usize| Query {
        id: format!("{domain}-{index}"),
        messages: vec![Message {
            role: Role::User,
            content: format!("What of {domain} number {index}? ").repeat(4),
        }],
        references: ["no", "some", "much"]
            .map(|level| format!("{level} {domain} {index}. ").repeat(8))
            .to_vec(),
    };
    SweepDefinition {
        name: name.to_owned(),
        model: ModelSource {
            path: "base".to_owned(),
            dtype: Dtype::F32,
            fingerprint: Fingerprint::of(b"base"),
        },
        vectors: DOMAINS
            .map(|name| VectorSource {
                name: name.to_owned(),
                path: name.to_owned(),
                fingerprint: Fingerprint::of(name.as_bytes()),
            })
            .to_vec(),
        space: Space::new(coefficients.collect()).expect("names differ"),
        levels: Levels::default(),
        domains: DOMAINS
            .map(|name| DomainDefinition {
                name: name.to_owned(),
                search: (0..QUERIES_PER_DOMAIN).map(|index| query(name, index)).collect(),
                confirm: (0..CONFIRM_PER_DOMAIN).map(|index| query(name, 1000 + index)).collect(),
            })
            .to_vec(),
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::Finalists,
            finalists_per_target: 3,
            decode: DecodeSettings::greedy(64),
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings { provider: JudgeProvider::Reference { threshold: 0.2 }, rubric: String::new() },
    }
}

#[derive(Debug, Default)]
struct Table(Vec<Row>);

#[derive(Debug)]
struct Row {
    name: &'static str,
    walls: Vec<Duration>,
    processor: Duration,
}

impl Table {
    /// Runs an operation some times and notes what it cost.
    async fn times(
        &mut self,
        name: &'static str,
        times: usize,
        mut operation: impl AsyncFnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut walls = Vec::with_capacity(times);
        let processor = processor_time();
        for index in 0..times {
            let started = Instant::now();
            operation(index).await?;
            walls.push(started.elapsed());
        }
        // The kernel brings the sums up to date when it switches threads.
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.0.push(Row { name, walls, processor: processor_time().saturating_sub(processor) });
        Ok(())
    }

    /// Runs an operation once and notes what it cost.
    async fn once<T>(
        &mut self,
        name: &'static str,
        mut operation: impl AsyncFnMut() -> Result<T>,
    ) -> Result<T> {
        let mut result = None;
        self.times(name, 1, async |_| {
            result = Some(operation().await?);
            Ok(())
        })
        .await?;
        result.context("it ran")
    }

    fn print(&mut self) {
        println!("{:44} {:>6} {:>12} {:>12}", "operation", "times", "median wall", "mean cpu");
        for Row { name, mut walls, processor } in self.0.drain(..) {
            walls.sort_unstable();
            let processor = processor / walls.len() as u32;
            println!("{name:44} {:>6} {:>12.1?} {processor:>12.1?}", walls.len(), walls[walls.len() / 2]);
        }
    }
}

/// Time that this process's threads have spent on a processor; zero where the system does not say.
fn processor_time() -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}
