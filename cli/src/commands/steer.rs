//! `avsweep sweep pause|resume|cancel|rm|priority`: what a user does to a sweep.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use avsweep_proto::v1;
use serde::Serialize;

use super::Outcome;
use crate::arguments::Format;
use crate::connection::{Connection, Place, explain, sweep_name};
use crate::embedded::Access;
use crate::output;
use crate::usage::UsageError;

#[derive(Serialize)]
struct StateOutput {
    sweep: String,
    state: String,
}

/// `avsweep sweep pause|resume|cancel`
pub(super) async fn set_state(
    place: &Place,
    sweep: &str,
    state: v1::SweepState,
    format: Format,
) -> Result<()> {
    let sweep = sweep_name(sweep)?;
    let connection = Connection::open(place, Access::Change).await?;
    let request = v1::SetSweepStateRequest { sweep: sweep.clone(), state: state.into() };
    let now = connection.sweeps().set_sweep_state(request).await.map_err(explain)?.into_inner().state();
    connection.close().await;
    let state = avsweep_domain::SweepState::try_from(now)?.to_string();
    output::print(format, &StateOutput { sweep, state }, |done, out| {
        writeln!(out, "sweep '{}' is {}", done.sweep, done.state)
    })
}

#[derive(Serialize)]
struct PriorityOutput {
    sweep: String,
    priority: i32,
}

/// `avsweep sweep priority`
pub(super) async fn set_priority(place: &Place, sweep: &str, priority: i32, format: Format) -> Result<()> {
    let sweep = sweep_name(sweep)?;
    let connection = Connection::open(place, Access::Change).await?;
    let request = v1::SetSweepPriorityRequest { sweep: sweep.clone(), priority };
    connection.sweeps().set_sweep_priority(request).await.map_err(explain)?;
    connection.close().await;
    output::print(format, &PriorityOutput { sweep, priority }, |done, out| {
        writeln!(out, "sweep '{}' has priority {}", done.sweep, done.priority)
    })
}

#[derive(Serialize)]
struct DeletedOutput {
    sweep: String,
    jobs: u64,
    points: u64,
}

/// `avsweep sweep rm`
pub(super) async fn remove(place: &Place, sweep: &str, yes: bool, format: Format) -> Result<Outcome> {
    let connection = Connection::open(place, Access::Change).await?;
    // Looked up first: what is asked about is then what is deleted, and a wrong name is told before the question.
    let (progress, _) = connection.sweep(sweep).await?;
    let running = matches!(progress.state(), v1::SweepState::Running | v1::SweepState::Paused);
    if !yes && !running && !confirmed(&progress, place)? {
        output::note("nothing is deleted");
        return Ok(Outcome::Done);
    }
    let request = v1::DeleteSweepRequest { sweep: progress.sweep.to_string() };
    let deleted = connection.sweeps().delete_sweep(request).await.map_err(explain)?.into_inner();
    connection.close().await;
    let done = DeletedOutput { sweep: progress.name, jobs: deleted.jobs, points: deleted.points };
    output::print(format, &done, |done, out| {
        writeln!(
            out,
            "sweep '{}' is deleted, with {} jobs and {} points that no other sweep has",
            done.sweep, done.jobs, done.points
        )
    })?;
    Ok(Outcome::Done)
}

/// Asks on the terminal.
fn confirmed(progress: &v1::SweepProgress, place: &Place) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(UsageError::new(format!(
            "deleting sweep '{}' takes away its {} results: --yes says that this is meant",
            progress.name, progress.results
        ))
        .into());
    }
    eprint!(
        "Delete sweep '{}' of {place} with its {} results, those apart that other sweeps have? [y/N] ",
        progress.name, progress.results
    );
    io::stderr().flush().context("stderr")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("stdin")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
