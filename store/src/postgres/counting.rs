//! Sums over a sweep's jobs and reports, kept in a row per server process.

use avsweep_domain::{JobState, Rung, SweepId};
use sqlx::postgres::PgConnection;

use crate::StoreError;
use crate::error::During;

/// What a statement's last part adds to the counts: `$columns` of `$source`, grouped by nothing, under the row of the
/// server process that runs it.
macro_rules! shard {
    () => {
        "(pg_backend_pid() % 64)"
    };
}
pub(super) use shard;

/// A change of a sweep's sums on one rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) ready: i64,
    pub(super) leased: i64,
    pub(super) done: i64,
    pub(super) parked: i64,
    pub(super) points: i64,
    pub(super) lost: i64,
    pub(super) errors: i64,
    pub(super) raced: i64,
    pub(super) saved: i64,
}

impl Change {
    /// `jobs` more in a state.
    pub(super) fn add(&mut self, state: JobState, jobs: i64) {
        *match state {
            JobState::Ready => &mut self.ready,
            JobState::Leased => &mut self.leased,
            JobState::Done => &mut self.done,
            JobState::Parked => &mut self.parked,
            JobState::Raced => &mut self.raced,
        } += jobs;
    }

    /// Writes the change, in the transaction that makes it true.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        sweep: SweepId,
        rung: Rung,
    ) -> Result<(), StoreError> {
        if *self == Self::default() {
            return Ok(());
        }
        sqlx::query(concat!(
            "INSERT INTO sweep_counts AS c
                 (sweep, rung, shard, ready, leased, done, parked, points, lost, errors, raced, saved)
             VALUES ($1, $2, ",
            shard!(),
            ", $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (sweep, rung, shard) DO UPDATE SET
                 ready = c.ready + excluded.ready, leased = c.leased + excluded.leased,
                 done = c.done + excluded.done, parked = c.parked + excluded.parked,
                 points = c.points + excluded.points, lost = c.lost + excluded.lost,
                 errors = c.errors + excluded.errors, raced = c.raced + excluded.raced,
                 saved = c.saved + excluded.saved"
        ))
        .bind(sweep.0)
        .bind(rung.as_str())
        .bind(self.ready)
        .bind(self.leased)
        .bind(self.done)
        .bind(self.parked)
        .bind(self.points)
        .bind(self.lost)
        .bind(self.errors)
        .bind(self.raced)
        .bind(self.saved)
        .execute(connection)
        .await
        .during("count jobs")?;
        Ok(())
    }
}
