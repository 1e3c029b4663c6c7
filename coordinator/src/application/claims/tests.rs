//! Laws of claims made together.

mod held_store;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use avsweep_domain::{LeaseToken, Point, QuerySlice, Ticks, WorkerId};
use avsweep_store::{NewJob, Plan, SqliteStore, SqliteStoreOptions, WorkerKind, WorkerState, WorkerStatus};
use futures::poll;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::*;
use crate::SystemClock;
use crate::planner::step::tests::usual;
use held_store::HeldStore;

const LIKELIHOOD: [Rung; 1] = [Rung::Likelihood];
/// Longest wait for what must come.
const BOUND: Duration = Duration::from_secs(60);
/// More rounds than any test here has.
const ALL: usize = 1000;

/// Claims over a sweep of six likelihood jobs.
struct Scene {
    store: Arc<HeldStore>,
    sweep: SweepId,
    claims: Claims,
}

impl Scene {
    /// `told`: rounds that are not held once they have their jobs.
    async fn new(told: usize) -> Self {
        let store = SqliteStore::open(&SqliteStoreOptions::memory()).await.expect("a store in memory");
        let clock = SystemClock;
        let sweep = store.create_sweep(&usual(), 0, clock.now()).await.expect("a sound definition").id;
        let job = |tick: i32, start: u32| NewJob {
            point: Point::new([Ticks::new(tick)]),
            rung: Rung::Likelihood,
            slice: QuerySlice { start, end: start + 1 },
            priority: 0,
        };
        let jobs = [0, 100].into_iter().flat_map(|tick| (0..3).map(move |start| job(tick, start)));
        let plan = Plan { jobs: jobs.collect(), ..Plan::default() };
        store.plan(sweep, &plan, None, clock.now()).await.expect("a good plan");
        let store = Arc::new(HeldStore::new(store, told));
        let claims = Claims::new(Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            clock: Arc::new(clock),
            signals: Arc::default(),
            cursors: Arc::default(),
        });
        Self { store, sweep, claims }
    }

    fn signals(&self) -> &Signals {
        &self.claims.parts.signals
    }

    fn counter(&self) -> &Counter {
        &self.claims.counters[set_of(&LIKELIHOOD)]
    }

    /// Waits until a round has its jobs, which it does not know yet.
    async fn leased(&self) {
        taken(&self.store.leased).await;
    }

    async fn ready(&self) -> u64 {
        self.store.totals(self.sweep).await.expect("it is there").likelihood.ready
    }

    /// Waits until so many jobs are ready.
    async fn becomes_ready(&self, jobs: u64) {
        let wait = async {
            while self.ready().await != jobs {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, wait).await.expect("given back at once");
    }
}

async fn taken(permits: &Semaphore) {
    timeout(BOUND, permits.acquire()).await.expect("it comes").expect("open").forget();
}

fn claim(seed: u8, max_jobs: u32) -> LeaseClaim {
    LeaseClaim {
        worker: WorkerId(format!("worker-{seed}")),
        rungs: LIKELIHOOD.to_vec(),
        max_jobs,
        duration: Duration::from_secs(60),
        token: LeaseToken::from_bytes([seed; 16]),
        except: Vec::new(),
        prefers: None,
    }
}

fn numbers(answer: Answer) -> Vec<i64> {
    let jobs = answer.expect("the store works");
    jobs.into_iter().map(|job| job.lease.reference.job.0).collect()
}

#[tokio::test]
async fn requests_that_come_together_get_each_their_own_jobs() {
    let scene = Scene::new(ALL).await;
    let asked = (0..10).map(|seed| scene.claims.lease(claim(seed, 2), false));
    let answers: Vec<_> = futures::future::join_all(asked).await.into_iter().map(numbers).collect();
    // In the order in which they came, until there are none.
    assert!(answers[..3].iter().all(|jobs| jobs.len() == 2), "{answers:?}");
    assert_eq!(answers[3..], [const { Vec::<i64>::new() }; 7]);
    let all: BTreeSet<_> = answers.iter().flatten().collect();
    assert_eq!(all.len(), 6);
    assert!(!scene.signals().worth_looking(&LIKELIHOOD), "somebody found none");
    // Who was woken for nothing does not look; who has just come does.
    assert!(numbers(scene.claims.lease(claim(20, 1), true).await).is_empty());
    scene.signals().jobs_ready();
    assert!(scene.signals().worth_looking(&LIKELIHOOD));
}

