//! The lease protocol's edge.

use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{JobId, Rung, SweepId, WorkerId};
use avsweep_proto::v1::job_service_server::JobService;
use avsweep_proto::{ConvertError, ErrorCode, WireEnum as _, lease_token, required, v1};
use avsweep_store::{
    JobResults, LeaseRef, LeaseStatus, Report, Timings, WorkerKind, WorkerState, WorkerStatus,
};
use avsweep_transport::Role;
use tonic::{Request, Response, Status};

use super::reply::{lease_status, leased_job};
use super::status::{bad_request, bad_results, refused};
use crate::Coordinator;
use crate::application::leasing::{LeaseWish, Taken};
use crate::metrics::Usage;

/// The service over a shared coordinator.
#[derive(Debug)]
pub(super) struct JobEdge(pub(super) Arc<Coordinator>);

/// The most leases in one request.
const MAX_LEASES: usize = 10_000;
/// The most sweeps that a worker can except.
const MAX_EXCEPTED: usize = 1000;
/// The longest name of a worker, in bytes.
const MAX_WORKER_NAME: usize = 200;
/// The longest text in a worker's status, in bytes.
const MAX_STATUS_TEXT: usize = 2000;
/// The longest error that is kept of a failed evaluation, in bytes; what is longer is cut.
const MAX_ERROR: usize = 8000;

fn worker(message: &'static str, name: String) -> Result<WorkerId, ConvertError> {
    if name.is_empty() || name.len() > MAX_WORKER_NAME {
        let found = format_args!("{} bytes long", name.len());
        return Err(ConvertError::invalid(message, "worker", found, "a name of 1 to 200 bytes"));
    }
    Ok(WorkerId(name))
}

fn lease_ref(wire: &v1::LeaseRef) -> Result<LeaseRef, ConvertError> {
    if wire.attempt == 0 {
        return Err(ConvertError::invalid("LeaseRef", "attempt", wire.attempt, "at least 1"));
    }
    Ok(LeaseRef {
        job: JobId(wire.job),
        attempt: wire.attempt,
        token: lease_token("LeaseRef", "token", &wire.token)?,
    })
}

fn leases(message: &'static str, wire: &[v1::LeaseRef]) -> Result<Vec<LeaseRef>, ConvertError> {
    if wire.len() > MAX_LEASES {
        let found = format_args!("{} long", wire.len());
        return Err(ConvertError::invalid(message, "leases", found, "at most 10000 leases"));
    }
    wire.iter().map(lease_ref).collect()
}

fn lease_wish(wire: v1::LeaseRequest) -> Result<LeaseWish, ConvertError> {
    let message = "LeaseRequest";
    let rungs = wire.rungs.iter().map(|rung| v1::Rung::read(message, "rungs", *rung));
    let mut rungs: Vec<_> = rungs.collect::<Result<_, _>>()?;
    rungs.sort_unstable();
    rungs.dedup();
    if rungs.is_empty() {
        return Err(ConvertError::invalid(message, "rungs", "empty", "at least one rung"));
    }
    if wire.max_jobs == 0 {
        return Err(ConvertError::invalid(message, "max_jobs", wire.max_jobs, "at least 1"));
    }
    if wire.except_sweeps.len() > MAX_EXCEPTED {
        let found = format_args!("{} long", wire.except_sweeps.len());
        return Err(ConvertError::invalid(message, "except_sweeps", found, "at most 1000 sweeps"));
    }
    Ok(LeaseWish {
        worker: worker(message, wire.worker)?,
        rungs,
        max_jobs: wire.max_jobs,
        wait: Duration::from_millis(wire.wait_millis.into()),
        except: wire.except_sweeps.into_iter().map(SweepId).collect(),
        prefers: wire.prefers_sweep.map(SweepId),
    })
}

/// What a role measures. A peer without one came in where no tokens are asked for.
fn may(role: Option<Role>, rung: Rung) -> bool {
    match role {
        None => true,
        Some(Role::Worker) => matches!(rung, Rung::Likelihood | Rung::Generation),
        Some(Role::Judge) => rung == Rung::Judgement,
        Some(Role::User | Role::Metrics) => false,
    }
}

fn check_role(role: Option<Role>, rungs: &[Rung]) -> Result<(), Status> {
    match (role, rungs.iter().find(|rung| !may(role, **rung))) {
        (Some(role), Some(rung)) => {
            Err(ErrorCode::Forbidden.status(format!("a {role} token is not for {rung} jobs")))
        }
        _ => Ok(()),
    }
}

fn role_of<T>(request: &Request<T>) -> Option<Role> {
    request.extensions().get::<Role>().copied()
}

