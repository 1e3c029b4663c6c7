//! The edge of the user's verbs.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use avsweep_domain::{JobId, Point, SweepDefinition, SweepId, SweepState, Target};
use avsweep_proto::v1::sweep_service_server::SweepService;
use avsweep_proto::{ConvertError, WireEnum as _, required, v1};
use avsweep_search::MAX_TARGETS;
use futures::stream::{self, Stream, StreamExt as _};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::reply;
use super::status::{bad_request, refused};
use crate::application::answering::Question;
use crate::application::sweeps::JobQuestion;
use crate::{Coordinator, SampleRequest};

/// Messages of a stream are cut at about this size, well under any peer's limit.
const PAGE_BYTES: usize = 1 << 20;
/// The largest priority either way.
const MAX_PRIORITY: i32 = 1_000_000;
/// The most jobs named in one request.
const MAX_RETRIED_JOBS: usize = 10_000;
/// Points in one message of tallies.
const TALLIES_PAGE: usize = 500;

/// The service over a shared coordinator: its streams outlive their request.
#[derive(Debug)]
pub(super) struct SweepEdge(pub(super) Arc<Coordinator>);

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn new_definition(wire: v1::CreateSweepRequest) -> Result<SweepDefinition, ConvertError> {
    required("CreateSweepRequest", "definition", wire.definition)?.try_into()
}

/// The states that a user may ask for.
fn wanted_state(wire: &v1::SetSweepStateRequest) -> Result<SweepState, ConvertError> {
    match v1::SweepState::read("SetSweepStateRequest", "state", wire.state)? {
        SweepState::Done => Err(ConvertError::invalid(
            "SetSweepStateRequest",
            "state",
            SweepState::Done,
            "running, paused or cancelled (a sweep is done by itself)",
        )),
        state => Ok(state),
    }
}

fn question(wire: v1::BestPointsRequest) -> Result<Question, ConvertError> {
    let message = "BestPointsRequest";
    if wire.targets.len() > MAX_TARGETS {
        let found = format_args!("{} long", wire.targets.len());
        return Err(ConvertError::invalid(message, "targets", found, "at most 10000 targets"));
    }
    let given = |value: i32| value != 0;
    let aggregate = given(wire.aggregate)
        .then(|| v1::Aggregate::read(message, "aggregate", wire.aggregate))
        .transpose()?;
    let reading =
        given(wire.reading).then(|| v1::Reading::read(message, "reading", wire.reading)).transpose()?;
    Ok(Question {
        sweep: wire.sweep,
        targets: wire.targets.into_iter().map(Target::try_from).collect::<Result<_, _>>()?,
        aggregate: aggregate.unwrap_or_default(),
        reading,
        assured: wire.assured,
    })
}

fn sample_request(wire: v1::RequestSampleRequest) -> Result<SampleRequest, ConvertError> {
    let point = required("RequestSampleRequest", "point", wire.point)?;
    Ok(SampleRequest {
        sweep: wire.sweep,
        point: point.try_into()?,
        ordinals: wire.ordinals,
        stored_only: wire.stored_only,
    })
}

/// A priority within bounds that leave room above and below every one in use.
fn priority(message: &'static str, priority: i32) -> Result<i32, ConvertError> {
    if (-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
        Ok(priority)
    } else {
        Err(ConvertError::invalid(message, "priority", priority, "-1000000 to 1000000"))
    }
}

fn job_question(wire: v1::ListJobsRequest) -> Result<JobQuestion, ConvertError> {
    let message = "ListJobsRequest";
    let mut states = Vec::new();
    for state in wire.states {
        let state = v1::JobState::read(message, "states", state)?;
        if !states.contains(&state) {
            states.push(state);
        }
    }
    Ok(JobQuestion {
        sweep: Some(wire.sweep).filter(|sweep| !sweep.is_empty()),
        states,
        after: wire.after.map(JobId),
        limit: Some(wire.limit).filter(|limit| *limit > 0),
    })
}

fn listed_jobs(wire: &v1::RetryJobsRequest) -> Result<Vec<JobId>, ConvertError> {
    if wire.jobs.len() > MAX_RETRIED_JOBS {
        let found = format_args!("{} long", wire.jobs.len());
        return Err(ConvertError::invalid("RetryJobsRequest", "jobs", found, "at most 10000 jobs"));
    }
    let mut jobs: Vec<JobId> = wire.jobs.iter().copied().map(JobId).collect();
    jobs.sort_unstable();
    jobs.dedup();
    Ok(jobs)
}

