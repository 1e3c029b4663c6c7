//! The coordinator's shared parts.

use std::sync::Arc;

use avsweep_store::Store;
use tokio_util::sync::CancellationToken;

use crate::application::history::HistoryCache;
use crate::planner::Cursors;
use crate::signals::Signals;
use crate::{Clock, Settings, SystemClock, TokenSource};

/// Services, planner and reaper over one store.
///
/// Several may run on one store; none keeps anything in memory that it cannot rebuild from there.
#[derive(Debug)]
pub struct Coordinator {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tokens: TokenSource,
    pub(crate) settings: Settings,
    pub(crate) signals: Signals,
    pub(crate) cursors: Cursors,
    pub(crate) history: HistoryCache,
    /// Cancelled at shutdown: waiting requests end, nothing new is handed out, reports are still taken.
    pub(crate) stopping: CancellationToken,
}

impl Coordinator {
    /// A coordinator with the machine's clock and unguessable tokens.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Self {
        Self::with_parts(store, settings, Arc::new(SystemClock), TokenSource::from_system())
    }

    /// A coordinator whose time and randomness are given, so that a run can be repeated exactly.
    pub fn with_parts(
        store: Arc<dyn Store>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        tokens: TokenSource,
    ) -> Self {
        Self {
            store,
            clock,
            tokens,
            settings,
            signals: Signals::default(),
            cursors: Cursors::default(),
            history: HistoryCache::default(),
            stopping: CancellationToken::new(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Runs a computation of more than a millisecond or so where it holds up no other request.
pub(crate) async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The task is never aborted, so it panicked: the panic goes on here as it would have without the task.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
