//! What the planner remembers of the sweeps, so that it need not look again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, OnceLock, PoisonError};

use avsweep_domain::SweepId;
use avsweep_store::Timestamp;
use tokio::sync::{Mutex, MutexGuard};

use super::seen::{Closed, Seen};

/// What is remembered of each sweep. Whoever holds the lock is the only one in this process who plans; among several
/// coordinators the store's [`PlanningGuard`](avsweep_store::PlanningGuard) decides.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    sweeps: Mutex<HashMap<SweepId, Cursor>>,
    /// When this coordinator first planned.
    since: OnceLock<Timestamp>,
    /// Running sweeps whose points are chosen one by one.
    adaptive: Lock<Vec<SweepId>>,
}

impl Cursors {
    pub(super) async fn lock(&self) -> MutexGuard<'_, HashMap<SweepId, Cursor>> {
        self.sweeps.lock().await
    }

    /// Notes which running sweeps have their points chosen one by one.
    pub(crate) fn note_adaptive(&self, sweeps: Vec<SweepId>) {
        *self.adaptive.lock().unwrap_or_else(PoisonError::into_inner) = sweeps;
    }

    /// Running sweeps whose points are chosen one by one, as of the planner's last look.
    pub(crate) fn adaptive(&self) -> Vec<SweepId> {
        self.adaptive.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When this coordinator first planned, which is `now` where it has not yet.
    pub(super) fn since(&self, now: Timestamp) -> Timestamp {
        *self.since.get_or_init(|| now)
    }
}

/// How far a sweep is planned; can be forgotten at any time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cursor {
    /// The term of the guard under which this was learnt. What another coordinator plans in a later term is not in it.
    term: u64,
    /// Length of the proposals so far of a strategy whose sequence is known beforehand; `None` when it has to be looked
    /// up.
    pub(super) proposed: Option<u64>,
    /// Whether such a strategy said that there is nothing more.
    pub(super) finished: bool,
    /// The closed jobs at which finalists were last chosen. At others the choice may differ.
    pub(super) finalists_at: Option<Closed>,
    /// What a strategy that decides from results has seen; `None` when it has to be read.
    pub(super) seen: Option<Arc<Seen>>,
}

impl Cursor {
    /// Begins a turn: what is remembered stays only if no other coordinator had a term since. (A right that is given
    /// back and taken again by the same holder goes on in its term.)
    pub(super) fn begin(&mut self, term: u64) {
        if term != self.term {
            *self = Self { term, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Cursor {
        let seen = Some(Arc::new(Seen::default()));
        Cursor { term: 4, proposed: Some(9), finished: true, finalists_at: Some(Closed::default()), seen }
    }

    #[test]
    fn what_was_learnt_stays_while_no_other_coordinator_plans() {
        let mut cursor = known();
        cursor.begin(4);
        assert_eq!(cursor, known());
    }

    #[test]
    fn after_another_coordinators_term_the_store_is_asked_again() {
        for term in [5, 6, 100, 1] {
            let mut cursor = known();
            cursor.begin(term);
            assert_eq!(cursor, Cursor { term, ..Cursor::default() });
        }
    }
}
