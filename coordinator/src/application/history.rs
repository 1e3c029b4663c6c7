//! A sweep's tallies, kept for as long as they are current.

use std::sync::Arc;

use avsweep_domain::{PointTallies, SweepId};
use avsweep_store::{PointFilter, SweepTotals};
use tokio::sync::Mutex;

use crate::{Coordinator, CoordinatorError};

/// The last history that was read, with the totals it was read at: a sweep's totals change with its tallies.
///
/// One sweep only: a full grid's tallies take some megabytes.
#[derive(Debug, Default)]
pub(crate) struct HistoryCache(Mutex<Option<Cached>>);

#[derive(Debug)]
struct Cached {
    sweep: SweepId,
    totals: SweepTotals,
    history: Arc<Vec<PointTallies>>,
}

impl Coordinator {
    /// Every point of a sweep with its tallies.
    pub(crate) async fn history(&self, sweep: SweepId) -> Result<Arc<Vec<PointTallies>>, CoordinatorError> {
        let mut cached = self.history.0.lock().await;
        // Read before the tallies: if results come in between, the next call finds other totals and reads again.
        let totals = self.store.totals(sweep).await?;
        if let Some(cached) = cached.as_ref()
            && (cached.sweep, &cached.totals) == (sweep, &totals)
        {
            return Ok(Arc::clone(&cached.history));
        }
        let history = Arc::new(self.store.tallies(sweep, PointFilter::All).await?);
        *cached = Some(Cached { sweep, totals, history: Arc::clone(&history) });
        Ok(history)
    }
}