#[tokio::test]
async fn more_requests_than_a_round_takes_are_all_answered() {
    let scene = Scene::new(ALL).await;
    let asked = (0..3 * MOST).map(|seed| scene.claims.lease(claim(seed as u8, 1), false));
    let answers = timeout(BOUND, futures::future::join_all(asked)).await.expect("every round has its turn");
    assert_eq!(answers.into_iter().flat_map(numbers).collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(locked(&scene.counter().gathering).rounds, 0);
}

#[tokio::test]
async fn who_hangs_up_before_its_turn_takes_no_job_and_nobody_else_with_it() {
    let scene = Scene::new(ALL).await;
    let busy = scene.counter().turns.acquire_many(TURNS as u32).await.expect("open");
    let mut first = Box::pin(scene.claims.lease(claim(1, 4), false));
    let mut second = Box::pin(scene.claims.lease(claim(2, 4), false));
    let mut third = Box::pin(scene.claims.lease(claim(3, 4), false));
    for asked in [&mut first, &mut second, &mut third] {
        assert!(poll!(asked).is_pending());
    }
    // It began the round that the others are in.
    drop(first);
    drop(busy);
    assert_eq!(numbers(second.await).len(), 4);
    assert_eq!(numbers(third.await).len(), 2);
}

#[tokio::test]
async fn the_jobs_of_who_hangs_up_are_ready_again_while_another_gets_its_own() {
    let scene = Scene::new(0).await;
    let mut left = Box::pin(scene.claims.lease(claim(1, 4), false));
    let mut stays = Box::pin(scene.claims.lease(claim(2, 1), false));
    assert!(poll!(&mut left).is_pending() && poll!(&mut stays).is_pending());
    scene.leased().await;
    assert_eq!(scene.ready().await, 1);
    drop(left);
    scene.signals().found_nothing(&LIKELIHOOD, scene.signals().ready_calls());
    scene.store.told.add_permits(1);
    assert_eq!(numbers(stays.await).len(), 1);
    scene.becomes_ready(5).await;
    let woken = async {
        while !scene.signals().worth_looking(&LIKELIHOOD) {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, woken).await.expect("those that wait are told");
}

#[tokio::test]
async fn the_jobs_of_a_round_that_everybody_left_are_ready_again() {
    let scene = Scene::new(0).await;
    let mut left: Vec<_> = (0..3).map(|seed| Box::pin(scene.claims.lease(claim(seed, 2), false))).collect();
    for asked in &mut left {
        assert!(poll!(asked).is_pending());
    }
    scene.leased().await;
    assert_eq!(scene.ready().await, 0);
    drop(left);
    scene.store.told.add_permits(1);
    scene.becomes_ready(6).await;
}

#[tokio::test]
async fn the_jobs_of_an_answer_that_nobody_read_are_ready_again() {
    let scene = Scene::new(ALL).await;
    let mut left = Box::pin(scene.claims.lease(claim(1, 6), false));
    assert!(poll!(&mut left).is_pending());
    scene.leased().await;
    // The round sends the answer, and waits for nothing else.
    tokio::task::yield_now().await;
    assert_eq!(scene.ready().await, 0);
    drop(left);
    scene.becomes_ready(6).await;
}

#[tokio::test]
async fn a_round_that_everybody_left_holds_nobody_up() {
    let scene = Scene::new(ALL).await;
    for seed in 0..3 * TURNS as u8 {
        let mut left = Box::pin(scene.claims.lease(claim(seed, 1), false));
        assert!(poll!(&mut left).is_pending());
    }
    let answer = scene.claims.lease(claim(99, 6), false);
    let jobs = timeout(BOUND, answer).await.expect("it gets its turn");
    assert_eq!(numbers(jobs).len(), 6);
}

#[tokio::test]
async fn rounds_end_with_the_coordinator() {
    let Scene { store, claims, .. } = Scene::new(0).await;
    let mut asked = Box::pin(claims.lease(claim(1, 1), false));
    assert!(poll!(&mut asked).is_pending());
    taken(&store.leased).await;
    drop(asked);
    assert_eq!(Arc::strong_count(&store), 3);
    drop(claims);
    let wait = async {
        while Arc::strong_count(&store) > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, wait).await.expect("the round lets go of the store");
}

#[tokio::test]
async fn of_points_chosen_one_by_one_each_free_worker_gets_one_by_one_look_at_the_workers() {
    let scene = Scene::new(ALL).await;
    scene.claims.parts.cursors.note_adaptive(vec![scene.sweep]);
    let status = WorkerStatus {
        worker: claim(0, 1).worker,
        kind: WorkerKind::Worker,
        state: WorkerState::Busy,
        device: String::new(),
        host: String::new(),
        version: String::new(),
        finished: 0,
        failed: 0,
        lost: 0,
        results: 0,
        rate: 0.0,
        problem: None,
    };
    scene.store.note_worker(&status, SystemClock.now()).await.expect("noted");
    assert_eq!(numbers(scene.claims.lease(claim(0, 4), false).await).len(), 1);
    assert_eq!(scene.store.looks.swap(0, Ordering::SeqCst), 1);
    // The first has a job now; the third asks twice.
    let asked = [0, 1, 2, 3, 3].map(|seed| scene.claims.lease(claim(seed, 4), false));
    let answers = futures::future::join_all(asked).await.into_iter().map(|answer| numbers(answer).len());
    assert_eq!(answers.collect::<Vec<_>>(), [0, 1, 1, 1, 0]);
    assert_eq!(scene.store.looks.load(Ordering::SeqCst), 1);
    assert!(scene.signals().worth_looking(&LIKELIHOOD), "there are jobs, though not for everyone");
    // A round of those that were woken for nothing does not look at all.
    scene.signals().found_nothing(&LIKELIHOOD, scene.signals().ready_calls());
    assert!(numbers(scene.claims.lease(claim(0, 4), true).await).is_empty());
    assert_eq!(scene.store.looks.load(Ordering::SeqCst), 1);
}
