//! The worker's loop: lease ahead, hand to the engine, report, until told to stop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{Fingerprint, Point, Rung, SweepDefinition, SweepId, WorkerId};
use avsweep_lease::{
    Backoff, CoordinatorClient, HeldLease, LeaseKeeper, Patience, error_chain, is_transient, job_client,
};
use avsweep_proto::{ConvertError, WireEnum as _, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::engine_thread::{self, EngineEvent, EngineJob};
use crate::error::WorkerError;
use crate::evaluator::Task;
use crate::report::Batch;

/// Sweeps whose definitions are kept.
const DEFINITIONS_KEPT: usize = 8;

/// How a worker works.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// This process, unique among all.
    pub name: WorkerId,
    /// Threads that compute; `None` is all cores.
    pub threads: Option<usize>,
    /// Jobs held at once: one on the engine, the rest waiting, so that the engine never does.
    pub held_jobs: usize,
    /// How long the coordinator may keep a request for jobs open when there are none.
    pub lease_wait: Duration,
    /// Results of a long job are reported at least this often.
    pub report_interval: Duration,
    /// Longest time that what is held may take to finish after the stop; then it is given back.
    pub drain: Duration,
    /// Longest time one call to the coordinator may take, a request for jobs apart.
    pub call_timeout: Duration,
    /// Waits while the coordinator cannot be reached.
    pub reconnect: Backoff,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            name: WorkerId(format!("worker-{}-{:08x}", std::process::id(), rand::random::<u32>())),
            threads: None,
            held_jobs: 4,
            lease_wait: Duration::from_secs(2),
            report_interval: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            call_timeout: Duration::from_secs(20),
            reconnect: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) },
        }
    }
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSummary {
    /// Jobs evaluated in full.
    pub finished: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs given back.
    pub released: u64,
    /// Jobs whose lease was lost.
    pub lost: u64,
}

/// A worker with its engine thread, not yet running.
#[derive(Debug)]
pub struct Worker {
    options: WorkerOptions,
    channel: Channel,
    jobs: mpsc::Sender<EngineJob>,
    events: mpsc::Receiver<EngineEvent>,
}

impl Worker {
    /// Starts the engine thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(channel: Channel, options: WorkerOptions) -> Result<Self, WorkerError> {
        let (jobs, queue) = mpsc::channel(options.held_jobs.max(1));
        // The thread ends with the channel; it is not waited for, since a long chunk may still be on it.
        let (events, _thread) = engine_thread::start(options.threads, queue)?;
        Ok(Self { options, channel, jobs, events })
    }

    /// Works until `stop`; a coordinator that is away is waited for.
    ///
    /// After the stop the job on the engine has [`WorkerOptions::drain`] to finish; what waits is given back at once.
    ///
    /// # Errors
    /// When the model cannot be loaded, its files are not the sweep's, or the coordinator refuses this worker.
    /// Everything held is given back first.
    pub async fn run(self, stop: CancellationToken) -> Result<WorkerSummary, WorkerError> {
        let hurry = CancellationToken::new();
        let client = job_client(self.channel);
        let coordinator = CoordinatorClient {
            client: client.clone(),
            backoff: self.options.reconnect,
            timeout: self.options.call_timeout,
            hurry: hurry.clone(),
        };
        let mut running = Running {
            keeper: LeaseKeeper::start(client, self.options.name.clone()),
            coordinator,
            options: self.options,
            jobs: self.jobs,
            definitions: Vec::new(),
            held: HashMap::new(),
            next_number: 0,
            summary: WorkerSummary::default(),
        };
        let mut events = self.events;
        // Whatever waits for the coordinator then stops waiting, wherever it is.
        let drain = running.options.drain;
        let hurried = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
            hurry.cancel();
            std::future::pending::<std::convert::Infallible>().await
        };
        let working = async {
            let outcome = running.work(&mut events, &stop).await;
            let drained = running.drain(&mut events, outcome.is_err(), &hurry).await;
            outcome.and(drained).map(|()| running.summary)
        };
        let outcome = tokio::select! {
            outcome = working => outcome,
            never = hurried => match never {},
        };
        tracing::info!(?outcome, "worker stopped");
        outcome
    }
}

/// A job in this worker's hands.
struct HeldJob {
    lease: HeldLease,
    unwanted: CancellationToken,
    batch: Batch,
    rung: Rung,
    reported: Instant,
}

