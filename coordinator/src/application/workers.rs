//! Workers and judges: what they say of themselves, and who is there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_store::{Timestamp, WorkerRecord, WorkerState, WorkerStatus};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::metrics::is_gone;
use crate::{Coordinator, CoordinatorError};

/// Entries above this are looked through for those that have no effect any more.
const MANY_NOTES: usize = 4096;

/// When which worker's status was last written, so that one that changes nothing is not written every time.
#[derive(Debug, Default)]
pub(crate) struct WorkerNotes(Mutex<HashMap<WorkerId, Note>>);

#[derive(Debug)]
struct Note {
    state: WorkerState,
    problem: Option<String>,
    at: Instant,
}

impl WorkerNotes {
    /// Whether a status has to be written: it says something new, or the last one is older than `interval`.
    fn is_due(&self, status: &WorkerStatus, interval: Duration, now: Instant) -> bool {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.get(&status.worker).is_none_or(|note| {
            note.state != status.state || note.problem != status.problem || now - note.at >= interval
        })
    }

    /// Notes that a status is written; returns whether its worker was unknown here.
    fn written(&self, status: &WorkerStatus, interval: Duration, now: Instant) -> bool {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state == WorkerState::Stopped {
            return notes.remove(&status.worker).is_none();
        }
        if notes.len() >= MANY_NOTES {
            notes.retain(|_, note| now - note.at < interval);
        }
        let note = Note { state: status.state, problem: status.problem.clone(), at: now };
        notes.insert(status.worker.clone(), note).is_none()
    }
}

/// The most processes of one name that are kept in mind.
const MOST_BEARERS: usize = 64;

/// Which processes say that they have which name.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<HashMap<WorkerId, Vec<Bearer>>>);

/// A process, and when it was heard of.
#[derive(Debug)]
struct Bearer {
    instance: u64,
    first: Instant,
    /// The last time but one.
    before: Option<Instant>,
    last: Instant,
}

impl Bearer {
    /// Whether this one runs beside the other for all that is heard of it: it has spoken twice after the other's first
    /// word. Once it would have been as well if the other had taken its place, by a status that was on its way when it was
    /// killed.
    fn outlasts_start_of(&self, other: &Self) -> bool {
        self.before.is_some_and(|before| before > other.first)
    }
}

impl Names {
    /// Notes a status of a process; whether another that runs has the same name. A worker that was restarted is not
    /// mistaken for two, whichever of both is heard of first.
    fn heard(&self, status: &WorkerStatus, instance: u64, memory: Duration, now: Instant) -> bool {
        if instance == 0 {
            return false;
        }
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MANY_NOTES {
            names.retain(|_, bearers| bearers.iter().any(|bearer| now - bearer.last < memory));
        }
        let bearers = names.entry(status.worker.clone()).or_default();
        let stops = status.state == WorkerState::Stopped;
        bearers.retain(|bearer| now - bearer.last < memory && !(stops && bearer.instance == instance));
        if stops {
            if bearers.is_empty() {
                names.remove(&status.worker);
            }
            return false;
        }
        let Some(index) = bearers.iter().position(|bearer| bearer.instance == instance) else {
            if bearers.len() < MOST_BEARERS {
                bearers.push(Bearer { instance, first: now, before: None, last: now });
            }
            return false;
        };
        bearers[index].before = Some(std::mem::replace(&mut bearers[index].last, now));
        let speaker = &bearers[index];
        bearers.iter().any(|other| {
            other.instance != instance && speaker.outlasts_start_of(other) && other.outlasts_start_of(speaker)
        })
    }
}

/// A worker with what is known of it from outside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SeenWorker {
    pub(crate) record: WorkerRecord,
    /// Since it was last seen.
    pub(crate) ago: Duration,
    /// Not heard of for a whole lease.
    pub(crate) gone: bool,
}

impl Coordinator {
    /// How soon the next status is wanted.
    pub(crate) fn status_interval(&self) -> Duration {
        self.settings.lease_duration / 3
    }

    /// Notes what a worker says of itself.
    pub(crate) async fn note_worker(&self, status: &WorkerStatus) -> Result<(), CoordinatorError> {
        // Half of the interval at which they come: every regular one is written, however short a lease is.
        let interval = self.settings.worker_note_interval.min(self.status_interval() / 2);
        if !self.workers.is_due(status, interval, Instant::now()) {
            return Ok(());
        }
        self.store.note_worker(status, self.clock.now()).await?;
        let new = self.workers.written(status, interval, Instant::now());
        let (worker, state) = (&status.worker, status.state);
        if new {
            info!(%worker, ?state, device = status.device, host = status.host, "worker");
        } else {
            debug!(%worker, ?state, "worker");
        }
        if let Some(problem) = &status.problem {
            warn!(%worker, problem, "worker has a problem");
        }
        Ok(())
    }

    /// Whether another process that runs says it has the same name, as far as this coordinator hears of both.
    pub(crate) fn is_name_shared(&self, status: &WorkerStatus, instance: u64) -> bool {
        self.names.heard(status, instance, self.status_interval() * 3, Instant::now())
    }

    /// Every worker and judge that is remembered, the latest seen first.
    pub(crate) async fn seen_workers(&self) -> Result<Vec<SeenWorker>, CoordinatorError> {
        let records = self.store.workers().await?;
        let now = self.clock.now();
        let seen = records.into_iter().map(|record| SeenWorker {
            ago: between(record.last_seen, now),
            gone: is_gone(&record, self.settings.lease_duration, now),
            record,
        });
        Ok(seen.collect())
    }

