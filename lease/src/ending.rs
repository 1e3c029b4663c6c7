//! How a worker or judge comes to its end, and within what time.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::Contact;

/// Longest part of the drain time that is kept for reporting and giving back.
const LONGEST_RESERVE: Duration = Duration::from_secs(2);
/// Shortest time that the last calls get, whatever the drain time.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// How a process is told to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Finish or give back what is held, within the drain time.
    pub drain: CancellationToken,
    /// Give everything back now.
    pub at_once: CancellationToken,
}

impl From<CancellationToken> for Shutdown {
    /// Ends by draining only.
    fn from(drain: CancellationToken) -> Self {
        Self { drain, at_once: CancellationToken::new() }
    }
}

/// What to do about a coordinator that is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCoordinatorLost {
    /// Finish what is held and try again for ever.
    #[default]
    Finish,
    /// End once it has been away for this long.
    Stop {
        /// The time.
        patience: Duration,
    },
}

/// How a process ended that nothing went wrong with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    /// Told to; everything held was finished or given back.
    #[default]
    Stopped,
    /// It had no job for the idle timeout.
    Idle,
    /// Told to, but the drain time was over before everything could be given back: leases are left to expire.
    DrainRanOut,
}

/// The stages of an end. Each cancelled token stays so.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Lease no more.
    pub stop: CancellationToken,
    /// Break work off, report what there is of it and give back the rest.
    pub cut: CancellationToken,
    /// Make no call a second time.
    pub hurry: CancellationToken,
    /// Wait for no call any more.
    pub over: CancellationToken,
    /// The coordinator is given up.
    pub lost: CancellationToken,
    at_once: CancellationToken,
    drain: Duration,
    on_lost: OnCoordinatorLost,
}

impl Ending {
    /// The end of a process that is told by `shutdown` and then has `drain`.
    pub fn new(shutdown: &Shutdown, drain: Duration, on_lost: OnCoordinatorLost) -> Self {
        Self {
            stop: shutdown.drain.child_token(),
            cut: CancellationToken::new(),
            hurry: CancellationToken::new(),
            over: CancellationToken::new(),
            lost: CancellationToken::new(),
            at_once: shutdown.at_once.clone(),
            drain,
            on_lost,
        }
    }

    /// Cancels the stages as their times come. To be polled beside the work; never ends.
    pub async fn watch(&self, contact: &Contact) -> Infallible {
        let coordinator_lost = async {
            match self.on_lost {
                OnCoordinatorLost::Finish => std::future::pending().await,
                OnCoordinatorLost::Stop { patience } => contact.lost(patience).await,
            }
        };
        let reserve = (self.drain / 4).min(LONGEST_RESERVE);
        let drained = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.drain - reserve).await;
            self.cut.cancel();
            tokio::time::sleep(reserve / 2).await;
        };
        tokio::select! {
            biased;
            () = self.at_once.cancelled() => {}
            () = coordinator_lost => self.lost.cancel(),
            () = drained => {}
        }
        self.stop.cancel();
        self.cut.cancel();
        self.hurry.cancel();
        tokio::time::sleep((reserve / 2).max(LAST_CALLS)).await;
        self.over.cancel();
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn stages(drain: u64, on_lost: OnCoordinatorLost, told: impl FnOnce(&Shutdown)) -> Vec<u128> {
        let shutdown = Shutdown::default();
        let ending = Ending::new(&shutdown, Duration::from_secs(drain), on_lost);
        let contact = Contact::default();
        contact.note(Instant::now(), &Err::<(), _>(tonic::Status::unavailable("away")));
        told(&shutdown);
        let began = Instant::now();
        let times = async {
            let mut times = Vec::new();
            for stage in [&ending.stop, &ending.cut, &ending.hurry, &ending.over] {
                stage.cancelled().await;
                times.push(began.elapsed().as_millis());
            }
            times
        };
        tokio::select! {
            times = times => times,
            never = ending.watch(&contact) => match never {},
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_calls_end_with_the_drain_time() {
        let drained = stages(30, OnCoordinatorLost::Finish, |shutdown| shutdown.drain.cancel()).await;
        assert_eq!(drained, [0, 28_000, 29_000, 30_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_drain_time_there_is_still_time_to_give_back() {
        let none = stages(0, OnCoordinatorLost::Finish, |shutdown| shutdown.drain.cancel()).await;
        assert!(none[2] <= 5 && none[3] >= 1000, "{none:?}");
        let at_once = stages(30, OnCoordinatorLost::Finish, |shutdown| shutdown.at_once.cancel()).await;
        assert_eq!(at_once, [0, 0, 0, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_coordinator_ends_the_process_when_it_should() {
        let patience = Duration::from_secs(7);
        let lost = stages(30, OnCoordinatorLost::Stop { patience }, |_| {}).await;
        assert_eq!(lost, [7000, 7000, 7000, 8000]);
    }
}
