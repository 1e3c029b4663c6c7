//! What everything in one schedule shares: time, chance, the log, the counts, the first broken law.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_coordinator::Clock;
use avsweep_domain::{Point, Rung};
use avsweep_store::Timestamp;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::weather::Weather;

/// When every schedule begins.
const BEGIN: Timestamp = Timestamp(1_800_000_000_000);

/// A kind of fault, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fault {
    CoordinatorCrashed,
    CoordinatorCrashedBetweenStoreCalls,
    CoordinatorStopped,
    WorkerCrashed,
    WorkerStopped,
    JudgeCrashed,
    JudgeStopped,
    Frozen,
    CutOff,
    RequestLost,
    ReplyLost,
    CallDelayed,
    CallDuplicated,
    CallDuplicatedLate,
    StoreCallDelayed,
    EvaluationFailed,
    OutOfMemory,
    ModelUnfit,
    JudgeOutage,
    JudgeFailed,
    LateReport,
    JobParked,
    UserPaused,
    UserPrioritised,
    UserRetried,
}

impl fmt::Display for Fault {
    /// `CoordinatorCrashed` as "coordinator crashed".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for character in format!("{self:?}").chars() {
            if character.is_uppercase() && !text.is_empty() {
                text.push(' ');
            }
            text.extend(character.to_lowercase());
        }
        f.pad(&text)
    }
}

/// How often each fault struck.
pub type FaultCounts = BTreeMap<Fault, u64>;

/// What a schedule's parts share.
#[derive(Debug)]
pub(crate) struct World {
    begin: Instant,
    shared: Mutex<Shared>,
    /// A law is broken: the schedule ends.
    broken: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    random: ChaCha8Rng,
    log: Vec<String>,
    counts: FaultCounts,
    weather: Weather,
    problem: Option<String>,
    /// Evaluating this always fails.
    poison: Option<(Point, Rung)>,
    judges_away_until: Option<Instant>,
}

impl World {
    /// Must be called within the schedule's runtime, whose clock begins now.
    pub(crate) fn new(seed: u64) -> Self {
        let shared = Shared {
            random: ChaCha8Rng::seed_from_u64(seed),
            log: Vec::new(),
            counts: FaultCounts::new(),
            weather: Weather::default(),
            problem: None,
            poison: None,
            judges_away_until: None,
        };
        Self { begin: Instant::now(), shared: Mutex::new(shared), broken: CancellationToken::new() }
    }

    /// No code panics while it holds the lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True this often.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        // Without a draw where there is nothing to draw: calm weather leaves the sequence alone.
        probability > 0.0 && self.lock().random.random_bool(probability.min(1.0))
    }

    /// A number from 0 up to but without `end` (at least 1).
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.lock().random.random_range(0..end.max(1))
    }

    /// A time between these, in whole milliseconds.
    pub(crate) fn between(&self, shortest: Duration, longest: Duration) -> Duration {
        let (low, high) = (shortest.as_millis() as u64, longest.as_millis() as u64);
        Duration::from_millis(self.lock().random.random_range(low..=high.max(low)))
    }

    /// A seed for somebody's own sequence.
    pub(crate) fn seed(&self) -> u64 {
        self.lock().random.random()
    }

    pub(crate) fn log(&self, line: fmt::Arguments<'_>) {
        let millis = self.begin.elapsed().as_millis();
        self.lock().log.push(format!("{:>6}.{:03} {line}", millis / 1000, millis % 1000));
    }

    /// Counts a fault.
    pub(crate) fn count(&self, fault: Fault) {
        *self.lock().counts.entry(fault).or_default() += 1;
    }

    pub(crate) fn weather(&self) -> Weather {
        self.lock().weather
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    pub(crate) fn poison(&self) -> Option<(Point, Rung)> {
        self.lock().poison.clone()
    }

    pub(crate) fn set_poison(&self, poison: Option<(Point, Rung)>) {
        self.lock().poison = poison;
    }

    pub(crate) fn judges_are_away(&self) -> bool {
        self.lock().judges_away_until.is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn send_judges_away(&self, until: Option<Instant>) {
        self.lock().judges_away_until = until;
    }

    /// Ends the schedule; the first problem counts.
    pub(crate) fn break_law(&self, problem: String) {
        self.log(format_args!("BROKEN: {problem}"));
        self.lock().problem.get_or_insert(problem);
        self.broken.cancel();
    }

    /// Ends when a law is broken.
    pub(crate) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    pub(crate) fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        self.lock().counts.clone()
    }

    /// The simulated time that has passed.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        BEGIN.plus(self.begin.elapsed())
    }
}
