//! Errors as refusals: a closed mapping to codes.

use avsweep_proto::{ConvertError, ErrorCode};
use avsweep_search::SearchError;
use avsweep_store::{ReportProblem, StoreError};
use tonic::Status;
use tracing::{debug, error};

use crate::{CoordinatorError, error_text};

/// A request that does not say what it must.
pub(super) fn bad_request(error: &ConvertError) -> Status {
    error.code().status(error_text(error))
}

/// Results that do not say what they must.
pub(super) fn bad_results(error: &ConvertError) -> Status {
    let code = match error.code() {
        ErrorCode::NotFinite => ErrorCode::NotFinite,
        _ => ErrorCode::WrongResults,
    };
    code.status(error_text(error))
}

/// A use case's error.
pub(super) fn refused(error: &CoordinatorError) -> Status {
    let code = code(error);
    match code {
        // What a database says stays in the log: a peer can do nothing with it.
        ErrorCode::Internal => {
            error!(error = error_text(error), "request failed");
            code.status(error.to_string())
        }
        ErrorCode::StoreUnavailable => {
            debug!(error = error_text(error), "the store is away");
            code.status(error.to_string())
        }
        _ => code.status(error_text(error)),
    }
}

fn code(error: &CoordinatorError) -> ErrorCode {
    match error {
        CoordinatorError::Store(error) => store_code(error),
        CoordinatorError::Search(error) => match error {
            SearchError::WrongDomains { .. } | SearchError::UnknownLevel { .. } => ErrorCode::Malformed,
            SearchError::BaseNotMeasured { .. } | SearchError::BaseUndecided { .. } => ErrorCode::WrongState,
        },
        CoordinatorError::Space(_)
        | CoordinatorError::NoSuchQuery { .. }
        | CoordinatorError::TooManyTargets { .. } => ErrorCode::Malformed,
        CoordinatorError::NotRunning { .. } | CoordinatorError::NotJudged { .. } => ErrorCode::WrongState,
        CoordinatorError::ShuttingDown => ErrorCode::ShuttingDown,
    }
}

fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::SweepDiffers { .. } => ErrorCode::SweepDiffers,
        StoreError::NoSuchSweep { .. } => ErrorCode::UnknownSweep,
        StoreError::NoSuchJob(_) => ErrorCode::UnknownJob,
        StoreError::Transition { .. }
        | StoreError::SweepRunning { .. }
        | StoreError::PlanningLost { .. }
        | StoreError::ReadOnly { .. } => ErrorCode::WrongState,
        StoreError::BadDefinition { .. } | StoreError::Unstorable { .. } | StoreError::BadPlan { .. } => {
            ErrorCode::Malformed
        }
        StoreError::BadReport { problem, .. } => match problem {
            ReportProblem::LogProb { found, .. } | ReportProblem::Confidence { found, .. }
                if !found.is_finite() =>
            {
                ErrorCode::NotFinite
            }
            _ => ErrorCode::WrongResults,
        },
        StoreError::Shared(error) => store_code(error),
        StoreError::Unavailable { .. } | StoreError::Unreachable { .. } => ErrorCode::StoreUnavailable,
        StoreError::Newer { .. }
        | StoreError::Older { .. }
        | StoreError::NotAStore { .. }
        | StoreError::Missing { .. }
        | StoreError::InUse { .. }
        | StoreError::Url { .. }
        | StoreError::Io { .. }
        | StoreError::Database { .. }
        | StoreError::Corrupt { .. } => ErrorCode::Internal,
    }
}
