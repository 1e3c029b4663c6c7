//! One judgement job: its items judged side by side, its verdicts reported in batches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use avsweep_domain::{Fingerprint, Response, Rung, SweepId, Verdict};
use avsweep_lease::{HeldLease, error_chain};
use avsweep_proto::{ConvertError, ErrorCode, WireEnum, v1};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::Context;
use super::sweeps::{Sweep, SweepError};
use crate::error::{JudgeError, shorten};

/// Items of one job under way at once; a model judge's own limit lies below or acts within this.
const ITEMS_UNDER_WAY: usize = 64;
/// Characters of an error that are sent.
const ERROR_CHARACTERS: usize = 2000;

/// A leased judgement job, read and checked.
#[derive(Debug)]
pub(super) struct JudgementJob {
    sweep: SweepId,
    fingerprint: Fingerprint,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    ordinal: u32,
    response: Response,
}

impl TryFrom<v1::LeasedJob> for JudgementJob {
    type Error = ConvertError;

    fn try_from(wire: v1::LeasedJob) -> Result<Self, ConvertError> {
        const MESSAGE: &str = "LeasedJob";
        let rung = v1::Rung::read(MESSAGE, "rung", wire.rung)?;
        if rung != Rung::Judgement {
            return Err(ConvertError::invalid(MESSAGE, "rung", rung, "judgement"));
        }
        if wire.responses.len() != wire.ordinals.len() {
            let found = format_args!("{} long", wire.responses.len());
            return Err(ConvertError::invalid(MESSAGE, "responses", found, "one response per ordinal"));
        }
        if !wire.ordinals.is_sorted_by(|earlier, later| earlier < later) {
            return Err(ConvertError::invalid(MESSAGE, "ordinals", "not ascending", "an ascending list"));
        }
        let items = wire
            .ordinals
            .into_iter()
            .zip(wire.responses)
            .map(|(ordinal, response)| Ok(Item { ordinal, response: response.try_into()? }));
        Ok(Self {
            sweep: SweepId(wire.sweep),
            fingerprint: avsweep_proto::fingerprint(MESSAGE, "sweep_fingerprint", &wire.sweep_fingerprint)?,
            items: items.collect::<Result<_, ConvertError>>()?,
        })
    }
}