#[tonic::async_trait]
impl SweepService for SweepEdge {
    async fn create_sweep(
        &self,
        request: Request<v1::CreateSweepRequest>,
    ) -> Result<Response<v1::CreateSweepResponse>, Status> {
        let request = request.into_inner();
        let priority =
            priority("CreateSweepRequest", request.priority).map_err(|error| bad_request(&error))?;
        let definition = new_definition(request).map_err(|error| bad_request(&error))?;
        let created = self.0.create_sweep(&definition, priority).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::CreateSweepResponse {
            sweep: created.id.0,
            created: created.created,
            state: v1::SweepState::from(created.state).into(),
        }))
    }

    async fn list_sweeps(
        &self,
        _: Request<v1::ListSweepsRequest>,
    ) -> Result<Response<v1::ListSweepsResponse>, Status> {
        let sweeps = self.0.all_progress().await.map_err(|error| refused(&error))?;
        let sweeps = sweeps.iter().map(reply::progress).collect();
        Ok(Response::new(v1::ListSweepsResponse { sweeps }))
    }

    async fn get_sweep(
        &self,
        request: Request<v1::GetSweepRequest>,
    ) -> Result<Response<v1::GetSweepResponse>, Status> {
        let sweep = request.into_inner().sweep;
        let progress = self.0.progress(&sweep).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::GetSweepResponse {
            progress: Some(reply::progress(&progress)),
            definition: Some(progress.record.definition.as_ref().into()),
        }))
    }

    type WatchSweepStream = Streamed<v1::WatchSweepResponse>;

    async fn watch_sweep(
        &self,
        request: Request<v1::WatchSweepRequest>,
    ) -> Result<Response<Self::WatchSweepStream>, Status> {
        let sweep = request.into_inner().sweep;
        let first = self.0.progress(&sweep).await.map_err(|error| refused(&error))?;
        let progress = Arc::clone(&self.0).watch(first).map(|progress| match progress {
            Ok(progress) => Ok(v1::WatchSweepResponse { progress: Some(reply::progress(&progress)) }),
            Err(error) => Err(refused(&error)),
        });
        Ok(Response::new(Box::pin(progress)))
    }

    async fn set_sweep_state(
        &self,
        request: Request<v1::SetSweepStateRequest>,
    ) -> Result<Response<v1::SetSweepStateResponse>, Status> {
        let wire = request.into_inner();
        let to = wanted_state(&wire).map_err(|error| bad_request(&error))?;
        let state = self.0.set_sweep_state(&wire.sweep, to).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::SetSweepStateResponse { state: v1::SweepState::from(state).into() }))
    }

    type ReadTalliesStream = Streamed<v1::ReadTalliesResponse>;

    async fn read_tallies(
        &self,
        request: Request<v1::ReadTalliesRequest>,
    ) -> Result<Response<Self::ReadTalliesStream>, Status> {
        let sweep = self.find(&request.into_inner().sweep).await?;
        let history = self.0.tallies(sweep).await.map_err(|error| refused(&error))?;
        let pages = (0..history.len().div_ceil(TALLIES_PAGE)).map(move |page| {
            let start = page * TALLIES_PAGE;
            let points = &history[start..history.len().min(start + TALLIES_PAGE)];
            Ok(v1::ReadTalliesResponse { points: points.iter().map(Into::into).collect() })
        });
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    type ReadResultsStream = Streamed<v1::ReadResultsResponse>;

    async fn read_results(
        &self,
        request: Request<v1::ReadResultsRequest>,
    ) -> Result<Response<Self::ReadResultsStream>, Status> {
        let sweep = self.find(&request.into_inner().sweep).await?;
        let reader = ResultReader {
            coordinator: Arc::clone(&self.0),
            sweep,
            after: None,
            rows: VecDeque::new(),
            ended: false,
        };
        let messages = stream::unfold(reader, async |mut reader| {
            let message = reader.next().await.transpose()?;
            // After an error there is nothing more to read.
            reader.ended |= message.is_err();
            Some((message, reader))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn best_points(
        &self,
        request: Request<v1::BestPointsRequest>,
    ) -> Result<Response<v1::BestPointsResponse>, Status> {
        let question = question(request.into_inner()).map_err(|error| bad_request(&error))?;
        let answers = self.0.best_points(question).await.map_err(|error| refused(&error))?;
        Ok(Response::new(reply::best_points(&answers)))
    }

    async fn convergence(
        &self,
        request: Request<v1::ConvergenceRequest>,
    ) -> Result<Response<v1::ConvergenceResponse>, Status> {
        let request = request.into_inner();
        let steps = NonZeroUsize::new(request.steps as usize);
        let steps = self.0.convergence(&request.sweep, steps).await.map_err(|error| refused(&error))?;
        Ok(Response::new(reply::convergence(&steps)))
    }

    async fn agreement(
        &self,
        request: Request<v1::AgreementRequest>,
    ) -> Result<Response<v1::AgreementResponse>, Status> {
        let rungs = self.0.agreement(&request.into_inner().sweep).await.map_err(|error| refused(&error))?;
        Ok(Response::new(reply::agreement(&rungs)))
    }

    async fn request_sample(
        &self,
        request: Request<v1::RequestSampleRequest>,
    ) -> Result<Response<v1::RequestSampleResponse>, Status> {
        let request = sample_request(request.into_inner()).map_err(|error| bad_request(&error))?;
        let sample = self.0.sample(&request).await.map_err(|error| refused(&error))?;
        Ok(Response::new(reply::sample(sample)))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let question = job_question(request.into_inner()).map_err(|error| bad_request(&error))?;
        let (jobs, now) = self.0.list_jobs(&question).await.map_err(|error| refused(&error))?;
        let jobs = jobs.into_iter().map(|record| reply::job(record, now)).collect();
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    async fn retry_jobs(
        &self,
        request: Request<v1::RetryJobsRequest>,
    ) -> Result<Response<v1::RetryJobsResponse>, Status> {
        let wire = request.into_inner();
        let jobs = listed_jobs(&wire).map_err(|error| bad_request(&error))?;
        let retried = self.0.retry_jobs(&wire.sweep, &jobs).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::RetryJobsResponse { retried }))
    }

    async fn set_sweep_priority(
        &self,
        request: Request<v1::SetSweepPriorityRequest>,
    ) -> Result<Response<v1::SetSweepPriorityResponse>, Status> {
        let wire = request.into_inner();
        let priority =
            priority("SetSweepPriorityRequest", wire.priority).map_err(|error| bad_request(&error))?;
        self.0.set_sweep_priority(&wire.sweep, priority).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::SetSweepPriorityResponse {}))
    }

    async fn delete_sweep(
        &self,
        request: Request<v1::DeleteSweepRequest>,
    ) -> Result<Response<v1::DeleteSweepResponse>, Status> {
        let deleted =
            self.0.delete_sweep(&request.into_inner().sweep).await.map_err(|error| refused(&error))?;
        Ok(Response::new(v1::DeleteSweepResponse { jobs: deleted.jobs, points: deleted.points }))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self.0.seen_workers().await.map_err(|error| refused(&error))?;
        let workers = workers.into_iter().map(reply::worker).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }
}

