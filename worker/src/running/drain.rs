//! The end: what is on the evaluator is finished if there is time, everything else given back.

use std::pin::Pin;
use std::time::Duration;

use avsweep_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use super::Running;
use crate::driver::Event;
use crate::report::Stage;

impl Running {
    /// Waits for the answer to a request that was under way at the stop and gives back what it brings.
    pub(super) async fn give_back_late(
        &mut self,
        asking: Pin<&mut impl Future<Output = Result<v1::LeaseResponse, Status>>>,
        wait: Duration,
    ) {
        let patience = wait + Duration::from_secs(1);
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(patience, asking) => answer,
            () = self.ending.cut.cancelled() => return,
        };
        let Ok(Ok(answer)) = answer else { return };
        let leases: Vec<_> = answer.jobs.into_iter().filter_map(|job| job.lease).collect();
        self.presence.count(|counts| counts.released += leases.len() as u64);
        self.give_back_references(leases).await;
    }

    /// Finishes the job on the evaluator within the drain time and gives back the rest; whether all of that was done
    /// before its end. In a hurry, nothing is waited for.
    pub(crate) async fn drain(&mut self, events: &mut mpsc::Receiver<Event>) -> bool {
        self.presence.set_state(v1::WorkerState::Draining);
        let waiting = self.queue.remove(|_| true);
        let leases = waiting.iter().filter_map(|number| self.held.remove(number)).map(|held| held.lease);
        let leases = leases.collect();
        self.give_back(leases).await;
        while !self.held.is_empty() {
            let event = tokio::select! {
                biased;
                () = self.ending.hurry.cancelled() => break,
                event = events.recv() => event,
                () = self.ending.cut.cancelled() => break,
            };
            let Some(event) = event else { break };
            if let Err(error) = self.take(event).await {
                tracing::warn!(%error, "the drain is broken off");
                self.ending.hurry.cancel();
            }
        }
        // What a long job has so far is not thrown away.
        while let Ok(Event::Chunk { number, chunk }) = events.try_recv() {
            if let Some(held) = self.held.get_mut(&number) {
                held.batch.add(&chunk);
            }
        }
        for number in self.held.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.report(number, Stage::Part).await {
                tracing::warn!(%error, "the last results could not be reported");
            }
        }
        let left = std::mem::take(&mut self.held);
        left.values().for_each(|held| held.unwanted.cancel());
        self.give_back(left.into_values().map(|held| held.lease).collect()).await;
        self.presence.stopped().await;
        self.left_behind == 0
    }
}
