//! `avsweep sweep ls|show`

use std::time::Duration;

use anyhow::Result;
use avsweep_domain::{Coverage, JudgeProvider, SweepDefinition};
use avsweep_proto::v1;
use serde::Serialize;

use super::agreement::{self, AgreementOutput};
use super::convergence::{self, ConvergenceOutput};
use super::jobs::JobOutput;
use super::standstill;
use crate::arguments::Format;
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output::{self, Table, human_duration};

/// A sweep as `--output json` shows it.
#[derive(Serialize)]
pub(super) struct SweepOutput {
    number: i64,
    name: String,
    state: String,
    priority: i32,
    strategy: String,
    fingerprint: String,
    created_at: i64,
    points_planned: Option<u64>,
    /// The most points, where the strategy may stop earlier by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    points_budget: Option<u64>,
    points_done: u64,
    /// Points given up early, and the evaluations that this saved.
    points_raced: u64,
    evaluations_saved: u64,
    points_per_second: Option<f64>,
    seconds_left: Option<u64>,
    workers: u32,
    failures: u64,
    results: u64,
    duplicate_results: u64,
    load_seconds: f64,
    merge_seconds: f64,
    evaluate_seconds: f64,
    jobs: Vec<RungOutput>,
}

#[derive(Serialize)]
struct RungOutput {
    rung: String,
    ready: u64,
    leased: u64,
    done: u64,
    parked: u64,
    raced: u64,
}

#[derive(Serialize)]
struct ShowOutput {
    #[serde(flatten)]
    progress: SweepOutput,
    definition: SweepDefinition,
    /// `null` above [`MOST_CONVERGING`] measured points: modelling them step by step would take longer than anybody waits.
    convergence: Option<ConvergenceOutput>,
    /// How the rungs agree; absent where nothing is judged.
    agreement: Option<AgreementOutput>,
    /// Why nobody works on it although it runs; empty while somebody does.
    standstill: Vec<String>,
    failed_jobs: Vec<JobOutput>,
}

/// With more measured points than this only the report shows the convergence, if there is any to show.
const MOST_CONVERGING: u64 = 300;

/// Rows of the convergence's table.
const CONVERGENCE_STEPS: u32 = 8;

/// `avsweep sweep ls`
pub(super) async fn list(place: &Place, format: Format) -> Result<()> {
    let connection = Connection::open(place, Access::Read).await?;
    let response = connection.sweeps().list_sweeps(v1::ListSweepsRequest {}).await.map_err(explain)?;
    let sweeps: Vec<_> = response.into_inner().sweeps.into_iter().map(summarise).collect();
    output::print(format, &sweeps, |sweeps, out| {
        let mut table = Table::new([
            "#",
            "sweep",
            "state",
            "priority",
            "strategy",
            "points",
            "results",
            "workers",
            "failed jobs",
        ]);
        for sweep in sweeps {
            table.row([
                sweep.number.to_string(),
                sweep.name.clone(),
                sweep.state.clone(),
                sweep.priority.to_string(),
                sweep.strategy.clone(),
                points(sweep),
                sweep.results.to_string(),
                sweep.workers.to_string(),
                sweep.jobs.iter().map(|rung| rung.parked).sum::<u64>().to_string(),
            ]);
        }
        table.write(out)
    })
}

