//! Calls to the coordinator that outlast its absence.

use std::error::Error;
use std::time::Duration;

use avsweep_domain::WorkerId;
use avsweep_proto::MAX_MESSAGE_BYTES;
use avsweep_proto::v1;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::Backoff;

/// How often a call is repeated that the coordinator itself answers with an internal error.
const INTERNAL_RETRIES: u32 = 8;

/// The coordinator, called again and again while it is away.
#[derive(Clone, Debug)]
pub struct CoordinatorClient {
    /// The generated client, for calls that are made once.
    pub client: JobServiceClient<Channel>,
    /// Waits between tries.
    pub backoff: Backoff,
    /// Longest time one call may take.
    pub timeout: Duration,
    /// Once cancelled, no call is made a second time.
    pub hurry: CancellationToken,
}

/// A client over `channel` that takes messages up to the protocol's limit.
pub fn job_client(channel: Channel) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl CoordinatorClient {
    /// Calls until there is an answer that another try would not change.
    ///
    /// Only for calls that may be made twice; all of the lease protocol's may.
    ///
    /// # Errors
    /// The last status: one that is final (see [`Patience`]), or, in a hurry, any.
    pub async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(JobServiceClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut patience = Patience::default();
        loop {
            let status = match tokio::time::timeout(self.timeout, call(self.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the coordinator did not answer in time"),
            };
            if !patience.allows_another_try(&status) || self.hurry.is_cancelled() {
                return Err(status);
            }
            let failures = patience.failures();
            tracing::warn!(
                operation, failures, code = %status.code(), message = status.message(),
                "{}; trying again", problem(&status)
            );
            tokio::select! {
                () = tokio::time::sleep(self.backoff.random_delay(failures)) => {}
                () = self.hurry.cancelled() => {}
            }
        }
    }

    /// Gives jobs back, uncounted. When that fails, it is logged and their leases expire by themselves.
    pub async fn release(&self, worker: &WorkerId, leases: Vec<v1::LeaseRef>) {
        if leases.is_empty() {
            return;
        }
        let jobs: Vec<i64> = leases.iter().map(|lease| lease.job).collect();
        let request = v1::ReleaseRequest { worker: worker.0.clone(), leases };
        let answer = self
            .call("Release", |mut client| {
                let request = request.clone();
                async move { client.release(request).await }
            })
            .await;
        match answer {
            Ok(_) => tracing::info!(?jobs, "jobs given back"),
            Err(status) => tracing::warn!(
                ?jobs, code = %status.code(), message = status.message(),
                "jobs could not be given back; their leases will expire"
            ),
        }
    }

    /// Says that a job failed, which counts against it. When that fails, it is logged and the lease expires by itself.
    pub async fn fail(&self, worker: &WorkerId, lease: v1::LeaseRef, error: String) {
        let job = lease.job;
        tracing::warn!(job, error, "the job failed");
        let request = v1::FailRequest { worker: worker.0.clone(), lease: Some(lease), error };
        let answer = self
            .call("Fail", |mut client| {
                let request = request.clone();
                async move { client.fail(request).await }
            })
            .await;
        if let Err(status) = answer {
            tracing::warn!(
                job, code = %status.code(), message = status.message(),
                "the failure could not be reported; the lease will expire"
            );
        }
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
        is_transient(status.code()) && self.internal_answers <= INTERNAL_RETRIES
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

/// Whether the same call may succeed later. A broken connection comes as several codes, `Internal` among them; how
/// long to believe in that, [`Patience`] says.
pub fn is_transient(code: Code) -> bool {
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
