//! Claims made together: whoever asks for jobs while the store is busy with claims of others shares the next one.
//!
//! With few requests each is a claim of its own, as soon as it comes. With many the store takes one statement for all
//! that have gathered, instead of one for each.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use avsweep_store::{LeaseClaim, LeaseRef, LeasedJob, Store, StoreError};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::signals::{RUNGS, Signals, set_of};
use crate::{Clock, error_text};

/// Claims for the same rungs that are with the store at a time.
const TURNS: usize = 4;
/// Requests in one claim.
const MOST: usize = 64;

type Answer = Result<Vec<LeasedJob>, StoreError>;
/// One per request, until it takes it.
type Answers = Arc<Mutex<Vec<Option<Answer>>>>;
/// A claim on its way. Everyone in it drives it, so that it does not end with one of them.
type Round = Shared<BoxFuture<'static, Answers>>;

/// One request in a claim.
struct Asked {
    claim: LeaseClaim,
    /// It has looked before, and was woken.
    woken: bool,
    gone: Arc<AtomicBool>,
}

/// A claim that others may still join.
struct Gathering {
    /// `None` once it has its turn.
    asked: Arc<Mutex<Option<Vec<Asked>>>>,
    /// Held by those in it alone: with the last of them it ends, and the store gets its connection back.
    round: WeakShared<BoxFuture<'static, Answers>>,
}

/// What a claim needs.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signals: Arc<Signals>,
}

/// The claims of a coordinator's requests.
pub(crate) struct Claims {
    /// By the set of rungs asked for.
    gathering: [Mutex<Option<Gathering>>; 1 << RUNGS.len()],
    /// By that set too: slow claims of judges must not hold up the others.
    turns: [Arc<Semaphore>; 1 << RUNGS.len()],
}

impl Default for Claims {
    fn default() -> Self {
        let turns = std::array::from_fn(|_| Arc::new(Semaphore::new(TURNS)));
        Self { gathering: Default::default(), turns }
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").finish_non_exhaustive()
    }
}

/// Marks a request as gone when its future is dropped.
struct Here(Arc<AtomicBool>);

impl Drop for Here {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Claims {
    /// Makes a claim, with others that come meanwhile. `woken`: the request has looked before, and need not look again
    /// once another has found nothing.
    pub(crate) async fn lease(&self, parts: &Parts, claim: LeaseClaim, woken: bool) -> Answer {
        let here = Here(Arc::default());
        let (place, round) = self.join(parts, Asked { claim, woken, gone: Arc::clone(&here.0) });
        let answers = round.await;
        let answer = locked(&answers).get_mut(place).and_then(Option::take);
        drop(here);
        answer.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Joins the claim that gathers now, or begins one.
    fn join(&self, parts: &Parts, asked: Asked) -> (usize, Round) {
        let rungs = set_of(&asked.claim.rungs);
        let mut gathering = locked(&self.gathering[rungs]);
        if let Some(open) = &*gathering
            && let Some(round) = open.round.upgrade()
            && let Some(others) = locked(&open.asked).as_mut().filter(|others| others.len() < MOST)
        {
            others.push(asked);
            return (others.len() - 1, round);
        }
        let first = Arc::new(Mutex::new(Some(vec![asked])));
        let (parts, turns, all) = (parts.clone(), Arc::clone(&self.turns[rungs]), Arc::clone(&first));
        let round = async move {
            let _turn = turns.acquire_owned().await.expect("the semaphore is never closed");
            let asked = locked(&all).take().unwrap_or_default();
            Arc::new(Mutex::new(claim_for(&parts, &asked).await))
        };
        let round = round.boxed().shared();
        *gathering = round.downgrade().map(|weak| Gathering { asked: first, round: weak });
        (0, round)
    }
}

/// Claims for all of them that are still there.
async fn claim_for(parts: &Parts, asked: &[Asked]) -> Vec<Option<Answer>> {
    let mut answers: Vec<Option<Answer>> = asked.iter().map(|_| None).collect();
    let there = |asked: &Asked| !asked.gone.load(Ordering::SeqCst);
    let places: Vec<usize> = (0..asked.len()).filter(|place| there(&asked[*place])).collect();
    let claims: Vec<LeaseClaim> = places.iter().map(|place| asked[*place].claim.clone()).collect();
    let Some(first) = claims.first() else { return answers };
    let calls = parts.signals.ready_calls();
    if places.iter().all(|place| asked[*place].woken) && !parts.signals.worth_looking(&first.rungs) {
        return answers;
    }
    let found = parts.store.lease_several(&claims, parts.clock.now()).await;
    for ((place, claim), answer) in places.into_iter().zip(&claims).zip(found) {
        if answer.as_ref().is_ok_and(Vec::is_empty) && claim.except.is_empty() {
            parts.signals.found_nothing(&claim.rungs, calls);
        }
        answers[place] = Some(answer);
    }
    // Whoever hangs up while leases are given back is looked for again.
    loop {
        let unheard: Vec<LeaseRef> = asked
            .iter()
            .zip(&mut answers)
            .filter(|(asked, _)| !there(asked))
            .filter_map(|(_, answer)| answer.take()?.ok())
            .flatten()
            .map(|job| job.lease.reference)
            .collect();
        if unheard.is_empty() {
            return answers;
        }
        give_back(parts, &unheard).await;
    }
}

/// Gives jobs back whose workers have hung up: they would never hear of them.
async fn give_back(parts: &Parts, leases: &[LeaseRef]) {
    match parts.store.release(leases, parts.clock.now()).await {
        Ok(()) => parts.signals.jobs_ready(),
        Err(error) => warn!(
            jobs = leases.len(),
            error = error_text(&error),
            "leases that nobody heard of could not be given back; they will expire"
        ),
    }
}

/// No code panics while it holds one of these locks, so what they guard is whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use avsweep_domain::{LeaseToken, Point, QuerySlice, Rung, Ticks, WorkerId};
    use avsweep_store::{NewJob, Plan, SqliteStore, SqliteStoreOptions};

