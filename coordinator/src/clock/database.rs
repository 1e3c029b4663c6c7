//! The database's clock, carried on between questions by this machine's monotonic one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use avsweep_store::{Store, StoreError, Timestamp};
use tracing::{debug, warn};

use super::Clock;

/// An answer that took longer than this says too little about the time.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(1);
/// A correction by more than this is worth a warning: leases change their length by it.
const LARGE_CORRECTION_MILLIS: i64 = 1000;

/// A clock that several coordinators on one database agree on, whatever their machines' clocks say.
///
/// It never goes back: a correction backwards lets it stand still for as long.
#[derive(Debug)]
pub struct DatabaseClock {
    started: Instant,
    /// Milliseconds since 1970 at `started`, by the database.
    offset: AtomicI64,
    /// The latest time told.
    last: AtomicI64,
}

impl DatabaseClock {
    /// A clock set by the store's; `None` where the store has none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn of(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let started = Instant::now();
        let Some(time) = store.clock().await? else {
            return Ok(None);
        };
        let clock = Self { started, offset: AtomicI64::new(0), last: AtomicI64::new(i64::MIN) };
        clock.offset.store(offset(time, Duration::ZERO, started.elapsed()), Ordering::SeqCst);
        Ok(Some(clock))
    }

    /// Sets the clock anew.
    ///
    /// # Errors
    /// When the store fails: the clock goes on as it was.
    pub async fn set(&self, store: &dyn Store) -> Result<(), StoreError> {
        let asked = self.started.elapsed();
        let Some(time) = store.clock().await? else {
            return Ok(());
        };
        self.correct(time, asked, self.started.elapsed());
        Ok(())
    }

    fn correct(&self, time: Timestamp, asked: Duration, answered: Duration) {
        let round_trip = answered.saturating_sub(asked);
        if round_trip > LONGEST_ROUND_TRIP {
            debug!(?round_trip, "the database's time came too late to set the clock by");
            return;
        }
        let offset = offset(time, asked, answered);
        let change = offset.saturating_sub(self.offset.swap(offset, Ordering::SeqCst));
        if change.saturating_abs() > LARGE_CORRECTION_MILLIS {
            warn!(milliseconds = change, "the database's clock has moved against this machine's");
        }
    }

    fn at(&self, elapsed: Duration) -> Timestamp {
        let now = Timestamp(self.offset.load(Ordering::SeqCst)).plus(elapsed).0;
        Timestamp(self.last.fetch_max(now, Ordering::SeqCst).max(now))
    }
}

/// The database's time at the clock's start, if `time` was read halfway between question and answer.
fn offset(time: Timestamp, asked: Duration, answered: Duration) -> i64 {
    let read = (asked + answered) / 2;
    time.0.saturating_sub(i64::try_from(read.as_millis()).unwrap_or(i64::MAX))
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        self.at(self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn clock() -> DatabaseClock {
        let clock = DatabaseClock {
            started: Instant::now(),
            offset: AtomicI64::new(0),
            last: AtomicI64::new(i64::MIN),
        };
        clock.correct(Timestamp(5_000), millis(0), millis(20));
        clock
    }

    #[test]
    fn the_answer_is_taken_to_be_of_the_middle_of_its_way() {
        assert_eq!(clock().at(millis(10)), Timestamp(5_000));
        assert_eq!(clock().at(millis(110)), Timestamp(5_100));
    }

    #[test]
    fn a_correction_backwards_lets_the_clock_stand_still_until_it_is_right() {
        let clock = clock();
        assert_eq!(clock.at(millis(1_010)), Timestamp(6_000));
        clock.correct(Timestamp(5_700), millis(1_010), millis(1_010));
        assert_eq!(clock.at(millis(1_010)), Timestamp(6_000));
        assert_eq!(clock.at(millis(1_300)), Timestamp(6_000));
        assert_eq!(clock.at(millis(1_400)), Timestamp(6_090));
    }

    #[test]
    fn a_correction_forwards_counts_at_once() {
        let clock = clock();
        clock.correct(Timestamp(9_000), millis(100), millis(100));
        assert_eq!(clock.at(millis(150)), Timestamp(9_050));
    }

    #[test]
    fn an_answer_that_took_long_sets_nothing() {
        let clock = clock();
        clock.correct(Timestamp(100_000), millis(100), millis(2_000));
        assert_eq!(clock.at(millis(110)), Timestamp(5_100));
    }
}
