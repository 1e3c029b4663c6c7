//! One schedule: sweeps run while things go wrong, then everything is healed, and the results are compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use avsweep_domain::{JobState, Rung, SweepDefinition, SweepState};
use avsweep_proto::v1;
use avsweep_store::{SqliteStore, SqliteStoreOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{Cluster, Kind};
use crate::export::Export;
use crate::network::Host;
use crate::store::at_once;
use crate::sweeps::{Likeness, Shape};
use crate::user::User;
use crate::weather::Weather;
use crate::world::{Fault, FaultCounts, World};
use crate::{Outcome, Sabotage};

/// Longest simulated time until the sweeps are done once everything is healed.
const HEALED: Duration = Duration::from_secs(900);
/// How often ended processes are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How often a user looks whether the sweeps are done, once everything is healed.
const LOOK_AT_END: Duration = Duration::from_secs(3);
/// A schedule that goes on after this many steps never ends.
const MOST_STEPS: u64 = 200_000;

/// What a schedule does to its processes. The share of each kind is drawn for every schedule.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    CrashCoordinator,
    LightFuse,
    StopCoordinator,
    CrashPuller,
    StopPuller,
    Freeze,
    CutOff,
    JudgeOutage,
    Pause,
    Prioritise,
    Retry,
    Look,
}

const TROUBLES: [Trouble; 12] = [
    Trouble::CrashCoordinator,
    Trouble::LightFuse,
    Trouble::StopCoordinator,
    Trouble::CrashPuller,
    Trouble::StopPuller,
    Trouble::Freeze,
    Trouble::CutOff,
    Trouble::JudgeOutage,
    Trouble::Pause,
    Trouble::Prioritise,
    Trouble::Retry,
    Trouble::Look,
];

/// What is to happen at some time.
#[derive(Clone, Debug)]
enum Action {
    Trouble,
    StartCoordinator(usize),
    EndCoordinator(usize),
    StartPuller(usize),
    Thaw(usize),
    Create(usize),
    Resume(String),
    Look,
}

struct Schedule {
    world: Arc<World>,
    cluster: Cluster,
    definitions: Vec<SweepDefinition>,
    agenda: BTreeMap<(Instant, u64), Action>,
    appointments: u64,
    /// Of each kind of trouble.
    shares: Vec<u64>,
    /// Longest time between two troubles.
    pause: Duration,
    /// A user whom the faults strike too.
    user: User,
    users: JoinSet<()>,
}

/// The undisturbed runs' exports, made once each.
static UNDISTURBED: Mutex<BTreeMap<Shape, Arc<Export>>> = Mutex::new(BTreeMap::new());

fn undisturbed(shape: Shape) -> anyhow::Result<Arc<Export>> {
    if let Some(known) = UNDISTURBED.lock().unwrap_or_else(PoisonError::into_inner).get(&shape) {
        return Ok(Arc::clone(known));
    }
    let (outcome, export) = in_runtime(simulate(0, Some(shape), None))?;
    ensure!(outcome.problem.is_none(), "the undisturbed run of {shape:?}: {:?}", outcome.problem);
    let export = Arc::new(export.context("the undisturbed run's export")?);
    let mut known = UNDISTURBED.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Arc::clone(known.entry(shape).or_insert(export)))
}

/// Runs the schedule of a seed: the same seed, the same schedule, step by step.
///
/// # Errors
/// When the simulation itself cannot be set up; a broken law is [`Outcome::problem`].
pub fn run_schedule(seed: u64, sabotage: Option<Sabotage>) -> anyhow::Result<Outcome> {
    in_runtime(simulate(seed, None, sabotage)).map(|(outcome, _)| outcome)
}

fn in_runtime<T>(schedule: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(schedule)
}

