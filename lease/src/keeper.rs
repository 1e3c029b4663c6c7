//! Leases kept alive while their holders work.
//!
//! One task renews all held leases together, at a third of the lease duration after the last grant. Durations are
//! counted here, on a monotonic clock; whether a lease has expired the coordinator alone decides. While it cannot be
//! asked, a lease counts as held, and whatever is then written under one that is lost changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_proto::v1;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::CoordinatorClient;

/// Shortest time that is given to a renewal, and between two.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause after a renewal that failed.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Renews the leases that are held, in a task of its own, until it is dropped.
#[derive(Debug)]
pub struct LeaseKeeper {
    leases: Arc<Leases>,
    _task: AbortOnDropHandle<()>,
}

/// A lease that is renewed until this is dropped.
#[derive(Debug)]
pub struct HeldLease {
    number: u64,
    reference: v1::LeaseRef,
    lost: CancellationToken,
    leases: Arc<Leases>,
}

#[derive(Debug, Default)]
struct Leases {
    held: Mutex<Held>,
    /// A lease was added.
    added: Notify,
}

#[derive(Default)]
struct Held {
    by_number: BTreeMap<u64, Entry>,
    next_number: u64,
}

/// A lease reference's token is a secret, and the generated type's `Debug` shows it.
impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("leases", &self.by_number.len()).finish_non_exhaustive()
    }
}

struct Entry {
    reference: v1::LeaseRef,
    lost: CancellationToken,
    duration: Duration,
    /// When to renew next.
    due: Instant,
}

impl LeaseKeeper {
    /// Starts the renewing task. Must be called within a tokio runtime.
    pub fn start(coordinator: CoordinatorClient, worker: WorkerId) -> Self {
        let leases = Arc::new(Leases::default());
        let task = tokio::spawn(renew_forever(Arc::clone(&leases), coordinator, worker));
        Self { leases, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes a lease into care. `duration` counts from `granted`, the arrival of the answer that brought the lease.
    pub fn hold(&self, reference: v1::LeaseRef, duration: Duration, granted: Instant) -> HeldLease {
        let lost = CancellationToken::new();
        let mut held = self.leases.lock();
        let number = held.next_number;
        held.next_number += 1;
        held.by_number.insert(
            number,
            Entry {
                reference: reference.clone(),
                lost: lost.clone(),
                duration,
                due: granted + third(duration),
            },
        );
        drop(held);
        self.leases.added.notify_one();
        HeldLease { number, reference, lost, leases: Arc::clone(&self.leases) }
    }

    /// How many leases are held now.
    pub fn held(&self) -> usize {
        self.leases.lock().by_number.len()
    }
}

impl HeldLease {
    /// What every write under the lease repeats.
    pub fn reference(&self) -> v1::LeaseRef {
        self.reference.clone()
    }

    /// The job's number, for logs.
    pub fn job(&self) -> i64 {
        self.reference.job
    }

    /// Ends when the coordinator has said that the lease is lost: work under it is worth nothing any more.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Cancelled when the lease is lost; for whoever works under it.
    pub fn work_token(&self) -> CancellationToken {
        self.lost.child_token()
    }

    /// Whether the coordinator has said that the lease is lost.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Notes that the answer to a write said that the lease is lost.
    pub fn mark_lost(&self) {
        self.leases.lock().by_number.remove(&self.number);
        self.lost.cancel();
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.leases.lock().by_number.remove(&self.number);
    }
}

impl Leases {
    /// No code panics while it holds the lock, so what it guards is whole.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_due(&self) -> Option<Instant> {
        self.lock().by_number.values().map(|entry| entry.due).min()
    }

    /// Every held lease, and the shortest of their durations.
    fn snapshot(&self) -> (Vec<(u64, v1::LeaseRef)>, Duration) {
        let held = self.lock();
        let leases =
            held.by_number.iter().map(|(number, entry)| (*number, entry.reference.clone())).collect();
        let shortest = held.by_number.values().map(|entry| entry.duration).min().unwrap_or_default();
        (leases, shortest)
    }

    fn apply(&self, leases: &[(u64, v1::LeaseRef)], answer: &v1::RenewResponse, sent: Instant) {
        let duration = Duration::from_millis(u64::from(answer.lease_millis));
        let mut held = self.lock();
        for ((number, reference), status) in leases.iter().zip(&answer.statuses) {
            match v1::LeaseStatus::try_from(*status) {
                Ok(v1::LeaseStatus::Held) => {
                    if let Some(entry) = held.by_number.get_mut(number) {
                        if !duration.is_zero() {
                            entry.duration = duration;
                        }
                        // From the sending on: the coordinator's own count began no earlier.
                        entry.due = sent + third(entry.duration);
                    }
                }
                Ok(v1::LeaseStatus::Lost) => {
                    if let Some(entry) = held.by_number.remove(number) {
                        entry.lost.cancel();
                    }
                }
                Ok(v1::LeaseStatus::Unspecified) | Err(_) => {
                    tracing::warn!(job = reference.job, status, "a renewal was answered by no known status");
                    if let Some(entry) = held.by_number.get_mut(number) {
                        entry.due = sent + third(entry.duration);
                    }
                }
            }
        }
    }

    fn postpone(&self, leases: &[(u64, v1::LeaseRef)], until: Instant) {
        let mut held = self.lock();
        for (number, _) in leases {
            if let Some(entry) = held.by_number.get_mut(number) {
                entry.due = until;
            }
        }
    }
}

fn third(duration: Duration) -> Duration {
    (duration / 3).max(SHORTEST_PAUSE)
}

async fn renew_forever(leases: Arc<Leases>, coordinator: CoordinatorClient, worker: WorkerId) {
    loop {
        match leases.next_due() {
            None => {
                leases.added.notified().await;
                continue;
            }
            Some(due) if due > Instant::now() => {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(due) => {}
                    // The new lease may be due earlier.
                    () = leases.added.notified() => {}
                }
                continue;
            }
            Some(_) => {}
        }
        let (due, shortest) = leases.snapshot();
        if due.is_empty() {
            continue;
        }
        let sent = Instant::now();
        let request = v1::RenewRequest {
            worker: worker.0.clone(),
            leases: due.iter().map(|(_, reference)| reference.clone()).collect(),
        };
        let retry_pause = (shortest / 12).clamp(SHORTEST_PAUSE, LONGEST_RETRY_PAUSE);
        let answer =
            coordinator.once(third(shortest), |mut client| async move { client.renew(request).await }).await;
        match answer {
            Ok(answer) if answer.statuses.len() == due.len() => leases.apply(&due, &answer, sent),
            Ok(answer) => {
                let found = answer.statuses.len();
                tracing::warn!(
                    found,
                    wanted = due.len(),
                    "a renewal was answered by the wrong number of statuses"
                );
                leases.postpone(&due, Instant::now() + retry_pause);
            }
            Err(status) => {
                tracing::warn!(
                    leases = due.len(), code = ?status.code(), reason = status.message(),
                    "leases could not be renewed"
                );
                leases.postpone(&due, Instant::now() + retry_pause);
            }
        }
    }
}
