//! Claims made together: whoever asks for jobs while the store is busy with claims of others shares the next one.
//!
//! With few requests each is a claim of its own, as soon as it comes. With many the store takes one statement for all
//! that have gathered, instead of one for each. A round of claims is a task of its own: it does not end with those who
//! asked, and gives back what they no longer wait for.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use avsweep_domain::{Rung, SweepId};
use avsweep_store::{LeaseClaim, LeaseRef, LeasedJob, Store, StoreError, WorkerRecord};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::warn;

use crate::planner::Cursors;
use crate::signals::{RUNGS, Signals, set_of};
use crate::{Clock, error_text};

#[cfg(test)]
mod tests;

/// Rounds for the same rungs that are with the store at a time.
const TURNS: usize = 4;
/// Requests in one round.
const MOST: usize = 64;

type Answer = Result<Vec<LeasedJob>, StoreError>;

/// What rounds need.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) cursors: Arc<Cursors>,
}

/// The claims of a coordinator's requests. With it its rounds end where they are.
#[derive(Debug)]
pub(crate) struct Claims {
    parts: Parts,
    /// By the set of rungs asked for: slow claims of judges must not hold up the others.
    counters: [Arc<Counter>; 1 << RUNGS.len()],
    rounds: Mutex<JoinSet<()>>,
}

/// Where requests for the same rungs gather.
#[derive(Debug)]
struct Counter {
    turns: Semaphore,
    gathering: Mutex<Gathering>,
}

#[derive(Debug, Default)]
struct Gathering {
    asked: VecDeque<Asked>,
    /// Rounds that wait for their turn, enough for all that have asked.
    rounds: usize,
}

/// One request.
#[derive(Debug)]
struct Asked {
    claim: LeaseClaim,
    /// It has looked before, and was woken.
    woken: bool,
    answer: oneshot::Sender<Handed>,
}

/// An answer on its way. Jobs that are dropped with it, untaken, are told of.
#[derive(Debug)]
struct Handed {
    answer: Answer,
    untaken: mpsc::Sender<Vec<LeaseRef>>,
}

impl Handed {
    fn take(mut self) -> Answer {
        std::mem::replace(&mut self.answer, Ok(Vec::new()))
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Ok(jobs) = &self.answer
            && !jobs.is_empty()
        {
            // There is room for one from each in the round.
            let _ = self.untaken.try_send(jobs.iter().map(|job| job.lease.reference).collect());
        }
    }
}

impl Gathering {
    /// Those of the next round. Who has hung up takes nobody's place.
    fn take(&mut self) -> Vec<Asked> {
        self.rounds -= 1;
        let next = std::iter::from_fn(|| self.asked.pop_front());
        next.filter(|asked| !asked.answer.is_closed()).take(MOST).collect()
    }
}

impl Claims {
    pub(crate) fn new(parts: Parts) -> Self {
        let counter = || Arc::new(Counter { turns: Semaphore::new(TURNS), gathering: Mutex::default() });
        Self { parts, counters: std::array::from_fn(|_| counter()), rounds: Mutex::default() }
    }

    /// Makes a claim, with others that come meanwhile. `woken`: the request has looked before, and need not look again
    /// once another has found nothing.
    ///
    /// # Panics
    /// When its round did.
    pub(crate) async fn lease(&self, claim: LeaseClaim, woken: bool) -> Answer {
        let (answer, handed) = oneshot::channel();
        self.ask(Asked { claim, woken, answer });
        handed.await.expect("a round that does not panic answers everyone in it").take()
    }

    fn ask(&self, asked: Asked) {
        let counter = &self.counters[set_of(&asked.claim.rungs)];
        let mut gathering = locked(&counter.gathering);
        gathering.asked.push_back(asked);
        if gathering.asked.len() > gathering.rounds * MOST {
            gathering.rounds += 1;
            let mut rounds = locked(&self.rounds);
            while rounds.try_join_next().is_some() {}
            rounds.spawn(round(self.parts.clone(), Arc::clone(counter)));
        }
    }
}

