//! The lease protocol's edge.

use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{JobId, SweepId, WorkerId};
use avsweep_proto::v1::job_service_server::JobService;
use avsweep_proto::{ConvertError, WireEnum as _, lease_token, required, v1};
use avsweep_store::{JobResults, LeaseRef, LeaseStatus, Report, Timings};
use tonic::{Request, Response, Status};

use super::reply::{lease_status, leased_job};
use super::status::{bad_request, refused};
use crate::Coordinator;
use crate::application::leasing::LeaseWish;

/// The service over a shared coordinator.
#[derive(Debug)]
pub(super) struct JobEdge(pub(super) Arc<Coordinator>);

/// The most leases in one request.
const MAX_LEASES: usize = 10_000;
/// The longest name of a worker, in bytes.
const MAX_WORKER_NAME: usize = 200;

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
    Ok(LeaseWish {
        worker: worker(message, wire.worker)?,
        rungs,
        max_jobs: wire.max_jobs,
        wait: Duration::from_millis(wire.wait_millis.into()),
    })
}

fn results<W, T>(wire: Vec<W>) -> Result<Vec<T>, ConvertError>
where
    T: TryFrom<W, Error = ConvertError>,
{
    wire.into_iter().map(T::try_from).collect()
}

fn report(wire: v1::ReportRequest) -> Result<(WorkerId, Report), ConvertError> {
    use v1::report_request::Results;
    let message = "ReportRequest";
    let timings = wire.timings.unwrap_or_default();
    let report = Report {
        lease: lease_ref(&required(message, "lease", wire.lease)?)?,
        results: match required(message, "results", wire.results)? {
            Results::Scores(scores) => JobResults::Scores(results(scores.results)?),
            Results::Responses(responses) => JobResults::Responses(results(responses.results)?),
            Results::Verdicts(verdicts) => JobResults::Verdicts(results(verdicts.results)?),
        },
        finished: wire.finished,
        timings: Timings {
            load: Duration::from_micros(timings.load_micros),
            merge: Duration::from_micros(timings.merge_micros),
            evaluate: Duration::from_micros(timings.evaluate_micros),
        },
    };
    Ok((worker(message, wire.worker)?, report))
}

impl Coordinator {
    fn lease_millis(&self) -> u32 {
        u32::try_from(self.settings.lease_duration.as_millis()).unwrap_or(u32::MAX)
    }
}

#[tonic::async_trait]
impl JobService for JobEdge {
    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let wish = lease_wish(request.into_inner()).map_err(|error| bad_request(&error))?;
        let jobs = self.0.lease(&wish).await.map_err(|error| refused(&error))?;
        let lease_millis = self.0.lease_millis();
        let jobs = jobs.into_iter().map(|job| leased_job(job, lease_millis)).collect();
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
        let (worker, report) = report(request.into_inner()).map_err(|error| bad_request(&error))?;
        let status: LeaseStatus = self.0.report(&worker, &report).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::ReportResponse { status: lease_status(status) }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let wire = request.into_inner();
        let leases = leases("ReleaseRequest", &wire.leases).map_err(|error| bad_request(&error))?;
        let worker = worker("ReleaseRequest", wire.worker).map_err(|error| bad_request(&error))?;
        self.0.release(&worker, &leases).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        let wire = request.into_inner();
        let parsed = required("FailRequest", "lease", wire.lease)
            .and_then(|lease| Ok((lease_ref(&lease)?, worker("FailRequest", wire.worker)?)));
        let (lease, worker) = parsed.map_err(|error| bad_request(&error))?;
        let status = self.0.fail(&worker, &lease, &wire.error).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::FailResponse { status: lease_status(status) }))
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