/// `avsweep sweep show`
pub(super) async fn show(place: &Place, sweep: &str, format: Format) -> Result<()> {
    let connection = Connection::open(place, Access::Read).await?;
    let (progress, definition) = connection.sweep(sweep).await?;
    let request = v1::ListJobsRequest {
        sweep: progress.sweep.to_string(),
        states: vec![v1::JobState::Parked.into()],
        after: None,
        limit: 0,
    };
    let failed = connection.sweeps().list_jobs(request).await.map_err(explain)?.into_inner().jobs;
    let failed_jobs = failed.into_iter().map(JobOutput::read).collect::<Result<_>>()?;
    // Advice only: where it cannot be had, the rest is shown all the same.
    let standstill = standstill::reasons(&connection, place, &progress).await.unwrap_or_default();
    let convergence = if progress.points_done <= MOST_CONVERGING {
        Some(convergence::ask(&connection, progress.sweep, CONVERGENCE_STEPS).await?)
    } else {
        None
    };
    let agreement = agreement::ask(&connection, progress.sweep).await?;
    let progress = summarise(progress);
    let shown = ShowOutput { progress, definition, convergence, agreement, standstill, failed_jobs };
    output::print(format, &shown, |shown, out| {
        facts(shown).write(out)?;
        writeln!(out)?;
        coefficients(&shown.definition).write(out)?;
        writeln!(out)?;
        let mut jobs = Table::new(["jobs", "ready", "leased", "done", "failed"]);
        for rung in &shown.progress.jobs {
            jobs.row([
                rung.rung.clone(),
                rung.ready.to_string(),
                rung.leased.to_string(),
                rung.done.to_string(),
                rung.parked.to_string(),
            ]);
        }
        jobs.write(out)?;
        for reason in &shown.standstill {
            writeln!(out, "it stands still: {reason}")?;
        }
        match &shown.convergence {
            Some(convergence) if convergence.steps.is_empty() => {}
            Some(convergence) => {
                writeln!(
                    out,
                    "\nConvergence: by how much the grid's best is expected to be better than the best measured point"
                )?;
                convergence.table().write(out)?;
            }
            None if !convergence::is_told(&shown.definition.space, shown.progress.points_done) => {}
            None => writeln!(
                out,
                "\nHow the search converged is in the report: avsweep report {}",
                shown.progress.name
            )?,
        }
        if !shown.failed_jobs.is_empty() {
            writeln!(out, "\nJobs that failed for good")?;
            let mut table = Table::new(["job", "rung", "point", "lost", "errors", "last error"]);
            for job in &shown.failed_jobs {
                table.row([
                    job.job.to_string(),
                    job.rung.clone(),
                    job.point.clone(),
                    job.lost.to_string(),
                    job.errors.to_string(),
                    job.last_error.clone().unwrap_or_default(),
                ]);
            }
            table.write(out)?;
        }
        Ok(())
    })
}

fn facts(shown: &ShowOutput) -> Table {
    let (progress, definition) = (&shown.progress, &shown.definition);
    let mut table = Table::facts(["sweep", &progress.name]);
    let mut fact = |name: &str, value: String| table.row([name.to_owned(), value]);
    fact("number", progress.number.to_string());
    fact("state", progress.state.clone());
    fact("base", format!("{} ({})", definition.model.path, definition.model.dtype.as_str()));
    fact("priority", progress.priority.to_string());
    fact("strategy", progress.strategy.clone());
    fact("points", points(progress));
    fact("levels", definition.levels.names().join(" < "));
    for domain in &definition.domains {
        fact(
            &format!("domain {}", domain.name),
            format!("{} search and {} confirm queries", domain.search.len(), domain.confirm.len()),
        );
    }
    fact("likelihood", coverage(definition.evaluation.likelihood));
    fact("generation", coverage(definition.evaluation.generation));
    if let Some(agreement) = &shown.agreement {
        for (name, value) in agreement.facts() {
            fact(&name, value);
        }
    }
    if let Some(racing) = &definition.evaluation.racing {
        fact(
            "racing",
            format!(
                "blocks of {} queries a domain, error {}: {} points given up early, {} evaluations saved",
                racing.block, racing.error, progress.points_raced, progress.evaluations_saved
            ),
        );
    }
    fact(
        "judge",
        match &definition.judge.provider {
            JudgeProvider::Reference { threshold } => format!("reference (threshold {threshold})"),
            JudgeProvider::Openai { base_url, model, .. } => format!("{model} at {base_url}"),
        },
    );
    fact("results", format!("{} ({} evaluated twice)", progress.results, progress.duplicate_results));
    fact("workers", progress.workers.to_string());
    fact("failures", format!("{} lost or failed attempts", progress.failures));
    let spent = |seconds: f64| human_duration(Duration::from_secs_f64(seconds));
    fact(
        "worker time",
        format!(
            "load {}, merge {}, evaluate {}",
            spent(progress.load_seconds),
            spent(progress.merge_seconds),
            spent(progress.evaluate_seconds)
        ),
    );
    table
}

