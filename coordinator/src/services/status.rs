//! Errors as gRPC status codes: a closed mapping.

use avsweep_proto::ConvertError;
use avsweep_store::StoreError;
use tonic::{Code, Status};
use tracing::error;

use crate::{CoordinatorError, error_text};

/// A request that does not say what it must.
pub(super) fn bad_request(error: &ConvertError) -> Status {
    Status::invalid_argument(error_text(error))
}

/// A use case's error.
pub(super) fn refused(error: &CoordinatorError) -> Status {
    let code = code(error);
    if code == Code::Internal {
        // What a database says stays in the log: a peer can do nothing with it.
        error!(error = error_text(error), "request failed");
        return Status::new(code, error.to_string());
    }
    Status::new(code, error_text(error))
}

fn code(error: &CoordinatorError) -> Code {
    match error {
        CoordinatorError::Store(error) => store_code(error),
        CoordinatorError::Search(error) => match error {
            avsweep_search::SearchError::WrongDomains { .. }
            | avsweep_search::SearchError::UnknownLevel { .. } => Code::InvalidArgument,
            avsweep_search::SearchError::BaseNotMeasured { .. }
            | avsweep_search::SearchError::BaseUndecided { .. } => Code::FailedPrecondition,
        },
        CoordinatorError::Space(_)
        | CoordinatorError::NoSuchQuery { .. }
        | CoordinatorError::TooManyTargets { .. } => Code::InvalidArgument,
        CoordinatorError::NotRunning { .. } | CoordinatorError::NotJudged { .. } => Code::FailedPrecondition,
        CoordinatorError::ShuttingDown => Code::Unavailable,
    }
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::SweepDiffers { .. } => Code::AlreadyExists,
        StoreError::NoSuchSweep { .. } | StoreError::NoSuchJob(_) => Code::NotFound,
        StoreError::Transition { .. } | StoreError::ReadOnly { .. } => Code::FailedPrecondition,
        StoreError::BadDefinition { .. }
        | StoreError::Unstorable { .. }
        | StoreError::BadPlan { .. }
        | StoreError::BadReport { .. } => Code::InvalidArgument,
        StoreError::Newer { .. }
        | StoreError::Older { .. }
        | StoreError::NotAStore { .. }
        | StoreError::Missing { .. }
        | StoreError::InUse { .. }
        | StoreError::Io { .. }
        | StoreError::Database { .. }
        | StoreError::Corrupt { .. } => Code::Internal,
    }
}