impl SweepEdge {
    async fn find(&self, sweep: &str) -> Result<SweepId, Status> {
        let record = self.0.store.find_sweep(sweep).await.map_err(|error| refused(&error.into()))?;
        Ok(record.id)
    }
}

/// Reads a sweep's results page by page, and cuts the pages into messages of bounded size.
struct ResultReader {
    coordinator: Arc<Coordinator>,
    sweep: SweepId,
    after: Option<Point>,
    rows: VecDeque<v1::ResultRow>,
    ended: bool,
}

impl ResultReader {
    /// The next message; `None` at the end.
    async fn next(&mut self) -> Result<Option<v1::ReadResultsResponse>, Status> {
        // Points without results make pages without rows.
        while self.rows.is_empty() && !self.ended {
            let points = self.coordinator.settings.results_page_points.max(1);
            let page = self.coordinator.store.results(self.sweep, self.after.as_ref(), points);
            let page = page.await.map_err(|error| refused(&error.into()))?;
            self.rows = page.rows.iter().map(reply::result_row).collect();
            self.ended = page.last.is_none();
            self.after = page.last;
        }
        if self.rows.is_empty() {
            return Ok(None);
        }
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = self.rows.pop_front() {
            bytes += row.encoded_len();
            rows.push(row);
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(Some(v1::ReadResultsResponse { rows }))
    }
}