fn results<W, T>(wire: Vec<W>) -> Result<Vec<T>, ConvertError>
where
    T: TryFrom<W, Error = ConvertError>,
{
    wire.into_iter().map(T::try_from).collect()
}

fn usage(wire: &v1::Usage) -> Usage {
    Usage {
        tokens: wire.tokens,
        out_of_memory: wire.out_of_memory,
        judge_calls: wire.judge_calls,
        judge_errors: wire.judge_errors,
        judge_input_tokens: wire.judge_input_tokens,
        judge_output_tokens: wire.judge_output_tokens,
        judge_spend_microdollars: wire.judge_spend_microdollars,
    }
}

/// Who reports, under which lease, and the rest of the message.
fn reporter(wire: &mut v1::ReportRequest) -> Result<(WorkerId, LeaseRef), ConvertError> {
    let message = "ReportRequest";
    let lease = lease_ref(&required(message, "lease", wire.lease.take())?)?;
    Ok((worker(message, std::mem::take(&mut wire.worker))?, lease))
}

fn job_results(wire: v1::report_request::Results) -> Result<JobResults, ConvertError> {
    use v1::report_request::Results;
    Ok(match wire {
        Results::Scores(scores) => JobResults::Scores(results(scores.results)?),
        Results::Responses(responses) => JobResults::Responses(results(responses.results)?),
        Results::Verdicts(verdicts) => JobResults::Verdicts(results(verdicts.results)?),
    })
}

fn rung_of(results: &v1::report_request::Results) -> Rung {
    use v1::report_request::Results;
    match results {
        Results::Scores(_) => Rung::Likelihood,
        Results::Responses(_) => Rung::Generation,
        Results::Verdicts(_) => Rung::Judgement,
    }
}

/// A report as it came.
struct Reported {
    worker: WorkerId,
    report: Report,
    usage: Usage,
    block_done: bool,
}

fn report(mut wire: v1::ReportRequest, role: Option<Role>) -> Result<Reported, Status> {
    let (worker, lease) = reporter(&mut wire).map_err(|error| bad_request(&error))?;
    let results = required("ReportRequest", "results", wire.results).map_err(|error| bad_request(&error))?;
    check_role(role, &[rung_of(&results)])?;
    let timings = wire.timings.unwrap_or_default();
    let report = Report {
        lease,
        results: job_results(results).map_err(|error| bad_results(&error))?,
        finished: wire.finished,
        timings: Timings {
            load: Duration::from_micros(timings.load_micros),
            merge: Duration::from_micros(timings.merge_micros),
            evaluate: Duration::from_micros(timings.evaluate_micros),
        },
    };
    let usage = wire.usage.as_ref().map(usage).unwrap_or_default();
    Ok(Reported { worker, report, usage, block_done: wire.block_done })
}

fn short(field: &'static str, text: String) -> Result<String, ConvertError> {
    if text.len() > MAX_STATUS_TEXT {
        let found = format_args!("{} bytes long", text.len());
        return Err(ConvertError::invalid("WorkerStatus", field, found, "at most 2000 bytes"));
    }
    Ok(text)
}

fn worker_status(wire: v1::ReportStatusRequest) -> Result<WorkerStatus, ConvertError> {
    let message = "WorkerStatus";
    let wire = required("ReportStatusRequest", "status", wire.status)?;
    let kind = match wire.kind() {
        v1::WorkerKind::Worker => WorkerKind::Worker,
        v1::WorkerKind::Judge => WorkerKind::Judge,
        v1::WorkerKind::Unspecified => {
            return Err(ConvertError::invalid(message, "kind", wire.kind, "one of Worker Judge"));
        }
    };
    let state = match wire.state() {
        v1::WorkerState::Idle => WorkerState::Idle,
        v1::WorkerState::Busy => WorkerState::Busy,
        v1::WorkerState::Draining => WorkerState::Draining,
        v1::WorkerState::Stopped => WorkerState::Stopped,
        v1::WorkerState::Unspecified => {
            let wanted = "one of Idle Busy Draining Stopped";
            return Err(ConvertError::invalid(message, "state", wire.state, wanted));
        }
    };
    let (field, rate) = ("results_per_second", wire.results_per_second);
    if !rate.is_finite() {
        return Err(ConvertError::NotFinite { message, field, found: rate });
    }
    if rate < 0.0 {
        return Err(ConvertError::invalid(message, field, rate, "at least 0"));
    }
    Ok(WorkerStatus {
        worker: worker(message, wire.worker)?,
        kind,
        state,
        device: short("device", wire.device)?,
        host: short("host", wire.host)?,
        version: short("version", wire.version)?,
        finished: wire.finished,
        failed: wire.failed,
        lost: wire.lost,
        results: wire.results,
        rate,
        problem: wire.problem.map(|problem| short("problem", problem)).transpose()?,
    })
}

