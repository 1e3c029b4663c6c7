//! What a process tells the coordinator about itself: at its start, when that changes, and every so often.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_proto::v1;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::CoordinatorClient;

/// Time between statuses until a coordinator has said how long it may be: a third of the usual lease.
const USUAL_PAUSE: Duration = Duration::from_secs(20);
/// Time after a status that got no answer.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// Shortest time between two, however fast the states change; the last of all does not wait for it.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest time that is waited for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The time that the rate is over.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// What is wrong when the name is another's too.
const SHARED_NAME: &str = "another process that runs now has the same name: 'workers ls' shows them as one, and a lost \
                           worker's job may be blamed wrongly; give each its own --name, or none";
/// Longest problem that is told, in characters.
const PROBLEM_CHARACTERS: usize = 1000;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, unique among all.
    pub worker: WorkerId,
    /// What it does.
    pub kind: v1::WorkerKind,
    /// What it computes on ("cpu, 2 threads"), or whom it asks.
    pub device: String,
}

/// What a process did since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs done in full.
    pub finished: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Jobs given back.
    pub released: u64,
    /// Jobs whose lease was lost.
    pub lost: u64,
    /// Query results that the coordinator has acknowledged.
    pub results: u64,
}

/// A process's counts and state, told to the coordinator by a task of its own, until it is dropped.
///
/// Whatever becomes of that, the work goes on.
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    identity: Identity,
    host: String,
    /// Drawn at the start.
    instance: u64,
    now: Mutex<Now>,
    changed: Notify,
    /// The last status has been sent, or given up.
    ended: CancellationToken,
}

#[derive(Debug)]
struct Now {
    state: v1::WorkerState,
    counts: Counts,
    problem: Option<String>,
    /// Another process has the same name, as the coordinator says.
    name_shared: bool,
    recent: Recent,
}

impl Presence {
    /// Starts the telling. Must be called within a tokio runtime.
    pub fn start(coordinator: CoordinatorClient, identity: Identity) -> Self {
        let shared = Arc::new(Shared {
            identity,
            host: host_name(),
            instance: drawn(),
            now: Mutex::new(Now {
                state: v1::WorkerState::Idle,
                counts: Counts::default(),
                problem: None,
                name_shared: false,
                recent: Recent::new(Instant::now()),
            }),
            changed: Notify::new(),
            ended: CancellationToken::new(),
        });
        let task = tokio::spawn(tell(Arc::clone(&shared), coordinator));
        Self { shared, _task: AbortOnDropHandle::new(task) }
    }

    /// Adds to the counts.
    pub fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut now = self.shared.lock();
        let before = now.counts.results;
        change(&mut now.counts);
        let added = now.counts.results - before;
        if added > 0 {
            now.recent.add(Instant::now(), added);
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Sets the state and tells it if it is another.
    pub fn set_state(&self, state: v1::WorkerState) {
        let mut now = self.shared.lock();
        if now.state != state {
            now.state = state;
            self.shared.changed.notify_one();
        }
    }

    /// Sets what is wrong, or that nothing is, and tells it if that is new.
    pub fn set_problem(&self, problem: Option<String>) {
        let problem = problem.map(|text| text.chars().take(PROBLEM_CHARACTERS).collect::<String>());
        let mut now = self.shared.lock();
        if now.problem != problem {
            now.problem = problem;
            self.shared.changed.notify_one();
        }
    }

    /// Tells that the process has ended, once, and waits for that as long as calls are waited for.
    pub async fn stopped(&self) {
        self.set_state(v1::WorkerState::Stopped);
        // The task's calls end in time; this bound is for one that broke.
        let _ = tokio::time::timeout(TIMEOUT * 2, self.shared.ended.cancelled()).await;
    }
}

impl Shared {
    /// No code panics while it holds the lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> v1::WorkerStatus {
        let mut now = self.lock();
        let rate = now.recent.per_second(Instant::now());
        v1::WorkerStatus {
            worker: self.identity.worker.0.clone(),
            kind: self.identity.kind.into(),
            state: now.state.into(),
            device: self.identity.device.clone(),
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            finished: now.counts.finished,
            failed: now.counts.failed,
            lost: now.counts.lost,
            results: now.counts.results,
            results_per_second: rate,
            problem: now.problem.clone().or_else(|| now.name_shared.then(|| SHARED_NAME.to_owned())),
            instance: self.instance,
        }
    }

