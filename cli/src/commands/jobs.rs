//! `avsweep jobs ls|retry`

use anyhow::Result;
use avsweep_domain::Point;
use avsweep_proto::v1;
use serde::Serialize;

use super::sweeps::rung_name;
use crate::arguments::{Format, JobStateArgument, JobsCommand, ListJobsArguments};
use crate::connection::{Connection, Place, explain, sweep_name};
use crate::embedded::Access;
use crate::output::{self, Table};

/// Jobs that one answer can hold.
const PAGE: u32 = 1000;

/// A job as `--output json` shows it.
#[derive(Serialize)]
pub(super) struct JobOutput {
    pub(super) job: i64,
    pub(super) sweep: i64,
    pub(super) rung: String,
    pub(super) point: String,
    pub(super) queries: u32,
    pub(super) state: &'static str,
    /// Leases so far.
    pub(super) attempt: u32,
    /// Who holds it, or held it last.
    pub(super) worker: Option<String>,
    pub(super) lease_seconds_left: Option<f64>,
    pub(super) lost: u32,
    pub(super) errors: u32,
    pub(super) last_error: Option<String>,
}

impl JobOutput {
    /// From the wire.
    ///
    /// # Errors
    /// When its point is none.
    pub(super) fn read(job: v1::Job) -> Result<Self> {
        Ok(Self {
            rung: rung_name(job.rung()),
            state: state_name(job.state()),
            point: job
                .point
                .map(Point::try_from)
                .transpose()?
                .map_or_else(String::new, |point| point.to_string()),
            job: job.job,
            sweep: job.sweep,
            queries: job.queries,
            attempt: job.attempt,
            worker: job.worker,
            lease_seconds_left: job.lease_millis_left.map(|millis| millis as f64 / 1000.0),
            lost: job.lost,
            errors: job.errors,
            last_error: job.last_error,
        })
    }
}

fn state_name(state: v1::JobState) -> &'static str {
    match state {
        v1::JobState::Ready => "ready",
        v1::JobState::Leased => "leased",
        v1::JobState::Done => "done",
        v1::JobState::Parked => "failed",
        v1::JobState::Raced => "raced",
        v1::JobState::Unspecified => "unknown",
    }
}

fn wire_state(state: JobStateArgument) -> v1::JobState {
    match state {
        JobStateArgument::Ready => v1::JobState::Ready,
        JobStateArgument::Leased => v1::JobState::Leased,
        JobStateArgument::Done => v1::JobState::Done,
        JobStateArgument::Failed => v1::JobState::Parked,
        JobStateArgument::Raced => v1::JobState::Raced,
    }
}

/// `avsweep jobs …`
pub(super) async fn run(place: &Place, command: &JobsCommand, format: Format) -> Result<()> {
    match command {
        JobsCommand::Ls(arguments) => list(place, arguments, format).await,
        JobsCommand::Retry { sweep, jobs } => retry(place, sweep, jobs, format).await,
    }
}

async fn list(place: &Place, arguments: &ListJobsArguments, format: Format) -> Result<()> {
    let sweep = arguments.sweep.as_deref().map(sweep_name).transpose()?.unwrap_or_default();
    let states: Vec<i32> = if arguments.failed {
        vec![v1::JobState::Parked.into()]
    } else {
        arguments.states.iter().map(|state| wire_state(*state).into()).collect()
    };
    let connection = Connection::open(place, Access::Read).await?;
    let mut jobs: Vec<JobOutput> = Vec::new();
    let mut more = true;
    while more && (jobs.len() as u64) < u64::from(arguments.limit) {
        let left = u64::from(arguments.limit) - jobs.len() as u64;
        // One more than wanted says whether there are more.
        let limit = u32::try_from(left + 1).unwrap_or(PAGE).min(PAGE);
        let request = v1::ListJobsRequest {
            sweep: sweep.clone(),
            states: states.clone(),
            after: jobs.last().map(|job| job.job),
            limit,
        };
        let page = connection.sweeps().list_jobs(request).await.map_err(explain)?.into_inner().jobs;
        more = page.len() as u64 >= u64::from(limit);
        for job in page {
            jobs.push(JobOutput::read(job)?);
        }
    }
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let cut = jobs.len() > limit;
    jobs.truncate(limit);
    let failed = arguments.failed || arguments.states == [JobStateArgument::Failed];
    output::print(format, &jobs, |jobs, out| {
        let mut headings = vec!["job", "sweep", "rung", "point", "queries"];
        if !failed {
            headings.extend(["state", "worker"]);
        }
        headings.extend(["lost", "errors", "last error"]);
        let mut table = Table::new(headings);
        for job in jobs {
            let mut row = vec![
                job.job.to_string(),
                job.sweep.to_string(),
                job.rung.clone(),
                job.point.clone(),
                job.queries.to_string(),
            ];
            if !failed {
                row.extend([job.state.to_owned(), job.worker.clone().unwrap_or_default()]);
            }
            row.extend([
                job.lost.to_string(),
                job.errors.to_string(),
                job.last_error.clone().unwrap_or_default(),
            ]);
            table.row(row);
        }
        table.write(out)
    })?;
    if cut {
        output::note(format!("there are more than {limit}; --limit shows more of them"));
    }
    Ok(())
}

#[derive(Serialize)]
struct RetriedOutput {
    sweep: String,
    retried: u64,
}

async fn retry(place: &Place, sweep: &str, jobs: &[i64], format: Format) -> Result<()> {
    let sweep = sweep_name(sweep)?;
    let connection = Connection::open(place, Access::Change).await?;
    let request = v1::RetryJobsRequest { sweep: sweep.clone(), jobs: jobs.to_vec() };
    let retried = connection.sweeps().retry_jobs(request).await.map_err(explain)?.into_inner().retried;
    connection.close().await;
    output::print(format, &RetriedOutput { sweep, retried }, |done, out| match done.retried {
        0 => writeln!(out, "sweep '{}' has no failed jobs", done.sweep),
        retried => writeln!(out, "{retried} jobs of sweep '{}' are ready again", done.sweep),
    })?;
    if retried > 0 && !place.is_remote() {
        output::note("'avsweep run' on the sweep's file works on them");
    }
    Ok(())
}