fn coefficients(definition: &SweepDefinition) -> Table {
    let mut table = Table::new(["coefficient", "vector", "tensors", "from", "to", "step"]);
    for coefficient in definition.space.coefficients() {
        table.row([
            coefficient.name.clone(),
            definition.vectors.get(coefficient.vector).map_or_else(String::new, |vector| vector.name.clone()),
            coefficient.tensors.as_ref().map_or_else(|| "all".to_owned(), |patterns| patterns.join(" ")),
            coefficient.range.min().to_string(),
            coefficient.range.max().to_string(),
            coefficient.range.step().to_string(),
        ]);
    }
    table
}

fn coverage(coverage: Coverage) -> String {
    match coverage {
        Coverage::None => "nowhere",
        Coverage::Finalists => "at the finalists",
        Coverage::All => "everywhere",
    }
    .to_owned()
}

fn points(sweep: &SweepOutput) -> String {
    let points = match (sweep.points_planned, sweep.points_budget) {
        (Some(planned), _) => format!("{} of {planned}", sweep.points_done),
        (None, Some(budget)) if sweep.state != "done" => format!("{} of at most {budget}", sweep.points_done),
        (None, _) => sweep.points_done.to_string(),
    };
    match sweep.points_raced {
        0 => points,
        raced => format!("{points}, {raced} given up early"),
    }
}

/// A rung's name.
pub(super) fn rung_name(rung: v1::Rung) -> String {
    avsweep_domain::Rung::try_from(rung).map_or_else(|_| "unknown".to_owned(), |rung| rung.to_string())
}

/// A sweep's progress for people and programs.
pub(super) fn summarise(progress: v1::SweepProgress) -> SweepOutput {
    let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
    SweepOutput {
        number: progress.sweep,
        state: avsweep_domain::SweepState::try_from(progress.state())
            .map_or_else(|_| "unknown".to_owned(), |state| state.to_string()),
        priority: progress.priority,
        strategy: progress.strategy.clone(),
        fingerprint: avsweep_domain::Fingerprint::from_bytes(
            progress.fingerprint.as_slice().try_into().unwrap_or_default(),
        )
        .short(),
        created_at: progress.created_at,
        points_planned: progress.points_planned,
        points_budget: progress.points_budget,
        points_done: progress.points_done,
        points_raced: progress.points_raced,
        evaluations_saved: progress.evaluations_saved,
        points_per_second: progress.points_per_second,
        seconds_left: progress.seconds_left,
        workers: progress.workers,
        failures: progress.failures,
        results: progress.results,
        duplicate_results: progress.duplicate_results,
        load_seconds: seconds(progress.load_micros),
        merge_seconds: seconds(progress.merge_micros),
        evaluate_seconds: seconds(progress.evaluate_micros),
        jobs: progress
            .rungs
            .iter()
            .map(|rung| RungOutput {
                rung: rung_name(rung.rung()),
                ready: rung.ready,
                leased: rung.leased,
                done: rung.done,
                parked: rung.parked,
                raced: rung.raced,
            })
            .collect(),
        name: progress.name,
    }
}

/// The ordinals of a few queries per domain of the reported set, for looks at the model.
pub(super) fn example_ordinals(definition: &SweepDefinition, per_domain: usize) -> Vec<u32> {
    let set = definition.reported_set();
    let mut taken = vec![0usize; definition.domains.len()];
    definition
        .queries()
        .filter(|entry| entry.set == set)
        .filter(|entry| {
            taken[entry.domain] += 1;
            taken[entry.domain] <= per_domain
        })
        .map(|entry| entry.ordinal)
        .collect()
}
