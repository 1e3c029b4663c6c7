//! Leases: handing out jobs and taking their results.

use std::time::Duration;

use avsweep_domain::{Rung, SweepId, WorkerId};
use avsweep_store::{JobResults, LeaseClaim, LeaseRef, LeaseStatus, LeasedJob, Report};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::metrics::{FailureKind, Usage};
use crate::{Coordinator, CoordinatorError, error_text};

/// A worker's wish for jobs.
#[derive(Clone, Debug)]
pub(crate) struct LeaseWish {
    pub(crate) worker: WorkerId,
    pub(crate) rungs: Vec<Rung>,
    pub(crate) max_jobs: u32,
    pub(crate) wait: Duration,
    /// Sweeps that it cannot do.
    pub(crate) except: Vec<SweepId>,
    /// The sweep that it would like to stay with.
    pub(crate) prefers: Option<SweepId>,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) status: LeaseStatus,
    /// The job is closed: the point is out of reach.
    pub(crate) rest_unwanted: bool,
}

/// Texts of one answer's judgement jobs, in bytes: half of what a message may have.
const ANSWER_BYTES: usize = avsweep_proto::MAX_MESSAGE_BYTES / 2;

/// How many of the jobs fit into one answer; at least one.
///
/// An answer that is too large to send would leave its jobs leased to a worker that never heard of them.
fn fitting(jobs: &[LeasedJob], limit: usize) -> usize {
    let mut bytes = 0;
    let fit = jobs.iter().take_while(|job| {
        bytes += job.responses.iter().map(|response| response.text.len()).sum::<usize>();
        bytes <= limit
    });
    fit.count().max(1).min(jobs.len())
}

