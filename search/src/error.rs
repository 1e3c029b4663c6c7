//! Why a question to the history has no answer.

use avsweep_domain::Point;

/// A target that cannot be ranked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// A target with too many or too few domains.
    #[error("the target says something of {found} domains; the sweep has {wanted} ({names})")]
    WrongDomains {
        /// How many domains the target has.
        found: usize,
        /// How many the sweep has.
        wanted: usize,
        /// Their names, joined.
        names: String,
    },
    /// A level that the sweep does not have.
    #[error("the target asks for level number {found} of domain '{domain}'; the sweep has {levels} levels")]
    UnknownLevel {
        /// The domain.
        domain: String,
        /// The level's index.
        found: u8,
        /// How many levels there are.
        levels: usize,
    },
    /// "As the base has it" is asked for, and the base has not been measured.
    #[error(
        "the target asks for domain '{domain}' as the base has it, but the base (point {origin}) \
         has not been measured on all search queries"
    )]
    BaseNotMeasured {
        /// The domain.
        domain: String,
        /// The base's point.
        origin: Point,
    },
    /// "As the base has it" is asked for, and two levels share the first place there.
    #[error(
        "the target asks for domain '{domain}' as the base has it, but no level is dominant there: name a level"
    )]
    BaseUndecided {
        /// The domain.
        domain: String,
    },
}
