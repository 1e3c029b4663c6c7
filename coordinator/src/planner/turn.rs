//! One coordinator's turn at planning a sweep: the guard, held for as long as the turn takes.

use avsweep_domain::SweepId;
use avsweep_store::{Plan, Planned, PlanningGuard, StoreError};
use tokio::time::Instant;
use tracing::debug;

use crate::{Coordinator, CoordinatorError, error_text};

/// The right to plan, and since when it was last extended.
///
/// Every write under it is checked against the store's guard in its own transaction, so a turn that was lost without
/// noticing writes nothing.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) guard: PlanningGuard,
    extended: Instant,
}

impl Coordinator {
    /// Takes the right to plan a sweep; `None` while another coordinator has it.
    pub(super) async fn take_turn(&self, sweep: SweepId) -> Result<Option<Turn>, CoordinatorError> {
        let extended = Instant::now();
        let duration = self.settings.planning_duration;
        let guard =
            self.store.claim_planning(sweep, self.planning_holder, duration, self.clock.now()).await?;
        Ok(guard.map(|guard| Turn { guard, extended }))
    }

    /// Keeps a turn that has taken a while.
    pub(super) async fn keep(&self, turn: &mut Turn) -> Result<(), CoordinatorError> {
        if turn.extended.elapsed() < self.settings.planning_duration / 3 {
            return Ok(());
        }
        let sweep = turn.guard.sweep;
        match self.take_turn(sweep).await? {
            Some(again) if again.guard.term == turn.guard.term => {
                *turn = again;
                Ok(())
            }
            // Another's, or ours again after another's.
            _ => Err(StoreError::PlanningLost { sweep }.into()),
        }
    }

    /// Gives the right back, so that another coordinator need not wait for its end.
    pub(super) async fn end_turn(&self, turn: Turn) {
        if let Err(error) = self.store.release_planning(&turn.guard).await {
            debug!(error = error_text(&error), "the right to plan ends by itself");
        }
    }

    /// Writes jobs under the turn.
    pub(super) async fn plan_in(&self, turn: &mut Turn, plan: &Plan) -> Result<Planned, CoordinatorError> {
        self.keep(turn).await?;
        let guard = turn.guard;
        Ok(self.store.plan(guard.sweep, plan, Some(&guard), self.clock.now()).await?)
    }

    /// Declares the sweep done under the turn. Returns whether it is.
    pub(super) async fn finish_in(&self, turn: &mut Turn) -> Result<bool, CoordinatorError> {
        self.keep(turn).await?;
        Ok(self.store.finish_sweep(&turn.guard, self.clock.now()).await?)
    }
}