/// Why a job failed; the text goes to the coordinator.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error("the leased job cannot be read")]
    Read(#[from] ConvertError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error("the job names query {ordinal}; the sweep has {count}")]
    UnknownQuery { ordinal: u32, count: usize },
    #[error("query '{query}'")]
    Judge {
        query: String,
        #[source]
        source: JudgeError,
    },
    #[error("the coordinator refused the verdicts")]
    Report(#[source] Status),
}

impl JobError {
    /// The failure that is the judge's own.
    fn of_judge(&self) -> Option<&JudgeError> {
        match self {
            Self::Judge { source, .. } | Self::Sweep(SweepError::Judge(_, source)) => Some(source),
            Self::Read(_) | Self::Sweep(_) | Self::UnknownQuery { .. } | Self::Report(_) => None,
        }
    }

    /// Of several failures in one job, the one of the widest reach says how the job ends.
    fn reach(&self) -> u8 {
        match self.of_judge() {
            Some(error) if error.is_lasting() => 2,
            Some(error) if error.may_pass() => 1,
            Some(_) | None => 0,
        }
    }
}

/// How a job ended for this process.
#[derive(Debug)]
pub(super) enum End {
    Finished,
    Failed(JobError),
    /// The endpoint is away; to be given back, for it is no fault of the job.
    Away(JobError),
    /// The judge cannot work until somebody changes its settings; to be given back.
    Broken(JudgeError),
    /// Not done within the drain time; to be given back.
    Undone,
    Lost,
}

impl From<JobError> for End {
    fn from(error: JobError) -> Self {
        match error.of_judge() {
            Some(judge) if judge.is_lasting() => Self::Broken(judge.clone()),
            Some(judge) if judge.may_pass() => Self::Away(error),
            Some(_) | None => Self::Failed(error),
        }
    }
}

/// Judges a job to its end, whatever that is, and says so to the coordinator.
pub(super) async fn work(
    context: &Context,
    job: Result<JudgementJob, ConvertError>,
    lease: HeldLease,
) -> End {
    let sweep = job.as_ref().ok().map(|job| job.sweep);
    let end = match job {
        Ok(job) => drive(context, job, &lease).await,
        Err(error) => End::Failed(error.into()),
    };
    match &end {
        End::Finished => {
            context.outage.over();
            tracing::debug!(job = lease.job(), "job judged");
        }
        // Before the job is given back, or it would be leased again at once.
        End::Away(error) => {
            let pause = context.outage.note(context.options.outage, &context.options.jitter);
            tracing::warn!(
                job = lease.job(), error = %error_chain(error), pause_millis = pause.as_millis() as u64,
                "the judge's endpoint is away; the job is given back and no other leased for a while"
            );
            release(context, &lease).await;
        }
        End::Broken(error) => {
            context.unusable(sweep, error);
            release(context, &lease).await;
        }
        End::Lost => tracing::info!(job = lease.job(), "the lease is lost: its work is dropped"),
        End::Undone => release(context, &lease).await,
        End::Failed(error) => {
            tracing::warn!(job = lease.job(), error = %error_chain(error), "a job could not be judged in full");
            fail(context, &lease, error).await;
        }
    }
    end
}

async fn drive(context: &Context, job: JudgementJob, lease: &HeldLease) -> End {
    let sweep = tokio::select! {
        biased;
        () = lease.lost() => return End::Lost,
        () = context.ending.cut.cancelled() => return End::Undone,
        sweep = context.sweeps.get(job.sweep, job.fingerprint) => match sweep {
            Ok(sweep) => sweep,
            // The coordinator was away and there is no time left to wait for it.
            Err(SweepError::Fetch(..)) if context.ending.cut.is_cancelled() => return End::Undone,
            Err(error) => return JobError::from(error).into(),
        },
    };
    let count = sweep.queries.len();
    if let Some(item) = job.items.iter().find(|item| item.ordinal as usize >= count) {
        return End::Failed(JobError::UnknownQuery { ordinal: item.ordinal, count });
    }
    let total = job.items.len();
    let (sender, receiver) = mpsc::channel(context.options.batch.max(1));
    let judging = judge_items(&sweep, job.items, sender);
    let reporting = Reporter::new(context, lease, total).run(receiver);
    tokio::select! {
        biased;
        // Judging ends by hanging up; how the job ends, the reporter says.
        end = reporting => end,
        never = async {
            judging.await;
            std::future::pending::<End>().await
        } => never,
    }
}

/// Judges every item, several at once, and hands each outcome on as it comes.
///
/// After a failure that lies in the endpoint, items that have not begun are left for the next attempt.
async fn judge_items(
    sweep: &Sweep,
    items: Vec<Item>,
    outcomes: mpsc::Sender<(u32, Result<Verdict, JobError>)>,
) {
    let give_up = AtomicBool::new(false);
    let (give_up, outcomes) = (&give_up, &outcomes);
    stream::iter(items)
        .take_while(|_| std::future::ready(!give_up.load(Ordering::Relaxed)))
        .for_each_concurrent(ITEMS_UNDER_WAY, |Item { ordinal, response }| async move {
            let query = &sweep.queries[ordinal as usize];
            let outcome = sweep.judge.judge(query, &response).await.map_err(|source| {
                if !source.is_item_specific() {
                    give_up.store(true, Ordering::Relaxed);
                }
                JobError::Judge { query: query.id.clone(), source }
            });
            // Nobody listens any more when the job has ended otherwise.
            let _ = outcomes.send((ordinal, outcome)).await;
        })
        .await;
}

/// Collects a job's verdicts and reports them.
struct Reporter<'a> {
    context: &'a Context,
    lease: &'a HeldLease,
    /// Outcomes that are still to come.
    remaining: usize,
    pending: Vec<v1::VerdictResult>,
    /// When the oldest pending verdict must go out.
    flush_at: Instant,
    /// Up to when evaluation time has been reported.
    reported_until: Instant,
    /// When the newest verdict came.
    newest: Instant,
    /// The first of the failures of the widest reach.
    error: Option<JobError>,
}

impl<'a> Reporter<'a> {
    fn new(context: &'a Context, lease: &'a HeldLease, total: usize) -> Self {
        let now = Instant::now();
        Self {
            context,
            lease,
            remaining: total,
            pending: Vec::new(),
            flush_at: now,
            reported_until: now,
            newest: now,
            error: None,
        }
    }

    async fn run(mut self, mut outcomes: mpsc::Receiver<(u32, Result<Verdict, JobError>)>) -> End {
        match self.collect(&mut outcomes).await {
            Ok(()) => {}
            Err(end) => return end,
        }
        let finished = self.error.is_none();
        if (finished || !self.pending.is_empty())
            && let Err(end) = self.report(finished).await
        {
            return end;
        }
        self.error.map_or(End::Finished, End::from)
    }

