//! Calls to the coordinator that outlast its absence.

use std::error::Error;
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use avsweep_proto::{ErrorCode, MAX_MESSAGE_BYTES};
use avsweep_transport::Transport;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use crate::{Backoff, Contact, Ending, Jitter};

/// How often a call is repeated that the coordinator itself answers with an internal error.
const INTERNAL_RETRIES: u32 = 8;

/// The coordinator, called again and again while it is away. Clones share what they know of it.
#[derive(Clone, Debug)]
pub struct CoordinatorClient {
    client: JobServiceClient<Transport>,
    /// Waits between tries.
    pub backoff: Backoff,
    /// Where those waits are drawn from.
    pub jitter: Jitter,
    /// Longest time one call may take.
    pub timeout: Duration,
    /// Whether it is there.
    pub contact: Contact,
    /// Once cancelled, no call is made a second time.
    hurry: CancellationToken,
    /// Once cancelled, no answer is waited for.
    over: CancellationToken,
}

/// A client over `transport` that takes messages up to the protocol's limit.
pub fn job_client(transport: Transport) -> JobServiceClient<Transport> {
    JobServiceClient::new(transport)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl CoordinatorClient {
    /// The coordinator behind `transport`, for a process that ends by `ending`.
    pub fn new(
        transport: Transport,
        ending: &Ending,
        backoff: Backoff,
        jitter: Jitter,
        timeout: Duration,
    ) -> Self {
        Self {
            client: job_client(transport),
            backoff,
            jitter,
            timeout,
            contact: Contact::default(),
            hurry: ending.hurry.clone(),
            over: ending.over.clone(),
        }
    }

    /// Calls once, for at most `timeout`.
    ///
    /// # Errors
    /// The coordinator's status, or one that says that it did not answer.
    pub async fn once<T, F>(
        &self,
        timeout: Duration,
        call: impl FnOnce(JobServiceClient<Transport>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let started = Instant::now();
        let outcome = tokio::select! {
            biased;
            answer = tokio::time::timeout(timeout, call(self.client.clone())) => match answer {
                Ok(answer) => answer.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("the coordinator did not answer in time")),
            },
            () = self.over.cancelled() => {
                Err(Status::deadline_exceeded("the coordinator did not answer before this process's end"))
            }
        };
        self.contact.note(started, &outcome);
        outcome
    }

    /// Calls until there is an answer that another try would not change.
    ///
    /// Only for calls that may be made twice; all of the lease protocol's may.
    ///
    /// # Errors
    /// The last status: one that is final (see [`Patience`]), or, in a hurry, any.
    pub async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(JobServiceClient<Transport>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut patience = Patience::default();
        loop {
            let status = match self.once(self.timeout, &call).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !patience.allows_another_try(&status) || self.hurry.is_cancelled() {
                return Err(status);
            }
            let failures = patience.failures();
            tracing::warn!(
                operation, failures, code = ?status.code(), reason = status.message(),
                "{}; trying again", problem(&status)
            );
            tokio::select! {
                biased;
                () = tokio::time::sleep(self.jitter.delay(self.backoff, failures)) => {}
                () = self.hurry.cancelled() => {}
            }
        }
    }

    /// Whether no call is made a second time any more.
    pub fn is_hurried(&self) -> bool {
        self.hurry.is_cancelled()
    }

    /// Gives jobs back, uncounted, and tells what was spent and not told yet; whether that succeeded. When it fails, it
    /// is logged and the leases expire by themselves.
    pub async fn release(
        &self,
        worker: &WorkerId,
        leases: Vec<v1::LeaseRef>,
        usage: Option<v1::Usage>,
    ) -> bool {
        if leases.is_empty() && usage.is_none() {
            return true;
        }
        let jobs: Vec<i64> = leases.iter().map(|lease| lease.job).collect();
        let request = v1::ReleaseRequest { worker: worker.0.clone(), leases, usage };
        let answer = self
            .call("Release", |mut client| {
                let request = request.clone();
                async move { client.release(request).await }
            })
            .await;
        match &answer {
            Ok(_) if jobs.is_empty() => tracing::debug!("what was spent is told"),
            Ok(_) => tracing::info!(?jobs, "jobs given back"),
            Err(status) if jobs.is_empty() => tracing::warn!(
                code = ?status.code(), reason = status.message(),
                "what was spent since the last report could not be told"
            ),
            Err(status) => tracing::warn!(
                ?jobs, code = ?status.code(), reason = status.message(),
                "jobs could not be given back; their leases will expire"
            ),
        }
        answer.is_ok()
    }

    /// Says that a job failed, which counts against it; whether that was heard. When it was not, that is logged and the
    /// lease expires by itself.
    pub async fn fail(
        &self,
        worker: &WorkerId,
        lease: v1::LeaseRef,
        error: String,
        usage: Option<v1::Usage>,
    ) -> bool {
        let job = lease.job;
        tracing::warn!(job, error, "the job failed");
        let request = v1::FailRequest { worker: worker.0.clone(), lease: Some(lease), error, usage };
        let answer = self
            .call("Fail", |mut client| {
                let request = request.clone();
                async move { client.fail(request).await }
            })
            .await;
        if let Err(status) = &answer {
            tracing::warn!(
                job, code = ?status.code(), reason = status.message(),
                "the failure could not be reported; the lease will expire"
            );
        }
        answer.is_ok()
    }
}

/// Failures of one call in a row, and whether another try makes sense.
///
/// A coordinator that is away is waited for without end. One that answers, but with an internal error, has something
/// broken of its own, such as its store: that is retried a few times only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    failures: u32,
    internal_answers: u32,
}

impl Patience {
    /// Notes a failure; whether the same call is worth another try.
    pub fn allows_another_try(&mut self, status: &Status) -> bool {
        self.failures = self.failures.saturating_add(1);
        if is_internal_answer(status) {
            self.internal_answers += 1;
        }
        is_worth_retrying(status) && self.internal_answers <= INTERNAL_RETRIES
    }

    /// Failures noted so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Whether the coordinator itself said `Internal`: what the transport makes up names its cause.
fn is_internal_answer(status: &Status) -> bool {
    status.code() == Code::Internal && status.source().is_none()
}

fn problem(status: &Status) -> &'static str {
    if is_internal_answer(status) {
        "the coordinator answered with an error"
    } else {
        "the coordinator could not be reached"
    }
}

/// Whether the same call may succeed later: as the coordinator itself says where it does, else by gRPC's code.
pub fn is_worth_retrying(status: &Status) -> bool {
    match ErrorCode::of(status) {
        Some(code) => matches!(
            code,
            ErrorCode::ShuttingDown
                | ErrorCode::TooManyRequests
                | ErrorCode::StoreUnavailable
                | ErrorCode::Internal
                | ErrorCode::TlsHandshake
        ),
        None => is_transient(status.code()),
    }
}

/// Whether the same call may succeed later. A broken connection comes as several codes, `Internal` among them; how
/// long to believe in that, [`Patience`] says.
fn is_transient(code: Code) -> bool {
    match code {
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => true,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}