/// A schedule, or the undisturbed run of a shape.
async fn simulate(
    seed: u64,
    calm: Option<Shape>,
    sabotage: Option<Sabotage>,
) -> anyhow::Result<(Outcome, Option<Export>)> {
    let world = Arc::new(World::new(seed));
    let store = Arc::new(at_once(SqliteStore::open(&SqliteStoreOptions::memory()))?);
    let shape = calm.unwrap_or_else(|| Shape::ALL[world.below(Shape::ALL.len() as u64) as usize]);
    let workers = 1 + world.below(3) as usize;
    let judges = 1 + world.below(2) as usize;
    let pullers = [vec![Kind::Worker; workers], vec![Kind::Judge; judges]].concat();
    world.log(format_args!("seed {seed}: {shape:?}, {workers} workers, {judges} judges"));
    let cluster = Cluster::new(Arc::clone(&world), Arc::clone(&store), 2, pullers, sabotage);
    let laws = Arc::clone(&cluster.laws);
    let user = User::new(cluster.network.transport(&Host::new("user".to_owned(), false)));
    let mut schedule = Schedule {
        definitions: shape.definitions()?,
        agenda: BTreeMap::new(),
        appointments: 0,
        shares: Vec::new(),
        pause: Duration::ZERO,
        user,
        users: JoinSet::new(),
        world: Arc::clone(&world),
        cluster,
    };
    let running = async {
        if calm.is_none() {
            schedule.disturb().await;
        }
        let (export, parked) = schedule.finish().await?;
        if calm.is_none() {
            match shape.likeness() {
                // Where a job was parked, finalists were chosen without it: there may be more of them in the end.
                Likeness::Always => export.compare(&*undisturbed_elsewhere(shape)?, !parked)?,
                Likeness::Unparked if !parked => export.compare(&*undisturbed_elsewhere(shape)?, true)?,
                Likeness::Unparked | Likeness::ByTiming => {}
            }
        }
        anyhow::Ok(export)
    };
    let export = tokio::select! {
        biased;
        () = world.broken() => None,
        export = running => match export {
            Ok(export) => Some(export),
            Err(error) => {
                world.break_law(format!("{error:#}"));
                None
            }
        },
    };
    let laws = laws.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = Outcome {
        seed,
        problem: world.problem(),
        steps: laws.steps(),
        simulated: world.elapsed(),
        faults: counts(&world, laws.parked()),
        log: world.take_log(),
    };
    Ok((outcome, export))
}

/// The undisturbed run has its own runtime, which cannot begin inside another: on a thread of its own, once a shape.
fn undisturbed_elsewhere(shape: Shape) -> anyhow::Result<Arc<Export>> {
    let run = std::thread::spawn(move || undisturbed(shape));
    run.join().map_err(|_| anyhow::anyhow!("the undisturbed run of {shape:?} panicked"))?
}

fn counts(world: &World, parked: u64) -> FaultCounts {
    let mut counts = world.counts();
    if parked > 0 {
        counts.insert(Fault::JobParked, parked);
    }
    counts
}

impl Schedule {
    fn at(&mut self, pause: Duration, action: Action) {
        self.appointments += 1;
        self.agenda.insert((Instant::now() + pause, self.appointments), action);
    }

    fn seconds(&self, low: u64, high: u64) -> Duration {
        self.world.between(Duration::from_secs(low), Duration::from_secs(high))
    }

    fn coordinator(&self) -> usize {
        self.world.below(self.cluster.coordinators() as u64) as usize
    }

    fn puller(&self) -> usize {
        self.world.below(self.cluster.pullers() as u64) as usize
    }

