//! `avsweep run`: a sweep file from start, or from where it stopped, to its end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use avsweep_domain::{Aggregate, Coverage, SweepDefinition};
use avsweep_proto::v1;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::best::{self, BestOutput};
use super::counts::Counts;
use super::crew::{Crew, CrewOptions, check_judge};
use crate::arguments::{Format, NoCoordinator, RunArguments, StoreLocation};
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::interruption;
use crate::output::{self, SweepProgressBars, human_duration};
use crate::sweep_file;
use crate::usage::UsageError;

/// `avsweep run`
pub(super) async fn run(store: &StoreLocation, arguments: &RunArguments, format: Format) -> Result<Outcome> {
    refuse_coordinator(&arguments.coordinator, "run", "avsweep sweep create FILE --watch")?;
    let loaded = sweep_file::load(&arguments.sweep, &arguments.cache.folder()).await?;
    loaded.notes().into_iter().for_each(output::note);
    let definition = loaded.definition;
    if definition.evaluation.generation != Coverage::None {
        check_judge(&definition)?;
    }
    if arguments.check {
        let counts = Counts::of(&definition)?;
        output::note(format!("{}: fine", arguments.sweep.display()));
        output::print(format, &counts, Counts::write)?;
        return Ok(Outcome::Done);
    }
    let place = Place::Store { location: store.clone(), named: true };
    let crew = CrewOptions {
        device: arguments.device.device,
        memory: arguments.device.memory,
        threads: arguments.threads,
        cache: &arguments.cache.folder(),
    };
    let (outcome, best) = run_definition(&place, &definition, crew).await?;
    if outcome != Outcome::Interrupted {
        output::print(format, &best, best::write_table)?;
        output::note(format!(
            "\nNext:\n  avsweep best {name} --target {target}{flag}\n  avsweep report {name}{flag}",
            name = definition.name,
            target = best.targets.first().map_or("TARGET", |target| &target.target),
            flag = place.flag(),
        ));
    }
    Ok(outcome)
}

/// Refuses `--coordinator` where it means nothing; says so where the environment names one.
pub(super) fn refuse_coordinator(given: &NoCoordinator, verb: &str, instead: &str) -> Result<()> {
    if given.refused.is_some() {
        return Err(UsageError::new(format!(
            "'avsweep {verb}' works on this machine alone and takes no --coordinator; \
             on a cluster it is '{instead}'"
        ))
        .into());
    }
    if std::env::var_os("AVSWEEP_COORDINATOR").is_some_and(|url| !url.is_empty()) {
        output::note(format!(
            "note: 'avsweep {verb}' works on this machine; AVSWEEP_COORDINATOR is not used"
        ));
    }
    Ok(())
}

/// Runs a definition until it is done or the user interrupts; the table of all targets comes with it.
pub(super) async fn run_definition(
    place: &Place,
    definition: &SweepDefinition,
    crew: CrewOptions<'_>,
) -> Result<(Outcome, BestOutput)> {
    let interrupted = interruption::listen().token();
    let connection = Connection::open(place, Access::Work).await?;
    let outcome = run_in(&connection, place, definition, crew, &interrupted).await;
    connection.close().await;
    outcome
}

async fn run_in(
    connection: &Connection,
    place: &Place,
    definition: &SweepDefinition,
    crew: CrewOptions<'_>,
    interrupted: &CancellationToken,
) -> Result<(Outcome, BestOutput)> {
    let before = start_sweep(connection, definition).await?;
    let sweep = before.sweep;
    let crew = Crew::start(connection, crew, definition)?;
    let started = Instant::now();
    let watched = watch(connection, sweep, &crew, interrupted).await;
    crew.stop().await;
    let wall = started.elapsed();
    let ending = watched?;
    let (progress, _) = connection.sweep(&sweep.to_string()).await?;
    print_shares(&before, &progress, wall);
    if progress.state() == v1::SweepState::Cancelled {
        return Err(cancelled(definition));
    }
    if definition.evaluation.racing.is_some() {
        output::note(raced(&progress));
    }
    let best = best::answers(connection, sweep, definition, Vec::new(), Aggregate::Min, None).await?;
    if ending == Ending::Interrupted && progress.state() != v1::SweepState::Done {
        output::note(format!(
            "stopped after {}{} points; the same command goes on from there",
            progress.points_done + progress.points_raced,
            match (progress.points_planned, progress.points_budget) {
                (Some(planned), _) => format!(" of {planned}"),
                (None, Some(budget)) => format!(" of at most {budget}"),
                (None, None) => String::new(),
            }
        ));
        return Ok((Outcome::Interrupted, best));
    }
    let parked: u64 = progress.rungs.iter().map(|rung| rung.parked).sum();
    if parked > 0 {
        output::note(format!(
            "{parked} jobs failed for good; 'avsweep sweep show {}{}' says why, running the file again retries them",
            definition.name,
            place.flag()
        ));
        return Ok((Outcome::DoneWithFailures, best));
    }
    Ok((Outcome::Done, best))
}

