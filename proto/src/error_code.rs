//! Why a request was refused: one closed list for both sides of the wire.
//!
//! gRPC's own codes are too few to tell a program what to do ("is my lease gone, or is the job not there?"). Every
//! refusal carries one of these in its metadata, beside the gRPC code that fits it best.

use std::fmt;
use std::str::FromStr;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// A refusal's reason, in words that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// The message cannot be decoded, or says too little or the wrong thing.
    Malformed,
    /// The message is larger than the coordinator takes.
    MessageTooLarge,
    /// No token, or one that nobody was given.
    Unauthenticated,
    /// A good token, of a role that may not do this.
    Forbidden,
    /// The lease was lost: nothing was written.
    LeaseLost,
    /// There is no such job.
    UnknownJob,
    /// Results that cannot be of their job: number, kind, ordinal.
    WrongResults,
    /// A number that is none: NaN or infinite.
    NotFinite,
    /// There is no such sweep.
    UnknownSweep,
    /// The name is taken by a sweep with another definition.
    SweepDiffers,
    /// What is asked for is not possible in the state that the thing is in.
    WrongState,
    /// There is no such method.
    UnknownMethod,
    /// The coordinator ends; another one, or this one later, will answer.
    ShuttingDown,
    /// More requests at once than the coordinator takes.
    TooManyRequests,
    /// The database is away; the same request may succeed soon.
    StoreUnavailable,
    /// The coordinator failed; its log says why.
    Internal,
    /// A connection that never got as far as a request (counted, never sent).
    TlsHandshake,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 17] = [
        Self::Malformed,
        Self::MessageTooLarge,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::LeaseLost,
        Self::UnknownJob,
        Self::WrongResults,
        Self::NotFinite,
        Self::UnknownSweep,
        Self::SweepDiffers,
        Self::WrongState,
        Self::UnknownMethod,
        Self::ShuttingDown,
        Self::TooManyRequests,
        Self::StoreUnavailable,
        Self::Internal,
        Self::TlsHandshake,
    ];

    /// The metadata key (an HTTP header or trailer) that carries the code's text.
    pub const METADATA_KEY: &'static str = "avsweep-error";

    /// The code's text, as on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MessageTooLarge => "message_too_large",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::LeaseLost => "lease_lost",
            Self::UnknownJob => "unknown_job",
            Self::WrongResults => "wrong_results",
            Self::NotFinite => "not_finite",
            Self::UnknownSweep => "unknown_sweep",
            Self::SweepDiffers => "sweep_differs",
            Self::WrongState => "wrong_state",
            Self::UnknownMethod => "unknown_method",
            Self::ShuttingDown => "shutting_down",
            Self::TooManyRequests => "too_many_requests",
            Self::StoreUnavailable => "store_unavailable",
            Self::Internal => "internal",
            Self::TlsHandshake => "tls_handshake",
        }
    }

    /// The gRPC code that goes with it.
    pub const fn grpc_code(self) -> Code {
        match self {
            Self::Malformed | Self::WrongResults | Self::NotFinite => Code::InvalidArgument,
            Self::MessageTooLarge | Self::TooManyRequests => Code::ResourceExhausted,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
            Self::LeaseLost => Code::Aborted,
            Self::UnknownJob | Self::UnknownSweep => Code::NotFound,
            Self::SweepDiffers => Code::AlreadyExists,
            Self::WrongState => Code::FailedPrecondition,
            Self::UnknownMethod => Code::Unimplemented,
            Self::ShuttingDown | Self::StoreUnavailable | Self::TlsHandshake => Code::Unavailable,
            Self::Internal => Code::Internal,
        }
    }

    /// A refusal with this code and a reason for people.
    pub fn status(self, message: impl Into<String>) -> Status {
        let mut status = Status::new(self.grpc_code(), message);
        status.metadata_mut().insert(Self::METADATA_KEY, MetadataValue::from_static(self.as_str()));
        status
    }

    /// The code that a refusal carries; `None` when it comes from somewhere else (a connection that broke, a proxy).
    pub fn of(status: &Status) -> Option<Self> {
        status.metadata().get(Self::METADATA_KEY)?.to_str().ok()?.parse().ok()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no [`ErrorCode`]'s: of a later version, perhaps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no error code of this version")]
pub struct UnknownErrorCode(String);

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, UnknownErrorCode> {
        let found = Self::ALL.into_iter().find(|code| code.as_str() == text);
        found.ok_or_else(|| UnknownErrorCode(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_its_own_text_and_is_read_back_from_a_status() {
        let texts: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(code.as_str().parse(), Ok(code));
            let status = code.status("why");
            assert_eq!((ErrorCode::of(&status), status.code()), (Some(code), code.grpc_code()));
        }
    }

    #[test]
    fn a_status_of_somebody_else_has_no_code() {
        assert_eq!(ErrorCode::of(&Status::unavailable("connection refused")), None);
        assert!("lease_stolen".parse::<ErrorCode>().is_err());
    }
}
