//! `avsweep workers ls`

use std::time::Duration;

use anyhow::Result;
use avsweep_domain::Point;
use avsweep_proto::v1;
use serde::Serialize;

use super::sweeps::rung_name;
use crate::arguments::{Format, WorkersCommand};
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output::{self, Table, human_duration};

#[derive(Serialize)]
struct WorkerOutput {
    worker: String,
    kind: &'static str,
    /// What it last said, or `gone` when it was not heard of for a whole lease.
    state: &'static str,
    host: String,
    device: String,
    version: String,
    jobs: Vec<HeldOutput>,
    results: u64,
    results_per_second: f64,
    finished: u64,
    failed: u64,
    lost: u64,
    first_seen_at: i64,
    seen_seconds_ago: f64,
    problem: Option<String>,
}

#[derive(Serialize)]
struct HeldOutput {
    job: i64,
    sweep: i64,
    rung: String,
    point: String,
}

/// `avsweep workers ls`
pub(super) async fn run(place: &Place, command: &WorkersCommand, format: Format) -> Result<()> {
    let WorkersCommand::Ls { all } = command;
    let connection = Connection::open(place, Access::Read).await?;
    let response = connection.sweeps().list_workers(v1::ListWorkersRequest {}).await.map_err(explain)?;
    let mut workers =
        response.into_inner().workers.into_iter().map(read).collect::<Result<Vec<WorkerOutput>>>()?;
    let remembered = workers.len();
    workers.retain(|worker| *all || worker.state != "stopped");
    let hidden = remembered - workers.len();
    output::print(format, &workers, |workers, out| {
        let mut table = Table::new([
            "worker",
            "kind",
            "state",
            "device",
            "job",
            "results/s",
            "seen",
            "done",
            "failed",
            "lost",
        ]);
        for worker in workers {
            table.row([
                worker.worker.clone(),
                worker.kind.to_owned(),
                worker.state.to_owned(),
                worker.device.clone(),
                held(&worker.jobs),
                format!("{:.1}", worker.results_per_second),
                format!("{} ago", human_duration(Duration::from_secs_f64(worker.seen_seconds_ago))),
                worker.finished.to_string(),
                worker.failed.to_string(),
                worker.lost.to_string(),
            ]);
        }
        table.write(out)?;
        for worker in workers {
            if let Some(problem) = &worker.problem {
                writeln!(out, "{}: {problem}", worker.worker)?;
            }
        }
        Ok(())
    })?;
    if hidden > 0 && format == Format::Table {
        output::note(format!("{hidden} that ended are not shown; --all shows them"));
    }
    Ok(())
}

/// The job worked on, and how many more are held.
fn held(jobs: &[HeldOutput]) -> String {
    let Some(first) = jobs.first() else { return "–".to_owned() };
    let more = match jobs.len() {
        1 => String::new(),
        held => format!(" +{}", held - 1),
    };
    format!("sweep {} {} {}{more}", first.sweep, first.rung, first.point)
}

fn read(worker: v1::Worker) -> Result<WorkerOutput> {
    let status = worker.status.unwrap_or_default();
    let kind = match status.kind() {
        v1::WorkerKind::Worker => "worker",
        v1::WorkerKind::Judge => "judge",
        v1::WorkerKind::Unspecified => "unknown",
    };
    let state = match status.state() {
        v1::WorkerState::Stopped => "stopped",
        _ if worker.gone => "gone",
        v1::WorkerState::Idle => "idle",
        v1::WorkerState::Busy => "busy",
        v1::WorkerState::Draining => "draining",
        v1::WorkerState::Unspecified => "unknown",
    };
    let jobs = worker
        .jobs
        .into_iter()
        .map(|job| {
            let rung = rung_name(job.rung());
            let point = job.point.map(Point::try_from).transpose()?;
            Ok(HeldOutput {
                job: job.job,
                sweep: job.sweep,
                rung,
                point: point.map_or_else(String::new, |point| point.to_string()),
            })
        })
        .collect::<Result<_>>()?;
    Ok(WorkerOutput {
        worker: status.worker,
        kind,
        state,
        host: status.host,
        device: status.device,
        version: status.version,
        jobs,
        results: status.results,
        results_per_second: status.results_per_second,
        finished: status.finished,
        failed: status.failed,
        lost: status.lost,
        first_seen_at: worker.first_seen_at,
        seen_seconds_ago: Duration::from_millis(worker.seen_millis_ago).as_secs_f64(),
        problem: status.problem,
    })
}