/// Creates the sweep or finds it; what stopped it earlier is lifted.
async fn start_sweep(connection: &Connection, definition: &SweepDefinition) -> Result<v1::SweepProgress> {
    let created = connection
        .sweeps()
        .create_sweep(v1::CreateSweepRequest { definition: Some(definition.into()), priority: 0 })
        .await
        .map_err(explain)?
        .into_inner();
    let sweep = created.sweep.to_string();
    match created.state() {
        v1::SweepState::Cancelled => return Err(cancelled(definition)),
        v1::SweepState::Paused => {
            output::note(format!("sweep '{}' was paused: it goes on", definition.name));
            let request =
                v1::SetSweepStateRequest { sweep: sweep.clone(), state: v1::SweepState::Running.into() };
            connection.sweeps().set_sweep_state(request).await.map_err(explain)?;
        }
        _ => {}
    }
    if !created.created {
        output::note(format!("sweep '{}' is there already: going on with it", definition.name));
        let request = v1::RetryJobsRequest { sweep: sweep.clone(), jobs: Vec::new() };
        let retried = connection.sweeps().retry_jobs(request).await.map_err(explain)?.into_inner().retried;
        if retried > 0 {
            output::note(format!("{retried} jobs that failed earlier are tried again"));
        }
    }
    Ok(connection.sweep(&sweep).await?.0)
}

/// A cancelled sweep is never gone on with.
fn cancelled(definition: &SweepDefinition) -> anyhow::Error {
    anyhow::anyhow!("sweep '{}' was cancelled; give the file another name to run it anew", definition.name)
}

/// Why watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Over,
    Interrupted,
}

/// Shows progress until the sweep is done or the user interrupts.
async fn watch(
    connection: &Connection,
    sweep: i64,
    crew: &Crew,
    interrupted: &CancellationToken,
) -> Result<Ending> {
    let request = v1::WatchSweepRequest { sweep: sweep.to_string() };
    let mut stream = connection.sweeps().watch_sweep(request).await.map_err(explain)?.into_inner();
    let mut bars = SweepProgressBars::new();
    let ending = loop {
        tokio::select! {
            message = stream.message() => {
                let progress = match message {
                    Ok(Some(update)) => update.progress.context("an update without progress"),
                    Ok(None) => Err(anyhow::anyhow!("the coordinator stopped telling of the sweep's progress")),
                    Err(status) => Err(explain(status)),
                };
                let progress = match progress {
                    Ok(progress) => progress,
                    Err(error) => break Err(error),
                };
                bars.update(&progress);
                if matches!(progress.state(), v1::SweepState::Done | v1::SweepState::Cancelled) {
                    break Ok(Ending::Over);
                }
            }
            reason = crew.failure() => break Err(anyhow::anyhow!(reason)),
            () = interrupted.cancelled() => {
                output::note("stopping: finishing what is in flight (again to stop at once)");
                break Ok(Ending::Interrupted);
            }
        }
    };
    bars.finish();
    ending
}

/// What racing spared a sweep.
pub(super) fn raced(progress: &v1::SweepProgress) -> String {
    format!(
        "racing: {} points were given up early, out of reach for every target; that saved {} evaluations",
        progress.points_raced, progress.evaluations_saved
    )
}

/// Where the wall time went: the engine, and everything around it.
fn print_shares(before: &v1::SweepProgress, after: &v1::SweepProgress, wall: Duration) {
    let spent =
        |of: fn(&v1::SweepProgress) -> u64| Duration::from_micros(of(after).saturating_sub(of(before)));
    let (load, merge, evaluate) =
        (spent(|p| p.load_micros), spent(|p| p.merge_micros), spent(|p| p.evaluate_micros));
    let visited = |progress: &v1::SweepProgress| progress.points_done + progress.points_raced;
    let points = visited(after).saturating_sub(visited(before));
    let jobs_done = |progress: &v1::SweepProgress| progress.rungs.iter().map(|rung| rung.done).sum::<u64>();
    // Amid the finalists there are no new points, but there is work.
    let (count, unit) = match points {
        0 => (jobs_done(after).saturating_sub(jobs_done(before)), "jobs"),
        points => (points, "points"),
    };
    let share = |part: Duration| 100.0 * part.as_secs_f64() / wall.as_secs_f64().max(1e-9);
    let engine = load + merge + evaluate;
    if engine.is_zero() {
        output::note("no model work was done");
        return;
    }
    output::note(format!(
        "{count} {unit} in {} ({:.1} {unit}/s): engine {:.1} % of the wall time (load {:.1} %, merge {:.1} %, \
         evaluate {:.1} %), orchestration {:.1} %",
        human_duration(wall),
        count as f64 / wall.as_secs_f64().max(1e-9),
        share(engine).min(100.0),
        share(load),
        share(merge),
        share(evaluate),
        (100.0 - share(engine)).max(0.0),
    ));
}