    /// Forgets workers that were last seen long ago.
    pub(crate) async fn forget_workers(&self) -> Result<(), CoordinatorError> {
        let memory = i64::try_from(self.settings.worker_memory.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp(self.clock.now().0.saturating_sub(memory));
        let forgotten = self.store.forget_workers(before).await?;
        if forgotten > 0 {
            debug!(forgotten, "workers forgotten");
        }
        Ok(())
    }
}

/// The time from one to the other; none when it is the other way round.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use avsweep_store::WorkerKind;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn status(state: WorkerState, problem: Option<&str>) -> WorkerStatus {
        WorkerStatus {
            worker: WorkerId("w".to_owned()),
            kind: WorkerKind::Worker,
            state,
            device: String::new(),
            host: String::new(),
            version: String::new(),
            finished: 0,
            failed: 0,
            lost: 0,
            results: 0,
            rate: 0.0,
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn a_status_is_written_when_it_is_new_or_the_last_one_old() {
        let (notes, now) = (WorkerNotes::default(), Instant::now());
        let idle = status(WorkerState::Idle, None);
        assert!(notes.is_due(&idle, INTERVAL, now));
        assert!(notes.written(&idle, INTERVAL, now));
        assert!(!notes.is_due(&idle, INTERVAL, now + INTERVAL / 2));
        assert!(notes.is_due(&status(WorkerState::Busy, None), INTERVAL, now), "another state");
        assert!(notes.is_due(&status(WorkerState::Idle, Some("no")), INTERVAL, now), "a problem");
        assert!(notes.is_due(&idle, INTERVAL, now + INTERVAL));
    }

    #[test]
    fn two_processes_of_one_name_are_told_and_a_restarted_one_is_not() {
        let (names, start) = (Names::default(), Instant::now());
        let memory = INTERVAL * 3;
        let heard = |instance: u64, state: WorkerState, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            names.heard(&status(state, None), instance, memory, now)
        };
        use WorkerState::{Idle, Stopped};
        // Killed and started again, with a status that came late.
        assert!(!heard(1, Idle, 0) && !heard(2, Idle, 1) && !heard(1, Idle, 1) && !heard(2, Idle, 6));
        // And again; now the one before goes on as if nothing were.
        assert!(!heard(3, Idle, 7) && !heard(2, Idle, 11) && !heard(3, Idle, 12));
        assert!(heard(2, Idle, 16) && heard(3, Idle, 17), "both are told");
        assert!(!heard(2, Stopped, 20) && !heard(3, Idle, 22), "one went away");
        // Two again, until one is killed.
        assert!(!heard(4, Idle, 30) && !heard(3, Idle, 31) && !heard(3, Idle, 36) && heard(4, Idle, 40));
        assert!(!heard(4, Idle, 51));
        assert!(!heard(4, Stopped, 52) && !heard(5, Idle, 53) && !heard(5, Idle, 58));
        assert!(!heard(0, Idle, 60), "an earlier version does not say who it is");
    }

    #[test]
    fn processes_of_one_name_that_speak_in_turn_are_all_told() {
        let (memory, idle) = (INTERVAL * 3, status(WorkerState::Idle, None));
        for processes in [2, 3, 5] {
            let (names, start) = (Names::default(), Instant::now());
            for round in 0..6 {
                for instance in 1..=processes {
                    let now = start + INTERVAL * round + Duration::from_millis(instance);
                    let told = names.heard(&idle, instance, memory, now);
                    assert_eq!(told, round >= 2, "{instance} of {processes} in round {round}");
                }
            }
            // All but one are killed.
            assert!(names.heard(&idle, 1, memory, start + INTERVAL * 6), "{processes}");
            assert!(!names.heard(&idle, 1, memory, start + INTERVAL * 9), "{processes}");
        }
    }

    #[test]
    fn a_worker_killed_again_and_again_is_not_taken_for_several_by_its_late_words() {
        let (memory, idle) = (INTERVAL * 3, status(WorkerState::Idle, None));
        let (names, start) = (Names::default(), Instant::now());
        let heard = |instance: u64, millis: u64| {
            names.heard(&idle, instance, memory, start + Duration::from_millis(millis))
        };
        for instance in 2..50 {
            let at = instance * 1000;
            assert!(!heard(instance, at) && !heard(instance - 1, at + 100), "{instance}");
            assert!(!heard(instance, at + 200) && !heard(instance, at + 300), "{instance}");
        }
        // The late word may come before the first of the other, where nothing was heard before.
        assert!(!heard(101, 90_000) && !heard(100, 90_001));
        assert!((0..6).all(|round| !heard(101, 91_000 + round * 1000)));
    }

    #[test]
    fn processes_of_one_name_are_kept_in_mind_up_to_a_number() {
        let (names, start) = (Names::default(), Instant::now());
        let (memory, idle) = (INTERVAL * 3, status(WorkerState::Idle, None));
        let known = || names.0.lock().expect("no test panics with it").get(&idle.worker).map_or(0, Vec::len);
        for instance in 1..=1000 {
            assert!(!names.heard(&idle, instance, memory, start));
        }
        assert_eq!(known(), MOST_BEARERS);
        assert!(!names.heard(&idle, 1001, memory, start + memory));
        assert_eq!(known(), 1, "those not heard of any more are forgotten");
        assert!(!names.heard(&status(WorkerState::Stopped, None), 1001, memory, start + memory));
        assert_eq!(known(), 0);
    }

    #[test]
    fn a_worker_that_has_stopped_is_not_kept_in_mind() {
        let (notes, now) = (WorkerNotes::default(), Instant::now());
        notes.written(&status(WorkerState::Idle, None), INTERVAL, now);
        assert!(!notes.written(&status(WorkerState::Stopped, None), INTERVAL, now));
        assert!(notes.is_due(&status(WorkerState::Idle, None), INTERVAL, now));
    }
}