/// Waits for its turn, answers those that have gathered, and gives back what they do not take.
async fn round(parts: Parts, counter: Arc<Counter>) {
    let (untaken, returned) = mpsc::channel(MOST);
    let claiming = async {
        let _turn = counter.turns.acquire().await.expect("the semaphore is never closed");
        let asked = locked(&counter.gathering).take();
        claim_for(&parts, asked, untaken).await;
    };
    futures::future::join(claiming, give_back(&parts, returned)).await;
}

/// Claims for all of them.
async fn claim_for(parts: &Parts, asked: Vec<Asked>, untaken: mpsc::Sender<Vec<LeaseRef>>) {
    let all_woken = asked.iter().all(|asked| asked.woken);
    let (mut claims, mut waiting) = (Vec::with_capacity(asked.len()), Vec::with_capacity(asked.len()));
    for Asked { claim, answer, .. } in asked {
        claims.push(claim);
        waiting.push(Some(answer));
    }
    let mut tell = |place: usize, answer| {
        if let Some(asked) = waiting.get_mut(place).and_then(Option::take) {
            // Who has hung up drops it.
            drop(asked.send(Handed { answer, untaken: untaken.clone() }));
        }
    };
    let Some(first) = claims.first() else { return };
    let calls = parts.signals.ready_calls();
    if all_woken && !parts.signals.worth_looking(&first.rungs) {
        (0..claims.len()).for_each(|place| tell(place, Ok(Vec::new())));
        return;
    }
    if let Err(error) = limit(parts, &mut claims).await {
        let error = Arc::new(error);
        (0..claims.len()).for_each(|place| tell(place, Err(StoreError::Shared(Arc::clone(&error)))));
        return;
    }
    let mut answered = |place: usize, answer: Answer| {
        if answer.as_ref().is_ok_and(Vec::is_empty) && claims[place].except.is_empty() {
            parts.signals.found_nothing(&claims[place].rungs, calls);
        }
        tell(place, answer);
    };
    parts.store.lease_several(&claims, parts.clock.now(), &mut answered).await;
}

/// Limits what the claims take of sweeps whose points are chosen one by one.
async fn limit(parts: &Parts, claims: &mut [LeaseClaim]) -> Result<(), StoreError> {
    let adaptive = parts.cursors.adaptive();
    if !adaptive.is_empty() && claims.iter().any(|claim| claim.rungs != [Rung::Judgement]) {
        one_by_one(&adaptive, &parts.store.workers().await?, claims);
    }
    Ok(())
}

/// Where points are chosen one by one there is one for each free worker: one that still has work leaves it to them, and
/// takes no more than one. What an earlier claim of the same worker may get counts as work.
fn one_by_one(adaptive: &[SweepId], workers: &[WorkerRecord], claims: &mut [LeaseClaim]) {
    let mut asking = HashSet::new();
    for claim in claims {
        let asks_again = !asking.insert(claim.worker.clone());
        let worker = workers.iter().find(|worker| worker.status.worker == claim.worker);
        let held = worker.map_or(&[][..], |worker| &worker.jobs);
        let has_work = |sweep: &SweepId| asks_again || held.iter().any(|job| job.sweep == *sweep);
        claim.max_jobs = claim.max_jobs.min(1);
        claim.except.extend(adaptive.iter().copied().filter(has_work));
    }
}

/// Gives jobs back whose workers have hung up: they would never hear of them.
async fn give_back(parts: &Parts, mut returned: mpsc::Receiver<Vec<LeaseRef>>) {
    let mut several = Vec::new();
    while returned.recv_many(&mut several, MOST).await > 0 {
        let leases = std::mem::take(&mut several).concat();
        match parts.store.release(&leases, parts.clock.now()).await {
            Ok(()) => parts.signals.jobs_ready(),
            Err(error) => warn!(
                jobs = leases.len(),
                error = error_text(&error),
                "leases that nobody heard of could not be given back; they will expire"
            ),
        }
    }
}

/// No code panics while it holds one of these locks, so what they guard is whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
