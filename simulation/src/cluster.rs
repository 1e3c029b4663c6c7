//! The processes: coordinators, workers and judges, started, crashed, stopped and frozen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use avsweep_coordinator::{Clock, Coordinator, Settings, TokenSource};
use avsweep_domain::{FailureLimits, WorkerId};
use avsweep_judge::LoopOptions;
use avsweep_lease::{Backoff, Jitter, OnCoordinatorLost, Shutdown};
use avsweep_store::SqliteStore;
use avsweep_worker::{Worker, WorkerOptions};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Sabotage;
use crate::evaluator::{MadeUpEvaluator, MadeUpJudge};
use crate::laws::Laws;
use crate::network::{Host, Network};
use crate::store::{Life, SimulatedStore};
use crate::world::World;

/// How long leases last.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// Low, so that jobs are parked now and then.
pub(crate) const LIMITS: FailureLimits = FailureLimits { lost: 5, errors: 3 };
/// Longest time a call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// Settings under which small sweeps show batching, and background tasks look no oftener than they must.
fn settings() -> Settings {
    Settings {
        lease_duration: LEASE,
        failure_limits: LIMITS,
        max_wait: Duration::from_secs(5),
        wait_poll_interval: Duration::from_secs(2),
        max_queries_per_job: 3,
        max_jobs_per_plan: 5,
        low_water: 4,
        planner_interval: Duration::from_secs(6),
        planning_duration: Duration::from_secs(4),
        reaper_interval: Duration::from_secs(4),
        ..Settings::default()
    }
}

/// One life of a coordinator.
#[derive(Debug)]
struct CoordinatorProcess {
    cancel: CancellationToken,
    life: Arc<Life>,
}

/// What a process that pulls jobs does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Worker,
    Judge,
}

/// One life of a worker or judge.
#[derive(Debug)]
struct Puller {
    host: Arc<Host>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

/// Every process, and what they share.
pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pub(crate) network: Arc<Network>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) laws: Arc<Mutex<Laws>>,
    /// A coordinator has ended by its fuse.
    pub(crate) crashed: Arc<Notify>,
    sabotage: Option<Sabotage>,
    coordinators: Vec<Option<CoordinatorProcess>>,
    pullers: Vec<(Kind, Option<Puller>)>,
    /// Lives so far: no name is used twice.
    lives: u64,
}

impl Cluster {
    pub(crate) fn new(
        world: Arc<World>,
        store: Arc<SqliteStore>,
        coordinators: usize,
        pullers: Vec<Kind>,
        sabotage: Option<Sabotage>,
    ) -> Self {
        Self {
            network: Network::new(Arc::clone(&world), coordinators),
            world,
            store,
            laws: Arc::new(Mutex::new(Laws::new(LIMITS))),
            crashed: Arc::default(),
            sabotage,
            coordinators: (0..coordinators).map(|_| None).collect(),
            pullers: pullers.into_iter().map(|kind| (kind, None)).collect(),
            lives: 0,
        }
    }

    pub(crate) fn coordinators(&self) -> usize {
        self.coordinators.len()
    }

    pub(crate) fn pullers(&self) -> usize {
        self.pullers.len()
    }

    pub(crate) fn kind(&self, index: usize) -> Kind {
        self.pullers[index].0
    }

    fn name(&mut self, what: &str, index: usize) -> String {
        self.lives += 1;
        format!("{what} {index} life {}", self.lives)
    }

