//! What the planner remembers of the sweeps, so that it need not look again.

use std::collections::HashMap;

use avsweep_domain::SweepId;
use tokio::sync::{Mutex, MutexGuard};

/// What is remembered of each sweep. Whoever holds the lock is the only one in this process who plans; among several
/// coordinators the store's [`PlanningGuard`](avsweep_store::PlanningGuard) decides.
#[derive(Debug, Default)]
pub(crate) struct Cursors(Mutex<HashMap<SweepId, Cursor>>);

impl Cursors {
    pub(super) async fn lock(&self) -> MutexGuard<'_, HashMap<SweepId, Cursor>> {
        self.0.lock().await
    }
}

/// How far a sweep is planned; can be forgotten at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The term of the guard under which this was learnt. What another coordinator plans in a later term is not in it.
    term: u64,
    /// Length of the strategy's sequence of proposals so far; `None` when it has to be looked up.
    pub(super) proposed: Option<u64>,
    /// Whether the strategy said that there is nothing more.
    pub(super) finished: bool,
    /// Closed likelihood jobs (done, parked) at which finalists were last chosen. At others the choice may differ.
    pub(super) finalists_at: Option<(u64, u64)>,
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
        Cursor { term: 4, proposed: Some(9), finished: true, finalists_at: Some((9, 0)) }
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
