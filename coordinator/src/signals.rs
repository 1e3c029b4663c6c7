//! Who is woken by what. Signals save time only: everything also happens without them, later.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use avsweep_domain::Rung;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The coordinator's wake-up calls.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    jobs_ready: Notify,
    planner: Notify,
    /// Requests that wait for jobs, by rung.
    waiting: [AtomicUsize; 3],
    /// Counts changes of anything that a watcher shows.
    changes: AtomicU64,
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

impl Signals {
    /// Wakes every request that waits for jobs.
    pub(crate) fn jobs_ready(&self) {
        self.jobs_ready.notify_waiters();
    }

    /// Resolves at the next [`Signals::jobs_ready`] after this call.
    pub(crate) fn next_jobs(&self) -> Notified<'_> {
        self.jobs_ready.notified()
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
        Waiting { signals: self, rungs }
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