    /// Starts a coordinator that does not run.
    pub(crate) async fn start_coordinator(&mut self, index: usize) {
        if self.coordinators[index].is_some() {
            return;
        }
        let name = self.name("coordinator", index);
        self.world.log(format_args!("{name} starts"));
        let life = Life::new(Arc::clone(&self.crashed));
        let store = SimulatedStore {
            name,
            world: Arc::clone(&self.world),
            inner: Arc::clone(&self.store),
            laws: Arc::clone(&self.laws),
            life: Arc::clone(&life),
            sabotage: self.sabotage,
        };
        let clock: Arc<dyn Clock> = Arc::clone(&self.world) as Arc<dyn Clock>;
        let tokens = TokenSource::seeded(self.world.seed());
        let coordinator = Coordinator::with_parts(Arc::new(store), settings(), clock, tokens);
        let coordinator = Arc::new(coordinator.computing_in_place());
        let cancel = CancellationToken::new();
        // Its tasks end with the cancelled token, or where they wait for the store.
        drop(coordinator.start_background(cancel.clone()));
        self.network.up(index, coordinator.direct_transport().await);
        self.coordinators[index] = Some(CoordinatorProcess { cancel, life });
    }

    /// Ends a coordinator where it is; whether it ran.
    pub(crate) fn crash_coordinator(&mut self, index: usize) -> bool {
        let Some(process) = self.coordinators[index].take() else { return false };
        self.world.log(format_args!("coordinator {index} is gone"));
        process.life.end();
        self.network.down(index);
        process.cancel.cancel();
        true
    }

    /// Has a coordinator end soon, between two store calls; whether it runs.
    pub(crate) fn light_fuse(&mut self, index: usize, calls: i64) -> bool {
        let Some(process) = &self.coordinators[index] else { return false };
        process.life.set_fuse(calls);
        true
    }

    /// Has a coordinator hand out nothing more; it is to be ended some time later. Whether it runs.
    pub(crate) fn drain_coordinator(&mut self, index: usize) -> bool {
        let Some(process) = &self.coordinators[index] else { return false };
        self.world.log(format_args!("coordinator {index} drains"));
        process.cancel.cancel();
        true
    }

    /// Clears away coordinators that have ended by their fuse; which.
    pub(crate) fn bury_coordinators(&mut self) -> Vec<usize> {
        let dead =
            |process: &Option<CoordinatorProcess>| process.as_ref().is_some_and(|it| it.life.is_over());
        let dead: Vec<usize> =
            (0..self.coordinators.len()).filter(|index| dead(&self.coordinators[*index])).collect();
        for index in &dead {
            self.crash_coordinator(*index);
        }
        dead
    }

    /// Starts a worker or judge that does not run, under a new name.
    pub(crate) fn start_puller(&mut self, index: usize) {
        if self.pullers[index].1.is_some() {
            return;
        }
        let kind = self.kind(index);
        let name = self.name(if kind == Kind::Worker { "worker" } else { "judge" }, index);
        self.world.log(format_args!("{name} starts"));
        let host = Host::new(name.clone(), false);
        let shutdown = Shutdown::default();
        let task = match kind {
            Kind::Worker => self.spawn_worker(name, &host, shutdown.clone()),
            Kind::Judge => self.spawn_judge(name, &host, shutdown.clone()),
        };
        self.pullers[index].1 = Some(Puller { host, shutdown, task });
    }

    fn on_coordinator_lost(&self) -> OnCoordinatorLost {
        if self.world.below(4) == 0 {
            OnCoordinatorLost::Stop { patience: Duration::from_secs(15) }
        } else {
            OnCoordinatorLost::Finish
        }
    }

