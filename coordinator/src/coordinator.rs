//! The coordinator's shared parts.

use std::sync::Arc;

use avsweep_domain::LeaseToken;
use avsweep_store::Store;
use tokio_util::sync::CancellationToken;

use crate::application::claims::{Claims, Parts};
use crate::application::racing::Races;
use crate::application::workers::{Names, WorkerNotes};
use crate::clock::DatabaseClock;
use crate::metrics::{GaugeCache, MeasuredStore, Metrics};
use crate::planner::Cursors;
use crate::signals::Signals;
use crate::{Clock, CoordinatorError, Settings, SystemClock, TokenSource};

/// Services, planner and reaper over one store.
///
/// Several may run on one store; none keeps anything in memory that it cannot rebuild from there.
#[derive(Debug)]
pub struct Coordinator {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The clock again, where it is the database's and has to be set from time to time.
    pub(crate) database_clock: Option<Arc<DatabaseClock>>,
    pub(crate) tokens: TokenSource,
    /// By which the store knows this coordinator when it plans.
    pub(crate) planning_holder: LeaseToken,
    pub(crate) settings: Settings,
    pub(crate) signals: Arc<Signals>,
    pub(crate) claims: Claims,
    pub(crate) cursors: Arc<Cursors>,
    pub(crate) races: Races,
    pub(crate) workers: WorkerNotes,
    pub(crate) names: Names,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gauge_cache: GaugeCache,
    /// Computations run where they are asked for, not on a thread of their own.
    pub(crate) compute_in_place: bool,
    /// Cancelled at shutdown: waiting requests end, nothing new is handed out, reports are still taken.
    pub(crate) stopping: CancellationToken,
}

impl Coordinator {
    /// A coordinator with unguessable tokens, whose clock is the database's where the store has one, else the machine's.
    ///
    /// # Errors
    /// When the store cannot be asked for the time.
    pub async fn open(store: Arc<dyn Store>, settings: Settings) -> Result<Self, CoordinatorError> {
        let Some(clock) = DatabaseClock::of(store.as_ref()).await? else {
            return Ok(Self::new(store, settings));
        };
        let clock = Arc::new(clock);
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let coordinator = Self::with_parts(store, settings, shared, TokenSource::from_system());
        Ok(Self { database_clock: Some(clock), ..coordinator })
    }

    /// A coordinator with the machine's clock and unguessable tokens: for a store that no other machine uses.
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
        let metrics = Metrics::new();
        let store: Arc<dyn Store> = Arc::new(MeasuredStore::new(store, Arc::clone(&metrics)));
        let (signals, cursors) = (Arc::<Signals>::default(), Arc::<Cursors>::default());
        let claims = Claims::new(Parts {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            signals: Arc::clone(&signals),
            cursors: Arc::clone(&cursors),
        });
        Self {
            store,
            clock,
            database_clock: None,
            planning_holder: tokens.draw(),
            tokens,
            settings,
            signals,
            claims,
            cursors,
            races: Races::default(),
            workers: WorkerNotes::default(),
            names: Names::default(),
            metrics,
            gauge_cache: GaugeCache::default(),
            compute_in_place: false,
            stopping: CancellationToken::new(),
        }
    }

    /// The same, with everything computed on the thread that asks, so that the order of events is the same in every run:
    /// for simulations. Requests wait for each other's computations.
    #[must_use]
    pub fn computing_in_place(self) -> Self {
        Self { compute_in_place: true, ..self }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs a computation of more than a millisecond or so where it holds up no other request.
    pub(crate) async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self.compute_in_place {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(value) => value,
            // The task is never aborted, so it panicked: the panic goes on here as it would have without the task.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
