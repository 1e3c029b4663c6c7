//! A coordinator in memory: hands out the jobs that a test gives it, checks leases, and remembers what it was told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, JudgeProvider,
    JudgeSettings, Levels, Message, ModelSource, Query, Range, Role, Space, Strategy, SweepDefinition, Ticks,
    VectorSource,
};
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_server::{JobService, JobServiceServer};
use avsweep_transport::{Transport, boxed};
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tower::ServiceExt as _;

/// Length of every lease.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// What the coordinator was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Lease { max_jobs: u32, except: Vec<i64>, prefers: Option<i64> },
    Renew { jobs: Vec<i64> },
    Report { job: i64, ordinals: Vec<u32>, finished: bool, usage: v1::Usage },
    Release { job: i64 },
    Fail { job: i64, error: String },
}

#[derive(Default)]
pub(crate) struct State {
    definitions: BTreeMap<i64, SweepDefinition>,
    waiting: VecDeque<v1::LeasedJob>,
    held: BTreeMap<i64, v1::LeasedJob>,
    /// Jobs whose lease is taken away.
    pub(crate) lost: BTreeSet<i64>,
    /// Jobs of which no more is wanted after their next block.
    pub(crate) unwanted: BTreeSet<i64>,
    /// The length of the blocks that jobs come in; 0 is none.
    pub(crate) block: u32,
    /// Requests do not arrive.
    pub(crate) away: bool,
    /// What every request is answered with.
    pub(crate) refusal: Option<Status>,
    /// Whether jobs that are given back are handed out again.
    pub(crate) keeps_released: bool,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) statuses: Vec<v1::WorkerStatus>,
    /// How often each result was written, by job and ordinal.
    pub(crate) results: BTreeMap<(i64, u32), u32>,
    pub(crate) finished: BTreeSet<i64>,
}

impl State {
    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }

    pub(crate) fn released(&self) -> Vec<i64> {
        let jobs = self.events.iter().filter_map(|(_, event)| match event {
            Event::Release { job } => Some(*job),
            _ => None,
        });
        jobs.collect()
    }

    pub(crate) fn failure(&self, wanted: i64) -> Option<String> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Fail { job, error } if *job == wanted => Some(error.clone()),
            _ => None,
        })
    }

    /// Results of a job that are stored, each once.
    pub(crate) fn stored(&self, job: i64) -> usize {
        let of_job: Vec<_> = self.results.iter().filter(|((of, _), _)| *of == job).collect();
        assert!(of_job.iter().all(|(_, written)| **written == 1), "{of_job:?}");
        of_job.len()
    }

    fn holds(&self, reference: &v1::LeaseRef) -> bool {
        !self.lost.contains(&reference.job)
            && self.held.get(&reference.job).is_some_and(|job| job.lease.as_ref() == Some(reference))
    }
}

/// The coordinator; clones are the same.
#[derive(Clone)]
pub(crate) struct Coordinator {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    began: Instant,
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), changed: Arc::default(), began: Instant::now() }
    }

    pub(crate) fn transport(&self) -> Transport {
        let coordinator = self.clone();
        boxed(tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let coordinator = coordinator.clone();
            async move {
                let away = coordinator.state().away;
                if away {
                    return Err(std::io::Error::other("connection refused"));
                }
                let answer = JobServiceServer::new(coordinator).oneshot(request).await;
                Ok(answer.unwrap_or_else(|never| match never {}))
            }
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a sweep of its own model with this many queries.
    pub(crate) fn add_sweep(&self, sweep: i64, queries: usize) {
        self.state().definitions.insert(sweep, definition(sweep, queries));
    }

    /// Queues a job of a sweep for its first queries.
    pub(crate) fn add_job(&self, sweep: i64, job: i64, queries: u32) {
        let mut state = self.state();
        let leased = v1::LeasedJob {
            lease: Some(v1::LeaseRef { job, attempt: 1, token: vec![job as u8; 16] }),
            sweep,
            sweep_fingerprint: state.definitions[&sweep].fingerprint().as_bytes().to_vec(),
            rung: v1::Rung::Likelihood.into(),
            point: Some(v1::Point { ticks: vec![0] }),
            responses: Vec::new(),
            ordinals: (0..queries).collect(),
            lease_millis: LEASE.as_millis() as u32,
            blocks: match state.block {
                0 => Vec::new(),
                length => (0..queries).step_by(length as usize).map(|at| length.min(queries - at)).collect(),
            },
        };
        state.waiting.push_back(leased);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until the state is as wanted.
    pub(crate) async fn wait_for(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if wanted(&self.state()) {
                    return;
                }
                changed.await;
            }
        };
        // A day of paused time is milliseconds.
        if tokio::time::timeout(Duration::from_secs(86_400), reached).await.is_err() {
            panic!("waited in vain for: {what}; events: {:?}", self.state().events);
        }
    }

    fn note(&self, event: Event) -> Result<(), Status> {
        let mut state = self.state();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        state.events.push((self.began.elapsed(), event));
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }
}