impl Coordinator {
    /// Leases jobs; waits for the first one for as long as the worker and the settings allow.
    ///
    /// However many wait, the store is asked by one poller for all of them; those that it wakes claim together.
    pub(crate) async fn lease(&self, wish: &LeaseWish) -> Result<Vec<LeasedJob>, CoordinatorError> {
        let deadline = Instant::now() + wish.wait.min(self.settings.max_wait);
        let mut waiting = None;
        loop {
            if self.stopping.is_cancelled() {
                return Err(CoordinatorError::ShuttingDown);
            }
            // Before looking, so that jobs that become ready in between wake us.
            let mut more = std::pin::pin!(self.signals.next_jobs());
            more.as_mut().enable();
            let woken = waiting.is_some();
            let jobs = if !woken || self.signals.worth_looking(&wish.rungs) {
                self.claim(wish, woken).await?
            } else {
                Vec::new()
            };
            if !jobs.is_empty() {
                self.signals.changed();
                return Ok(jobs);
            }
            if waiting.is_none() {
                // An idle worker is what the planner works for.
                waiting = Some(self.signals.waiting(&wish.rungs));
                self.signals.wake_planner();
            }
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => {}
                () = more => {}
                () = sleep_until(deadline) => return Ok(Vec::new()),
            }
        }
    }

    /// Looks for jobs once.
    async fn claim(&self, wish: &LeaseWish, woken: bool) -> Result<Vec<LeasedJob>, CoordinatorError> {
        let claim = LeaseClaim {
            worker: wish.worker.clone(),
            rungs: wish.rungs.clone(),
            max_jobs: wish.max_jobs.min(self.settings.max_jobs_per_lease),
            duration: self.settings.lease_duration,
            token: self.tokens.draw(),
            except: wish.except.clone(),
            prefers: wish.prefers,
        };
        let mut jobs = self.claims.lease(claim, woken).await?;
        let surplus: Vec<LeaseRef> =
            jobs.drain(fitting(&jobs, ANSWER_BYTES)..).map(|job| job.lease.reference).collect();
        if !surplus.is_empty() {
            self.store.release(&surplus, self.clock.now()).await?;
        }
        for job in &jobs {
            self.metrics.jobs_leased(job.rung, 1);
        }
        if !jobs.is_empty() {
            debug!(worker = %wish.worker, jobs = jobs.len(), rung = %jobs[0].rung, "jobs leased");
        }
        Ok(jobs)
    }

    /// Extends leases from now.
    pub(crate) async fn renew(&self, leases: &[LeaseRef]) -> Result<Vec<LeaseStatus>, CoordinatorError> {
        Ok(self.store.renew(leases, self.settings.lease_duration, self.clock.now()).await?)
    }

    /// Stores results under a lease. `block_done`: a block of the job is done, and the worker asks whether to go on.
    ///
    /// What judging took is counted under a lost lease too.
    pub(crate) async fn report(
        &self,
        worker: &WorkerId,
        report: &Report,
        usage: &Usage,
        block_done: bool,
    ) -> Result<Taken, CoordinatorError> {
        let (rung, count) = match &report.results {
            JobResults::Scores(scores) => (Rung::Likelihood, scores.len()),
            JobResults::Responses(responses) => (Rung::Generation, responses.len()),
            JobResults::Verdicts(verdicts) => (Rung::Judgement, verdicts.len()),
        };
        let status = self.store.report(report, self.clock.now()).await?;
        let mut rest_unwanted = false;
        match status {
            LeaseStatus::Held => {
                self.metrics.report_taken(rung, count, &report.timings, usage);
                self.signals.changed();
                // The results are stored: a look that fails must not fail the report.
                rest_unwanted = block_done
                    && self.look_at_race(report).await.unwrap_or_else(|error| {
                        warn!(job = %report.lease.job, error = error_text(&error), "no look at the race");
                        false
                    });
                if report.finished || rest_unwanted {
                    self.signals.job_closed(rung);
                    if !self.cursors.adaptive().is_empty() {
                        // What was withheld from this worker is for it now.
                        self.signals.jobs_ready();
                    }
                }
            }
            LeaseStatus::Lost => {
                self.metrics.report_lost(rung);
                self.metrics.judge_usage(usage);
                debug!(%worker, job = %report.lease.job, attempt = report.lease.attempt, "report from a lost lease");
            }
        }
        Ok(Taken { status, rest_unwanted })
    }

    /// Gives jobs back unfinished and uncounted; there may be none, and something spent to count.
    pub(crate) async fn release(
        &self,
        worker: &WorkerId,
        leases: &[LeaseRef],
        usage: &Usage,
    ) -> Result<(), CoordinatorError> {
        if leases.is_empty() {
            self.metrics.judge_usage(usage);
            return Ok(());
        }
        self.store.release(leases, self.clock.now()).await?;
        self.metrics.judge_usage(usage);
        debug!(%worker, jobs = leases.len(), "jobs given back");
        self.signals.changed();
        self.signals.jobs_ready();
        Ok(())
    }

    /// Counts a failed evaluation.
    pub(crate) async fn fail(
        &self,
        worker: &WorkerId,
        lease: &LeaseRef,
        error: &str,
        usage: &Usage,
    ) -> Result<LeaseStatus, CoordinatorError> {
        let limits = self.settings.failure_limits;
        let status = self.store.fail(lease, error, limits, self.clock.now()).await?;
        self.metrics.judge_usage(usage);
        if status == LeaseStatus::Held {
            warn!(%worker, job = %lease.job, attempt = lease.attempt, error, "evaluation failed");
            self.metrics.failures(FailureKind::Error, 1);
            self.signals.changed();
            // Ready again, or parked and perhaps the last open job.
            self.signals.jobs_ready();
            self.signals.wake_planner();
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use avsweep_domain::{Fingerprint, FinishReason, JobId, LeaseToken, Point, Response, SweepId};
    use avsweep_store::{Lease, Timestamp};

    use super::*;

    fn judgement(bytes: usize) -> LeasedJob {
        let reference = LeaseRef { job: JobId(1), attempt: 1, token: LeaseToken::from_bytes([0; 16]) };
        LeasedJob {
            lease: Lease { reference, expires: Timestamp(0) },
            sweep: SweepId(1),
            sweep_fingerprint: Fingerprint::of(b"sweep"),
            rung: Rung::Judgement,
            point: Point::origin(1),
            ordinals: vec![0],
            responses: vec![Response { text: "x".repeat(bytes), tokens: 1, finish: FinishReason::Stop }],
        }
    }

    #[test]
    fn an_answer_holds_what_fits_and_at_least_one_job() {
        let jobs = [judgement(40), judgement(60), judgement(1)];
        assert_eq!(fitting(&jobs, 1000), 3);
        assert_eq!(fitting(&jobs, 100), 2);
        assert_eq!(fitting(&jobs, 39), 1);
        assert_eq!(fitting(&[], 39), 0);
    }
}