    /// Starts everything, and lets trouble come until its time is over or the sweeps are done.
    async fn disturb(&mut self) {
        let world = Arc::clone(&self.world);
        world.set_weather(Weather::draw(&world));
        if world.below(4) == 0 {
            let definition = &self.definitions[0];
            let points = definition.space.grid_size().unwrap_or(1);
            let point = definition.space.grid_point(world.below(points));
            let rung = if world.below(2) == 0 { Rung::Likelihood } else { Rung::Generation };
            world.log(format_args!("evaluating {rung} at {point:?} always fails"));
            world.set_poison(point.map(|point| (point, rung)));
        }
        self.shares =
            TROUBLES.iter().map(|_| if world.below(3) == 0 { 0 } else { 1 + world.below(9) }).collect();
        self.pause = world.between(Duration::from_millis(500), Duration::from_secs(12));
        for index in 0..self.cluster.coordinators() {
            self.at(world.between(Duration::ZERO, Duration::from_secs(3)), Action::StartCoordinator(index));
        }
        for index in 0..self.cluster.pullers() {
            self.at(world.between(Duration::ZERO, Duration::from_secs(6)), Action::StartPuller(index));
        }
        for index in 0..self.definitions.len() {
            self.at(self.seconds(0, 20), Action::Create(index));
        }
        self.at(self.pause, Action::Trouble);
        self.at(LOOK, Action::Look);
        let end = Instant::now() + self.seconds(30, 100);
        while let Some(((time, number), action)) = self.agenda.pop_first() {
            if time >= end || self.is_done() {
                break;
            }
            let crashed = Arc::clone(&self.cluster.crashed);
            tokio::select! {
                biased;
                () = crashed.notified() => {
                    self.agenda.insert((time, number), action);
                    self.bury_coordinators();
                }
                () = sleep_until(time) => self.act(action).await,
            }
        }
        self.agenda.clear();
    }

    /// Whether every sweep is there and done.
    fn is_done(&self) -> bool {
        let laws = self.cluster.laws.lock().unwrap_or_else(PoisonError::into_inner);
        let sweeps = &laws.seen().sweeps;
        sweeps.len() == self.definitions.len() && sweeps.values().all(|sweep| sweep.state == SweepState::Done)
    }

    fn bury_coordinators(&mut self) {
        for index in self.cluster.bury_coordinators() {
            let pause = self.seconds(0, 10);
            self.at(pause, Action::StartCoordinator(index));
        }
    }

