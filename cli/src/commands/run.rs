//! `avsweep run`: a sweep file from start, or from where it stopped, to its end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use avsweep_domain::{Aggregate, Coverage, JudgeProvider, SweepDefinition, WorkerId};
use avsweep_proto::v1;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Outcome;
use super::best::{self, BestOutput};
use crate::arguments::{Format, RunArguments};
use crate::embedded::{Session, explain};
use crate::interruption;
use crate::output::{self, SweepProgressBars, human_duration};
use crate::sweep_file::{self, LoadedSweep};

/// How long worker and judge may take to finish what they hold after Ctrl-C, before it is given back.
pub(super) const DRAIN: Duration = Duration::from_secs(5);

/// `avsweep run`
pub(super) async fn run(store: &Path, arguments: &RunArguments, format: Format) -> Result<Outcome> {
    let LoadedSweep { definition, unused_queries } = sweep_file::load(&arguments.sweep)?;
    for (domain, unused) in unused_queries {
        output::note(format!("note: {unused} queries of domain {domain} are not used"));
    }
    if definition.evaluation.generation != Coverage::None {
        check_judge(&definition)?;
    }
    if arguments.check {
        output::note(format!("{}: fine", arguments.sweep.display()));
        return Ok(Outcome::Done);
    }
    let (outcome, best) = run_definition(store, &definition, arguments.threads).await?;
    if outcome != Outcome::Interrupted {
        output::print(format, &best, best::write_table)?;
        output::note(format!(
            "\nNext:\n  avsweep best {name} --target {target}{store}\n  avsweep report {name}{store}",
            name = definition.name,
            target = best.targets.first().map_or("TARGET", |target| &target.target),
            store = store_flag(store),
        ));
    }
    Ok(outcome)
}

/// `--store FILE` where the default would not find the store.
pub(super) fn store_flag(store: &Path) -> String {
    if store == Path::new("avsweep.db") { String::new() } else { format!(" --store {}", shell(store)) }
}

/// A path as one word of a shell's command line.
pub(super) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A judge that cannot work is an error before any model work.
pub(super) fn check_judge(definition: &SweepDefinition) -> Result<()> {
    avsweep_judge::Judge::new(&definition.judge, &definition.levels)?;
    Ok(())
}

/// Runs a definition until it is done or the user interrupts; the table of all targets comes with it.
pub(super) async fn run_definition(
    store: &Path,
    definition: &SweepDefinition,
    threads: Option<u16>,
) -> Result<(Outcome, BestOutput)> {
    let interrupted = interruption::listen();
    let session = Session::work(store).await?;
    let outcome = run_in(&session, store, definition, threads, &interrupted).await;
    session.close().await;
    outcome
}

async fn run_in(
    session: &Session,
    store: &Path,
    definition: &SweepDefinition,
    threads: Option<u16>,
    interrupted: &CancellationToken,
) -> Result<(Outcome, BestOutput)> {
    let before = start_sweep(session, definition).await?;
    let sweep = before.sweep;
    let crew = Crew::start(session, threads, definition)?;
    let started = Instant::now();
    let watched = watch(session, sweep, &crew, interrupted).await;
    crew.stop().await;
    let wall = started.elapsed();
    let ending = watched?;
    let (progress, _) = session.sweep(&sweep.to_string()).await?;
    print_shares(&before, &progress, wall);
    let best = best::answers(session, sweep, definition, Vec::new(), Aggregate::Min, None).await?;
    if ending == Ending::Interrupted && progress.state() != v1::SweepState::Done {
        output::note(format!(
            "stopped after {} of {} points; the same command goes on from there",
            progress.points_done,
            progress.points_planned.unwrap_or(progress.points_done)
        ));
        return Ok((Outcome::Interrupted, best));
    }
    let parked: u64 = progress.rungs.iter().map(|rung| rung.parked).sum();
    if parked > 0 {
        output::note(format!(
            "{parked} jobs failed for good; 'avsweep sweep show {}{}' says why, running the file again retries them",
            definition.name,
            store_flag(store)
        ));
        return Ok((Outcome::DoneWithFailures, best));
    }
    Ok((Outcome::Done, best))
}

/// Creates the sweep or finds it; what stopped it earlier is lifted.
async fn start_sweep(session: &Session, definition: &SweepDefinition) -> Result<v1::SweepProgress> {
    let created = session
        .sweeps()
        .create_sweep(v1::CreateSweepRequest { definition: Some(definition.into()) })
        .await
        .map_err(explain)?
        .into_inner();
    let sweep = created.sweep.to_string();
    match created.state() {
        v1::SweepState::Cancelled => {
            bail!("sweep '{}' was cancelled; give the file another name to run it anew", definition.name)
        }
        v1::SweepState::Paused => {
            let request =
                v1::SetSweepStateRequest { sweep: sweep.clone(), state: v1::SweepState::Running.into() };
            session.sweeps().set_sweep_state(request).await.map_err(explain)?;
        }
        _ => {}
    }
    if !created.created {
        output::note(format!("sweep '{}' is there already: going on with it", definition.name));
        let request = v1::RetryFailedJobsRequest { sweep: sweep.clone() };
        let retried =
            session.sweeps().retry_failed_jobs(request).await.map_err(explain)?.into_inner().retried;
        if retried > 0 {
            output::note(format!("{retried} jobs that failed earlier are tried again"));
        }
    }
    Ok(session.sweep(&sweep).await?.0)
}

