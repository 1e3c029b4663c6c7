//! Who is woken by what. Signals save time only: everything also happens without them, later.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use avsweep_domain::Rung;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub(crate) const RUNGS: [Rung; 3] = [Rung::Likelihood, Rung::Generation, Rung::Judgement];

/// The coordinator's wake-up calls.
#[derive(Debug)]
pub(crate) struct Signals {
    jobs_ready: Notify,
    /// Counts the calls that jobs are ready, from 1.
    ready_calls: AtomicU64,
    /// For each set of rungs, the last call after which nothing was ready any more.
    dry_since: [AtomicU64; 1 << RUNGS.len()],
    planner: Notify,
    waiter: Notify,
    /// Requests that wait for jobs, by rung.
    waiting: [AtomicUsize; RUNGS.len()],
    /// Counts changes of anything that a watcher shows.
    changes: AtomicU64,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            jobs_ready: Notify::new(),
            ready_calls: AtomicU64::new(1),
            dry_since: Default::default(),
            planner: Notify::new(),
            waiter: Notify::new(),
            waiting: Default::default(),
            changes: AtomicU64::new(0),
        }
    }
}

/// Counts a waiting request for as long as it lives.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    signals: &'a Signals,
    rungs: &'a [Rung],
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        for rung in self.rungs {
            self.signals.waiting[*rung as usize].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A number for a set of rungs, below 2 to the power of how many there are.
pub(crate) fn set_of(rungs: &[Rung]) -> usize {
    rungs.iter().fold(0, |set, rung| set | 1 << (*rung as usize))
}

impl Signals {
    /// Wakes every request that waits for jobs.
    pub(crate) fn jobs_ready(&self) {
        self.ready_calls.fetch_add(1, Ordering::SeqCst);
        self.jobs_ready.notify_waiters();
    }

    /// Resolves at the next [`Signals::jobs_ready`] after this call.
    pub(crate) fn next_jobs(&self) -> Notified<'_> {
        self.jobs_ready.notified()
    }

    /// The number of calls so far; to be read before a look for jobs, and told to [`Signals::found_nothing`].
    pub(crate) fn ready_calls(&self) -> u64 {
        self.ready_calls.load(Ordering::SeqCst)
    }

    /// A look for any job of these rungs found none, after so many calls.
    pub(crate) fn found_nothing(&self, rungs: &[Rung], calls: u64) {
        self.dry_since[set_of(rungs)].store(calls, Ordering::SeqCst);
    }

    /// Whether jobs of these rungs may have become ready since somebody last found none.
    pub(crate) fn worth_looking(&self, rungs: &[Rung]) -> bool {
        self.dry_since[set_of(rungs)].load(Ordering::SeqCst) != self.ready_calls()
    }

    /// Has the planner look soon.
    pub(crate) fn wake_planner(&self) {
        self.planner.notify_one();
    }

    /// Resolves when the planner is to look; a call from before counts.
    pub(crate) fn planner_woken(&self) -> Notified<'_> {
        self.planner.notified()
    }

    /// Counts a request that waits for jobs of these rungs.
    pub(crate) fn waiting<'a>(&'a self, rungs: &'a [Rung]) -> Waiting<'a> {
        for rung in rungs {
            self.waiting[*rung as usize].fetch_add(1, Ordering::SeqCst);
        }
        self.waiter.notify_one();
        Waiting { signals: self, rungs }
    }

    /// Resolves when a request begins to wait; one from before counts.
    pub(crate) fn somebody_waits(&self) -> Notified<'_> {
        self.waiter.notified()
    }

    /// The rungs that requests wait for.
    pub(crate) fn waited_for(&self) -> Vec<Rung> {
        let waits = |rung: &Rung| self.waiting[*rung as usize].load(Ordering::SeqCst) > 0;
        RUNGS.into_iter().filter(waits).collect()
    }

    /// A job of this rung was closed: the planner looks if somebody waits for what can follow.
    ///
    /// While every worker is busy nobody waits, and reports cost no planning.
    pub(crate) fn job_closed(&self, rung: Rung) {
        let follows: &[Rung] = match rung {
            Rung::Likelihood => &[Rung::Likelihood, Rung::Generation],
            Rung::Generation => &[Rung::Generation, Rung::Judgement],
            Rung::Judgement => &[Rung::Judgement],
        };
        if follows.iter().any(|rung| self.waiting[*rung as usize].load(Ordering::SeqCst) > 0) {
            self.wake_planner();
        }
    }

    /// Something that watchers show has changed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// How often something has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_one_request_found_nothing_the_others_look_only_after_a_new_call() {
        let signals = Signals::default();
        assert!(signals.worth_looking(&RUNGS));
        let calls = signals.ready_calls();
        signals.found_nothing(&RUNGS, calls);
        assert!(!signals.worth_looking(&RUNGS));
        assert!(signals.worth_looking(&[Rung::Judgement]), "others look for themselves");
        signals.jobs_ready();
        assert!(signals.worth_looking(&RUNGS));
        // A look that began before the call says nothing about what came with it.
        signals.found_nothing(&RUNGS, calls);
        assert!(signals.worth_looking(&RUNGS));
    }

    #[test]
    fn the_rungs_waited_for_are_those_of_living_requests() {
        let signals = Signals::default();
        assert_eq!(signals.waited_for(), []);
        let judge = signals.waiting(&[Rung::Judgement]);
        let worker = signals.waiting(&[Rung::Likelihood, Rung::Judgement]);
        assert_eq!(signals.waited_for(), [Rung::Likelihood, Rung::Judgement]);
        drop(worker);
        assert_eq!(signals.waited_for(), [Rung::Judgement]);
        drop(judge);
        assert_eq!(signals.waited_for(), []);
    }
}
