//! Whether the coordinator is there.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use avsweep_proto::ErrorCode;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Status};

/// Since when the coordinator has not answered, as all calls of a process see it. Clones share it.
#[derive(Clone, Debug)]
pub struct Contact(Arc<watch::Sender<Option<Instant>>>);

impl Default for Contact {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Contact {
    /// Notes how a call ended that began at `started`.
    pub fn note<T>(&self, started: Instant, outcome: &Result<T, Status>) {
        let absent = outcome.as_ref().is_err_and(is_absence);
        self.0.send_if_modified(|since| match (absent, *since) {
            (true, None) => {
                *since = Some(started);
                true
            }
            (false, Some(_)) => {
                *since = None;
                true
            }
            (true, Some(_)) | (false, None) => false,
        });
    }

    /// Since when no call has been answered; `None` while the last one was.
    pub fn absent_since(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Ends once the coordinator has been absent for this long.
    pub async fn lost(&self, patience: Duration) {
        let mut changes = self.0.subscribe();
        loop {
            let since = *changes.borrow_and_update();
            let patience_ends = async {
                match since {
                    Some(since) => tokio::time::sleep_until(since + patience).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender lives as long as `self`.
                changed = changes.changed() => if changed.is_err() { std::future::pending::<()>().await },
                () = patience_ends => return,
            }
        }
    }
}

/// Whether a status was made up on this side, or by a coordinator that is going away, for want of an answer.
fn is_absence(status: &Status) -> bool {
    match ErrorCode::of(status) {
        Some(code) => code == ErrorCode::ShuttingDown,
        None => {
            status.source().is_some()
                || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn absence_is_counted_from_the_first_unanswered_call_and_any_answer_ends_it() {
        let contact = Contact::default();
        let away = Err::<(), _>(Status::unavailable("nobody there"));
        let began = Instant::now();
        let lost = tokio::spawn({
            let contact = contact.clone();
            async move {
                contact.lost(PATIENCE).await;
                Instant::now()
            }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        contact.note(began, &away);
        contact.note(Instant::now(), &away);
        assert_eq!(contact.absent_since(), Some(began));
        // A refusal is an answer too.
        contact.note(began, &Err::<(), _>(Status::not_found("no such job")));
        assert_eq!(contact.absent_since(), None);
        tokio::time::sleep(PATIENCE * 2).await;
        let second = Instant::now();
        contact.note(second, &away);
        tokio::time::sleep(Duration::from_secs(1)).await;
        contact.note(Instant::now(), &away);
        assert_eq!(lost.await.ok(), Some(second + PATIENCE));
    }
}