fn judge_concurrency(definition: &SweepDefinition) -> u32 {
    match definition.judge.provider {
        JudgeProvider::Reference { .. } => 1,
        JudgeProvider::Openai { concurrency, .. } => concurrency,
    }
}

/// The worker and the judge of this process.
pub(super) struct Crew {
    stop: CancellationToken,
    tasks: TaskTracker,
    failed: tokio::sync::watch::Receiver<Option<String>>,
}

impl Crew {
    /// Starts both.
    ///
    /// # Errors
    /// When the engine's threads cannot be started.
    pub(super) fn start(
        session: &Session,
        threads: Option<u16>,
        definition: &SweepDefinition,
    ) -> Result<Self> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (tell, failed) = tokio::sync::watch::channel(None);
        let worker = avsweep_worker::Worker::new(
            session.channel(),
            avsweep_worker::WorkerOptions {
                threads: threads.map(usize::from),
                drain: DRAIN,
                ..avsweep_worker::WorkerOptions::default()
            },
        )?;
        let working = worker.run(stop.clone());
        tasks.spawn(tell_of_failure("worker", tell.clone(), stop.clone(), async move {
            working.await.map(drop).map_err(anyhow::Error::from)
        }));
        let options = avsweep_judge::LoopOptions {
            drain: DRAIN,
            max_jobs: judge_concurrency(definition).clamp(1, 16),
            ..avsweep_judge::LoopOptions::new(WorkerId(format!("judge-{}", std::process::id())))
        };
        let judging = avsweep_judge::run(session.channel(), options, stop.clone());
        tasks.spawn(tell_of_failure("judge", tell, stop.clone(), async move {
            judging.await.map(drop).map_err(anyhow::Error::from)
        }));
        Ok(Self { stop, tasks, failed })
    }

    /// Waits until one of them ends by itself.
    pub(super) async fn failure(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Both tasks are gone without a failure: only possible after `stop`.
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets both finish or give back what they hold.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(DRAIN + Duration::from_secs(2), self.tasks.wait()).await;
    }
}

/// Waits for a part of the crew and tells how it failed: with an error, by a panic, or by ending unasked.
async fn tell_of_failure(
    name: &'static str,
    tell: tokio::sync::watch::Sender<Option<String>>,
    stop: CancellationToken,
    part: impl Future<Output = Result<()>> + Send + 'static,
) {
    let failure = match tokio::spawn(part).await {
        Ok(Ok(())) if stop.is_cancelled() => return,
        Ok(Ok(())) => "it ended unasked".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => panic.to_string(),
    };
    tell.send_replace(Some(format!("the {name} ended: {failure}")));
}

/// Why watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Over,
    Interrupted,
}

/// Shows progress until the sweep is done or the user interrupts.
async fn watch(
    session: &Session,
    sweep: i64,
    crew: &Crew,
    interrupted: &CancellationToken,
) -> Result<Ending> {
    let request = v1::WatchSweepRequest { sweep: sweep.to_string() };
    let mut stream = session.sweeps().watch_sweep(request).await.map_err(explain)?.into_inner();
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

/// Where the wall time went: the engine, and everything around it.
fn print_shares(before: &v1::SweepProgress, after: &v1::SweepProgress, wall: Duration) {
    let spent =
        |of: fn(&v1::SweepProgress) -> u64| Duration::from_micros(of(after).saturating_sub(of(before)));
    let (load, merge, evaluate) =
        (spent(|p| p.load_micros), spent(|p| p.merge_micros), spent(|p| p.evaluate_micros));
    let points = after.points_done.saturating_sub(before.points_done);
    let share = |part: Duration| 100.0 * part.as_secs_f64() / wall.as_secs_f64().max(1e-9);
    let engine = load + merge + evaluate;
    if engine.is_zero() {
        output::note("no model work was done");
        return;
    }
    output::note(format!(
        "{points} points in {} ({:.1} points/s): engine {:.1} % of the wall time (load {:.1} %, merge {:.1} %, \
         evaluate {:.1} %), orchestration {:.1} %",
        human_duration(wall),
        points as f64 / wall.as_secs_f64().max(1e-9),
        share(engine).min(100.0),
        share(load),
        share(merge),
        share(evaluate),
        (100.0 - share(engine)).max(0.0),
    ));
}