    fn spawn_worker(&self, name: String, host: &Arc<Host>, shutdown: Shutdown) -> JoinHandle<()> {
        let world = Arc::clone(&self.world);
        let options = WorkerOptions {
            name: WorkerId(name.clone()),
            held_jobs: 1 + world.below(4) as usize,
            report_interval: world.between(Duration::from_millis(100), Duration::from_secs(2)),
            drain: world.between(Duration::from_secs(1), Duration::from_secs(10)),
            stint: Duration::from_secs(20),
            pass_over: Duration::from_secs(20),
            on_coordinator_lost: self.on_coordinator_lost(),
            call_timeout: CALL_TIMEOUT,
            reconnect: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(3) },
            jitter: Jitter::seeded(world.seed()),
            ..WorkerOptions::default()
        };
        let evaluator = MadeUpEvaluator::new(Arc::clone(&world), Arc::clone(host));
        let worker = Worker::with_evaluator(self.network.transport(host), options, Box::new(evaluator));
        tokio::spawn(async move {
            let outcome = worker.run(shutdown).await;
            world.log(format_args!("{name} ends: {outcome:?}"));
        })
    }

    fn spawn_judge(&self, name: String, host: &Arc<Host>, shutdown: Shutdown) -> JoinHandle<()> {
        let world = Arc::clone(&self.world);
        let options = LoopOptions {
            max_jobs: 1 + world.below(3) as u32,
            batch: 1 + world.below(4) as usize,
            batch_age: world.between(Duration::from_millis(100), Duration::from_secs(2)),
            drain: world.between(Duration::from_secs(1), Duration::from_secs(10)),
            on_coordinator_lost: self.on_coordinator_lost(),
            call_timeout: CALL_TIMEOUT,
            reconnect: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(3) },
            outage: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(8) },
            jitter: Jitter::seeded(world.seed()),
            provider: Some(Arc::new(MadeUpJudge { world: Arc::clone(&world), host: Arc::clone(host) })),
            ..LoopOptions::new(WorkerId(name.clone()))
        };
        let transport = self.network.transport(host);
        tokio::spawn(async move {
            let outcome = avsweep_judge::run(transport, options, shutdown).await;
            world.log(format_args!("{name} ends: {outcome:?}"));
        })
    }

    /// Ends a worker or judge where it is; whether it ran.
    pub(crate) fn crash_puller(&mut self, index: usize) -> bool {
        let Some(puller) = self.pullers[index].1.take() else { return false };
        self.world.log(format_args!("{} is gone", puller.host.name));
        puller.task.abort();
        true
    }

    /// Tells a worker or judge to end; whether it runs.
    pub(crate) fn stop_puller(&mut self, index: usize) -> bool {
        let Some(puller) = &self.pullers[index].1 else { return false };
        self.world.log(format_args!("{} is told to stop", puller.host.name));
        let at_once = self.world.below(4) == 0;
        if at_once {
            puller.shutdown.at_once.cancel();
        } else {
            puller.shutdown.drain.cancel();
        }
        true
    }

    /// Freezes a worker or judge or lets it go on; whether it runs.
    pub(crate) fn freeze(&mut self, index: usize, frozen: bool) -> bool {
        let Some(puller) = &self.pullers[index].1 else { return false };
        if puller.host.is_frozen() != frozen {
            self.world.log(format_args!("{} frozen: {frozen}", puller.host.name));
        }
        puller.host.freeze(frozen);
        true
    }

    /// Cuts a worker or judge off from the coordinators for a while; whether it runs.
    pub(crate) fn cut_off(&mut self, index: usize, duration: Duration) -> bool {
        let Some(puller) = &self.pullers[index].1 else { return false };
        self.world.log(format_args!("{} is cut off for {duration:?}", puller.host.name));
        puller.host.cut_off(Some(tokio::time::Instant::now() + duration));
        true
    }

    /// Clears away workers and judges that have ended; which.
    pub(crate) fn bury_pullers(&mut self) -> Vec<usize> {
        let ended = |puller: &Option<Puller>| puller.as_ref().is_some_and(|puller| puller.task.is_finished());
        let ended: Vec<usize> =
            (0..self.pullers.len()).filter(|index| ended(&self.pullers[*index].1)).collect();
        for index in &ended {
            self.pullers[*index].1 = None;
        }
        ended
    }

    /// Everything runs and can be reached; nothing more happens to it.
    pub(crate) async fn heal(&mut self) {
        for index in 0..self.coordinators.len() {
            let drains =
                self.coordinators[index].as_ref().is_some_and(|process| process.cancel.is_cancelled());
            if drains {
                self.crash_coordinator(index);
            }
            self.light_fuse(index, 0);
            self.start_coordinator(index).await;
        }
        for index in 0..self.pullers.len() {
            if let Some(puller) = &self.pullers[index].1 {
                puller.host.freeze(false);
                puller.host.cut_off(None);
            }
            self.start_puller(index);
        }
    }
}
