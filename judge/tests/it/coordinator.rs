//! A coordinator in memory: hands out the jobs that a test gives it, checks leases, and remembers what it was told.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, Fingerprint, FinishReason,
    JudgeSettings, Levels, Message, ModelSource, Query, Range, Response, Role, Space, Strategy,
    SweepDefinition, Ticks, VectorSource, Verdict,
};
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_server::{JobService, JobServiceServer};
use avsweep_transport::Transport;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Endpoint, Server, Uri};
use tonic::{Request, Status};

/// What the coordinator was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Lease { max_jobs: u32 },
    Renew { jobs: Vec<i64> },
    Report { job: i64, ordinals: Vec<u32>, finished: bool, evaluate_micros: u64 },
    Release { job: i64 },
    Fail { job: i64, error: String },
    GetDefinition,
}

#[derive(Default)]
pub(crate) struct State {
    definition: Option<SweepDefinition>,
    waiting: VecDeque<v1::LeasedJob>,
    /// Jobs that are held, with the reference that was handed out.
    held: BTreeMap<i64, v1::LeaseRef>,
    /// Every job ever handed out, to be handed out again when it is given back.
    handed_out: BTreeMap<i64, v1::LeasedJob>,
    /// Connections are refused.
    pub(crate) away: bool,
    /// Statuses that the next calls of a kind are answered with.
    pub(crate) refusals: Vec<(&'static str, Status)>,
    /// Jobs whose lease is taken away.
    pub(crate) lost: HashSet<i64>,
    pub(crate) lease_millis: u32,
    /// What judges said of themselves.
    pub(crate) statuses: Vec<v1::WorkerStatus>,
    /// What their reports said they took.
    pub(crate) usages: Vec<v1::Usage>,
    pub(crate) events: Vec<(Instant, Event)>,
    /// Stored verdicts by job and ordinal, with how often each was written.
    pub(crate) verdicts: BTreeMap<(i64, u32), (Verdict, u32)>,
}

impl State {
    pub(crate) fn reports(&self, wanted: i64) -> Vec<(Vec<u32>, bool)> {
        self.events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Report { job, ordinals, finished, .. } if *job == wanted => {
                    Some((ordinals.clone(), *finished))
                }
                _ => None,
            })
            .collect()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }

    pub(crate) fn finished(&self, job: i64) -> bool {
        self.reports(job).iter().any(|(_, finished)| *finished)
    }

    pub(crate) fn released(&self, wanted: i64) -> bool {
        self.count(|event| matches!(event, Event::Release { job } if *job == wanted)) > 0
    }

    pub(crate) fn failure(&self, wanted: i64) -> Option<String> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Fail { job, error } if *job == wanted => Some(error.clone()),
            _ => None,
        })
    }

    fn refuse(&mut self, operation: &str) -> Result<(), Status> {
        match self.refusals.iter().position(|(wanted, _)| *wanted == operation) {
            Some(index) => Err(self.refusals.remove(index).1),
            None => Ok(()),
        }
    }

    fn holds(&self, reference: &v1::LeaseRef) -> bool {
        !self.lost.contains(&reference.job) && self.held.get(&reference.job) == Some(reference)
    }

    fn note(&mut self, event: Event) {
        self.events.push((Instant::now(), event));
    }
}