    /// Takes outcomes until none will come, and reports whole and old batches on the way.
    async fn collect(
        &mut self,
        outcomes: &mut mpsc::Receiver<(u32, Result<Verdict, JobError>)>,
    ) -> Result<(), End> {
        // Without an error the last batch is left for the report that finishes the job.
        while self.remaining > 0 {
            tokio::select! {
                biased;
                // Not while a report is under way: its own answer says whether it counted, and a lease also ends by
                // the report that finishes the job.
                () = self.lease.lost() => return Err(End::Lost),
                () = self.context.ending.cut.cancelled() => {
                    while let Ok(outcome) = outcomes.try_recv() {
                        self.take(outcome);
                    }
                    if !self.pending.is_empty() {
                        self.report(false).await?;
                    }
                    return Err(End::Undone);
                }
                outcome = outcomes.recv() => match outcome {
                    Some(outcome) => self.take(outcome),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(self.flush_at), if !self.pending.is_empty() => {
                    self.report(false).await?;
                }
            }
            if self.remaining > 0 && self.pending.len() >= self.context.options.batch.max(1) {
                self.report(false).await?;
            }
        }
        Ok(())
    }

    fn take(&mut self, (ordinal, outcome): (u32, Result<Verdict, JobError>)) {
        self.remaining = self.remaining.saturating_sub(1);
        self.newest = Instant::now();
        match outcome {
            Ok(verdict) => {
                if self.pending.is_empty() {
                    self.flush_at = self.newest + self.context.options.batch_age;
                }
                self.pending.push((&(ordinal, verdict)).into());
            }
            Err(error) => {
                // How the job ends is told once; a dead endpoint would fill the log with what all its responses say.
                tracing::debug!(
                    job = self.lease.job(), ordinal, error = %error_chain(&error),
                    "a response could not be judged"
                );
                if self.error.as_ref().is_none_or(|widest| error.reach() > widest.reach()) {
                    self.error = Some(error);
                }
            }
        }
    }

    /// Sends the pending verdicts. They are durable when this returns.
    async fn report(&mut self, finished: bool) -> Result<(), End> {
        let count = self.pending.len() as u64;
        let evaluate = self.newest.saturating_duration_since(self.reported_until);
        let usage = self.context.meter.take(self.context.options.prices);
        let request = v1::ReportRequest {
            worker: self.context.options.worker.0.clone(),
            lease: Some(self.lease.reference()),
            results: Some(v1::report_request::Results::Verdicts(v1::VerdictResults {
                results: std::mem::take(&mut self.pending),
            })),
            finished,
            usage,
            block_done: false,
            timings: Some(v1::Timings { load_micros: 0, merge_micros: 0, evaluate_micros: micros(evaluate) }),
        };
        self.reported_until = self.newest;
        let answer = self
            .context
            .coordinator
            .call("Report", |mut client| {
                let request = request.clone();
                async move { client.report(request).await }
            })
            .await;
        if let (Err(_), Some(usage)) = (&answer, usage) {
            self.context.meter.put_back(&usage);
        }
        match answer {
            Ok(answer) if answer.status() == v1::LeaseStatus::Lost => {
                self.lease.mark_lost();
                Err(End::Lost)
            }
            Ok(_) => {
                self.context.presence.count(|counts| counts.results += count);
                Ok(())
            }
            // Unreachable at the end of the drain time; the verdicts will be made again.
            Err(status) if ErrorCode::of(&status) == Some(ErrorCode::LeaseLost) => {
                self.lease.mark_lost();
                Err(End::Lost)
            }
            Err(_) if self.context.ending.cut.is_cancelled() => Err(End::Undone),
            Err(status) => {
                self.context.refuse_access(&status);
                Err(End::Failed(JobError::Report(status)))
            }
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

async fn fail(context: &Context, lease: &HeldLease, error: &JobError) {
    // What a lost job cost is told with the next call.
    if lease.is_lost() {
        return;
    }
    let error = shorten(&error_chain(error), ERROR_CHARACTERS);
    let usage = context.meter.take(context.options.prices);
    // Waited for even if the lease is lost meanwhile: what the coordinator may have counted must not be told again.
    let told = context.coordinator.fail(&context.options.worker, lease.reference(), error, usage).await;
    if let (false, Some(usage)) = (told, usage) {
        context.meter.put_back(&usage);
    }
}

/// Gives a job back; when that fails, its lease expires by itself.
pub(super) async fn release(context: &Context, lease: &HeldLease) {
    if !tell(context, vec![lease.reference()]).await {
        context.left_behind.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells what was spent since the last report.
pub(super) async fn tell_usage(context: &Context) {
    tell(context, Vec::new()).await;
}

async fn tell(context: &Context, leases: Vec<v1::LeaseRef>) -> bool {
    let usage = context.meter.take(context.options.prices);
    let told = context.coordinator.release(&context.options.worker, leases, usage).await;
    if let (false, Some(usage)) = (told, usage) {
        context.meter.put_back(&usage);
    }
    told
}
