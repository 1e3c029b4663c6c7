//! Refusals that no other try changes: the caller itself is not let in.

use avsweep_proto::ErrorCode;
use tonic::{Code, Status};

/// The coordinator does not let this process in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It knows no such token, or none was given.
    #[error(
        "{coordinator} does not know this {role}'s token ({reason}): give the coordinator's {role} token by \
         --token-file or AVSWEEP_TOKEN"
    )]
    Unauthenticated {
        /// The coordinator's address.
        coordinator: String,
        /// The role that this process needs.
        role: &'static str,
        /// What the coordinator said.
        reason: String,
    },
    /// The token is one of another role.
    #[error(
        "{coordinator} refuses this {role}'s token, which is one of another role ({reason}): a {role} token is wanted, \
         by --token-file or AVSWEEP_TOKEN"
    )]
    Forbidden {
        /// The coordinator's address.
        coordinator: String,
        /// The role that this process needs.
        role: &'static str,
        /// What the coordinator said.
        reason: String,
    },
}

impl AccessError {
    /// What `status` says about access, if that is what it is about.
    pub fn of(status: &Status, coordinator: &str, role: &'static str) -> Option<Self> {
        let (coordinator, reason) = (coordinator.to_owned(), status.message().to_owned());
        match (ErrorCode::of(status), status.code()) {
            (Some(ErrorCode::Unauthenticated), _) | (None, Code::Unauthenticated) => {
                Some(Self::Unauthenticated { coordinator, role, reason })
            }
            (Some(ErrorCode::Forbidden), _) | (None, Code::PermissionDenied) => {
                Some(Self::Forbidden { coordinator, role, reason })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_token_is_told_from_other_refusals_and_names_coordinator_and_role() {
        let error = |status: &Status| AccessError::of(status, "https://sweeps:7700", "judge");
        let unknown = error(&Status::unauthenticated("no token")).map(|error| error.to_string());
        assert!(unknown.is_some_and(|text| {
            text.contains("https://sweeps:7700") && text.contains("judge token") && text.contains("no token")
        }));
        assert_eq!(error(&Status::not_found("sweep 3")), None);
        let forbidden = ErrorCode::Forbidden.status("judgement jobs are for judges");
        assert!(matches!(error(&forbidden), Some(AccessError::Forbidden { .. })));
        assert_eq!(error(&ErrorCode::WrongState.status("the sweep is paused")), None);
    }
}