    /// Notes whether another process has the same name, and says so once.
    fn set_name_shared(&self, shared: bool) {
        let mut now = self.lock();
        if shared && !now.name_shared {
            tracing::warn!(name = %self.identity.worker, "{SHARED_NAME}");
            self.changed.notify_one();
        }
        now.name_shared = shared;
    }

    fn has_stopped(&self) -> bool {
        self.lock().state == v1::WorkerState::Stopped
    }
}

async fn tell(shared: Arc<Shared>, coordinator: CoordinatorClient) {
    let _ended = shared.ended.clone().drop_guard();
    let mut usual = USUAL_PAUSE;
    loop {
        let status = shared.status();
        let last = status.state() == v1::WorkerState::Stopped;
        let request = v1::ReportStatusRequest { status: Some(status) };
        let answer =
            coordinator.once(TIMEOUT, |mut client| async move { client.report_status(request).await }).await;
        if last {
            return;
        }
        let pause = match answer {
            Ok(answer) => {
                shared.set_name_shared(answer.name_shared);
                if answer.next_millis > 0 {
                    usual = Duration::from_millis(u64::from(answer.next_millis)).max(SHORTEST_PAUSE);
                }
                usual
            }
            Err(status) => {
                tracing::debug!(code = ?status.code(), reason = status.message(), "the status could not be told");
                usual.min(RETRY_PAUSE)
            }
        };
        let now = Instant::now();
        let (soonest, latest) = (now + SHORTEST_PAUSE, now + pause);
        tokio::select! {
            biased;
            () = shared.changed.notified() => {}
            () = tokio::time::sleep_until(latest) => continue,
        }
        while !shared.has_stopped() && Instant::now() < soonest {
            tokio::select! {
                biased;
                () = shared.changed.notified() => {}
                () = tokio::time::sleep_until(soonest) => {}
            }
        }
    }
}

/// Results of the last minute, by second.
#[derive(Debug)]
struct Recent {
    since: Instant,
    seconds: VecDeque<(Instant, u64)>,
}

impl Recent {
    fn new(now: Instant) -> Self {
        Self { since: now, seconds: VecDeque::new() }
    }

    fn add(&mut self, now: Instant, count: u64) {
        match self.seconds.back_mut() {
            Some((began, sum)) if now.duration_since(*began) < Duration::from_secs(1) => *sum += count,
            _ => self.seconds.push_back((now, count)),
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.seconds.front().is_some_and(|(began, _)| now.duration_since(*began) > RATE_WINDOW) {
            self.seconds.pop_front();
        }
    }

    /// Over the last minute, or the time since the start where that is shorter.
    fn per_second(&mut self, now: Instant) -> f64 {
        self.forget(now);
        let sum: u64 = self.seconds.iter().map(|(_, count)| count).sum();
        let window = now.duration_since(self.since).min(RATE_WINDOW).max(Duration::from_secs(1));
        sum as f64 / window.as_secs_f64()
    }
}

/// A number that no other process has, as far as chance goes. It is compared, never sorted or hashed by.
fn drawn() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let drawn = std::hash::RandomState::new().build_hasher().finish();
    drawn.max(1)
}

/// This machine's name, as it calls itself.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_the_last_minute() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..10 {
            recent.add(at(second), 40);
        }
        assert!((recent.per_second(at(10)) - 40.0).abs() < 1e-9);
        assert!((recent.per_second(at(40)) - 10.0).abs() < 1e-9);
        assert!((recent.per_second(at(1000)) - 0.0).abs() < 1e-9);
        for tenth in 0..10_000 {
            recent.add(at(2000) + Duration::from_millis(tenth * 100), 1);
        }
        assert!(recent.seconds.len() <= 62);
        assert!((recent.per_second(at(3000)) - 10.0).abs() < 0.3);
    }
}