    use super::*;
    use crate::SystemClock;
    use crate::planner::step::tests::usual;

    /// Six likelihood jobs in a store.
    async fn parts() -> Parts {
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
        Parts { store: Arc::new(store), clock: Arc::new(clock), signals: Arc::default() }
    }

    fn claim(seed: u8, max_jobs: u32) -> LeaseClaim {
        LeaseClaim {
            worker: WorkerId(format!("worker-{seed}")),
            rungs: vec![Rung::Likelihood],
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
        let (parts, claims) = (parts().await, Claims::default());
        let asked = (0..10).map(|seed| claims.lease(&parts, claim(seed, 2), false));
        let answers: Vec<_> = futures::future::join_all(asked).await.into_iter().map(numbers).collect();
        // In the order in which they came, until there are none.
        assert!(answers[..3].iter().all(|jobs| jobs.len() == 2), "{answers:?}");
        assert_eq!(answers[3..], [const { Vec::<i64>::new() }; 7]);
        let all: BTreeSet<_> = answers.iter().flatten().collect();
        assert_eq!(all.len(), 6);
        assert!(!parts.signals.worth_looking(&[Rung::Likelihood]), "somebody found none");
        // Who was woken for nothing does not look; who has just come does.
        assert!(numbers(claims.lease(&parts, claim(20, 1), true).await).is_empty());
        parts.signals.jobs_ready();
        assert!(parts.signals.worth_looking(&[Rung::Likelihood]));
    }

    #[tokio::test]
    async fn who_hangs_up_takes_no_job_and_nobody_else_with_it() {
        let (parts, claims) = (parts().await, Claims::default());
        let turns = Arc::clone(&claims.turns[set_of(&[Rung::Likelihood])]);
        let busy = turns.acquire_many_owned(TURNS as u32).await.expect("open");
        let mut first = Box::pin(claims.lease(&parts, claim(1, 4), false));
        let mut second = Box::pin(claims.lease(&parts, claim(2, 4), false));
        let mut third = Box::pin(claims.lease(&parts, claim(3, 4), false));
        for asked in [&mut first, &mut second, &mut third] {
            assert!(futures::poll!(asked).is_pending());
        }
        // It began the claim that the others are in.
        drop(first);
        drop(busy);
        assert_eq!(numbers(second.await).len(), 4);
        assert_eq!(numbers(third.await).len(), 2);
    }

    #[tokio::test]
    async fn a_claim_that_everybody_left_holds_nobody_up() {
        let (parts, claims) = (parts().await, Claims::default());
        for seed in 0..3 * TURNS as u8 {
            let mut left = Box::pin(claims.lease(&parts, claim(seed, 1), false));
            // With the store, or not even there.
            assert!(futures::poll!(&mut left).is_pending());
        }
        let answer = claims.lease(&parts, claim(99, 6), false);
        let jobs = tokio::time::timeout(Duration::from_secs(60), answer).await.expect("it gets its turn");
        assert!(!numbers(jobs).is_empty());
    }
}