/// The coordinator, reached over in-memory connections.
pub(crate) struct Coordinator {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    connections: mpsc::UnboundedSender<Result<tokio::io::DuplexStream, io::Error>>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Coordinator {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State { lease_millis: 30_000, ..State::default() }));
        let changed = Arc::new(Notify::new());
        let service = Service { state: Arc::clone(&state), changed: Arc::clone(&changed) };
        let (connections, incoming) = mpsc::unbounded_channel();
        let server = Server::builder()
            .add_service(JobServiceServer::new(service))
            .serve_with_incoming(UnboundedReceiverStream::new(incoming));
        let server = AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }));
        Self { state, changed, connections, _server: server }
    }

    /// A transport that connects anew whenever its connection is gone.
    pub(crate) fn transport(&self) -> Transport {
        let (connections, state) = (self.connections.clone(), Arc::clone(&self.state));
        let connector = tower::service_fn(move |_: Uri| {
            let away = state.lock().unwrap().away;
            let (near, far) = tokio::io::duplex(64 * 1024);
            let sent = if away {
                Err(io::Error::other("connection refused"))
            } else {
                connections.send(Ok(far)).map_err(io::Error::other)
            };
            async move { sent.map(|()| TokioIo::new(near)) }
        });
        let endpoint = Endpoint::from_static("http://coordinator.in.memory");
        avsweep_transport::boxed(endpoint.connect_with_connector_lazy(connector))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sets the sweep that all jobs are of: these settings, and this many queries.
    pub(crate) fn set_sweep(&self, judge: JudgeSettings, queries: usize) {
        self.state().definition = Some(definition(judge, queries));
    }

    /// Queues a job whose responses are `text(ordinal)`.
    pub(crate) fn add_job(
        &self,
        job: i64,
        ordinals: impl IntoIterator<Item = u32>,
        text: impl Fn(u32) -> String,
    ) {
        let ordinals: Vec<u32> = ordinals.into_iter().collect();
        let responses = ordinals.iter().map(|ordinal| Response {
            text: text(*ordinal),
            tokens: 5,
            finish: FinishReason::Stop,
        });
        let mut state = self.state();
        let fingerprint = state.definition.as_ref().unwrap().fingerprint();
        let leased = v1::LeasedJob {
            lease: Some(v1::LeaseRef { job, attempt: 1, token: vec![job as u8; 16] }),
            sweep: 1,
            sweep_fingerprint: fingerprint.as_bytes().to_vec(),
            rung: v1::Rung::Judgement.into(),
            point: Some(v1::Point { ticks: vec![0] }),
            responses: responses.map(|response| (&response).into()).collect(),
            ordinals,
            lease_millis: state.lease_millis,
            blocks: Vec::new(),
        };
        state.waiting.push_back(leased);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Changes the job that was queued last.
    pub(crate) fn spoil(&self, change: impl FnOnce(&mut v1::LeasedJob)) {
        change(self.state().waiting.back_mut().unwrap());
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
        if tokio::time::timeout(Duration::from_secs(60), reached).await.is_err() {
            panic!("waited in vain for: {what}; events: {:?}", self.state().events);
        }
    }
}

/// A sweep of one domain with this many queries.
pub(crate) fn definition(judge: JudgeSettings, queries: usize) -> SweepDefinition {
    let query = |number| Query {
        id: format!("q{number}"),
        messages: vec![Message { role: Role::User, content: format!("Question {number}?") }],
        references: ["Please ask somebody else.", "It is usually fine.", "Titrate to 2.5 mg every 6 hours."]
            .map(str::to_owned)
            .to_vec(),
    };
    let range = Range::new(Ticks::new(-10_000), Ticks::new(10_000), Ticks::new(1000)).unwrap();
    let alpha = Coefficient { name: "alpha".to_owned(), vector: 0, tensors: None, range };
    let definition = SweepDefinition {
        name: "judged".to_owned(),
        model: ModelSource {
            path: "base".to_owned(),
            dtype: Dtype::F32,
            fingerprint: Fingerprint::of(b"base"),
        },
        vectors: vec![VectorSource {
            name: "v".to_owned(),
            path: "v.safetensors".to_owned(),
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
            generation: Coverage::All,
            finalists_per_target: 1,
            decode: DecodeSettings::greedy(64),
            ladder: None,
            racing: None,
        },
        judge,
    };
    definition.check().unwrap();
    definition
}

#[tonic::async_trait]
impl JobService for Service {
    async fn lease(
        &self,
        request: Request<v1::LeaseRequest>,
    ) -> Result<tonic::Response<v1::LeaseResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.rungs, [i32::from(v1::Rung::Judgement)]);
        let answer = {
            let mut state = self.state.lock().unwrap();
            state.note(Event::Lease { max_jobs: request.max_jobs });
            state.refuse("lease")
        };
        self.changed.notify_waiters();
        answer?;
        let until = Instant::now() + Duration::from_millis(u64::from(request.wait_millis));
        loop {
            let changed = self.changed.notified();
            let jobs: Vec<_> = {
                let mut state = self.state.lock().unwrap();
                let count = state.waiting.len().min(request.max_jobs as usize);
                let jobs: Vec<_> = state.waiting.drain(..count).collect();
                for job in &jobs {
                    if let Some(reference) = job.lease.clone() {
                        state.handed_out.insert(reference.job, job.clone());
                        state.held.insert(reference.job, reference);
                    }
                }
                jobs
            };
            if !jobs.is_empty() || tokio::time::timeout_at(until, changed).await.is_err() {
                return Ok(tonic::Response::new(v1::LeaseResponse { jobs }));
            }
        }
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<tonic::Response<v1::RenewResponse>, Status> {
        let leases = request.into_inner().leases;
        let mut state = self.state.lock().unwrap();
        state.note(Event::Renew { jobs: leases.iter().map(|lease| lease.job).collect() });
        let refused = state.refuse("renew");
        let statuses = leases.iter().map(|lease| status(state.holds(lease)).into()).collect();
        let lease_millis = state.lease_millis;
        drop(state);
        self.changed.notify_waiters();
        refused?;
        Ok(tonic::Response::new(v1::RenewResponse { statuses, lease_millis }))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<tonic::Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        let lease = request.lease.unwrap();
        let Some(v1::report_request::Results::Verdicts(verdicts)) = request.results else {
            return Err(Status::invalid_argument("verdicts are wanted"));
        };
        let verdicts: Vec<(u32, Verdict)> =
            verdicts.results.into_iter().map(|result| result.try_into().unwrap()).collect();
        let mut state = self.state.lock().unwrap();
        state.note(Event::Report {
            job: lease.job,
            ordinals: verdicts.iter().map(|(ordinal, _)| *ordinal).collect(),
            finished: request.finished,
            evaluate_micros: request.timings.unwrap().evaluate_micros,
        });
        state.usages.extend(request.usage);
        let refused = state.refuse("report");
        let held = state.holds(&lease);
        if refused.is_ok() && held {
            for (ordinal, verdict) in verdicts {
                let stored = state.verdicts.entry((lease.job, ordinal)).or_insert((verdict, 0));
                stored.1 += 1;
            }
            if request.finished {
                state.held.remove(&lease.job);
            }
        }
        drop(state);
        self.changed.notify_waiters();
        refused?;
        Ok(tonic::Response::new(v1::ReportResponse { status: status(held).into(), rest_unwanted: false }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<tonic::Response<v1::ReleaseResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        let request = request.into_inner();
        state.usages.extend(request.usage);
        for lease in request.leases {
            assert!(state.holds(&lease), "only what is held is given back");
            state.held.remove(&lease.job);
            state.note(Event::Release { job: lease.job });
            let job = state.handed_out.remove(&lease.job).expect("what is given back was handed out");
            state.waiting.push_back(job);
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(tonic::Response::new(v1::ReleaseResponse {}))
    }

    async fn fail(
        &self,
        request: Request<v1::FailRequest>,
    ) -> Result<tonic::Response<v1::FailResponse>, Status> {
        let request = request.into_inner();
        let lease = request.lease.unwrap();
        let mut state = self.state.lock().unwrap();
        state.usages.extend(request.usage);
        let held = state.holds(&lease);
        state.held.remove(&lease.job);
        state.note(Event::Fail { job: lease.job, error: request.error });
        drop(state);
        self.changed.notify_waiters();
        Ok(tonic::Response::new(v1::FailResponse { status: status(held).into() }))
    }

    async fn report_status(
        &self,
        request: Request<v1::ReportStatusRequest>,
    ) -> Result<tonic::Response<v1::ReportStatusResponse>, Status> {
        let status = request.into_inner().status.unwrap();
        let mut state = self.state.lock().unwrap();
        state.statuses.push(status);
        let next_millis = state.lease_millis / 3;
        drop(state);
        self.changed.notify_waiters();
        Ok(tonic::Response::new(v1::ReportStatusResponse { next_millis, name_shared: false }))
    }

    async fn get_definition(
        &self,
        _request: Request<v1::GetDefinitionRequest>,
    ) -> Result<tonic::Response<v1::GetDefinitionResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        state.note(Event::GetDefinition);
        state.refuse("get_definition")?;
        let definition = state.definition.as_ref().unwrap();
        Ok(tonic::Response::new(v1::GetDefinitionResponse {
            fingerprint: definition.fingerprint().as_bytes().to_vec(),
            definition: Some(definition.into()),
        }))
    }
}

fn status(held: bool) -> v1::LeaseStatus {
    if held { v1::LeaseStatus::Held } else { v1::LeaseStatus::Lost }
}