struct Running {
    options: WorkerOptions,
    coordinator: CoordinatorClient,
    keeper: LeaseKeeper,
    jobs: mpsc::Sender<EngineJob>,
    definitions: Vec<(SweepId, Fingerprint, Arc<SweepDefinition>)>,
    held: HashMap<u64, HeldJob>,
    next_number: u64,
    summary: WorkerSummary,
}

impl Running {
    /// Leases and reports until the stop.
    async fn work(
        &mut self,
        events: &mut mpsc::Receiver<EngineEvent>,
        stop: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let mut patience = Patience::default();
        let mut not_before = Instant::now();
        loop {
            let free = self.options.held_jobs.max(1).saturating_sub(self.held.len());
            // A request that is given up may still lease jobs that nobody then holds; so it is only asked for when
            // there is room, and kept until it is answered while events are worked on.
            let mut asking =
                std::pin::pin!(ask(self.coordinator.clone(), self.options.clone(), free, not_before,));
            let answer = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        // Whatever the last request still brings is given back.
                        if free > 0
                            && not_before <= Instant::now()
                            && let Ok(Ok(answer)) =
                                tokio::time::timeout(self.options.lease_wait + Duration::from_secs(1), &mut asking).await
                        {
                            self.give_back(answer.jobs.into_iter().filter_map(|job| job.lease).collect()).await;
                        }
                        return Ok(());
                    }
                    event = events.recv() => {
                        let event = event.ok_or(WorkerError::EngineGone)?;
                        self.take(event).await?;
                        if free == 0 && self.held.len() < self.options.held_jobs.max(1) {
                            break None;
                        }
                    }
                    answer = &mut asking, if free > 0 => break Some(answer),
                }
            };
            match answer {
                None => {}
                Some(Ok(answer)) => {
                    patience = Patience::default();
                    not_before = if answer.jobs.is_empty() {
                        // A coordinator that does not wait for jobs must not be asked in a tight loop.
                        Instant::now() + Duration::from_millis(10)
                    } else {
                        Instant::now()
                    };
                    self.accept(answer.jobs).await?;
                }
                Some(Err(status)) if patience.allows_another_try(&status) => {
                    let failures = patience.failures();
                    not_before = Instant::now() + self.options.reconnect.random_delay(failures);
                    tracing::warn!(
                        failures, code = %status.code(), message = status.message(),
                        "no jobs could be leased; trying again"
                    );
                }
                Some(Err(status)) => {
                    return Err(WorkerError::Refused {
                        operation: "Lease",
                        reason: status.message().to_owned(),
                    });
                }
            }
        }
    }

    /// Takes leased jobs into care and queues them.
    async fn accept(&mut self, jobs: Vec<v1::LeasedJob>) -> Result<(), WorkerError> {
        let granted = Instant::now();
        // All leases first: fetching a definition takes time.
        let mut leased = Vec::with_capacity(jobs.len());
        for mut wire in jobs {
            let Some(reference) = wire.lease.take() else {
                tracing::warn!(sweep = wire.sweep, "a job came without a lease and is left alone");
                continue;
            };
            let duration = Duration::from_millis(u64::from(wire.lease_millis));
            leased.push((self.keeper.hold(reference, duration, granted), wire));
        }
        let mut leased = leased.into_iter();
        while let Some((lease, wire)) = leased.next() {
            match self.read(wire).await {
                Ok(task) => self.queue(lease, task).await?,
                Err(ReadError::Job(error)) => self.fail(&lease, error_chain(&error)).await,
                Err(ReadError::Coordinator(status)) => {
                    let unread = std::iter::once(lease).chain(leased.map(|(lease, _)| lease));
                    self.give_back(unread.map(|lease| lease.reference()).collect()).await;
                    if self.coordinator.hurry.is_cancelled() {
                        return Ok(());
                    }
                    return Err(WorkerError::Refused {
                        operation: "GetDefinition",
                        reason: status.message().to_owned(),
                    });
                }
            }
        }
        Ok(())
    }

    async fn queue(&mut self, lease: HeldLease, task: Task) -> Result<(), WorkerError> {
        let number = self.next_number;
        self.next_number += 1;
        let unwanted = CancellationToken::new();
        let rung = task.rung;
        let job = EngineJob { number, task: Arc::new(task), unwanted: unwanted.clone() };
        self.held.insert(
            number,
            HeldJob { lease, unwanted, batch: Batch::new(rung), rung, reported: Instant::now() },
        );
        // There is room: no more jobs are held than the queue takes.
        self.jobs.send(job).await.map_err(|_| WorkerError::EngineGone)
    }

    async fn read(&mut self, wire: v1::LeasedJob) -> Result<Task, ReadError> {
        const MESSAGE: &str = "LeasedJob";
        let rung = v1::Rung::read(MESSAGE, "rung", wire.rung)?;
        let point = Point::try_from(avsweep_proto::required(MESSAGE, "point", wire.point)?)?;
        let sweep_fingerprint =
            avsweep_proto::fingerprint(MESSAGE, "sweep_fingerprint", &wire.sweep_fingerprint)?;
        let definition = self.definition(SweepId(wire.sweep), sweep_fingerprint).await?;
        if point.dimensions() != definition.space.dimensions() {
            let wanted = "one value per coefficient";
            return Err(ConvertError::invalid(MESSAGE, "point", &point, wanted).into());
        }
        Ok(Task { definition, sweep_fingerprint, rung, point, ordinals: wire.ordinals })
    }

    /// A sweep's definition, fetched once.
    async fn definition(
        &mut self,
        sweep: SweepId,
        wanted: Fingerprint,
    ) -> Result<Arc<SweepDefinition>, ReadError> {
        if let Some((_, _, definition)) =
            self.definitions.iter().find(|(known, fingerprint, _)| *known == sweep && *fingerprint == wanted)
        {
            return Ok(Arc::clone(definition));
        }
        let answer = self
            .coordinator
            .call("GetDefinition", |mut client| async move {
                client.get_definition(v1::GetDefinitionRequest { sweep: sweep.0 }).await
            })
            .await
            .map_err(ReadError::Coordinator)?;
        let wire = avsweep_proto::required("GetDefinitionResponse", "definition", answer.definition)?;
        let definition = SweepDefinition::try_from(wire)?;
        // Computed and not only read: what is evaluated is then what the results are filed under.
        let found = definition.fingerprint();
        if found != wanted {
            return Err(ConvertError::invalid(
                "GetDefinitionResponse",
                "definition",
                found,
                "the job's definition",
            )
            .into());
        }
        let definition = Arc::new(definition);
        if self.definitions.len() >= DEFINITIONS_KEPT {
            self.definitions.remove(0);
        }
        self.definitions.push((sweep, wanted, Arc::clone(&definition)));
        Ok(definition)
    }

    /// Works on one event of the engine.
    async fn take(&mut self, event: EngineEvent) -> Result<(), WorkerError> {
        match event {
            EngineEvent::Results { number, results, spent } => {
                let Some(held) = self.held.get_mut(&number) else { return Ok(()) };
                held.batch.add(results, spent);
                if held.lease.is_lost() {
                    held.unwanted.cancel();
                } else if held.reported.elapsed() >= self.options.report_interval {
                    self.report(number, false).await?;
                }
            }
            EngineEvent::Finished { number } => {
                self.report(number, true).await?;
                if let Some(held) = self.held.remove(&number) {
                    if held.lease.is_lost() { self.summary.lost += 1 } else { self.summary.finished += 1 }
                }
            }
            EngineEvent::Stopped { number } => {
                if self.held.get(&number).is_some_and(|held| !held.lease.is_lost()) {
                    self.report(number, false).await?;
                }
                if let Some(held) = self.held.remove(&number) {
                    if held.lease.is_lost() {
                        self.summary.lost += 1;
                    } else {
                        self.give_back(vec![held.lease.reference()]).await;
                    }
                }
            }
            EngineEvent::Failed { number, error } => {
                if self.held.get(&number).is_some_and(|held| !held.batch.is_empty()) {
                    self.report(number, false).await?;
                }
                if let Some(held) = self.held.remove(&number) {
                    self.fail(&held.lease, error).await;
                }
            }
            EngineEvent::Broken(error) => return Err(error),
        }
        Ok(())
    }

    /// Reports a job's batch. Results are durable when this returns and the lease is not lost.
    ///
    /// # Errors
    /// When the coordinator is there but cannot store anything.
    async fn report(&mut self, number: u64, finished: bool) -> Result<(), WorkerError> {
        let Some(held) = self.held.get_mut(&number) else { return Ok(()) };
        if held.lease.is_lost() || (held.batch.is_empty() && !finished) {
            return Ok(());
        }
        let batch = std::mem::replace(&mut held.batch, Batch::new(held.rung));
        let request = batch.into_request(self.options.name.0.clone(), held.lease.reference(), finished);
        let answer = self
            .coordinator
            .call("Report", |mut client| {
                let request = request.clone();
                async move { client.report(request).await }
            })
            .await;
        held.reported = Instant::now();
        match answer {
            Ok(answer) if answer.status() == v1::LeaseStatus::Lost => {
                held.lease.mark_lost();
                held.unwanted.cancel();
                tracing::info!(job = held.lease.job(), "the lease is lost: its work is dropped");
            }
            Ok(_) => {}
            // Unreachable at the end of the drain time: the results will be made again.
            Err(status) if is_transient(status.code()) => {
                tracing::warn!(
                    job = held.lease.job(),
                    message = status.message(),
                    "results could not be reported"
                );
                held.unwanted.cancel();
                self.undone(number).await;
                if !self.coordinator.hurry.is_cancelled() {
                    return Err(WorkerError::Refused {
                        operation: "Report",
                        reason: status.message().to_owned(),
                    });
                }
            }
            Err(status) => {
                let error = format!("the coordinator refused the results: {}", status.message());
                tracing::error!(job = held.lease.job(), error);
                held.unwanted.cancel();
                if let Some(held) = self.held.remove(&number) {
                    self.fail(&held.lease, error).await;
                }
            }
        }
        Ok(())
    }

    /// Gives one held job back.
    async fn undone(&mut self, number: u64) {
        if let Some(held) = self.held.remove(&number) {
            self.give_back(vec![held.lease.reference()]).await;
        }
    }

    async fn fail(&mut self, lease: &HeldLease, error: String) {
        self.summary.failed += 1;
        self.coordinator.fail(&self.options.name, lease.reference(), error).await;
    }

    /// Gives leases back uncounted; one that cannot be given back expires.
    async fn give_back(&mut self, leases: Vec<v1::LeaseRef>) {
        self.summary.released += leases.len() as u64;
        self.coordinator.release(&self.options.name, leases).await;
    }

    /// Finishes the job on the engine within the drain time and gives back the rest; all of it, if the engine is
    /// broken.
    async fn drain(
        &mut self,
        events: &mut mpsc::Receiver<EngineEvent>,
        broken: bool,
        hurry: &CancellationToken,
    ) -> Result<(), WorkerError> {
        let deadline = Instant::now() + self.options.drain;
        let mut outcome = Ok(());
        if !broken {
            // The lowest number is on the engine; the others wait behind it.
            let first = self.held.keys().min().copied();
            for (_, held) in self.held.iter().filter(|(number, _)| Some(**number) != first) {
                held.unwanted.cancel();
            }
            while !self.held.is_empty() {
                match tokio::time::timeout_at(deadline, events.recv()).await {
                    Ok(Some(event)) => {
                        if let Err(error) = self.take(event).await {
                            outcome = Err(error);
                            break;
                        }
                    }
                    Ok(None) | Err(_) => break,
                }
            }
            // What a long job has so far is not thrown away.
            for number in self.held.keys().copied().collect::<Vec<_>>() {
                if let Err(error) = self.report(number, false).await {
                    outcome = Err(error);
                    break;
                }
            }
        }
        hurry.cancel();
        let left: Vec<_> = self.held.drain().map(|(_, held)| held).collect();
        left.iter().for_each(|held| held.unwanted.cancel());
        let leases =
            left.iter().filter(|held| !held.lease.is_lost()).map(|held| held.lease.reference()).collect();
        self.give_back(leases).await;
        outcome
    }
}

/// Why a leased job could not be read.
enum ReadError {
    Job(ConvertError),
    Coordinator(Status),
}

impl From<ConvertError> for ReadError {
    fn from(error: ConvertError) -> Self {
        Self::Job(error)
    }
}

/// Asks for jobs once, not before the given time.
async fn ask(
    coordinator: CoordinatorClient,
    options: WorkerOptions,
    free: usize,
    not_before: Instant,
) -> Result<v1::LeaseResponse, Status> {
    tokio::time::sleep_until(not_before).await;
    let request = v1::LeaseRequest {
        worker: options.name.0,
        rungs: vec![v1::Rung::Likelihood.into(), v1::Rung::Generation.into()],
        max_jobs: u32::try_from(free).unwrap_or(u32::MAX),
        wait_millis: u32::try_from(options.lease_wait.as_millis()).unwrap_or(u32::MAX),
    };
    let mut client = coordinator.client;
    tokio::time::timeout(options.lease_wait + options.call_timeout, client.lease(request))
        .await
        .map_err(|_| Status::deadline_exceeded("the coordinator did not answer in time"))?
        .map(tonic::Response::into_inner)
}
