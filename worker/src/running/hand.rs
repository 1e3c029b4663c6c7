//! Jobs in hand: taken, evaluated, reported, given back.

use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::SweepId;
use avsweep_lease::{AccessError, HeldLease, error_chain, is_worth_retrying};
use avsweep_proto::{ErrorCode, v1};
use tokio::time::Instant;

use super::{HeldJob, Running};
use crate::definitions::ReadError;
use crate::driver::Event;
use crate::error::{UnfitError, WorkerError};
use crate::evaluate::Task;
use crate::options::UnfitPolicy;
use crate::queue::QueuedJob;
use crate::report::{Batch, Stage};

impl Running {
    /// Takes leased jobs into care and queues them.
    pub(super) async fn accept(&mut self, jobs: Vec<v1::LeasedJob>) -> Result<(), WorkerError> {
        let granted = Instant::now();
        // All leases first: fetching a definition takes time.
        let mut leased = Vec::with_capacity(jobs.len());
        for mut wire in jobs {
            let Some(reference) = wire.lease.take() else {
                tracing::warn!(sweep = wire.sweep, "a job came without a lease and is left alone");
                continue;
            };
            let duration = Duration::from_millis(u64::from(wire.lease_millis));
            leased.push((self.keeper.hold(reference, duration, granted), wire));
        }
        // The request was on its way when the sweep proved to be none for this worker.
        let (unfit, leased): (Vec<_>, Vec<_>) =
            leased.into_iter().partition(|(_, wire)| self.passed_over.contains(SweepId(wire.sweep)));
        self.give_back(unfit.into_iter().map(|(lease, _)| lease).collect()).await;
        let mut leased = leased.into_iter();
        while let Some((lease, wire)) = leased.next() {
            let is_raced = !wire.blocks.is_empty();
            match self.definitions.read(&self.coordinator, wire).await {
                Ok((task, blocks)) => self.queue(lease, task, blocks, is_raced),
                Err(ReadError::Job(error)) => self.fail(&lease, error_chain(&error)).await,
                Err(ReadError::Coordinator(status)) => {
                    let unread = std::iter::once(lease).chain(leased.map(|(lease, _)| lease));
                    self.give_back(unread.collect()).await;
                    if self.coordinator.is_hurried() {
                        return Ok(());
                    }
                    return Err(self.refused("GetDefinition", &status));
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, lease: HeldLease, task: Task, blocks: Vec<Vec<u32>>, is_raced: bool) {
        let number = self.next_number;
        self.next_number += 1;
        let unwanted = lease.work_token();
        let (sweep, rung, point) = (task.sweep.0, task.rung, task.point.clone());
        let job = QueuedJob { number, task: Arc::new(task), blocks, unwanted: unwanted.clone() };
        let batch = Batch::new(rung);
        let reported = Instant::now();
        self.held.insert(number, HeldJob { lease, sweep, point, is_raced, unwanted, batch, rung, reported });
        self.queue.push(job);
    }

    /// Works on one event of the evaluator.
    pub(super) async fn take(&mut self, event: Event) -> Result<(), WorkerError> {
        match event {
            Event::Chunk { number, chunk } => {
                let Some(held) = self.held.get_mut(&number) else { return Ok(()) };
                held.batch.add(&chunk);
                if !held.lease.is_lost() && held.reported.elapsed() >= self.options.report_interval {
                    self.report(number, Stage::Part).await?;
                }
            }
            Event::OutOfMemory { number } => {
                if let Some(held) = self.held.get_mut(&number) {
                    held.batch.add_out_of_memory();
                }
            }
            Event::Block { number, goes_on } => {
                self.report(number, Stage::Block).await?;
                let is_wanted = self.held.get(&number).is_some_and(|held| !held.lease.is_lost());
                // The evaluator is gone when nobody takes the answer: it says so itself.
                let _ = goes_on.send(is_wanted);
            }
            Event::Finished { number } => {
                self.report(number, Stage::Last).await?;
                if let Some(held) = self.held.remove(&number) {
                    let lost = held.lease.is_lost();
                    self.presence.count(|counts| if lost { counts.lost += 1 } else { counts.finished += 1 });
                }
            }
            Event::Stopped { number } => {
                self.report(number, Stage::Part).await?;
                if let Some(held) = self.held.remove(&number) {
                    self.give_back(vec![held.lease]).await;
                }
            }
            Event::Failed { number, error } => {
                self.report(number, Stage::Part).await?;
                if let Some(held) = self.held.remove(&number) {
                    self.fail(&held.lease, error).await;
                }
            }
            Event::Short { number, error } => self.take_short(number, error).await?,
            Event::Unfit { number, error } => self.pass_over(number, error).await?,
            Event::Broken { number, error } => {
                self.report(number, Stage::Part).await?;
                if let Some(held) = self.held.remove(&number) {
                    self.fail(&held.lease, error_chain(&error)).await;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Leaves a job that wants more memory than is here to others, or lets it fail where there are none.
    async fn take_short(&mut self, number: u64, error: String) -> Result<(), WorkerError> {
        let Some(held) = self.held.get(&number) else { return Ok(()) };
        let (sweep, job) = (SweepId(held.sweep), held.lease.job());
        if self.options.unfit == UnfitPolicy::PassOver && self.shortages.leaves(sweep, job) {
            return self.leave_sweep(number, error).await;
        }
        self.report(number, Stage::Part).await?;
        if let Some(held) = self.held.remove(&number) {
            self.fail(&held.lease, error).await;
        }
        Ok(())
    }

    /// Leaves the sweep of a job to other workers whose model cannot be used here, or ends where there are none.
    async fn pass_over(&mut self, number: u64, error: UnfitError) -> Result<(), WorkerError> {
        let Some(held) = self.held.get(&number) else { return Ok(()) };
        let sweep = held.sweep;
        if self.options.unfit == UnfitPolicy::End {
            return Err(WorkerError::Unfit { sweep, source: error });
        }
        self.leave_sweep(number, error_chain(&error)).await
    }

    /// Leaves a job's sweep to other workers for a while, all of its jobs included that wait here.
    async fn leave_sweep(&mut self, number: u64, problem: String) -> Result<(), WorkerError> {
        let Some(held) = self.held.get(&number) else { return Ok(()) };
        let sweep = held.sweep;
        tracing::warn!(
            sweep,
            problem,
            seconds = self.options.pass_over.as_secs(),
            "this worker cannot do the sweep; it is left to others for a while"
        );
        self.passed_over.add(SweepId(sweep), self.options.pass_over, problem);
        let mut numbers = self.queue.remove(|job| job.task.sweep.0 == sweep);
        numbers.push(number);
        self.report(number, Stage::Part).await?;
        let leases = numbers.iter().filter_map(|number| self.held.remove(number)).map(|held| held.lease);
        let leases = leases.collect();
        self.give_back(leases).await;
        Ok(())
    }

    /// Reports a job's batch, if there is one. Results are durable when this returns and the lease is not lost.
    ///
    /// # Errors
    /// When the coordinator is there but cannot store anything, or does not let this worker in.
    pub(super) async fn report(&mut self, number: u64, stage: Stage) -> Result<(), WorkerError> {
        let Some(held) = self.held.get_mut(&number) else { return Ok(()) };
        if held.lease.is_lost() || (held.batch.is_empty() && stage == Stage::Part) {
            return Ok(());
        }
        let batch = std::mem::replace(&mut held.batch, Batch::new(held.rung));
        let results = batch.len() as u64;
        let mut request = batch.into_request(self.options.name.0.clone(), held.lease.reference(), stage);
        // Whoever races no point need not be asked about a race.
        request.block_done &= held.is_raced;
        let answer = self
            .coordinator
            .call("Report", |mut client| {
                let request = request.clone();
                async move { client.report(request).await }
            })
            .await;
        held.reported = Instant::now();
        match answer {
            Ok(answer) if answer.status() == v1::LeaseStatus::Lost => held.lose(),
            Ok(answer) => {
                self.presence.count(|counts| counts.results += results);
                if answer.rest_unwanted {
                    self.drop_point(number).await;
                }
            }
            Err(status) if ErrorCode::of(&status) == Some(ErrorCode::LeaseLost) => held.lose(),
            // Unreachable at the end of the drain time: the results will be made again.
            Err(status) if is_worth_retrying(&status) => {
                tracing::warn!(
                    job = held.lease.job(),
                    reason = status.message(),
                    "results could not be reported"
                );
                held.unwanted.cancel();
                if let Some(held) = self.held.remove(&number) {
                    self.queue.remove(|job| job.number == number);
                    self.give_back(vec![held.lease]).await;
                }
                if !self.coordinator.is_hurried() {
                    return Err(self.refused("Report", &status));
                }
            }
            Err(status) if AccessError::of(&status, "", "").is_some() => {
                return Err(self.refused("Report", &status));
            }
            Err(status) => {
                let error = format!("the coordinator refused the results: {}", status.message());
                tracing::error!(job = held.lease.job(), error);
                held.unwanted.cancel();
                if let Some(held) = self.held.remove(&number) {
                    self.fail(&held.lease, error).await;
                }
            }
        }
        Ok(())
    }

    /// Lets go of a job that the coordinator has closed, because its point is out of reach, and of what else waits here
    /// to be done at that point.
    async fn drop_point(&mut self, number: u64) {
        let Some(held) = self.held.remove(&number) else { return };
        self.presence.count(|counts| counts.finished += 1);
        let unwanted =
            self.queue.remove(|job| job.task.sweep.0 == held.sweep && job.task.point == held.point);
        // Closed as well; one that somebody asked for is given to another worker.
        let leases = unwanted.iter().filter_map(|number| self.held.remove(number)).map(|held| held.lease);
        let leases: Vec<_> = leases.collect();
        if !leases.is_empty() {
            self.give_back(leases).await;
        }
    }

    async fn fail(&mut self, lease: &HeldLease, error: String) {
        if lease.is_lost() {
            self.presence.count(|counts| counts.lost += 1);
            return;
        }
        self.presence.count(|counts| counts.failed += 1);
        self.coordinator.fail(&self.options.name, lease.reference(), error, None).await;
    }

    /// Gives leases back uncounted; one that cannot be given back expires.
    pub(super) async fn give_back(&mut self, leases: Vec<HeldLease>) {
        let (lost, held): (Vec<_>, Vec<_>) = leases.into_iter().partition(HeldLease::is_lost);
        self.presence.count(|counts| {
            counts.lost += lost.len() as u64;
            counts.released += held.len() as u64;
        });
        self.give_back_references(held.iter().map(HeldLease::reference).collect()).await;
    }

    pub(super) async fn give_back_references(&mut self, leases: Vec<v1::LeaseRef>) {
        let count = leases.len();
        if !self.coordinator.release(&self.options.name, leases, None).await {
            self.left_behind += count;
        }
    }
}

impl HeldJob {
    fn lose(&self) {
        self.lease.mark_lost();
        tracing::info!(job = self.lease.job(), "the lease is lost: its work is dropped");
    }
}
