//! Calls to the coordinator that outlast its absence.

use std::time::Duration;

use avsweep_proto::MAX_MESSAGE_BYTES;
use avsweep_proto::v1::job_service_client::JobServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::Backoff;

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
    /// The last status: one that is final, or, in a hurry, any.
    pub async fn call<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(JobServiceClient<Channel>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut failures = 0;
        loop {
            let status = match tokio::time::timeout(self.timeout, call(self.client.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the coordinator did not answer in time"),
            };
            if !is_transient(status.code()) || self.hurry.is_cancelled() {
                return Err(status);
            }
            failures += 1;
            tracing::warn!(
                operation, failures, code = %status.code(), message = status.message(),
                "the coordinator could not be reached; trying again"
            );
            tokio::select! {
                () = tokio::time::sleep(self.backoff.random_delay(failures)) => {}
                () = self.hurry.cancelled() => {}
            }
        }
    }
}

/// Whether the same call may succeed later. A broken connection comes as several codes, `Internal` among them.
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