    fn bury_pullers(&mut self) {
        for index in self.cluster.bury_pullers() {
            let pause = self.seconds(0, 8);
            self.at(pause, Action::StartPuller(index));
        }
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Trouble => {
                self.trouble();
                let pause = self.world.between(Duration::ZERO, self.pause);
                self.at(pause, Action::Trouble);
            }
            Action::StartCoordinator(index) => self.cluster.start_coordinator(index).await,
            Action::EndCoordinator(index) => {
                if self.cluster.crash_coordinator(index) {
                    let pause = self.seconds(0, 10);
                    self.at(pause, Action::StartCoordinator(index));
                }
            }
            Action::StartPuller(index) => self.cluster.start_puller(index),
            Action::Thaw(index) => {
                self.cluster.freeze(index, false);
            }
            Action::Create(index) => {
                let (mut user, definition) = (self.user.clone(), self.definitions[index].clone());
                self.user_does(async move { user.create(&definition).await });
            }
            Action::Resume(sweep) => {
                let mut user = self.user.clone();
                self.user_does(async move { user.set_state(&sweep, v1::SweepState::Running).await });
            }
            Action::Look => {
                self.bury_coordinators();
                self.bury_pullers();
                self.at(LOOK, Action::Look);
            }
        }
    }

    /// Has a user try something once.
    fn user_does(&mut self, doing: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        while self.users.try_join_next().is_some() {}
        let world = Arc::clone(&self.world);
        self.users.spawn(async move {
            if let Err(error) = doing.await {
                world.log(format_args!("a user is refused: {error:#}"));
            }
        });
    }

    /// One trouble, drawn by the shares.
    fn trouble(&mut self) {
        let world = Arc::clone(&self.world);
        let mut drawn = world.below(self.shares.iter().sum());
        let kind = TROUBLES.iter().zip(&self.shares).find(|(_, share)| {
            let hit = drawn < **share;
            drawn = drawn.saturating_sub(**share);
            hit
        });
        let Some((trouble, _)) = kind else { return };
        let struck = match trouble {
            Trouble::CrashCoordinator => self.crash_coordinator(),
            Trouble::LightFuse => {
                let (index, calls) = (self.coordinator(), 1 + world.below(30) as i64);
                self.cluster.light_fuse(index, calls);
                // Counted when it crashes.
                None
            }
            Trouble::StopCoordinator => {
                let index = self.coordinator();
                let pause = self.seconds(0, 6);
                let runs = self.cluster.drain_coordinator(index);
                runs.then(|| self.at(pause, Action::EndCoordinator(index)));
                runs.then_some(Fault::CoordinatorStopped)
            }
            Trouble::CrashPuller => self.crash_puller(),
            Trouble::StopPuller => {
                let index = self.puller();
                self.cluster.stop_puller(index).then(|| match self.cluster.kind(index) {
                    Kind::Worker => Fault::WorkerStopped,
                    Kind::Judge => Fault::JudgeStopped,
                })
            }
            Trouble::Freeze => {
                let (index, pause) = (self.puller(), self.seconds(1, 35));
                let runs = self.cluster.freeze(index, true);
                runs.then(|| self.at(pause, Action::Thaw(index)));
                runs.then_some(Fault::Frozen)
            }
            Trouble::CutOff => {
                let (index, duration) = (self.puller(), self.seconds(1, 25));
                self.cluster.cut_off(index, duration).then_some(Fault::CutOff)
            }
            Trouble::JudgeOutage => {
                world.send_judges_away(Some(Instant::now() + self.seconds(3, 30)));
                Some(Fault::JudgeOutage)
            }
            Trouble::Pause | Trouble::Prioritise | Trouble::Retry | Trouble::Look => self.user_acts(*trouble),
        };
        if let Some(fault) = struck {
            world.count(fault);
        }
    }

    fn crash_coordinator(&mut self) -> Option<Fault> {
        let index = self.coordinator();
        let pause = self.seconds(0, 15);
        let runs = self.cluster.crash_coordinator(index);
        runs.then(|| self.at(pause, Action::StartCoordinator(index)));
        runs.then_some(Fault::CoordinatorCrashed)
    }

    fn crash_puller(&mut self) -> Option<Fault> {
        let index = self.puller();
        let pause = self.seconds(0, 15);
        let runs = self.cluster.crash_puller(index);
        runs.then(|| self.at(pause, Action::StartPuller(index)));
        runs.then(|| match self.cluster.kind(index) {
            Kind::Worker => Fault::WorkerCrashed,
            Kind::Judge => Fault::JudgeCrashed,
        })
    }

    fn user_acts(&mut self, trouble: Trouble) -> Option<Fault> {
        let chosen = self.world.below(self.definitions.len() as u64) as usize;
        let sweep = self.definitions[chosen].name.clone();
        let mut user = self.user.clone();
        match trouble {
            Trouble::Pause => {
                let pause = self.seconds(1, 20);
                self.at(pause, Action::Resume(sweep.clone()));
                self.user_does(async move { user.set_state(&sweep, v1::SweepState::Paused).await });
                Some(Fault::UserPaused)
            }
            Trouble::Prioritise => {
                let priority = self.world.below(3) as i32 - 1;
                self.user_does(async move { user.prioritise(&sweep, priority).await });
                Some(Fault::UserPrioritised)
            }
            Trouble::Retry => {
                self.user_does(async move { user.retry(&sweep, Vec::new()).await.map(drop) });
                Some(Fault::UserRetried)
            }
            _ => {
                self.user_does(async move { user.look(&sweep).await });
                None
            }
        }
    }

    /// Heals everything and waits for the sweeps' end. Returns their results, and whether any job was ever parked.
    async fn finish(&mut self) -> anyhow::Result<(Export, bool)> {
        self.world.log(format_args!("everything is healed"));
        self.world.set_weather(Weather::default());
        self.world.send_judges_away(None);
        self.users.abort_all();
        self.cluster.heal().await;
        let spared = Host::new("user at the end".to_owned(), true);
        let mut user = User::new(self.cluster.network.transport(&spared));
        if self.world.poison().is_some() {
            self.settle(&mut user).await.context("around what always fails")?;
            self.world.log(format_args!("nothing fails any more"));
            self.world.set_poison(None);
            for definition in &self.definitions {
                user.retry(&definition.name, Vec::new()).await.context("retrying what failed")?;
            }
        }
        self.settle(&mut user).await?;
        let mut export = Export::default();
        for definition in &self.definitions {
            export.add(&definition.name, user.export(&definition.name).await?);
        }
        let mut laws = self.cluster.laws.lock().unwrap_or_else(PoisonError::into_inner);
        laws.every_result(self.cluster.store.as_ref()).map_err(anyhow::Error::msg)?;
        laws.no_race_lost_a_leader().map_err(anyhow::Error::msg)?;
        Ok((export, laws.parked() > 0))
    }

    /// Waits until every sweep is done, around nothing but what always fails.
    async fn settle(&mut self, user: &mut User) -> anyhow::Result<()> {
        let end = Instant::now() + HEALED;
        loop {
            let crashed: Vec<usize> = self.cluster.bury_coordinators();
            ensure!(crashed.is_empty(), "coordinators {crashed:?} crashed by themselves");
            for index in self.cluster.bury_pullers() {
                self.cluster.start_puller(index);
            }
            // What arrived before this is seen by what follows.
            let quiet = self.cluster.network.astray() == 0;
            let open = self.help_on(user).await?;
            if open.is_empty() && quiet {
                break;
            }
            let steps = self.cluster.laws.lock().unwrap_or_else(PoisonError::into_inner).steps();
            ensure!(Instant::now() < end, "not done within {HEALED:?} after everything was healed: {open:?}");
            ensure!(steps < MOST_STEPS, "not done after {steps} steps: {open:?}");
            sleep(LOOK_AT_END).await;
        }
        self.at_rest()
    }

    /// Does what a user does about sweeps that do not get on. Returns what keeps them from being done.
    async fn help_on(&mut self, user: &mut User) -> anyhow::Result<Vec<String>> {
        let mut open = Vec::new();
        let sweeps = user.sweeps().await?;
        for definition in &self.definitions {
            let name = &definition.name;
            let Some(progress) = sweeps.iter().find(|sweep| sweep.name == *name) else {
                open.push(format!("'{name}' was not created"));
                user.create(definition).await?;
                continue;
            };
            if progress.state() == v1::SweepState::Paused {
                user.set_state(name, v1::SweepState::Running).await?;
            }
            let curable: Vec<i64> = self.curable(&user.parked(name).await?)?;
            if progress.state() != v1::SweepState::Done || !curable.is_empty() {
                open.push(format!("'{name}' is {:?}, parked {curable:?}: {progress:?}", progress.state()));
            }
            if !curable.is_empty() {
                user.retry(name, curable).await?;
            }
        }
        Ok(open)
    }

    /// Parked jobs that do not always fail.
    fn curable(&self, parked: &[v1::Job]) -> anyhow::Result<Vec<i64>> {
        let Some((point, rung)) = self.world.poison() else {
            return Ok(parked.iter().map(|job| job.job).collect());
        };
        let (point, rung) = (v1::Point::from(&point), v1::Rung::from(rung));
        let curable = parked.iter().filter(|job| (job.point.as_ref(), job.rung()) != (Some(&point), rung));
        Ok(curable.map(|job| job.job).collect())
    }

    /// Nothing is open, and parked is exactly what always fails.
    fn at_rest(&self) -> anyhow::Result<()> {
        let poison = self.world.poison();
        let laws = self.cluster.laws.lock().unwrap_or_else(PoisonError::into_inner);
        laws.no_lease_is_left().map_err(anyhow::Error::msg)?;
        for sweep in laws.seen().sweeps.values() {
            for job in sweep.jobs.values() {
                let fails = poison
                    .as_ref()
                    .is_some_and(|(point, rung)| (&job.job.point, job.job.rung) == (point, *rung));
                let wanted = if fails { JobState::Parked } else { JobState::Done };
                // Laws say which jobs may be closed so.
                ensure!(
                    job.state == wanted || job.state == JobState::Raced,
                    "at the end job {} is {}; {wanted} is wanted",
                    job.id,
                    job.state
                );
            }
        }
        Ok(())
    }
}