/// A sweep of one knob of 21 values, likelihood only.
pub(crate) fn definition(sweep: i64, queries: usize) -> SweepDefinition {
    let query = |number| Query {
        id: format!("q{number}"),
        messages: vec![Message { role: Role::User, content: format!("Question {number}?") }],
        references: ["no", "well", "yes"].map(str::to_owned).to_vec(),
    };
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(1000)).unwrap();
    let alpha = Coefficient { name: "alpha".to_owned(), vector: 0, tensors: None, range };
    let model = format!("/models/base-{sweep}");
    let definition = SweepDefinition {
        name: format!("sweep-{sweep}"),
        model: ModelSource { fingerprint: Fingerprint::of(model.as_bytes()), path: model, dtype: Dtype::F32 },
        vectors: vec![VectorSource {
            name: "v".to_owned(),
            path: "/models/v.safetensors".to_owned(),
            fingerprint: Fingerprint::of(b"v"),
        }],
        space: Space::new(vec![alpha]).unwrap(),
        levels: Levels::default(),
        domains: vec![DomainDefinition {
            name: "medical".to_owned(),
            search: (0..queries).map(query).collect(),
            confirm: Vec::new(),
        }],
        strategy: Strategy::Grid,
        evaluation: Evaluation {
            likelihood: Coverage::All,
            generation: Coverage::None,
            finalists_per_target: 1,
            decode: DecodeSettings {
                max_new_tokens: 64,
                temperature: 0.0,
                top_p: 1.0,
                seed: 0,
                stop: Vec::new(),
            },
            ladder: None,
            racing: None,
        },
        judge: JudgeSettings {
            provider: JudgeProvider::Reference { threshold: 0.35 },
            rubric: String::new(),
        },
    };
    definition.check().unwrap();
    definition
}

fn status(held: bool) -> i32 {
    if held { v1::LeaseStatus::Held.into() } else { v1::LeaseStatus::Lost.into() }
}

#[tonic::async_trait]
impl JobService for Coordinator {
    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let request = request.into_inner();
        self.note(Event::Lease {
            max_jobs: request.max_jobs,
            except: request.except_sweeps.clone(),
            prefers: request.prefers_sweep,
        })?;
        let until = Instant::now() + Duration::from_millis(u64::from(request.wait_millis));
        loop {
            let changed = self.changed.notified();
            let mut jobs = Vec::new();
            {
                let mut state = self.state();
                let waiting = std::mem::take(&mut state.waiting);
                for job in waiting {
                    let fits = !request.except_sweeps.contains(&job.sweep);
                    if fits && jobs.len() < request.max_jobs as usize {
                        state.held.insert(job.lease.as_ref().unwrap().job, job.clone());
                        jobs.push(job);
                    } else {
                        state.waiting.push_back(job);
                    }
                }
            }
            if !jobs.is_empty() || tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(Response::new(v1::LeaseResponse { jobs }));
            }
        }
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let leases = request.into_inner().leases;
        self.note(Event::Renew { jobs: leases.iter().map(|lease| lease.job).collect() })?;
        let state = self.state();
        let statuses = leases.iter().map(|lease| status(state.holds(lease))).collect();
        Ok(Response::new(v1::RenewResponse { statuses, lease_millis: LEASE.as_millis() as u32 }))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        let lease = request.lease.unwrap();
        let Some(v1::report_request::Results::Scores(scores)) = request.results else {
            return Err(Status::invalid_argument("scores are wanted"));
        };
        let ordinals: Vec<u32> = scores.results.iter().map(|score| score.ordinal).collect();
        self.note(Event::Report {
            job: lease.job,
            ordinals: ordinals.clone(),
            finished: request.finished,
            usage: request.usage.unwrap(),
        })?;
        let mut state = self.state();
        let held = state.holds(&lease);
        if held {
            for ordinal in ordinals {
                *state.results.entry((lease.job, ordinal)).or_default() += 1;
            }
            if request.finished {
                state.held.remove(&lease.job);
                state.finished.insert(lease.job);
            }
        }
        let rest_unwanted =
            held && request.block_done && !request.finished && state.unwanted.contains(&lease.job);
        if rest_unwanted {
            state.held.remove(&lease.job);
            state.finished.insert(lease.job);
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(Response::new(v1::ReportResponse { status: status(held), rest_unwanted }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        for lease in request.into_inner().leases {
            self.note(Event::Release { job: lease.job })?;
            let mut state = self.state();
            assert!(state.holds(&lease), "only what is held is given back");
            let mut job = state.held.remove(&lease.job).unwrap();
            // Only what lacks a result is asked for again; jobs in blocks are not given back half done here.
            if job.blocks.is_empty() {
                job.ordinals.retain(|ordinal| !state.results.contains_key(&(lease.job, *ordinal)));
            }
            if !state.keeps_released {
                state.waiting.push_back(job);
                // The first job of all is the first to be leased, whether it has been leased before or not.
                let number = |job: &v1::LeasedJob| job.lease.as_ref().map(|lease| lease.job);
                state.waiting.make_contiguous().sort_by_key(number);
            }
            drop(state);
            self.changed.notify_waiters();
        }
        Ok(Response::new(v1::ReleaseResponse {}))
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        let request = request.into_inner();
        let lease = request.lease.unwrap();
        self.note(Event::Fail { job: lease.job, error: request.error })?;
        let mut state = self.state();
        let held = state.holds(&lease);
        state.held.remove(&lease.job);
        Ok(Response::new(v1::FailResponse { status: status(held) }))
    }

    async fn report_status(
        &self,
        request: Request<v1::ReportStatusRequest>,
    ) -> Result<Response<v1::ReportStatusResponse>, Status> {
        let mut state = self.state();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        state.statuses.push(request.into_inner().status.unwrap());
        drop(state);
        self.changed.notify_waiters();
        Ok(Response::new(v1::ReportStatusResponse {
            next_millis: (LEASE / 3).as_millis() as u32,
            name_shared: false,
        }))
    }

    async fn get_definition(
        &self,
        request: Request<v1::GetDefinitionRequest>,
    ) -> Result<Response<v1::GetDefinitionResponse>, Status> {
        let state = self.state();
        let definition = &state.definitions[&request.into_inner().sweep];
        Ok(Response::new(v1::GetDefinitionResponse {
            fingerprint: definition.fingerprint().as_bytes().to_vec(),
            definition: Some(definition.into()),
        }))
    }
}