/// The text's beginning, within a number of bytes.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Coordinator {
    fn lease_millis(&self) -> u32 {
        millis(self.settings.lease_duration)
    }

    /// A write under a lost lease is answered in the protocol's own words, and counted like a refusal.
    fn count_lost(&self, method: &'static str, status: LeaseStatus) {
        if status == LeaseStatus::Lost {
            self.metrics.refused(method, ErrorCode::LeaseLost);
        }
    }
}

#[tonic::async_trait]
impl JobService for JobEdge {
    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let role = role_of(&request);
        let wish = lease_wish(request.into_inner()).map_err(|error| bad_request(&error))?;
        check_role(role, &wish.rungs)?;
        let jobs = self.0.lease(&wish).await.map_err(|error| refused(&error))?;
        let lease_millis = self.0.lease_millis();
        let jobs = self.0.in_blocks(jobs).await.into_iter();
        let jobs = jobs.map(|(job, blocks)| leased_job(job, blocks, lease_millis)).collect();
        Ok(Response::new(v1::LeaseResponse { jobs }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let wire = request.into_inner();
        let leases = leases("RenewRequest", &wire.leases).map_err(|error| bad_request(&error))?;
        worker("RenewRequest", wire.worker).map_err(|error| bad_request(&error))?;
        let statuses = self.0.renew(&leases).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::RenewResponse {
            statuses: statuses.into_iter().map(lease_status).collect(),
            lease_millis: self.0.lease_millis(),
        }))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let role = role_of(&request);
        let Reported { worker, report, usage, block_done } = report(request.into_inner(), role)?;
        let taken = self.0.report(&worker, &report, &usage, block_done).await;
        let Taken { status, rest_unwanted } = taken.map_err(|error| refused(&error))?;
        self.0.count_lost("JobService/Report", status);
        Ok(Response::new(v1::ReportResponse { status: lease_status(status), rest_unwanted }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let wire = request.into_inner();
        let leases = leases("ReleaseRequest", &wire.leases).map_err(|error| bad_request(&error))?;
        let worker = worker("ReleaseRequest", wire.worker).map_err(|error| bad_request(&error))?;
        let usage = wire.usage.as_ref().map(usage).unwrap_or_default();
        self.0.release(&worker, &leases, &usage).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        let wire = request.into_inner();
        let parsed = required("FailRequest", "lease", wire.lease)
            .and_then(|lease| Ok((lease_ref(&lease)?, worker("FailRequest", wire.worker)?)));
        let (lease, worker) = parsed.map_err(|error| bad_request(&error))?;
        let error = cut(&wire.error, MAX_ERROR);
        let usage = wire.usage.as_ref().map(usage).unwrap_or_default();
        let status = self.0.fail(&worker, &lease, error, &usage).await.map_err(|error| refused(&error))?;
        self.0.count_lost("JobService/Fail", status);
        Ok(Response::new(v1::FailResponse { status: lease_status(status) }))
    }

    async fn report_status(
        &self,
        request: Request<v1::ReportStatusRequest>,
    ) -> Result<Response<v1::ReportStatusResponse>, Status> {
        let role = role_of(&request);
        let request = request.into_inner();
        let instance = request.status.as_ref().map_or(0, |status| status.instance);
        let status = worker_status(request).map_err(|error| bad_request(&error))?;
        let rung = match status.kind {
            WorkerKind::Worker => Rung::Likelihood,
            WorkerKind::Judge => Rung::Judgement,
        };
        check_role(role, &[rung])?;
        self.0.note_worker(&status).await.map_err(|error| refused(&error))?;
        let next_millis = millis(self.0.status_interval());
        let name_shared = self.0.is_name_shared(&status, instance);
        Ok(Response::new(v1::ReportStatusResponse { next_millis, name_shared }))
    }

    async fn get_definition(
        &self,
        request: Request<v1::GetDefinitionRequest>,
    ) -> Result<Response<v1::GetDefinitionResponse>, Status> {
        let sweep = SweepId(request.into_inner().sweep);
        let record = self.0.store.sweep(sweep).await.map_err(|error| refused(&error.into()))?;
        Ok(Response::new(v1::GetDefinitionResponse {
            definition: Some(record.definition.as_ref().into()),
            fingerprint: record.fingerprint.as_bytes().to_vec(),
        }))
    }
}
